"""Starting worker processes, so that none can escape and none is forked beside threads.

::

    fork     caller ── fork, when the run begins ─▶ server ── fork ─▶ workers
    fresh    caller ── exec, once a process ──────▶ server ── fork ─▶ workers
    spawn    caller ── exec ──────────────────────────────────────▶ workers

A server (:mod:`perftricks.parallel.server`) has one thread, so that what it forks can have no lock
held by another. One that is a fork of the caller has the caller's memory as it was when the run
began, before the run had threads of its own; workers that replace dead ones come from it as well.

Three things must hold at every moment, whatever signal arrives and whoever forks: a process that
was started is known to somebody who will end it; a worker's pipes are held open by nobody but
itself and its parent; a new process does not answer signals with the handlers of its parent.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.process
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Literal, NamedTuple, Protocol

from perftricks.parallel import aside, server, threads, worker
from perftricks.parallel.errors import WorkerCrashedError
from perftricks.parallel.fresh import (
    ExecProcess,
    preparation,
    resource_tracker,
    search_path,
    standard,
    start_interpreter,
    surroundings,
)
from perftricks.parallel.managed import ManagedProcess
from perftricks.parallel.work import Work, encode_work

StartMethod = Literal["fork", "forkserver", "fresh", "spawn"]

# Held while pipe ends are in two hands, and, by the hooks below, during any other fork.
_lock = threading.RLock()
_parent_ends: set[Connection] = set()
_fresh_server: _Server | None = None
_fresh_server_lock = threading.Lock()


class Process(Protocol):
    """A worker process, however it was started."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs, and where nobody knows."""

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def close(self) -> None:
        """Free what is held for a process that has ended."""


class Launched(NamedTuple):
    """A worker process and the parent's ends of its pipes.

    Attributes:
        greeting: What the worker must be sent first; None for nothing.
    """

    process: Process
    orders: Connection
    results: Connection
    lifeline: Connection
    greeting: bytes | None

    def close(self) -> None:
        """Close the pipes."""
        close_ends(self.orders, self.results, self.lifeline)


class Launcher:
    """Starts the workers of one run.

    Args:
        start_method: How; None for "fork" where that is what :mod:`multiprocessing` uses and no
            other threads are there, else for "fresh".
        work: The job.
        terms: What the workers are told besides.

    Raises:
        UnpicklableError: If the job cannot be sent to a process that is not a fork.
    """

    def __init__(self, start_method: StartMethod | None, work: Work, terms: worker.Terms) -> None:
        self._work = work
        self._terms = terms
        self._job = b""
        self._server: _Server | None = None
        self._by_choice = start_method is not None
        self.method: StartMethod = start_method or usual_start_method()
        if self.method != "fork":
            self._start_fresh(self.method)

    @property
    def shares_main(self) -> bool:
        """Whether the workers have the caller's main module."""
        return self.method == "fork"

    def begin(self) -> None:
        """Fork the server, where workers are forks; call this before the run has threads."""
        with signals_held_back():  # until it is noted here that there is a server
            self._begin()

    def _begin(self) -> None:
        if self.method == "fork" and self._server is None:
            if self._by_choice:
                self._server = _fork_server(self._work, self._terms)
                return
            others = threads.other_threads()
            if not others or threads.may_be_openblas(others):
                self._server = _fork_server(self._work, self._terms)
                if not others or not threads.other_threads():
                    return
                self.close()
            self._start_fresh("fresh")

    def launch(self, slot: int) -> Launched:
        """Start worker number ``slot``.

        Call this, and whatever notes who is responsible for the process, in
        :func:`signals_held_back`.

        Raises:
            OSError: If there are no more processes or file descriptors to be had.
            WorkerCrashedError: If the process that forks workers dies, again and again.
        """
        for _ in range(_MAX_DEAD_SERVERS - 1):
            with contextlib.suppress(WorkerCrashedError):
                return self._launch(slot)
        return self._launch(slot)

    def _launch(self, slot: int) -> Launched:
        method = self.method
        if os.name != "posix" or (sys.platform == "darwin" and method == "fresh"):
            # macOS' own libraries do not bear a fork, not even of a process without threads.
            method = "spawn" if method == "fresh" else method
        elif method == "spawn" and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            method = "fresh"  # the kernel would tell nobody how the worker has ended
        with _lock, contextlib.ExitStack() as undo:
            orders, our_orders = _channel(undo)
            our_results, results = _channel(undo)
            lifeline, our_lifeline = _pipe(undo)
            ours = (our_orders, our_results, our_lifeline)
            theirs = (orders, results, lifeline)
            _parent_ends.update(ours)
            undo.callback(close_ends, *ours)
            process, greeting = self._start(method, slot, theirs, undo)
            undo.pop_all()
            for connection in theirs:
                connection.close()
        return Launched(process, *ours, greeting)

    def close(self) -> None:
        """End the server; the workers have ended."""
        if self._server is not None and self.method == "fork":
            self._server.close()
        self._server = None

    def _start_fresh(self, method: StartMethod) -> None:
        why = "" if self._by_choice else _REASON
        self._job = encode_work(self._work, why)
        self.method = method

    def _start(
        self,
        method: StartMethod,
        slot: int,
        pipes: tuple[Connection, Connection, Connection],
        undo: contextlib.ExitStack,
    ) -> tuple[Process, bytes | None]:
        if method == "fork":
            if self._server is None or not self._server.alive():
                self.close()
                self._begin()
                if self.method != "fork":
                    return self._start(self.method, slot, pipes, undo)
            assert self._server is not None
            return self._server.start(slot, pipes, undo), None
        if method == "fresh":
            return _start_in_fresh_server(slot, pipes, undo), self._greeting(fresh=True)
        if method == "spawn" and os.name == "posix":
            orders, results, lifeline = (pipe.fileno() for pipe in pipes)
            entry = worker.Entry(orders, results, lifeline, os.getpid(), slot)
            process = ExecProcess(entry, [orders, results, lifeline])
            return process, self._greeting(fresh=False)
        return ManagedProcess(method, (*pipes, os.getpid(), slot, self._job, self._terms)), None

    def _greeting(self, *, fresh: bool) -> bytes:
        return pickle.dumps(
            worker.Greeting(
                path=search_path(),
                environment=dict(os.environ) if fresh else None,
                preparation=preparation(),
                job=self._job,
                terms=self._terms,
            )
        )


_MAX_DEAD_SERVERS = 3  # in a row
_REASON = (
    " Workers do not share the memory of this process, because it has threads beside which a fork "
    "may hang, or because fork is not what multiprocessing uses; start_method='fork' insists on it."
)


def refuse_while_set_up() -> None:
    """Raise an error in a process that is itself still becoming a worker.

    It would start workers that start workers, without end.
    """
    inheriting = getattr(multiprocessing.process.current_process(), "_inheriting", False)
    if worker.setting_up() or worker.SETTING_UP in os.environ or inheriting:
        raise RuntimeError(
            "a worker process that is being set up starts no workers: it imports the module of the "
            "function, and that calls perftricks.parallel while it is imported. Put the call into "
            "a function, or under `if __name__ == '__main__':`. A frozen application must call "
            "multiprocessing.freeze_support() before anything else."
        )


def close_ends(*connections: Connection) -> None:
    """Close the parent's ends of pipes."""
    with _lock:
        for connection in connections:
            _parent_ends.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()


def close_fresh_server() -> None:
    """End the server that starts fresh workers, if there is one."""
    global _fresh_server
    with _fresh_server_lock:
        if _fresh_server is not None:
            _fresh_server.close()
        _fresh_server = None


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Hold back Ctrl-C, and block signals for the processes and threads that are started meanwhile.

    A new process inherits the blocked signals until it has handlers of its own; before that it
    would answer as its parent does. A thread inherits them for good: signals are the main thread's.
    Any thread of the caller's may still take an interrupt, which Python then raises in the main
    thread; so there it is caught as well, and raised at the end.
    """
    held: list[tuple[object, ...]] = []
    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            signal.signal(signal.SIGINT, lambda *arguments: held.append(arguments))
    try:
        if not hasattr(signal, "pthread_sigmask"):
            yield
        else:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, worker.HELD_BACK)
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        if callable(handler):
            signal.signal(signal.SIGINT, handler)
            if held:
                handler(*held[0])  # type: ignore[arg-type]


def usual_start_method() -> StartMethod:
    """Return how workers start where nothing is said: forked, or fresh."""
    usual = multiprocessing.get_start_method(allow_none=True)
    usual = usual or multiprocessing.get_all_start_methods()[0]
    if usual != "fork" or multiprocessing.current_process().daemon:
        return "fresh"
    others = threads.other_threads()
    return "fork" if not others or threads.may_be_openblas(others) else "fresh"


def _pipe(undo: contextlib.ExitStack) -> tuple[Connection, Connection]:
    """Open a pipe, clear of the descriptors of stdin, stdout and stderr should these be closed."""
    if os.name != "posix":
        reader, writer = Pipe(duplex=False)
    else:
        ends = [server.above_standard(end) for end in os.pipe()]
        reader, writer = Connection(ends[0], writable=False), Connection(ends[1], readable=False)
    undo.callback(reader.close)
    undo.callback(writer.close)
    return reader, writer


def _channel(undo: contextlib.ExitStack) -> tuple[Connection, Connection]:
    """Open a way from the second end to the first, over which descriptors can be sent."""
    if not aside.is_possible():
        return _pipe(undo)
    reader, writer = _socket_pair()
    undo.callback(reader.close)
    undo.callback(writer.close)
    return reader, writer


class _Server:
    """The caller's side of a server that forks workers."""

    def __init__(self, control: Connection, pid: int, signature: object = None) -> None:
        self._control = control
        self._pid = pid
        self._lock = threading.Lock()
        self.signature = signature

    def start(
        self,
        slot: int,
        pipes: Sequence[Connection],
        undo: contextlib.ExitStack,
        more: Sequence[int] = (),
    ) -> _ServedProcess:
        """Have a worker forked.

        Args:
            slot: The worker's number.
            pipes: The worker's ends of its pipes.
            undo: What is to be closed should something fail.
            more: The descriptors that a fresh worker is given, see :mod:`server`.

        Raises:
            OSError: If the server cannot fork.
        """
        status, reported = _pipe(undo)
        _parent_ends.add(status)
        undo.callback(close_ends, status)
        descriptors = [*(pipe.fileno() for pipe in (*pipes, reported)), *more]
        request = server.Request(slot, "numpy" in sys.modules)
        with self._lock:
            try:
                server.send(self._control, request.pack(), descriptors)
                reply = self._control.recv_bytes()
            except (EOFError, OSError) as error:
                raise WorkerCrashedError(
                    f"the process that starts the workers has died ({error!r}). What it printed "
                    "may say why."
                ) from error
        reported.close()
        pid, code = server.unpack_reply(reply)
        if code:
            raise OSError(code, f"cannot start a worker process: {os.strerror(code)}")
        return _ServedProcess(pid, status)

    def alive(self) -> bool:
        """Whether the server still runs."""
        return not self._control.closed and not self._control.poll(0)

    def close(self) -> None:
        """End the server, and wait until it is gone."""
        close_ends(self._control)
        for attempt in range(500):
            try:
                if os.waitpid(self._pid, os.WNOHANG)[0]:
                    return
            except ChildProcessError:  # the application ignores SIGCHLD, or waits for all children
                return
            threading.Event().wait(0.0005 if attempt < 20 else 0.01)
        os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _fork_server(work: Work, terms: worker.Terms) -> _Server:
    """Fork a server off this process.

    Python 3.12 and later warn if there are other threads; that is for the caller to hear.
    """
    from multiprocessing import util

    with _lock, signals_held_back():
        ours, theirs = _socket_pair()
        _parent_ends.add(ours)
        try:
            util._flush_std_streams()  # type: ignore[attr-defined]
            pid = os.fork()
        except BaseException:
            close_ends(ours)
            theirs.close()
            raise
        if pid == 0:
            server.run_forked(theirs, work, terms)
        theirs.close()
    return _Server(ours, pid)


def _start_in_fresh_server(
    slot: int, pipes: Sequence[Connection], undo: contextlib.ExitStack
) -> _ServedProcess:
    """Have a worker forked by the server that is a fresh interpreter, started when first needed."""
    global _fresh_server
    more = [standard(1), standard(2), os.open(".", getattr(os, "O_PATH", os.O_RDONLY))]
    for descriptor in more:
        undo.callback(os.close, descriptor)
    tracker = resource_tracker()
    if tracker is not None:
        more.append(tracker)
    with _fresh_server_lock:
        signature = surroundings()
        current = _fresh_server
        if current is not None and not (current.alive() and current.signature == signature):
            current.close()
            current = None
        _fresh_server = current = current or _exec_server(signature)
        process = current.start(slot, pipes, undo, more)
    for descriptor in more[:3]:
        os.close(descriptor)
    return process


def _exec_server(signature: object) -> _Server:
    ours, theirs = _socket_pair()
    try:
        process = start_interpreter(server.Entry(theirs.fileno()), [theirs.fileno()], serves=True)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    _parent_ends.add(ours)
    process.returncode = 0  # waited for by its id; Popen must not warn that it is running
    return _Server(ours, process.pid, signature)


def _socket_pair() -> tuple[Connection, Connection]:
    one, other = (Connection(server.above_standard(end.detach())) for end in server.socket_pair())
    return one, other


class _ServedProcess:
    """A worker that a server has forked, and that stays a zombie until it is closed here."""

    def __init__(self, pid: int, status: Connection) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self._status = status
        self._ended = False
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        with self._lock:
            if not self._ended and self._status.poll(0):
                try:
                    self.exitcode = int(self._status.recv_bytes())
                except (EOFError, OSError):  # the server has died, so nobody will know
                    with contextlib.suppress(OSError):
                        os.kill(self.pid, signal.SIGKILL)
                self._ended = True
            return self._ended

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""
        if not self.ended:
            multiprocessing.connection.wait([self._status], timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def close(self) -> None:
        """Free what is held for a process that has ended."""
        if self.ended:
            close_ends(self._status)

    def _send(self, number: int) -> None:
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _forget_the_parent() -> None:
    """In any child forked off this process: have nothing to do with the workers of the parent.

    Pipe ends held open here would keep the workers from noticing that the parent is gone.
    """
    global _lock, _fresh_server, _fresh_server_lock
    _lock = threading.RLock()
    _fresh_server = None
    _fresh_server_lock = threading.Lock()
    close_ends(*_parent_ends)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _lock.acquire(),
        after_in_parent=lambda: _lock.release(),
        after_in_child=_forget_the_parent,
    )
