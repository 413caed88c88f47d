"""Worker processes that may die at any moment, and a parent that never waits for one that has.

::

    caller's thread ── submit ──▶ orders (one queue)
                                    │        one thread for each worker process:
                                    ├─▶ thread 0 ══ pipes ══ worker process 0
                                    └─▶ thread 1 ══ pipes ══ worker process 1
    caller's thread ◀── reports ────┘        order out, result back, or word of its death

A worker holds one batch at a time, so when it dies it is known which. Its thread reports the death
and ends; :meth:`ProcessBackend.maintain` starts another worker, in the caller's thread. The threads
here run nothing of the caller's, so that they hold no lock that a fork could need: results stay
pickled until they reach the caller's thread.

The standard library's ``ProcessPoolExecutor`` gives up all work when one worker dies; its queues
are shared, so it cannot do otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from perftricks.parallel import aside, memory, worker
from perftricks.parallel.backends import Broken, Outcome, Report, WorkerLost
from perftricks.parallel.errors import (
    ItemTimeoutError,
    UnpicklableError,
    WorkerCrashedError,
    describe_exit,
    unpack_failure,
)
from perftricks.parallel.launch import (
    Launcher,
    StartMethod,
    close_fresh_server,
    signals_held_back,
)
from perftricks.parallel.pickling import Packed
from perftricks.parallel.threads import LockFreeThread
from perftricks.parallel.work import Batch, BatchLost, Work, encode_order

_LIVENESS_SECONDS = 1.0  # how often a silent worker is checked, should its pipe not tell
_TIMING_SECONDS = 0.1  # how often one is checked whose time is limited
_MEMORY_SECONDS = 0.05  # how often one is checked whose memory is limited
_MEMORY_MARGIN = 1.25  # of the limit: beyond that a worker is killed in the midst of an item
_GRACE_SECONDS = 5.0  # how long a worker that is wanted no more may take to end
_ENDING_SECONDS = 30.0  # how long the exit handlers of a worker that has done its work may take
_open_backends: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


class _Order(NamedTuple):
    batch: Batch
    message: bytes
    asides: list[aside.Aside]


class ProcessBackend:
    """Runs batches on worker processes.

    Args:
        work: The job.
        workers: How many processes at most; they are started as batches come in.
        start_method: "fork", "fresh", "forkserver" or "spawn"; None for what is safe.
        timeout: Seconds that one item may take; None for no limit.
        max_tasks: After how many items a worker is replaced; None for never.
        memory_limit: How many bytes of memory of its own a worker may have; None for no limit.

    Raises:
        UnpicklableError: If the job cannot be sent to a process that is not a fork.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        start_method: StartMethod | None,
        timeout: float | None,
        max_tasks: int | None = None,
        memory_limit: int | None = None,
    ) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self.copies = True
        self._limits = _Limits(timeout, memory_limit)
        self._workers = workers
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._staff: dict[int, _Worker] = {}
        self._leaving: list[_Worker] = []
        self._owner: int | None = None
        self._closed = False
        ticking = timeout is not None or memory_limit is not None
        terms = worker.Terms(ticking, max_tasks, memory_limit)
        self._launcher = Launcher(start_method, work, terms)

    @property
    def shares_main(self) -> bool:
        """Whether the workers have the caller's main module."""
        return self._launcher.shares_main

    def begin(self) -> None:
        """Prepare the start of workers, before the run has threads.

        Raises:
            UnpicklableError: If threads have been started since the run was made, so that the job
                would have to be pickled and cannot be.
        """
        if self._owner is None:
            self._owner = os.getpid()
            _open_backends.add(self)
            self._launcher.begin()

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Queue the batch for the next free worker."""
        try:
            order = encode_order(batch, budget)
        except UnpicklableError as error:
            self.reports.put(Outcome(batch, BatchLost("unpicklable", error.with_traceback(None))))
        else:
            self._orders.put(_Order(batch, *order))

    def maintain(self, in_flight: int) -> None:
        """Start the workers that are missing, the dead ones included.

        Raises:
            OSError: If a process cannot be started and there is none at all.
            RuntimeError: If the run was begun in another process, of which this is a fork.
        """
        if self._owner not in (None, os.getpid()):
            raise RuntimeError("this run was begun by another process; a fork cannot go on with it")
        self._leaving = [one for one in self._leaving if not one.gone]
        self._leaving += [one for one in self._staff.values() if not one.serving]
        self._staff = {slot: one for slot, one in self._staff.items() if one.serving}
        missing = min(self._workers, in_flight) - len(self._staff)
        free = [slot for slot in range(self._workers) if slot not in self._staff]
        for slot in free[: max(0, missing)]:
            with signals_held_back():
                try:
                    self._staff[slot] = self._hire(slot)
                except (OSError, RuntimeError, WorkerCrashedError):
                    # No more processes, descriptors or threads, or no server that forks.
                    if not self._staff:
                        raise
                    return

    def _hire(self, slot: int) -> _Worker:
        return _Worker(self._orders, self.reports, self._launcher, self._limits, slot)

    def close(self, *, kill: bool) -> None:
        """End all workers and wait until they are gone.

        Those that are at an item are killed with ``kill``; all others end as processes should.

        Raises:
            Exception: What a finalizer raised, unless ``kill``.
        """
        if self._closed or os.getpid() != self._owner:
            return
        staff = (*self._staff.values(), *self._leaving)
        deadline = time.monotonic() + _GRACE_SECONDS if kill else None
        try:
            with signals_held_back():
                self._closed = True
                self._dismiss(staff, kill=kill)
            for one in staff:
                one.leave(deadline)
        except BaseException:  # Ctrl-C
            for one in staff:
                one.kill()
            raise
        finally:
            with signals_held_back():  # until the server is waited for: else it stays a zombie
                self._launcher.close()
                _open_backends.discard(self)
                _empty(self.reports)  # of which a traceback may keep this object
        failures = [one.failure for one in staff if one.failure is not None]
        if failures and not kill:
            raise unpack_failure(failures[0])

    def _dismiss(self, staff: Sequence[_Worker], *, kill: bool) -> None:
        if kill:
            _empty(self._orders)
        for one in staff:
            if one.busy if kill else not one.ready:
                one.terminate()
            self._orders.put(None)


def _empty(entries: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            entries.get_nowait()


class _Limits(NamedTuple):
    """What an item may take.

    Attributes:
        timeout: Seconds.
        memory: Bytes, for the whole worker.
    """

    timeout: float | None
    memory: int | None


class _Exceeded(Exception):
    """An item has taken more than it may."""

    def __init__(self, what: Literal["timeout", "memory"]) -> None:
        super().__init__(what)
        self.what = what


class _Worker:
    """One worker process, and the thread of the parent that talks to it.

    Attributes:
        ready: Whether the process has been set up.
        serving: Whether it takes orders, now or once it is ready.
        busy: Whether it has an order.
        failure: What the finalizer raised, pickled.
    """

    def __init__(
        self,
        orders: queue.SimpleQueue[_Order | None],
        reports: queue.SimpleQueue[Report],
        launcher: Launcher,
        limits: _Limits,
        slot: int,
    ) -> None:
        self.ready = False
        self.serving = True
        self.busy = False
        self.failure: bytes | None = None
        self._orders = orders
        self._reports = reports
        self._method = launcher.method
        self._limits = limits
        self._launched = launcher.launch(slot)
        self._process = self._launched.process
        self._thread = LockFreeThread(self._serve, f"perftricks-{self._process.pid}")
        try:
            self._thread.start()
        except BaseException:
            self._process.kill()
            self._process.join(_GRACE_SECONDS)
            self._launched.close()
            self._process.close()
            raise

    @property
    def gone(self) -> bool:
        """Whether process and thread have ended."""
        return not self._thread.is_alive()

    def terminate(self) -> None:
        """Ask the process to end, whatever it is doing."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process."""
        self._process.kill()

    def leave(self, deadline: float | None) -> None:
        """Wait for the end of process and thread; at the deadline, use force."""
        self._thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join(_GRACE_SECONDS)

    def _serve(self) -> None:
        """Pass orders to the process until told to stop, or until the process dies."""
        try:
            if self._started():
                while (order := self._orders.get()) is not None:
                    self.busy = True
                    if not self._execute(order):
                        break
                    self.busy = False
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
            if self._launched.greeting is not None:
                self._launched.orders.send_bytes(self._launched.greeting)
            message = self._receive()
        except (EOFError, OSError):
            how = self._cause_of_death()
            if self._method == "forkserver":
                how += " (with 'forkserver' a script needs `if __name__ == '__main__':`)"
            elif getattr(sys, "frozen", False):
                how += " (a frozen application must call multiprocessing.freeze_support() first)"
            self._report_last(WorkerLost(how, started=False))
            return False
        if message == worker.READY:
            self.ready = True
            return True
        self._report_last(Broken(message))
        self._await_end(None)
        return False

    def _execute(self, order: _Order) -> bool:
        """Have the worker run one order and report what came of it; False if the worker is gone."""
        batch = order.batch
        try:
            for one in order.asides:
                one.send(self._launched.orders)
            self._launched.orders.send_bytes(order.message)
        except OSError:  # it died while idle: nobody has seen this order
            self._orders.put(order)
            self._report_last(WorkerLost(self._cause_of_death(), started=True))
            return False
        begun = 0
        retires = in_item = False  # only items are limited, not what is around them
        large: aside.Aside | None = None
        try:
            while (reply := self._receive(in_item)).startswith(_SIGNS):
                in_item = reply == worker.TICK
                begun += in_item
                retires = retires or reply == worker.RETIRING
                if reply.startswith(aside.SIGN):
                    large = aside.Aside.receive(self._launched.results, reply)
        except (EOFError, OSError):
            self._report_last(Outcome(batch, BatchLost("crash", self._crash(batch))))
            return False
        except _Exceeded as exceeded:
            error = self._error(exceeded.what, batch.start + begun - 1)
            self._process.kill()
            self._report_last(Outcome(batch, BatchLost(exceeded.what, error, begun - 1)))
            return False
        self._reports.put(Outcome(batch, Packed(reply, large)))
        if retires:
            self._retire()
        return not retires

    def _error(self, what: Literal["timeout", "memory"], index: int) -> Exception:
        if what == "timeout":
            limit = f"took longer than timeout={self._limits.timeout} seconds"
            return ItemTimeoutError(f"item {index} {limit}; its worker was killed", index)
        has = memory.own_memory(self._process.pid)
        return WorkerCrashedError(
            f"item {index} needs too much memory: its worker was killed when it had {has:,} bytes; "
            f"memory_limit={self._limits.memory:,} and a quarter more are allowed",
            index,
        )

    def _receive(self, in_item: bool = False) -> bytes:
        """Return the worker's next message; with ``in_item`` only while the item is in its limits.

        Time in which the worker or this process is stopped (SIGSTOP, a debugger, a computer that is
        suspended) does not count.

        Raises:
            EOFError, OSError: If the worker is dead.
            _Exceeded: If the item is not in its limits.
        """
        results, process = self._launched.results, self._process
        timeout = self._limits.timeout if in_item else None
        limit = self._limits.memory if in_item else None
        interval = _LIVENESS_SECONDS if timeout is None else min(timeout, _TIMING_SECONDS)
        interval = interval if limit is None else min(interval, _MEMORY_SECONDS)
        spent = 0.0
        while True:
            began = time.monotonic()
            if results.poll(interval):
                return results.recv_bytes()
            if process.ended and not results.poll(0):
                raise EOFError
            if timeout is not None and not _is_stopped(process.pid):
                spent += min(time.monotonic() - began, interval)
                if spent >= timeout:
                    raise _Exceeded("timeout")
                interval = min(interval, max(timeout - spent, 0.001))
            if limit is not None and memory.exceeds(process.pid, int(limit * _MEMORY_MARGIN)):
                raise _Exceeded("memory")

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            self._launched.orders.send_bytes(worker.STOP)
        self.failure = self._await_end(_ENDING_SECONDS)

    def _retire(self) -> None:
        """Let the worker end in its own time, while another takes its place."""
        self._report_last(WorkerLost("has done its share", started=True))
        failure = self._await_end(_ENDING_SECONDS)
        if failure:
            self._reports.put(Broken(failure))

    def _await_end(self, seconds: float | None) -> bytes | None:
        """Wait while the finalizer runs, and then for the exit handlers, which may take so long."""
        failure = None
        with contextlib.suppress(EOFError, OSError):
            while not (message := self._receive()).startswith(worker.ENDING):
                pass
            failure = message[len(worker.ENDING) :] or None
        self._process.join(_GRACE_SECONDS if seconds is None else seconds)
        if not self._process.ended:
            self._process.kill()
        return failure

    def _cause_of_death(self) -> str:
        self._process.join(_GRACE_SECONDS)
        if not self._process.ended:  # it has closed its pipes, but lives
            self._process.kill()
            self._process.join(_GRACE_SECONDS)
        return describe_exit(self._process.exitcode if self._process.ended else None)

    def _crash(self, batch: Batch) -> WorkerCrashedError:
        return WorkerCrashedError(
            f"item {batch.start} kills the worker that runs it: the process "
            f"{self._cause_of_death()}",
            batch.start,
        )


_SIGNS = (worker.TICK, worker.PACKING, worker.RETIRING, aside.SIGN)


def _is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal or a debugger; only Linux says."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False


@atexit.register
def _close_all() -> None:
    """Kill the workers of runs that were never finished or closed, and end the server."""
    for backend in tuple(_open_backends):
        backend.close(kill=True)
    close_fresh_server()
