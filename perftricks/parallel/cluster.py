"""Batches on the workers of a dask.distributed cluster, each of which may die at any moment.

::

    caller's thread ── submit ──▶ orders ─┐ the client's event loop: a place for each thread of
                                          │ each worker, one batch at a time in a place
    caller's thread ◀── reports ──────────┘ order out, result back, or the worker is gone

The scheduler would run the tasks of a dead worker again on others, until some have died of them,
and nobody could tell which task had killed. So each batch is for one worker and no other, and where
that worker is gone, the batch is lost: :mod:`perftricks.parallel.window` halves it and finds the
item. A batch that was lost is run again in a worker that has nothing else to do, for what has
several threads dies as a whole.

What is sent is pickled here and unpickled there, as to any process; the client unpickles what
workers of the scheduler that the caller has named send back, and nothing else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import queue
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Coroutine
from typing import Any, NamedTuple

import perftricks
from perftricks.parallel.backends import Broken, Outcome, Report, begun_here, set_up
from perftricks.parallel.errors import (
    ClusterError,
    Failure,
    ParallelError,
    UnpicklableError,
    WorkerCrashedError,
)
from perftricks.parallel.pickling import Packed
from perftricks.parallel.work import Batch, BatchLost, Order, Work, encode_order, encode_work
from perftricks.parallel.work import run_order as run_packed

_WATCH_SECONDS = 0.2  # how often it is looked which workers there are
_PATIENCE_SECONDS = 10.0  # after which it is said that there are none
_MOST_PATIENCE_SECONDS = 300.0  # after which the run ends because there are none
_MOST_SILENCES = 30  # of the scheduler, one after the other, after which it counts as lost
_ENDING_SECONDS = 5.0

_log = logging.getLogger("perftricks.parallel")


def is_client(thing: object) -> bool:
    """Tell whether something is a client of dask.distributed, without importing that."""
    module = sys.modules.get("distributed")
    kind = getattr(module, "Client", None)
    return isinstance(kind, type) and isinstance(thing, kind)


def check_client(client: Any) -> None:
    """Check that a client can be used from here.

    Raises:
        ValueError: If it is closed, or asynchronous.
    """
    if client.asynchronous:
        raise ValueError(
            "the dask client is asynchronous, or used in its own event loop; results are waited "
            "for here, so give a client that was made without asynchronous=True"
        )
    if client.status != "running":
        raise ValueError(f"the dask client is {client.status}; give one that is connected")


def threads_of(client: Any) -> int:
    """Return how many threads the workers have together; 1 if there are none yet."""
    return max(1, sum(map(int, client.nthreads().values())))


class _Worker:
    """A worker of the cluster.

    Attributes:
        address: Where it listens.
        threads: How many tasks it runs at a time.
        busy: How many batches of this run it has.
        alone: Whether it has one that must be alone.
        knows: Whether the job has been sent to it.
        gone: Done when it is not there any more.
    """

    def __init__(self, address: str, threads: int) -> None:
        self.address = address
        self.threads = threads
        self.busy = 0
        self.alone = False
        self.knows = False
        self.gone = asyncio.get_running_loop().create_future()


class _Order(NamedTuple):
    batch: Batch
    message: bytes


class ClusterBackend:
    """Runs batches on the workers that a client's scheduler has.

    Args:
        work: The job.
        client: The client, which stays open.
        workers: How many batches are run at a time at most; None for all threads there are.
    """

    def __init__(self, work: Work, client: Any, workers: int | None) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.copies = True
        self._client = client
        self._most = workers
        self._name = getattr(work.func, "__name__", type(work.func).__name__)
        self._run = os.urandom(16)
        self._job = encode_work(work)
        self._count = 0
        self._orders: deque[_Order] = deque()
        self._workers: dict[str, _Worker] = {}
        self._used: set[str] = set()
        self._under_way: set[asyncio.Future[Any]] = set()
        self._watching = False
        self._watch_ended = threading.Event()
        self._closed = False
        begun_here[self._run] = os.getpid(), threading.get_ident()

    def begin(self) -> None:
        """Begin to look for workers."""
        if not self._watching:
            self._watching = True
            self._in_loop(self._start, self._watch())

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Take the batch; the next free worker has it."""
        try:
            message = encode_order(batch, budget).message
        except UnpicklableError as error:
            self.reports.put(Outcome(batch, BatchLost("unpicklable", error.with_traceback(None))))
        else:
            self._in_loop(self._take, _Order(batch, message))

    def maintain(self, in_flight: int) -> None:
        """Look whether the client is still there; the workers are the cluster's business."""
        if self._closed:
            return
        if self._client.status != "running":
            self._break()
        elif self._watch_ended.is_set():  # which it does only where it has said why, or has failed
            self._break("what follows the workers of the cluster has ended")

    def close(self, *, kill: bool) -> None:
        """Take back what has not begun; with ``kill`` workers stop before their next item."""
        if self._closed:
            return
        self._closed = True
        begun_here.pop(self._run, None)
        if not self._watching or self._client.status != "running":
            return
        ended = threading.Event()
        self._in_loop(self._start, self._end(ended))
        ended.wait(_ENDING_SECONDS)

    # ------------------------------------------------------------- in the client's event loop

    def _in_loop(self, function: Any, *arguments: Any) -> None:
        try:
            self._client.loop.add_callback(function, *arguments)
        except RuntimeError:  # it is closed
            for argument in filter(asyncio.iscoroutine, arguments):
                argument.close()
            self._break()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _take(self, order: _Order) -> None:
        self._orders.append(order)
        self._assign()

    def _assign(self) -> None:
        """Give orders to workers that have nothing to do, those that must be alone first."""
        while self._orders and not self._closed and self._client.status == "running":
            order = self._orders[0]
            if self._most is not None and self._busy() >= self._most:
                return
            worker = self._place_for(order.batch)
            if worker is None:
                return
            self._orders.popleft()
            worker.busy += 1
            worker.alone = order.batch.suspect
            self._start(self._execute(order, worker))

    def _busy(self) -> int:
        return sum(worker.busy for worker in self._workers.values())

    def _place_for(self, batch: Batch) -> _Worker | None:
        free = [
            worker
            for worker in self._workers.values()
            if not worker.alone and worker.busy < (1 if batch.suspect else worker.threads)
        ]
        return min(free, key=lambda worker: worker.busy / worker.threads, default=None)

    async def _execute(self, order: _Order, worker: _Worker) -> None:
        """Have a worker run an order, and report what came of it."""
        try:
            report = await self._outcome(order, worker)
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            # By the end of the run, after which nobody waits; or by a client that lost the task.
            report = Broken(self._lost())
        except Exception as error:  # a client that is being closed fails in many ways
            report = Broken(error if self._client.status == "running" else self._lost())
        finally:
            worker.busy -= 1
            worker.alone = False
        if not self._closed:
            self.reports.put(report)
            if isinstance(report, Broken):  # the run is over; a loop that ends begins nothing
                self._orders.clear()
            self._assign()

    async def _outcome(self, order: _Order, worker: _Worker) -> Report:
        from distributed import KilledWorker

        shared = worker.threads > 1 and not order.batch.suspect
        knew, worker.knows = worker.knows, True
        while True:
            future = self._submit(order, worker, b"" if knew else self._job)
            # What fails is left out here, so that nothing is raised that nobody waits for.
            ended = asyncio.ensure_future(
                self._client.gather([future], errors="skip", asynchronous=True)
            )
            try:
                await asyncio.wait({ended, worker.gone}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    return self._crash(order.batch, worker, shared)
                found = ended.result()
                answer = found[0] if found else await self._client.gather(future, asynchronous=True)
            except KilledWorker:  # it was started again where it had been, and died again
                return self._crash(order.batch, worker, shared)
            except OSError:  # a connection is broken: the worker's, or the scheduler's
                await asyncio.wait({worker.gone}, timeout=5 * _WATCH_SECONDS)
                if worker.gone.done():
                    return self._crash(order.batch, worker, shared)
                return Broken(self._lost())
            finally:
                ended.cancel()
                future.release()
            if isinstance(answer, bytes):
                return Outcome(order.batch, Packed(answer))
            if isinstance(answer, Failure):
                return Broken(answer.unpack(None))
            if isinstance(answer, Exception):
                return Broken(answer)
            knew = False  # the worker has forgotten the job, or not seen it yet

    def _submit(self, order: _Order, worker: _Worker, job: bytes) -> Any:
        import dask

        self._used.add(worker.address)
        self._count += 1
        # Whoever gives large items knows that they travel.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
            return self._client.submit(
                run_order,
                self._run,
                job,
                order.message,
                perftricks.__version__,
                key=f"{self._name}-{self._run.hex()}-{self._count}",
                workers=[worker.address],
                allow_other_workers=False,
                pure=False,
            )

    def _crash(self, batch: Batch, worker: _Worker, shared: bool) -> Outcome:
        batch.suspect = True
        error = WorkerCrashedError(
            f"item {batch.start} kills the worker that runs it: {worker.address} is gone "
            "(its log, and that of its nanny, may say why)",
            batch.start,
        )
        return Outcome(batch, BatchLost("crash", error, shared=shared))

    async def _watch(self) -> None:
        """Follow which workers there are, until the run ends."""
        try:
            await self._watch_workers()
        except Exception as error:
            if not self._closed:
                self._break(
                    f"the workers of the scheduler {self._where()} cannot be followed "
                    f"({type(error).__name__}: {error})"
                )
        finally:
            self._watch_ended.set()

    async def _watch_workers(self) -> None:
        alone = 0.0
        silent = 0
        while not self._closed:
            try:
                threads = await asyncio.wait_for(self._client.scheduler.ncores(), _PATIENCE_SECONDS)
            except (OSError, asyncio.CancelledError, RuntimeError, asyncio.TimeoutError):
                await asyncio.sleep(_WATCH_SECONDS)  # the client notices a moment later
                silent += 1
                if self._client.status == "running" and silent < _MOST_SILENCES:
                    continue
                self._break()
                return
            silent = 0
            self._update(threads)
            alone = 0.0 if threads else alone + _WATCH_SECONDS
            if _PATIENCE_SECONDS <= alone < _PATIENCE_SECONDS + _WATCH_SECONDS:
                _log.warning("the scheduler %s has no workers; waiting for one", self._where())
            if alone >= _MOST_PATIENCE_SECONDS:
                seconds = f"{_MOST_PATIENCE_SECONDS:g} seconds"
                self._break(f"the scheduler {self._where()} has had no worker for {seconds}")
                return
            await asyncio.sleep(_WATCH_SECONDS)

    def _update(self, threads: dict[str, int]) -> None:
        for address in self._workers.keys() - threads.keys():
            gone = self._workers.pop(address).gone
            if not gone.done():
                gone.set_result(None)
        for address in threads.keys() - self._workers.keys():
            self._workers[address] = _Worker(address, threads[address])
        self._assign()

    def _where(self) -> str:
        return str(getattr(self._client.scheduler, "address", "?"))

    def _break(self, problem: str = "") -> None:
        self.reports.put(Broken(ClusterError(problem) if problem else self._lost()))

    def _lost(self) -> ParallelError:
        return ClusterError(
            f"the dask client of the scheduler {self._where()} is {self._client.status}: it was "
            "closed, or the scheduler is lost; results that were delivered before are all there is"
        )

    async def _end(self, ended: threading.Event) -> None:
        """Cancel what is under way, and tell the workers that the run is over."""
        try:
            self._orders.clear()
            for task in tuple(self._under_way):
                if task is not asyncio.current_task():
                    task.cancel()
            there = [address for address in self._used if address in self._workers]
            if there:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(
                        self._client.run(
                            end_run, self._run, workers=there, on_error="ignore", asynchronous=True
                        ),
                        _ENDING_SECONDS,
                    )
        finally:
            ended.set()


# ------------------------------------------------------------------------- in a worker

_RUNS_KEPT = 64  # that have ended or were forgotten
_runs: OrderedDict[bytes, tuple[Work, object]] = OrderedDict()
_ended: OrderedDict[bytes, None] = OrderedDict()
_lock = threading.Lock()


def run_order(
    run: bytes, job: bytes, message: bytes, version: str
) -> bytes | Failure | Exception | None:
    """Run an order in a worker.

    Args:
        run: Which run it belongs to.
        job: The pickled job; empty if the worker should have it.
        message: The pickled batch.
        version: The caller's version of this package.

    Returns:
        The pickled result; what the initializer raised; why the worker is of no use; or None if the
        job is needed.
    """
    if version != perftricks.__version__:
        return ClusterError(
            f"the worker {_address()} has perftricks {perftricks.__version__}, and the client has "
            f"{version}; install the same on all"
        )
    with _lock:
        found = _runs.get(run)
        if found is None:
            if not job:
                return None
            try:
                found = set_up(run, job, shares_generators=_threads() > 1)
            except BaseException as error:
                return Failure.of(error)
            _runs[run] = found
            while len(_runs) > _RUNS_KEPT:
                _runs.popitem(last=False)
        _runs.move_to_end(run)
    work, state = found
    return run_packed(work, Order(message, []), lambda: run not in _ended, state=state).pickled


def end_run(run: bytes) -> None:
    """Forget a run, and begin no further item of it."""
    _runs.pop(run, None)
    _ended[run] = None
    while len(_ended) > _RUNS_KEPT:
        _ended.popitem(last=False)


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)
