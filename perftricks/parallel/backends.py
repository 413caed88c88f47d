"""Where batches run: the caller's thread, threads, or an executor that the caller brings.

A backend takes batches and puts exactly one outcome for each on its queue of outcomes. It knows
nothing of order, retries or errors; that is :mod:`perftricks.parallel.window`'s business. Worker
processes have a module of their own, :mod:`perftricks.parallel.processes`.
"""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from perftricks.parallel import byvalue
from perftricks.parallel.errors import Failure, UnpicklableError, WorkerCrashedError, raisable
from perftricks.parallel.pickling import Packed
from perftricks.parallel.work import (
    Batch,
    BatchLost,
    BatchResult,
    Order,
    Work,
    encode_order,
    encode_work,
    run_batch,
    run_order,
)


class Outcome(NamedTuple):
    """What a backend reports of one batch."""

    batch: Batch
    result: BatchResult | BatchLost | Packed


class Broken(NamedTuple):
    """A report that no more work can be done, and why: an error, or a pickled ``Failure``."""

    error: Exception | bytes


class WorkerLost(NamedTuple):
    """A report that a worker died while no batch was with it.

    Attributes:
        how: How it died, in words.
        started: Whether it had come so far as to be ready for work.
    """

    how: str
    started: bool


class News(NamedTuple):
    """A report that the source has something to take."""


Report = Outcome | Broken | WorkerLost | News


class Backend(Protocol):
    """What the window asks of a place where batches run."""

    reports: queue.SimpleQueue[Report]
    copies: bool  # whether items are pickled

    def begin(self) -> None:
        """Prepare for the run, in the caller's thread and before the run has other threads."""

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Take a batch; a report about it will come."""

    def maintain(self, in_flight: int) -> None:
        """Have as many workers as ``in_flight`` batches need; called in the caller's thread."""

    def close(self, *, kill: bool) -> None:
        """End all workers; with ``kill`` at once, whatever they are doing."""


class SerialBackend:
    """Runs each batch in the caller's thread when it is submitted."""

    def __init__(self, work: Work) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.copies = False
        self._work = work
        self._ready = False
        self._state: object = None

    def begin(self) -> None:
        """Do nothing."""

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Run the batch now."""
        if not self._ready:
            self._state = self._work.set_up(0)
            self._ready = True
        result = run_batch(self._work, batch, budget, state=self._state)
        self.reports.put(Outcome(batch, result))

    def maintain(self, in_flight: int) -> None:
        """Do nothing: the worker is the caller."""

    def close(self, *, kill: bool) -> None:
        """Call the finalizer."""
        if self._ready:
            self._ready = False
            self._work.finish(self._state)


_IDLE_SECONDS = 5.0  # how long an idle thread may take to end


class ThreadBackend:
    """Runs batches on daemon threads.

    ``ThreadPoolExecutor`` would do, but the interpreter waits for its threads at exit, for ever if
    a task never ends. A thread cannot be killed; a daemon thread at least holds up nobody.
    """

    def __init__(self, work: Work, workers: int) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.copies = False
        self._work = work
        self._workers = workers
        self._orders: queue.SimpleQueue[tuple[Batch, float | None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._failures: list[Exception] = []  # of finalizers
        self._closing = threading.Event()

    def begin(self) -> None:
        """Do nothing."""

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Queue the batch for the next free thread."""
        self._orders.put((batch, budget))

    def maintain(self, in_flight: int) -> None:
        """Start the threads that are missing."""
        while len(self._threads) < min(self._workers, in_flight):
            slot = len(self._threads)
            thread = threading.Thread(
                target=self._serve, args=(slot,), name=f"perftricks-{slot}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def close(self, *, kill: bool) -> None:
        """Let the threads end: when idle, or with ``kill`` after the item they are at.

        Raises:
            Exception: What a finalizer raised, unless ``kill``.
        """
        if kill:
            self._closing.set()
        for _ in self._threads:
            self._orders.put(None)
        for thread in () if kill else self._threads:
            thread.join(_IDLE_SECONDS if self._work.finalizer is None else None)
        if self._failures and not kill:
            raise self._failures[0]

    def _serve(self, slot: int) -> None:
        try:
            state = self._work.set_up(slot)
        except BaseException as error:
            self.reports.put(Broken(raisable(error, None)))
            return
        while (order := self._orders.get()) is not None and not self._closing.is_set():
            batch, budget = order
            result = run_batch(self._work, batch, budget, self._goes_on, state)
            self.reports.put(Outcome(batch, result))
        try:
            self._work.finish(state)
        except BaseException as error:
            self._failures.append(raisable(error, None))

    def _goes_on(self) -> bool:
        return not self._closing.is_set()


def runs_threads(executor: concurrent.futures.Executor) -> bool:
    """Tell whether an executor's workers are threads of this interpreter, which share its objects.

    Those of an ``InterpreterPoolExecutor``, a kind of thread pool by inheritance, are not.
    """
    interpreters = getattr(concurrent.futures, "InterpreterPoolExecutor", ())  # Python 3.14
    return isinstance(executor, concurrent.futures.ThreadPoolExecutor) and not isinstance(
        executor, interpreters
    )


def interpreter_pool(workers: int) -> concurrent.futures.Executor:
    """Open a pool of interpreters that find what this one can import.

    Raises:
        ValueError: If this Python has none.
    """
    pool = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    if pool is None:
        raise ValueError(
            "executor='interpreter' needs Python 3.14 or newer, this is Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}; use 'process' or 'thread'"
        )
    path = f"import sys; sys.path[:] = {[p for p in sys.path if isinstance(p, str)]!r}"
    opened: concurrent.futures.Executor = pool(workers, initializer=exec, initargs=(path,))
    return opened


_Future = concurrent.futures.Future[BatchResult] | concurrent.futures.Future[bytes]


class ExecutorBackend:
    """Runs batches on a ``concurrent.futures.Executor``.

    On a ``ThreadPoolExecutor`` the function is called as it is. Any other executor may be an
    interpreter, a process or a machine away, so what it gets is pickled bytes and a function that
    is found by its name.

    Args:
        work: The job.
        executor: Where to run it.
        owned: Whether the executor is shut down at the end; one of the caller's stays open.
    """

    def __init__(
        self, work: Work, executor: concurrent.futures.Executor, *, owned: bool = False
    ) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._executor = executor
        self._owned = owned
        self._work = work
        self._local = runs_threads(executor)
        self.copies = not self._local
        self._run = os.urandom(16)
        begun_here[self._run] = os.getpid(), threading.get_ident()
        self._job = b"" if self._local else encode_work(work)
        self._futures: set[_Future] = set()
        self._closing = threading.Event()

    def begin(self) -> None:
        """Do nothing."""

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Submit the batch to the executor."""
        future: _Future
        try:
            if self._local:
                go_on = self._go_on
                future = self._executor.submit(_run_local, self._work, batch, budget, go_on)
            else:
                order = encode_order(batch, budget)
                future = self._executor.submit(_run_remote, self._run, self._job, order.message)
        except UnpicklableError as error:
            self.reports.put(Outcome(batch, BatchLost("unpicklable", error.with_traceback(None))))
            return
        except Exception as error:
            self.reports.put(Broken(error))
            return
        self._futures.add(future)
        future.add_done_callback(lambda done: self._report(batch, done))

    def maintain(self, in_flight: int) -> None:
        """Do nothing: the executor has its own workers."""

    def close(self, *, kill: bool) -> None:
        """Cancel what has not begun; shut the executor down, unless it is the caller's."""
        self._closing.set()
        begun_here.pop(self._run, None)
        for future in tuple(self._futures):
            future.cancel()
        if self._owned:
            self._executor.shutdown(wait=not kill)

    def _go_on(self) -> bool:
        return not self._closing.is_set()

    def _report(self, batch: Batch, future: _Future) -> None:
        self._futures.discard(future)
        try:
            done = future.result()
            result = Packed(done) if isinstance(done, bytes) else done
        except (concurrent.futures.CancelledError, concurrent.futures.BrokenExecutor) as error:
            self.reports.put(Broken(_executor_broken(batch, error)))
        except SetUpError as error:
            self.reports.put(Broken(error.failure.unpack(None)))
        except Exception as error:
            # Not the task's doing, which is inside the result: the executor lost the batch.
            self.reports.put(Outcome(batch, BatchLost("crash", error)))
        except BaseException as error:  # must reach the caller, who is waiting for a report
            self.reports.put(Broken(raisable(error, None)))
        else:
            self.reports.put(Outcome(batch, result))


class SetUpError(Exception):
    """An initializer raised in a worker of the caller's executor."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def _executor_broken(batch: Batch, error: BaseException) -> WorkerCrashedError:
    first, last = batch.start, batch.start + len(batch) - 1
    lost = f"item {first}" if first == last else f"items {first} to {last}"
    crashed = WorkerCrashedError(
        f"the executor broke while {lost} were in flight ({type(error).__name__}: {error}); it "
        "cannot be restarted from here. executor='process' survives the death of a worker.",
        first if first == last else None,
    )
    crashed.__cause__ = error
    return crashed


_thread_state = threading.local()


def _run_local(
    work: Work, batch: Batch, budget: float | None, go_on: Callable[[], bool]
) -> BatchResult:
    """Run a batch in a thread of the caller's pool, set up once for each run and thread."""
    if getattr(_thread_state, "work", None) is not work:
        try:
            _thread_state.state = work.set_up(0)
        except BaseException as error:
            raise SetUpError(Failure.of(error)) from error
        _thread_state.work = work
    return run_batch(work, batch, budget, go_on, _thread_state.state)


begun_here: dict[bytes, tuple[int, int]] = {}  # run -> process and thread that began it
_RUNS_KEPT = 4
_runs: OrderedDict[bytes, tuple[Work, object]] = OrderedDict()  # with the worker's state
_runs_lock = threading.Lock()


def _run_remote(run: bytes, job: bytes, message: bytes) -> bytes:
    """Run an order in a worker of the caller's executor, which unpacks the job once a run."""
    work, state = _set_up_once(run, job)
    return run_order(work, Order(message, []), state=state).pickled


def _set_up_once(run: bytes, job: bytes) -> tuple[Work, object]:
    with _runs_lock:
        known = _runs.get(run)
        if known is None:
            try:
                known = set_up(run, job)
            except BaseException as error:
                raise SetUpError(Failure.of(error)) from None
            _runs[run] = known
            while len(_runs) > _RUNS_KEPT:
                _runs.popitem(last=False)
        _runs.move_to_end(run)
    return known


def set_up(run: bytes, job: bytes, *, shares_generators: bool = False) -> tuple[Work, object]:
    """Unpack a job in a worker of an executor or a cluster, and prepare that for it.

    Args:
        run: Which run it belongs to.
        job: The pickled job.
        shares_generators: Whether other threads of the worker run items too.

    Returns:
        The job, and what its initializer returned.

    Raises:
        BaseException: Whatever the initializer raises.
    """
    byvalue.forget()
    work: Work = pickle.loads(job)
    work.seed_globals = work.seed_globals and not shares_generators
    process, thread = begun_here.get(run, (0, 0))
    if process == os.getpid():  # an executor of another kind, whose workers are in here
        work.in_caller = thread == threading.get_ident()
        work.seed_globals = work.in_caller
    return work, work.set_up(0)
