"""The client's side of a count: what is under way, what is added up, what comes back.

A bounded number of partitions is under way for each worker, so that neither client nor scheduler
hold a list of all. Tables that are there are added up sixteen at a time, in levels, as a
log-structured merge tree does (O'Neil et al., 1996): each row is copied once a level. A table that
has become large is added up no further: at the end such tables are divided into ranges of hashes,
and each range is added up by itself.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from perftricks.parallel.errors import ClusterError, Failure
from perftricks.wordcount.cluster import tasks
from perftricks.wordcount.cluster.tasks import Common, Tally, TaskFailed
from perftricks.wordcount.reading.partitions import in_words
from perftricks.wordcount.reading.sources import Source

_FAN_IN = 16
_UNDER_WAY = 3  # partitions for each worker: one is counted, one becomes a table, one waits
_LARGE_BYTES = 256 << 20
_LARGE_SHARE = 0.05  # of a worker's memory
_PART_BYTES = 16 << 20  # of a range that is worth a task
_CHECK_SECONDS = 1.0
_PATIENCE_SECONDS = 300.0  # without any worker
_ATTEMPTS = 6  # at what workers died of, each of which is one or more of them

_ADDING = "tables are added up"

Progress = Callable[[int], object]


class Table(NamedTuple):
    """A table on a worker.

    Attributes:
        future: The table, and what is known of it.
        tally: What is known of it.
    """

    future: Any
    tally: Tally


class _Task(NamedTuple):
    """Something that is under way.

    Attributes:
        future: The table.
        what: What it does, for an error.
        level: Which level its table will belong to.
        partition: The number of the partition, if it is one.
    """

    future: Any
    what: str
    level: int
    partition: int | None


class Driver:
    """Counts partitions on a cluster.

    Args:
        client: The client.
        common: What the tasks have in common.
        counted: Called with a partition's bytes as stored when it has been counted.
    """

    def __init__(self, client: Any, common: Common, counted: Progress) -> None:
        self._client = client
        self._counted = counted
        self._common = client.submit(tasks.same, common, pure=False)
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._under_way: dict[str, tuple[_Task, Any]] = {}
        self._levels: list[list[Table]] = []
        self._full: list[Table] = []
        self._partitions = 0  # under way
        self._failures: dict[int, BaseException] = {}
        self._begun = 0
        memory = [w["memory_limit"] for w in self._infos().values() if w.get("memory_limit")]
        share = _LARGE_SHARE * min(memory, default=0)
        self.large = int(min(_LARGE_BYTES, share) if memory else _LARGE_BYTES)

    def _infos(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found

    @property
    def workers(self) -> int:
        """How many workers there are, one at least."""
        return max(1, len(self._client.nthreads()))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say of a connection that is broken what that means.

        Raises:
            ClusterError: In place of it.
        """
        from distributed.comm.core import CommClosedError

        try:
            yield
        except CommClosedError:
            raise self._lost() from None

    def check(self, common: Common) -> None:
        """Check that all workers count as the client does, before anything is counted.

        Raises:
            ClusterError: If one does not.
        """
        self._await_workers()
        found = self._client.run(tasks.check, common, on_error="return")
        for address, problem in sorted(found.items()):
            if isinstance(problem, Failure):
                raise problem.unpack(None) from None
            # One that is gone is replaced; or it cannot even import the package.
            if isinstance(problem, Exception) and not isinstance(problem, OSError):
                what = f"{type(problem).__name__}: {problem}".partition("\n")[0]
                raise ClusterError(f"the worker {address} cannot count: {what}")

    def count(self, partitions: Iterator[Source]) -> list[Table]:
        """Count partitions; return the tables whose sum is the table of all.

        Raises:
            Exception: What counting raises; of several partitions that fail, the first one's error.
            ClusterError: If the scheduler is lost, or a partition kills its workers.
        """
        more = True
        while more or self._under_way:
            while more and not self._failures and self._has_room():
                source = next(partitions, None)
                if source is None:
                    more = False
                else:
                    self._begin_partition(source)
            if self._failures:
                more = False
                first = min(self._failures)
                before = [t.partition for t, _ in self._under_way.values()]
                if not any(n is not None and n < first for n in before):
                    raise self._failures[first]
            if self._under_way:
                self._await_one()
        if self._failures:  # of what was under way last
            raise self._failures[min(self._failures)]
        tables = [*self._full, *(table for level in self._levels for table in level)]
        self._full, self._levels = [], []
        return tables

    def sum(self, tables: Sequence[Table]) -> Table:
        """Add tables up to one, on a worker."""
        while len(tables) > 1:
            merged = []
            for first in range(0, len(tables), _FAN_IN):
                some = tables[first : first + _FAN_IN]
                merged.append(some[0] if len(some) == 1 else self._merged(some))
            tables = merged
        return tables[0]

    def parts(self, tables: Sequence[Table]) -> int:
        """Return into how many ranges of hashes tables are divided."""
        nbytes = sum(table.tally.nbytes for table in tables)
        if nbytes <= self.large:
            return max(1, min(self.workers, nbytes // _PART_BYTES))
        return max(self.workers, math.ceil(2 * nbytes / self.large))

    def ranges(
        self, tables: Sequence[Table], parts: int, finish: Callable[..., Any], *arguments: Any
    ) -> Iterator[Any]:
        """Divide tables into ranges of hashes, and finish each range on a worker.

        Args:
            tables: The tables.
            parts: How many ranges.
            finish: Called on a worker with the arguments, a number, and the range of each table.
            arguments: Its first arguments.

        Yields:
            Futures of what ``finish`` returns, as many at a time as keep the workers busy.
        """
        for number in range(parts):
            some = [
                self._client.submit(tasks.pick, table.future, number, parts, pure=False)
                for table in tables
            ]
            while len(some) > _FAN_IN:
                some = [
                    self._client.submit(tasks.total_of, *some[i : i + _FAN_IN], pure=False)
                    for i in range(0, len(some), _FAN_IN)
                ]
            yield self._client.submit(finish, *arguments, number, *some, pure=False)

    def results(self, futures: Iterator[Any]) -> Iterator[Any]:
        """Yield what futures give, in order; some of them are under way at a time."""
        waiting: list[Any] = []
        ended = False
        while waiting or not ended:
            while not ended and len(waiting) < 2 * self.workers:
                future = next(futures, None)
                ended = future is None
                waiting += [] if ended else [future]
            if waiting:
                yield self._result(waiting.pop(0))

    # ------------------------------------------------------------------------- one by one

    def _has_room(self) -> bool:
        return self._partitions < _UNDER_WAY * self.workers

    def _begin_partition(self, source: Source) -> None:
        number, self._begun = self._begun, self._begun + 1
        self._partitions += 1
        self._begin(
            _Task(
                self._client.submit(tasks.count, self._common, source, pure=False),
                in_words(source),
                0,
                number,
            )
        )

    def _begin(self, task: _Task) -> None:
        tally = self._client.submit(tasks.tally_of, task.future, pure=False)
        self._under_way[tally.key] = task, tally
        tally.add_done_callback(self._done.put)

    def _await_one(self) -> None:
        try:
            done = self._done.get(timeout=_CHECK_SECONDS)
        except queue.Empty:
            self._check_scheduler()
            if not self._client.nthreads():
                self._await_workers()
            return
        found = self._under_way.pop(done.key, None)
        if found is None:
            return
        task, _ = found
        try:
            tally = self._result(done, task.what)
        except Exception as error:
            if task.partition is None or self._client.status != "running":
                raise
            self._partitions -= 1
            self._failures[task.partition] = error
        else:
            self._take(task, tally)

    def _take(self, task: _Task, tally: Tally) -> None:
        """Have a table that is there, and add up those of a level if there are enough."""
        if task.partition is not None:
            self._partitions -= 1
            self._counted(tally.stored)
        table = Table(task.future, tally)
        if tally.nbytes > self.large:
            self._full.append(table)
            return
        while len(self._levels) <= task.level:
            self._levels.append([])
        level = self._levels[task.level]
        level.append(table)
        if len(level) == _FAN_IN:
            futures = [table.future for table in level]
            level.clear()
            merged = self._client.submit(tasks.merge, *futures, pure=False, priority=10)
            self._begin(_Task(merged, _ADDING, task.level + 1, None))

    def _merged(self, tables: Sequence[Table]) -> Table:
        futures = [table.future for table in tables]
        future = self._client.submit(tasks.merge, *futures, pure=False)
        tally = self._client.submit(tasks.tally_of, future, pure=False)
        return Table(future, self._result(tally))

    def _result(self, future: Any, what: str = "") -> Any:
        """Return what a future gives, from the worker that has it, past the scheduler.

        Args:
            future: The future.
            what: What workers are at; by default tables are added up.

        Raises:
            Exception: What the task raised.
            ClusterError: If the scheduler is lost.
        """
        from distributed import KilledWorker, TimeoutError

        attempts = 0
        while True:
            try:
                future.exception(timeout=_CHECK_SECONDS)
                return self._gathered(future)
            except TimeoutError:
                self._check_scheduler()
            except KilledWorker as error:
                # So many workers had this, or what it needs, when they died. They may have been
                # killed for other reasons; what is really to blame does it again.
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise ClusterError(
                        f"{what or _ADDING}: worker after worker died of it; their logs, or those "
                        f"of their nannies, may say why (memory?): {error.args[0]}"
                    ) from None
                self._client.sync(self._run_again, future)
            except TaskFailed as error:
                raise error.failure.unpack(None) from None
            except (concurrent.futures.CancelledError, OSError):
                raise self._lost() from None

    async def _run_again(self, future: Any) -> None:
        """Have a task that failed run again, and what it needs that failed.

        As ``Client.retry``, which ends at the first of these that is no future of the client's any
        more: tables that were added up are not kept.
        """
        client = self._client
        for key in await client.scheduler.retry(keys=[future.key], client=client.id):
            if key in client.futures:
                client.futures[key].retry()

    def _gathered(self, future: Any) -> Any:
        try:
            return self._client.gather(future, direct=True)
        except OSError:  # the client cannot reach the worker
            return self._client.gather(future, direct=False)

    def _check_scheduler(self) -> None:
        if self._client.status != "running":
            raise self._lost()

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"the scheduler {self._client.scheduler.address} is lost, or its client was closed "
            f"(it is {self._client.status}); what was counted on the cluster is gone, but for "
            "the last snapshot of a checkpoint"
        )

    def _await_workers(self) -> None:
        from distributed import TimeoutError

        if self._client.nthreads():
            return
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE_SECONDS)
        except TimeoutError:
            raise ClusterError(
                f"the scheduler {self._client.scheduler.address} has had no worker for "
                f"{_PATIENCE_SECONDS:g} seconds"
            ) from None
