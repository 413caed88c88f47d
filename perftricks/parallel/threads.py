"""Which threads the process has, for a fork beside threads may hang.

A fork copies the memory of all threads and runs one of them. Whatever lock another thread holds at
that moment (of an allocator, a pool of OpenMP's, a logger) stays locked in the child for ever.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

_SETTLING_STEPS = 20  # of a millisecond, for threads that have ended but are not gone yet


class LockFreeThread(threading.Thread):
    """A thread that holds no lock which a fork could need: it runs nothing of the caller's."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)


def other_threads() -> int:
    """Count the threads beside which a fork may hang: all but this one and our lock-free ones.

    On Linux these are the kernel's, for those of OpenMP, TensorFlow or JAX are not Python's.
    """
    if not os.path.isdir("/proc/self/task"):
        return len(_python_threads())
    for _ in range(_SETTLING_STEPS):
        others = _kernel_threads()
        known = _python_threads()
        if not others - known:
            break
        # A thread that was joined may still be on its way out.
        time.sleep(0.001)
    return len(others)


def may_be_openblas(others: int) -> bool:
    """Tell whether so many threads that are not Python's can all be those of OpenBLAS.

    numpy's OpenBLAS starts threads when it is imported, ends them before each fork, and starts them
    again when they are needed; a fork is safe beside these. Only a fork shows which they are.
    """
    if _python_threads():
        return False
    try:
        with open("/proc/self/maps") as maps:
            libraries = {line.split()[-1] for line in maps if "openblas" in line}
    except OSError:
        return False
    return others <= len(libraries) * ((os.cpu_count() or 1) - 1)


def _kernel_threads() -> set[int]:
    ours = {thread.native_id for thread in threading.enumerate() if _is_harmless(thread)}
    return {int(thread) for thread in os.listdir("/proc/self/task")} - ours


def _python_threads() -> set[int]:
    return {thread.native_id or 0 for thread in threading.enumerate() if not _is_harmless(thread)}


def _is_harmless(thread: threading.Thread) -> bool:
    return isinstance(thread, LockFreeThread) or thread is threading.current_thread()
