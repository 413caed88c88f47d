"""Worker processes that may die at any moment, and a parent that never waits for one that has.

::

    caller's thread ── submit ──▶ orders (one queue)
                                    │        one thread for each worker process:
                                    ├─▶ thread 0 ══ pipes ══ worker process 0
                                    └─▶ thread 1 ══ pipes ══ worker process 1
    caller's thread ◀── reports ────┘        order out, result back, or word of its death

A worker holds one batch at a time, so when it dies it is known which. Its thread reports the death
and ends; :meth:`ProcessBackend.maintain` starts another worker, always in the caller's thread,
because a fork made elsewhere could copy a lock that the caller holds. For the same reason the
threads here run nothing of the caller's: results stay pickled until they reach the caller's thread.

The standard library's ``ProcessPoolExecutor`` gives up all work when one worker dies; its queues
are shared, so it cannot do otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
import weakref
from typing import NamedTuple

from perftricks.parallel import worker
from perftricks.parallel.backends import Broken, Outcome, Report, WorkerLost
from perftricks.parallel.errors import (
    ItemTimeoutError,
    UnpicklableError,
    WorkerCrashedError,
    describe_exit,
)
from perftricks.parallel.launch import StartMethod, launch, signals_held_back
from perftricks.parallel.work import Batch, BatchLost, Work, encode_order, encode_work

_LIVENESS_SECONDS = 1.0  # how often a silent worker is checked, should its pipe not tell
_GRACE_SECONDS = 5.0  # how long a worker that was told to stop may take
_open_backends: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


class _Order(NamedTuple):
    batch: Batch
    message: bytes


class ProcessBackend:
    """Runs batches on worker processes.

    Args:
        work: The job.
        workers: How many processes at most; they are started as batches come in.
        start_method: "fork", "forkserver" or "spawn".
        timeout: Seconds that one item may take; None for no limit.

    Raises:
        UnpicklableError: If the job cannot be sent to a process that is not a fork.
    """

    def __init__(
        self, work: Work, workers: int, start_method: StartMethod, timeout: float | None
    ) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._timeout = timeout
        self._workers = workers
        self._start_method = start_method
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._staff: dict[int, _Worker] = {}
        self._owner: int | None = None
        self._closed = False
        self._job: Work | bytes = work if start_method == "fork" else encode_work(work)

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Queue the batch for the next free worker."""
        try:
            message = encode_order(batch, budget, shares_main=self._start_method == "fork")
        except UnpicklableError as error:
            self.reports.put(Outcome(batch, BatchLost("unpicklable", error)))
        else:
            self._orders.put(_Order(batch, message))

    def maintain(self, in_flight: int) -> None:
        """Start the workers that are missing, the dead ones included.

        Raises:
            OSError: If a process cannot be started and there is none at all.
            RuntimeError: If the run was begun in another process, of which this is a fork.
        """
        if self._owner not in (None, os.getpid()):
            raise RuntimeError("this run was begun by another process; a fork cannot go on with it")
        self._staff = {slot: staff for slot, staff in self._staff.items() if staff.serving}
        missing = min(self._workers, in_flight) - len(self._staff)
        if missing <= 0:
            return
        self._owner = os.getpid()
        free = [slot for slot in range(self._workers) if slot not in self._staff]
        for slot in free[:missing]:
            with signals_held_back():
                try:
                    self._staff[slot] = self._hire(slot)
                except (OSError, RuntimeError, WorkerCrashedError):
                    # No more processes, descriptors or threads, or no server that forks.
                    if not self._staff:
                        raise
                    return
                _open_backends.add(self)

    def _hire(self, slot: int) -> _Worker:
        return _Worker(
            self._orders, self.reports, self._start_method, self._timeout, slot, self._job
        )

    def close(self, *, kill: bool) -> None:
        """End all workers and wait until they are gone."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        staff = tuple(self._staff.values())
        for one in staff:
            if kill or not one.ready:
                one.terminate()
        for _ in staff:
            self._orders.put(None)
        deadline = time.monotonic() + (1.0 if kill else _GRACE_SECONDS)
        for one in staff:
            one.leave(deadline)
        _open_backends.discard(self)


class _Worker:
    """One worker process, and the thread of the parent that talks to it.

    Attributes:
        ready: Whether the process has been set up.
        serving: Whether it takes orders, now or once it is ready.
    """

    def __init__(
        self,
        orders: queue.SimpleQueue[_Order | None],
        reports: queue.SimpleQueue[Report],
        start_method: StartMethod,
        timeout: float | None,
        slot: int,
        job: Work | bytes,
    ) -> None:
        self.ready = False
        self.serving = True
        self._orders = orders
        self._reports = reports
        self._start_method = start_method
        self._timeout = timeout
        self._launched = launch(start_method, slot, job, ticking=timeout is not None)
        self._process = self._launched.process
        self._thread = threading.Thread(
            target=self._serve, name=f"perftricks-{self._process.pid}", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:
            self._process.kill()
            self._process.join(_GRACE_SECONDS)
            self._launched.close()
            raise

    def terminate(self) -> None:
        """Ask the process to end, whatever it is doing."""
        self._process.terminate()

    def leave(self, deadline: float) -> None:
        """Wait for the end of process and thread; at the deadline, use force."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._process.exitcode is None:
            self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(_GRACE_SECONDS)
        self._thread.join(_GRACE_SECONDS)
        self._process.close()

    def _serve(self) -> None:
        """Pass orders to the process until told to stop, or until the process dies."""
        try:
            if self._started():
                while (order := self._orders.get()) is not None:
                    if not self._execute(order):
                        break
                else:
                    self._stop()
        except BaseException as error:  # a defect here must reach the caller, not be waited for
            self._process.kill()
            failed = RuntimeError(f"the thread of a worker failed: {error!r}")
            failed.__cause__ = error
            self._report_last(Broken(failed))
        finally:
            self.serving = False
            self._launched.close()
            self._process.join(_GRACE_SECONDS)
            self._process.close()

    def _report_last(self, report: Report) -> None:
        """Report something after which this worker is of no use; it must not seem to be."""
        self.serving = False
        self._reports.put(report)

    def _started(self) -> bool:
        """Wait until the worker is ready for work; report it if it never is."""
        try:
            greeting = getattr(self._process, "greeting", None)
            if greeting is not None:
                self._launched.orders.send_bytes(greeting)
            message = self._receive(None)
        except (EOFError, OSError):
            how = self._cause_of_death()
            if self._start_method == "forkserver":
                how += " (with 'forkserver' a script needs `if __name__ == '__main__':`)"
            self._report_last(WorkerLost(how, started=False))
            return False
        if message == worker.READY:
            self.ready = True
            return True
        assert message is not None
        self._report_last(Broken(message))
        return False

    def _execute(self, order: _Order) -> bool:
        """Have the worker run one order and report what came of it; False if the worker is gone."""
        batch, message = order
        try:
            self._launched.orders.send_bytes(message)
        except OSError:  # it died while idle: nobody has seen this order
            self._orders.put(order)
            self._report_last(WorkerLost(self._cause_of_death(), started=True))
            return False
        begun = 0
        limit = None  # only items are timed, not the packing and unpacking around them
        try:
            while (reply := self._receive(limit)) in (worker.TICK, worker.PACKING):
                limit = self._timeout if reply == worker.TICK else None
                begun += reply == worker.TICK
        except (EOFError, OSError):
            self._report_last(Outcome(batch, BatchLost("crash", self._crash(batch))))
            return False
        if reply is None:
            self._process.kill()
            late = ItemTimeoutError(
                f"item {batch.start + begun - 1} took longer than timeout={self._timeout} seconds; "
                "its worker was killed",
                batch.start + begun - 1,
            )
            self._report_last(Outcome(batch, BatchLost("timeout", late, begun - 1)))
            return False
        self._reports.put(Outcome(batch, reply))
        return True

    def _receive(self, timeout: float | None) -> bytes | None:
        """Return the worker's next message, None if none begins within ``timeout`` seconds.

        Raises:
            EOFError, OSError: If the worker is dead.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LIVENESS_SECONDS if deadline is None else deadline - time.monotonic()
            if self._launched.results.poll(max(0.0, min(left, _LIVENESS_SECONDS))):
                return self._launched.results.recv_bytes()
            if self._process.exitcode is not None and not self._launched.results.poll(0):
                raise EOFError
            if left <= 0:
                return None

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            self._launched.orders.send_bytes(worker.STOP)
        self._process.join(_GRACE_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()

    def _cause_of_death(self) -> str:
        self._process.join(_GRACE_SECONDS)
        if self._process.exitcode is None:  # it has closed its pipes, but lives
            self._process.kill()
            self._process.join(_GRACE_SECONDS)
        return describe_exit(self._process.exitcode)

    def _crash(self, batch: Batch) -> WorkerCrashedError:
        return WorkerCrashedError(
            f"item {batch.start} kills the worker that runs it: the process "
            f"{self._cause_of_death()}",
            batch.start,
        )


@atexit.register
def _close_all() -> None:
    """Kill the workers of runs that were never finished or closed."""
    for backend in tuple(_open_backends):
        backend.close(kill=True)
