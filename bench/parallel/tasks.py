"""What the faults do to an item: functions that any worker can import, whatever starts it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

VICTIM = 7  # the item that goes wrong
lock = threading.Lock()


def same(x):
    """Give the item back."""
    return x


def slow(x):
    """Give the item back after a while."""
    time.sleep(0.02)
    return x


def fails(x):
    """Raise an error for one item."""
    if x == VICTIM:
        raise LookupError("no seven")
    return x


class AwkwardError(Exception):
    """Pickles, but cannot be rebuilt: its __init__ wants two arguments."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")


class LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


def fails_awkwardly(x):
    """Raise an error that cannot be rebuilt."""
    if x == VICTIM:
        raise AwkwardError(3, "no seven")
    return x


def fails_unpicklably(x):
    """Raise an error that cannot be pickled."""
    if x == VICTIM:
        raise LockedError("no seven")
    return x


def once():
    """Tell whether this is the first call in the whole trial, in whichever process."""
    try:
        os.close(os.open(os.environ["TRIAL_ONCE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def killed_once(x):
    """Have the worker killed, as by the kernel when memory runs out; not the second time."""
    if x == VICTIM and once():
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def killed(x):
    """Have the worker killed each time."""
    if x == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def exits(x):
    """End the worker, as a C library may."""
    if x == VICTIM:
        os._exit(1)
    return x


def crashes(x):
    """Read what is not there."""
    if x == VICTIM:
        ctypes.string_at(0)
    return x


def result_unpicklable(x):
    """Return something that cannot be pickled."""
    return threading.Lock() if x == VICTIM else x


def kind(x):
    """Name the type of an item, which need not be picklable."""
    return type(x).__name__


def slow_first(x):
    """Take long for the first item only."""
    if x == 0:
        time.sleep(2)
    return x


def stuck(x):
    """Never end, for one item."""
    if x == VICTIM:
        time.sleep(1000)
    return x


def endless(x):
    """Never end."""
    time.sleep(1000)


def takes_the_lock(x):
    """Need a lock that a thread of the program had when the workers were started."""
    with lock:
        return x


def megabyte(x):
    """Return a megabyte."""
    return b"x" * 1_000_000


def first_of(buffer):
    """Return the first number of a buffer."""
    return buffer[0]


def inner(x):
    """Use the same executor inside of a task."""
    from bench.parallel.adapters import ADAPTERS

    with ADAPTERS[os.environ["TRIAL_ADAPTER"]].open(same, range(4), True) as results:
        return sum(results) + x


class Storm:
    """A function of ``(index, payload)`` that goes wrong for some indices, in the ways given.

    Args:
        faults: Index -> what is done to it; see :mod:`bench.parallel.round`.
        folder: Where it is noted what was done once.
    """

    def __init__(self, faults, folder):
        self.faults = faults
        self.folder = folder

    def __call__(self, item):
        """Do what is to be done; return what the plain loop would."""
        index, _ = item
        fault = self.faults.get(index)
        if fault == "raises":
            raise LookupError(f"item {index}")
        if fault == "raises what cannot be pickled":
            raise LockedError(f"item {index}")
        if fault == "calls sys.exit":
            raise SystemExit(f"item {index}")
        if fault == "is killed" or (fault == "is killed, once" and self.first(index)):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "calls os._exit":
            os._exit(3)
        if fault == "crashes":
            ctypes.string_at(0)
        if fault == "never ends":
            time.sleep(1000)
        if fault == "is slow":
            time.sleep(0.1)
        if fault == "forks":
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        if fault == "returns what cannot be pickled":
            return threading.Lock()
        if fault == "returns a large array":
            return large_array(index)
        return expected(index, fault)

    def first(self, index):
        """Tell whether this is the first time for an item."""
        try:
            os.close(os.open(f"{self.folder}/once-{index}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def large_array(index):
    """Return what is too large to be sent through a pipe: numbers, 4 MB of them."""
    import numpy

    return numpy.arange(index, index + 500_000)


def expected(index, fault):
    """Return what an item gives where nothing goes wrong."""
    return bytes([index % 251]) * 1_000_000 if fault == "returns a megabyte" else index * 7 + 1
