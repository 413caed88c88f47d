"""The allocator of a worker, as it is in any other process.

glibc adapts to a program that makes and frees large arrays: it keeps their memory for the next one.
dask starts workers with ``MALLOC_TRIM_THRESHOLD_`` set, so that what is freed goes back to the
system; but with that glibc adapts no more, and maps and clears the memory of each array anew, which
takes half as much time again as all the counting. So it is told what it would have found out, while
tasks run; when none has for a second, what is free goes back.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from perftricks import glibc

_P = ParamSpec("_P")
_T = TypeVar("_T")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
_ADAPTED = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}  # as far as glibc goes itself
_USUAL_MMAP_THRESHOLD = 128 << 10

_IDLE_SECONDS = 1.0

_lock = threading.Lock()
_running = 0
_giving_back: threading.Timer | None = None


def adapted(task: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a task run with an allocator that keeps the memory of large arrays."""

    @functools.wraps(task)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        trim = _trim_threshold()
        if trim is None:
            return task(*args, **kwargs)
        _enter()
        try:
            return task(*args, **kwargs)
        finally:
            _leave(trim)

    return run


def _enter() -> None:
    global _running, _giving_back
    with _lock:
        _running += 1
        if _giving_back is not None:
            _giving_back.cancel()
            _giving_back = None
        for parameter, value in _ADAPTED.items():
            glibc.library().mallopt(parameter, value)


def _leave(trim: int) -> None:
    global _running, _giving_back
    with _lock:
        _running -= 1
        if not _running:
            _giving_back = threading.Timer(_IDLE_SECONDS, _give_back, [trim])
            _giving_back.daemon = True
            _giving_back.start()


def _give_back(trim: int) -> None:
    with _lock:
        if not _running:
            glibc.library().mallopt(_TRIM_THRESHOLD, trim)
            glibc.library().mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
            glibc.give_back()


def _trim_threshold() -> int | None:
    """Return what was set in place of adapting; None if nothing was, or more than that."""
    trim, other = map(os.environ.get, _VARIABLES)
    if trim is None or other is not None or not (trim.isascii() and trim.isdigit()):
        return None
    return int(trim) if glibc.library() is not None and int(trim) < 1 << 31 else None
