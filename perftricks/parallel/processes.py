"""Worker processes that may die at any moment, and a parent that never waits for one that has.

::

    caller's thread ── submit ──▶ orders (one queue)
                                    │        one thread for each worker process:
                                    ├─▶ thread 0 ══ pipes ══ worker process 0
                                    └─▶ thread 1 ══ pipes ══ worker process 1
    caller's thread ◀── reports ────┘        order out, result back, or word of its death

A worker holds one batch at a time, so when it dies it is known which. Its thread reports the death
and ends; :meth:`ProcessBackend.maintain` starts another worker, always in the caller's thread,
because a fork made elsewhere could copy a lock that the caller holds.

The standard library's ``ProcessPoolExecutor`` gives up all work when one worker dies; its queues
are shared, so it cannot do otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Literal, NamedTuple, Protocol

from perftricks.parallel import worker
from perftricks.parallel.backends import Broken, Outcome, Report, WorkerLost
from perftricks.parallel.errors import (
    Failure,
    ItemTimeoutError,
    UnpicklableError,
    WorkerCrashedError,
    describe_exit,
)
from perftricks.parallel.work import (
    Batch,
    BatchLost,
    Work,
    decode_result,
    encode_order,
    encode_work,
)

StartMethod = Literal["fork", "forkserver", "spawn"]

_LIVENESS_SECONDS = 1.0  # how often a silent worker is checked, should its pipe not tell
_GRACE_SECONDS = 5.0  # how long a worker that was told to stop may take
_launch_lock = threading.Lock()  # no other fork of ours while pipe ends are in two hands
_parent_ends: set[Connection] = set()
_open_backends: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


class Process(Protocol):
    """The part of ``multiprocessing.Process`` that is used here."""

    @property
    def pid(self) -> int | None:
        """The process id."""

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process to end."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


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
        self._owner = os.getpid()
        self._closed = False
        if start_method == "fork":
            self._job: Work | bytes = work
        else:
            self._job = encode_work(work)
        _open_backends.add(self)

    def submit(self, batch: Batch, budget: float | None) -> None:
        """Queue the batch for the next free worker."""
        try:
            message = encode_order(batch, budget)
        except UnpicklableError as error:
            self.reports.put(Outcome(batch, BatchLost("unpicklable", error)))
        else:
            self._orders.put(_Order(batch, message))

    def maintain(self, in_flight: int) -> None:
        """Start the workers that are missing, the dead ones included."""
        self._staff = {slot: staff for slot, staff in self._staff.items() if staff.is_serving()}
        missing = min(self._workers, in_flight) - len(self._staff)
        free = (slot for slot in range(self._workers) if slot not in self._staff)
        for slot in [next(free) for _ in range(missing)]:
            self._staff[slot] = _Worker(
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
    """One worker process, and the thread of the parent that talks to it."""

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
        self._orders = orders
        self._reports = reports
        self._timeout = timeout
        with _launch_lock:
            to_worker, self._outgoing = Pipe(duplex=False)
            self._incoming, to_parent = Pipe(duplex=False)
            lifeline, self._lifeline = Pipe(duplex=False)
            ours = (self._outgoing, self._incoming, self._lifeline)
            _parent_ends.update(ours)
            theirs = (to_worker, to_parent, lifeline)
            try:
                self._process = _launch(start_method, *theirs, slot, job, timeout is not None)
            except BaseException:
                _close(*ours)
                raise
            finally:
                _close(*theirs)
        self._job = job if start_method == "spawn" else None
        self._thread = threading.Thread(
            target=self._serve, name=f"perftricks-{self._process.pid}", daemon=True
        )
        self._thread.start()

    def is_serving(self) -> bool:
        """Tell whether the worker takes orders, now or once it has started."""
        return self._thread.is_alive()

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
            self._reports.put(Broken(failed))
        finally:
            _close(self._outgoing, self._incoming, self._lifeline)
            self._process.join(_GRACE_SECONDS)

    def _started(self) -> bool:
        """Wait until the worker is ready for work; report it if it never is."""
        try:
            if isinstance(self._job, bytes):
                self._outgoing.send_bytes(self._job)
            message = self._receive(None)
        except (EOFError, OSError):
            self._reports.put(WorkerLost(self._cause_of_death(), started=False))
            return False
        if message == worker.READY:
            self.ready = True
            return True
        assert message is not None
        failure: Failure = pickle.loads(message)
        self._reports.put(Broken(failure.unpack(None)))
        return False

    def _execute(self, order: _Order) -> bool:
        """Have the worker run one order and report what came of it; False if the worker is gone."""
        batch, message = order
        try:
            self._outgoing.send_bytes(message)
        except OSError:  # it died while idle: nobody has seen this order
            self._orders.put(order)
            self._reports.put(WorkerLost(self._cause_of_death(), started=True))
            return False
        begun = 0
        try:
            while (reply := self._receive(self._timeout)) == worker.TICK:
                begun += 1
        except (EOFError, OSError):
            self._reports.put(Outcome(batch, BatchLost("crash", self._crash(batch))))
            return False
        if reply is None:
            self._process.kill()
            offset = max(0, begun - 1)
            self._reports.put(
                Outcome(batch, BatchLost("timeout", self._too_slow(batch.start + offset), offset))
            )
            return False
        self._reports.put(Outcome(batch, decode_result(reply)))
        return True

    def _receive(self, timeout: float | None) -> bytes | None:
        """Return the worker's next message, None if none begins within ``timeout`` seconds.

        Raises:
            EOFError, OSError: If the worker is dead.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LIVENESS_SECONDS if deadline is None else deadline - time.monotonic()
            if self._incoming.poll(max(0.0, min(left, _LIVENESS_SECONDS))):
                return self._incoming.recv_bytes()
            if self._process.exitcode is not None and not self._incoming.poll(0):
                raise EOFError
            if left <= 0:
                return None

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            self._outgoing.send_bytes(worker.STOP)
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

    def _too_slow(self, index: int) -> ItemTimeoutError:
        return ItemTimeoutError(
            f"item {index} took longer than timeout={self._timeout} seconds; its worker was killed",
            index,
        )


def _launch(
    start_method: StartMethod,
    orders: Connection,
    results: Connection,
    lifeline: Connection,
    slot: int,
    job: Work | bytes,
    ticking: bool,
) -> Process:
    """Start a worker process on its ends of the pipes."""
    if start_method == "spawn" and os.name == "posix":
        return _ExecProcess(orders, results, lifeline, slot, ticking)
    context = multiprocessing.get_context(start_method)
    process: multiprocessing.process.BaseProcess = context.Process(  # type: ignore[attr-defined]
        target=worker.main,
        args=(orders, results, lifeline, os.getpid(), slot, job, ticking),
        name=f"perftricks-{slot}",
    )
    with _signals_held_back(), warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads. The threads here are ours and hold no lock.
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        process.start()
    return process


class _ExecProcess:
    """A worker in a fresh interpreter that does not import the caller's main module.

    ``multiprocessing`` would import it, which costs what the script's imports cost and forces
    ``if __name__ == "__main__":`` on the user. The function arrives by value instead.
    """

    def __init__(
        self,
        orders: Connection,
        results: Connection,
        lifeline: Connection,
        slot: int,
        ticking: bool,
    ) -> None:
        descriptors = (orders.fileno(), results.fileno(), lifeline.fileno())
        arguments = (*descriptors, os.getpid(), slot, ticking)
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from perftricks.parallel.worker import main_from_descriptors as main; main{arguments}"
        )
        with _signals_held_back():
            self._popen = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._popen.poll()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._popen.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._popen.kill()


def _close(*connections: Connection) -> None:
    for connection in connections:
        connection.close()
        _parent_ends.discard(connection)


def _forget_the_parent() -> None:
    """In any child forked off this process: have nothing to do with the workers of the parent.

    The lock may have been held when the child was forked. Pipe ends held open here would keep the
    workers from noticing that the parent is gone.
    """
    global _launch_lock
    _launch_lock = threading.Lock()
    _open_backends.clear()
    _close(*_parent_ends)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parent)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM while a process starts, until it has handlers of its own.

    Before that it would answer them as the parent does.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, worker.HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def _close_all() -> None:
    """Kill the workers of runs that were never finished or closed."""
    for backend in tuple(_open_backends):
        backend.close(kill=True)
