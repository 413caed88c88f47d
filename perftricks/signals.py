"""Signals that end a program: it cleans up, and its exit status says which signal it was.

``SIGTERM`` and ``SIGHUP`` end a process on the spot, and what it was writing stays behind. Here
they raise an exception in the main thread, as Ctrl-C does, so that every ``finally`` on the way out
runs. Who must not be stopped in the middle of a step holds them back until its end.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_ENDING = ("SIGTERM", "SIGHUP")  # the latter is not there on Windows

# Seconds in which more signals do not disturb the cleaning up. Later ones do: what was raised may
# have been lost in a destructor.
_CLEANING = 5.0


class Terminated(BaseException):
    """A signal has come that ends the program.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status, as shells have it."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.number).name}"


class _Watch:
    """What has come, and whether it may be raised."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.held = 0
        self.pending: int | None = None
        self.ended = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if os.getpid() != self.process:  # a fork, which has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number == signal.SIGINT:
            if self.held and self.pending is None:
                self.pending = number
                return
            raise KeyboardInterrupt
        if time.monotonic() - self.ended < _CLEANING:
            return
        if self.held:
            self.pending = number
            return
        self.ended = time.monotonic()
        raise Terminated(number)

    def raise_pending(self) -> None:
        """Raise what has come while it was held back."""
        number, self.pending = self.pending, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            self.ended = time.monotonic()
            raise Terminated(number)


_watch: _Watch | None = None


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Raise :class:`Terminated` in the block when a signal comes that would end the process.

    Signals that are ignored, as by ``nohup``, stay so, and so do handlers of others. In another
    thread than the main one this does nothing, because it can do nothing.
    """
    global _watch
    if threading.current_thread() is not threading.main_thread() or _watch is not None:
        yield
        return
    watch = _Watch()
    before: dict[int, Any] = {}
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.SIG_DFL
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.default_int_handler
    _watch = watch
    try:
        for number in before:
            signal.signal(number, watch)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _watch = None


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back in the block what :func:`ending` would raise, Ctrl-C for the first time included.

    It is raised by :func:`raise_pending`, or at the end of the block.
    """
    watch = _watch
    if watch is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch.held += 1
    try:
        yield
    finally:
        watch.held -= 1
    watch.raise_pending()


def is_pending() -> bool:
    """Whether something is held back."""
    return _watch is not None and _watch.pending is not None


def raise_pending() -> None:
    """Raise what is held back, if there is something: the step is done."""
    if _watch is not None:
        _watch.raise_pending()
