"""Reading the iterable: in the calling thread where that cannot wait, else in a thread of its own.

::

    iterable ── next() ──▶ as it was given ──▶ items ──▶ window

The next item may depend on a result (a crawler's frontier), or just be long in coming; meanwhile
results must reach the caller, who is in the calling thread. So an iterable whose reading may wait
is read in a thread. But some may only be read where they were made: a cursor of sqlite3, or what
refers to one. Those are looked for, and read in the calling thread.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import io
import itertools
import os
import queue
import stat
import sys
import threading
import time
import types
from collections import deque
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
    ValuesView,
)
from typing import Any, Literal, Protocol

from perftricks.parallel.binding import behind, is_bound
from perftricks.parallel.processes import ProcessBackend

ReadIn = Literal["auto", "thread", "caller"]
Busy = Literal["none", "some", "all"]

PATIENCE_SECONDS = 0.1  # how long a batch may wait to be full
_CLOSING_SECONDS = 0.5  # how long to wait for an iterable that is just being read
_ADVICE = (
    "perftricks read this iterable in a thread of its own, because reading it may have to wait; "
    'read_in="caller" has it read in the thread that consumes the results.'
)


class Source(Protocol):
    """Where the window has its items from.

    Attributes:
        error: What the iterable raised; raised in the caller when all items are settled.
    """

    error: BaseException | None

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to take."""

    def begin(self) -> None:
        """Begin to read, in the calling thread."""

    def take(self, size: int, room: int, demand: int | None, busy: Busy) -> list[Any]:
        """Return the next items to hand out, none if it is better to wait.

        Args:
            size: How many make a batch.
            room: How many more may have been read, those not yet taken included.
            demand: How many items could be handed out before a result comes; None for any number.
            busy: Which of the workers have something to do.
        """

    def patience(self) -> float | None:
        """Return after how many seconds to ask again though nothing has happened."""

    def stop(self) -> None:
        """Read no further; what was read may still be taken."""

    def close(self) -> None:
        """Have nothing to do with the iterable any more."""


class DirectSource:
    """Reads in the calling thread.

    Args:
        iterator: The items.
        give: Makes of each item what it is at this moment; None to leave it.
        steady: Whether reading runs nothing of the caller's.
        automatic: Whether batches may be smaller when items come slowly.
        max_chars: The length of strings at which a batch is full.
    """

    def __init__(
        self,
        iterator: Iterator[Any],
        give: Callable[[Any], Any] | None,
        *,
        steady: bool,
        automatic: bool,
        max_chars: int | None,
    ) -> None:
        self.ended: bool = False
        self.error: BaseException | None = None
        self._iterator: Iterator[Any] = iterator
        self._give = give
        self._steady = steady and max_chars is None
        self._automatic = automatic
        self._max_chars = max_chars

    def begin(self) -> None:
        """Do nothing."""

    def take(self, size: int, room: int, demand: int | None, busy: Busy) -> list[Any]:
        """Read a batch, if there is room for one or no other work."""
        if self.ended or room <= 0 or (room < size and busy != "none"):
            return []
        return self._read(min(size, room))

    def _read(self, size: int) -> list[Any]:
        if self._steady:
            items = list(itertools.islice(self._iterator, size))
            self.ended = len(items) < size
            return items if self._give is None else list(map(self._give, items))
        return self._read_slowly(size)

    def _read_slowly(self, size: int) -> list[Any]:
        """Read up to ``size`` items; fewer when they come slowly, for the workers are waiting."""
        items: list[Any] = []
        chars = 0
        patience = time.monotonic() + PATIENCE_SECONDS
        try:
            for item in self._iterator:
                items.append(item if self._give is None else self._give(item))
                if len(items) >= size:
                    break
                if self._automatic and time.monotonic() > patience:
                    break
                if self._max_chars is not None and isinstance(item, (str, bytes)):
                    chars += len(item)
                    if chars > self._max_chars:
                        break
            else:
                self.ended = True
        except Exception as error:
            self.ended = True
            self.error = error
        return items

    def patience(self) -> None:
        """Return None: there is nothing to wait for."""

    def stop(self) -> None:
        """Read no further."""
        self.ended = True

    def close(self) -> None:
        """Let go of the iterable."""
        self.ended = True
        self._iterator = iter(())


class ThreadSource:
    """Reads in a thread, with a copy of the caller's context variables.

    The caller's thread says how far may be read; the thread says when there is something to take.

    Args:
        iterator: The items.
        give: Makes of each item what it is at this moment; None to leave it.
        news: Called when there is something to take, or the end.
        automatic: Whether an idle worker gets what there is at once.
    """

    def __init__(
        self,
        iterator: Iterator[Any],
        give: Callable[[Any], Any] | None,
        news: Callable[[], object],
        *,
        automatic: bool,
    ) -> None:
        self.error: BaseException | None = None
        self._iterator: Iterator[Any] | None = iterator
        self._give = give
        self._news = news
        self._automatic = automatic
        self._items: deque[Any] = deque()
        self._taken = 0
        self._read = 0
        self._allowed = 0
        self._grants: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._starved = False  # the thread waits for a grant
        self._quiet = False  # the caller waits for news
        self._wanted = 1  # of so many items
        self._since: float | None = None  # when items that are no full batch were first seen
        self._stopping = False
        self._closing = False
        self._given_up = False
        self._finished = False
        self._thread: threading.Thread | None = None

    @property
    def ended(self) -> bool:
        """Whether all that was read has been taken, and no more comes."""
        return (self._finished or self._is_stopped()) and not self._items

    def begin(self) -> None:
        """Start the thread."""
        if self._thread is None:
            assert self._iterator is not None
            for thing in behind(self._iterator):
                if isinstance(thing, ProcessBackend):
                    thing.begin()  # here, for it may fork
            context = contextvars.copy_context()
            self._thread = threading.Thread(
                target=context.run, args=(self._run,), name="perftricks-reader", daemon=True
            )
            self._thread.start()

    def take(self, size: int, room: int, demand: int | None, busy: Busy) -> list[Any]:
        """Take a batch of what has been read, and say how far to read on."""
        idle = busy != "all"
        if not self._stopping:
            self._allow(self._taken + (room if demand is None else min(room, demand)))
        while True:
            self._quiet = False
            there = len(self._items)
            if there >= size or (there and (self._finished or self._stopping)):
                return self._pop(min(size, there))
            if there and idle and (self._automatic or self.patience() == 0):
                return self._pop(there)
            self._wanted = 1 if idle and not there else size
            self._quiet = True
            if len(self._items) == there and not self._finished:
                return []
            if self._finished and not self._items:
                return []

    def patience(self) -> float | None:
        """Return how much longer to wait until a batch is full."""
        if not self._items or self._automatic:
            return None
        if self._since is None:
            self._since = time.monotonic()
        return max(0.0, self._since + PATIENCE_SECONDS - time.monotonic())

    def stop(self) -> None:
        """Read no further than the item that is being read."""
        self._stopping = True
        self._allowed = 0

    def close(self) -> None:
        """End the thread, which closes a generator; one that is being waited for is left to it."""
        self._closing = True
        self.stop()
        self._items.clear()
        self._grants.put(None)
        if self._thread is None:
            self._iterator = None
        else:
            self._thread.join(_CLOSING_SECONDS)

    def _is_stopped(self) -> bool:
        """Whether no item is being read; waits a moment for one that is."""
        if self._stopping and not self._given_up:
            deadline = time.monotonic() + _CLOSING_SECONDS
            while not (self._starved or self._finished) and time.monotonic() < deadline:
                time.sleep(0.001)
            self._given_up = True
        return self._stopping

    def _pop(self, count: int) -> list[Any]:
        self._since = None
        self._taken += count
        pop = self._items.popleft
        return [pop() for _ in range(count)]

    def _allow(self, total: int) -> None:
        self._allowed = total
        if self._starved and total > self._read:
            self._grants.put(None)

    def _run(self) -> None:
        """Read while it is allowed, until the end or until told to stop."""
        assert self._iterator is not None
        iterator, self._iterator = self._iterator, None
        try:
            while self._may_read():
                item = next(iterator)
                self._items.append(item if self._give is None else self._give(item))
                self._read += 1
                if self._quiet and len(self._items) >= self._wanted:
                    self._quiet = False
                    self._news()
        except StopIteration:
            pass
        except BaseException as error:
            self.error = _with_advice(error)
        self._finished = True
        self._news()
        if self._closing and isinstance(iterator, types.GeneratorType):
            iterator.close()  # here, where it was read

    def _may_read(self) -> bool:
        while self._read >= self._allowed and not self._closing:
            self._starved = True
            if self._read >= self._allowed and not self._closing:
                self._grants.get()
            self._starved = False
        return not self._closing


def open_source(
    iterable: Iterable[Any],
    read_in: ReadIn,
    give: Callable[[Any], Any] | None,
    news: Callable[[], object],
    *,
    automatic: bool,
    max_chars: int | None,
) -> Source:
    """Choose how an iterable is read.

    Args:
        iterable: The items.
        read_in: "thread", "caller", or "auto" for what is safe.
        give: Makes of each item what it is at this moment; None to leave it.
        news: Called when an item has come that was waited for.
        automatic: Whether batches may be smaller when items come slowly.
        max_chars: The length of strings at which a batch is full, for the calling thread.
    """
    iterator = iter(iterable)
    steady = type(iterable) in _STEADY or _is_array(iterable) or _is_steady(iterator)
    if read_in == "auto":
        direct = steady or isinstance(iterable, _CONTAINERS) or _is_regular_file(iterable)
        read_in = "caller" if direct or is_bound(iterator) else "thread"
    if read_in == "thread":
        return ThreadSource(iterator, give, news, automatic=automatic)
    return DirectSource(iterator, give, steady=steady, automatic=automatic, max_chars=max_chars)


_STEADY = (list, tuple, range, str, bytes, bytearray)
_CONTAINERS = (Sequence, Set, Mapping, ValuesView)
_EXAMPLES: tuple[Any, ...] = ([], (), range(0), range(1 << 70), "", "\u4e2d", b"")
_STEADY_ITERATORS: tuple[type, ...] = (
    *(type(iter(one)) for one in _EXAMPLES),
    itertools.count,
    itertools.repeat,
)
_COMBINED_ITERATORS = (enumerate, zip, itertools.islice)


def _is_steady(iterator: object, depth: int = 5) -> bool:
    """Whether an iterator is one of Python's own, over things that are in memory."""
    if type(iterator) in _STEADY_ITERATORS:
        return True
    if type(iterator) not in _COMBINED_ITERATORS or not depth:
        return False
    parts: list[Any] = []
    for part in gc.get_referents(iterator):  # their iterators, and the tuple they will return
        parts.extend(part if type(part) is tuple else [part])
    return all(part is None or type(part) is int or _is_steady(part, depth - 1) for part in parts)


def _is_array(iterable: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(iterable) is numpy.ndarray


def _is_regular_file(iterable: object) -> bool:
    if not isinstance(iterable, io.IOBase):
        return False
    with contextlib.suppress(OSError, ValueError):
        return stat.S_ISREG(os.fstat(iterable.fileno()).st_mode)
    return False


def _with_advice(error: BaseException) -> BaseException:
    """Say how to read in the calling thread, in an error that is about threads."""
    if isinstance(error, Exception) and "thread" in str(error).lower():
        first = str(error.args[0]) if error.args else ""
        with contextlib.suppress(Exception):
            error.args = (f"{first}\n{_ADVICE}", *error.args[1:])
    return error
