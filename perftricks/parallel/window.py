"""The bounded window: what is read, what is in flight, what is tried again, what is given up.

All of it runs in the caller's thread, one step at a time; a backend does the work meanwhile, and a
source may read. The window never holds more than ``max_queue_size`` items that were read from the
iterable and have not been delivered to the caller, whatever the workers and the caller are doing.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from perftricks.parallel.backends import Backend, Broken, News, Report, WorkerLost
from perftricks.parallel.errors import (
    Failure,
    ParallelError,
    UnpicklableError,
    WorkerCrashedError,
    unpack_failure,
)
from perftricks.parallel.pickling import Packed
from perftricks.parallel.source import PATIENCE_SECONDS, Source
from perftricks.parallel.work import Batch, BatchLost, BatchResult, decode_result

_CHECK_SECONDS = 1.0  # how often the workers are looked after while nothing is reported
_MAX_FAILED_STARTS = 3  # in a row


class BatchSizer:
    """Chooses how many items make a batch, and how long a worker may keep one.

    Args:
        size: A fixed number of items, or None to find one at which a batch takes about
            ``TARGET_SECONDS``: long against the cost of a round trip, short against the patience of
            whoever waits for a result.
        limit: The largest size to choose.
        budget: Seconds after which a worker hands the rest of its batch back; None for never.
    """

    TARGET_SECONDS = PATIENCE_SECONDS
    GROWTH = 4

    def __init__(self, size: int | None, limit: int, budget: float | None) -> None:
        self.automatic = size is None
        self.budget = budget
        self._limit = max(1, limit)
        self.size = 1 if size is None else min(size, self._limit)

    def record(self, items: int, seconds: float) -> None:
        """Learn from a batch of ``items`` that took ``seconds``."""
        if not self.automatic or items < self.size // self.GROWTH:
            return
        ideal = int(items * self.TARGET_SECONDS / max(seconds, 1e-9))
        self.size = max(1, min(ideal, self.size * self.GROWTH, self._limit))


@dataclass
class Piece:
    """Results that are final.

    Attributes:
        start: Index of the first item of the batch they come from.
        values: One value an item (anything, where ``missing`` says so), or counts, a dict.
        errors: Index -> why there is no result for that item.
        missing: Indices that are not in this piece because they are being tried again.
        items: How many items are settled by this piece, those in ``errors`` included.
        worker_lost: Whether the errors are those of a worker that died or was killed.
    """

    start: int
    values: Any
    errors: dict[int, Exception]
    missing: frozenset[int]
    items: int
    worker_lost: bool = False


class Window:
    """Drives one run.

    Args:
        backend: Where the batches run.
        source: Where the items come from.
        max_queue_size: The most items read and not delivered.
        sizer: Chooses the batch size.
        workers: The number of workers.
        max_batches: The most batches handed out at a time; None for as many as there is room for.
        retries: How often an item that failed is tried again.
    """

    def __init__(
        self,
        backend: Backend,
        source: Source,
        *,
        max_queue_size: int,
        sizer: BatchSizer,
        workers: int,
        max_batches: int | None,
        retries: int,
    ) -> None:
        self._backend = backend
        self._source = source
        self._limit = max_queue_size
        self._sizer = sizer
        self._workers = workers
        self._max_batches = max_batches
        self._retries = retries
        self._taken = 0
        self._delivered = 0
        self._in_flight = 0
        self._failed_starts = 0

    def pieces(self) -> Iterator[Piece]:
        """Yield results as they come, until all items that were read are settled.

        Raises:
            Exception: Whatever the iterable raised, once the items read before are settled.
            WorkerCrashedError: If workers cannot be started.
        """
        self._backend.begin()
        self._source.begin()
        while True:
            self._fill()
            self._raise_what_is_no_error()
            if not self._in_flight and self._source.ended:
                break
            report = self._next_report()
            piece = None if report is None else self._settle(report)
            if piece is not None:
                yield piece
        if self._source.error is not None:
            raise self._pop_error()

    def deliver(self, items: int = 1) -> None:
        """Note that the caller has taken ``items``, which makes room for as many."""
        self._delivered += items

    def halt(self) -> None:
        """Read no further; what was read is still settled."""
        self._source.stop()

    def close(self, *, kill: bool) -> None:
        """End reader and workers; see :meth:`Backend.close`."""
        try:
            self._source.close()
        finally:
            self._backend.close(kill=kill)

    def _fill(self) -> None:
        """Hand out batches of what is there to be read, but let no result wait for it."""
        while self._backend.reports.empty():
            if self._max_batches is not None and self._in_flight >= self._max_batches:
                return
            size = self._sizer.size
            items = self._source.take(
                size,
                self._limit - (self._taken - self._delivered),
                None if self._max_batches is None else self._demand(size),
                "none" if not self._in_flight else "some" if self._is_idle() else "all",
            )
            if not items:
                return
            batch = Batch(self._taken, items)
            self._taken += len(items)
            ended = len(items) < size and self._source.ended
            idle = self._workers - self._in_flight if ended else 1
            self._submit_in_parts(batch, max(1, idle))

    def _demand(self, size: int) -> int:
        assert self._max_batches is not None
        return (self._max_batches - self._in_flight + 1) * size

    def _is_idle(self) -> bool:
        return self._in_flight < self._workers

    def _raise_what_is_no_error(self) -> None:
        if not isinstance(self._source.error, Exception | None):
            raise self._pop_error()

    def _pop_error(self) -> BaseException:
        """Return what the iterable raised, and let go of it: once it is raised it refers to us."""
        error, self._source.error = self._source.error, None
        assert error is not None
        return error

    def _submit_in_parts(self, batch: Batch, parts: int) -> None:
        """Share a batch out: among idle workers, or when one worker has handed its rest back."""
        size = min(self._sizer.size, math.ceil(len(batch) / parts))
        for begin in range(0, len(batch), size):
            self._submit(batch.part(begin, begin + size))

    def _submit(self, batch: Batch) -> None:
        self._in_flight += 1
        self._backend.submit(batch, self._sizer.budget)
        self._backend.maintain(self._in_flight)

    def _next_report(self) -> Report | None:
        """Wait for a report; None if it is time to look for items that are no full batch."""
        patience = self._source.patience() if self._is_idle() else None
        while True:
            try:
                return self._backend.reports.get(
                    timeout=_CHECK_SECONDS if patience is None else patience
                )
            except queue.Empty:
                self._backend.maintain(self._in_flight)
                if patience is not None:
                    return None

    def _settle(self, report: Report) -> Piece | None:
        if isinstance(report, News):
            return None
        if isinstance(report, Broken):
            if isinstance(report.error, bytes):
                raise unpack_failure(report.error)
            raise report.error
        if isinstance(report, WorkerLost):
            self._replace(report)
            return None
        self._in_flight -= 1
        self._failed_starts = 0
        batch, result = report
        if isinstance(result, Packed):
            # Here and not in the thread that received it: unpickling imports and runs what it
            # likes, and this is the thread that forks.
            result = decode_result(result)
        if isinstance(result, BatchResult):
            return self._settle_result(batch, result)
        piece = self._settle_loss(batch, result)
        self._backend.maintain(self._in_flight)
        return piece

    def _replace(self, lost: WorkerLost) -> None:
        """Start another worker in place of one that had no batch."""
        if not lost.started:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise WorkerCrashedError(
                    f"{self._failed_starts} worker processes in a row died while starting; the "
                    f"last one {lost.how}. What it printed may say why."
                )
        self._backend.maintain(self._in_flight)

    def _settle_result(self, batch: Batch, result: BatchResult) -> Piece:
        self._sizer.record(result.done, result.seconds)
        if result.done < len(batch):
            self._submit_in_parts(batch.part(result.done), self._workers)
        errors: dict[int, Exception] = {}
        missing = set()
        for offset, failure in result.failures.items():
            index = batch.start + offset
            if batch.failures < self._retries:
                missing.add(index)
                again = batch.part(offset, offset + 1)
                again.failures += 1
                self._submit(again)
            else:
                error = failure.unpack(index) if isinstance(failure, Failure) else failure
                errors[index] = _naming(index, error)
        settled = result.done - len(missing)
        return Piece(batch.start, result.values, errors, frozenset(missing), settled)

    def _settle_loss(self, batch: Batch, lost: BatchLost) -> Piece | None:
        """Find out which item is to blame for a lost batch; the others are run again."""
        if lost.reason in ("timeout", "memory"):
            culprit = batch.part(lost.offset, lost.offset + 1)
            for rest in (batch.part(0, lost.offset), batch.part(lost.offset + 1)):
                if len(rest):
                    self._submit(rest)
            if lost.reason == "memory":
                culprit.crashes += 1
                if culprit.crashes == 1:  # much of it may be of the items before
                    self._submit(culprit)
                    return None
            return self._blame(culprit, lost.error)
        if lost.reason == "unpicklable":
            if len(batch) == 1:
                return self._give_up(batch, lost.error)
            self._submit_in_parts(batch, len(batch))
            return None
        # Halving finds the item that kills in log2(n) deaths. A worker may have been killed for
        # reasons of its own, so an item is blamed only for the second death that it alone is to
        # blame for: in a batch, or in a worker that it shared, it may have been another's doing.
        if len(batch) == 1:
            batch.crashes += not lost.shared
            if batch.crashes > 1:
                return self._blame(batch, lost.error)
        middle = len(batch) // 2
        for half in (batch.part(0, middle), batch.part(middle)):
            if len(half):
                self._submit(half)
        return None

    def _blame(self, batch: Batch, error: Exception) -> Piece | None:
        """Try the item again if it may be, else give it up."""
        if batch.failures < self._retries:
            batch.failures += 1
            self._submit(batch)
            return None
        return self._give_up(batch, error)

    def _give_up(self, batch: Batch, error: Exception) -> Piece:
        lost = not isinstance(error, UnpicklableError)
        errors = {batch.start: _naming(batch.start, error)}
        return Piece(batch.start, [None], errors, frozenset(), 1, worker_lost=lost)


def _naming(index: int, error: Exception) -> Exception:
    """Have an error of ours say which item it is about."""
    if isinstance(error, ParallelError) and error.index is None:
        error.index = index
    return error
