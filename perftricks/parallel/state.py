"""What the initializer of a worker has returned."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

_NONE = object()
_current: contextvars.ContextVar[Any] = contextvars.ContextVar("perftricks_state", default=_NONE)
_of_process: Any = _NONE


def worker_state() -> Any:
    """Return what ``initializer`` returned in this worker, from inside a task or a finalizer.

    Raises:
        RuntimeError: If this is called anywhere else.

    >>> from perftricks.parallel import parallel_apply, worker_state
    >>> parallel_apply(lambda x: x + worker_state(), [1, 2], 1, 2, initializer=lambda: 40)
    [41, 42]
    """
    state = _current.get()
    state = _of_process if state is _NONE else state
    if state is _NONE:
        raise RuntimeError("worker_state() is for tasks and finalizers; no worker is running here")
    return state


@contextlib.contextmanager
def state_set(state: Any) -> Iterator[None]:
    """Make ``state`` what :func:`worker_state` returns in this thread, for a while."""
    token = _current.set(state)
    try:
        yield
    finally:
        _current.reset(token)


def set_for_process(state: Any) -> None:
    """Make ``state`` what :func:`worker_state` returns in all threads that a task may start."""
    global _of_process
    _of_process = state
