"""Starting worker processes, so that none can escape.

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
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Literal, NamedTuple, Protocol

from perftricks.parallel import worker
from perftricks.parallel.errors import WorkerCrashedError
from perftricks.parallel.work import Work

StartMethod = Literal["fork", "forkserver", "spawn"]

# Entries of sys.path may be relative; they mean this folder, even after a chdir.
_ORIGINAL_FOLDER = os.getcwd()

# Held while pipe ends are in two hands, and, by the hooks below, during any other fork.
_lock = threading.RLock()
_parent_ends: set[Connection] = set()


class Process(Protocol):
    """A worker process, however it was started."""

    @property
    def pid(self) -> int | None:
        """The process id."""

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def close(self) -> None:
        """Free what is held for a process that has ended."""


class Launched(NamedTuple):
    """A worker process and the parent's ends of its pipes."""

    process: Process
    orders: Connection
    results: Connection
    lifeline: Connection

    def close(self) -> None:
        """Close the pipes."""
        close_ends(self.orders, self.results, self.lifeline)


def launch(start_method: StartMethod, slot: int, job: Work | bytes, ticking: bool) -> Launched:
    """Start a worker process.

    Call this, and whatever notes who is responsible for the process, in :func:`signals_held_back`.

    Args:
        start_method: How.
        slot: The worker's number.
        job: The work, pickled unless the worker is a fork.
        ticking: Whether the worker tells when it begins an item.

    Returns:
        The process and its pipes.

    Raises:
        OSError: If there are no more processes or file descriptors to be had.
    """
    with _lock, contextlib.ExitStack() as undo:
        orders, our_orders = _pipe(undo)
        our_results, results = _pipe(undo)
        lifeline, our_lifeline = _pipe(undo)
        ours = (our_orders, our_results, our_lifeline)
        _parent_ends.update(ours)
        undo.callback(close_ends, *ours)
        if start_method == "spawn" and os.name == "posix":
            process: Process = _ExecProcess(orders, results, lifeline, slot, job, ticking)
        else:
            process = _ManagedProcess(start_method, orders, results, lifeline, slot, job, ticking)
        undo.pop_all()
        for connection in (orders, results, lifeline):
            connection.close()
    return Launched(process, *ours)


def close_ends(*connections: Connection) -> None:
    """Close the parent's ends of pipes."""
    with _lock:
        for connection in connections:
            _parent_ends.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()


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


def _pipe(undo: contextlib.ExitStack) -> tuple[Connection, Connection]:
    reader, writer = Pipe(duplex=False)
    undo.callback(reader.close)
    undo.callback(writer.close)
    return reader, writer


class _ManagedProcess:
    """A worker that :mod:`multiprocessing` starts."""

    def __init__(
        self,
        start_method: StartMethod,
        orders: Connection,
        results: Connection,
        lifeline: Connection,
        slot: int,
        job: Work | bytes,
        ticking: bool,
    ) -> None:
        if start_method == "forkserver":
            _start_fork_server()
        context = multiprocessing.get_context(start_method)
        self._process: multiprocessing.process.BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=worker.main_in_process,
            args=(orders, results, lifeline, os.getpid(), slot, job, ticking),
            name=f"perftricks-{slot}",
            daemon=True,  # multiprocessing must not wait for it at exit
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of any fork beside threads. Ours hold no lock that a worker needs.
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            try:
                self._process.start()
            except (ConnectionError, EOFError) as error:  # Python 3.14 asks the server to answer
                raise WorkerCrashedError(
                    f"the fork server died while starting a worker ({error}); with 'forkserver' a "
                    "script needs `if __name__ == '__main__':`. What it printed may say why."
                ) from error
        self.pid = self._process.pid
        self._exitcode: int | None = None
        self._closed = False

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        if self._exitcode is None and not self._closed:
            self._exitcode = self._process.exitcode
        return self._exitcode

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""
        if not self._closed:
            self._process.join(timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if not self._closed:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        if not self._closed:
            self._process.kill()

    def close(self) -> None:
        """Free what is held for a process that has ended."""
        if self.exitcode is not None and not self._closed:
            self._closed = True
            self._process.close()


def _start_fork_server() -> None:
    """Start the fork server with SIGTERM let through: all its children inherit what is blocked."""
    from multiprocessing import forkserver, resource_tracker

    # The server would start its tracker first, and that lets signals through when it is done.
    resource_tracker.ensure_running()
    if hasattr(signal, "pthread_sigmask"):
        # Not SIGINT: the server ignores it, but dies of one that comes before it could say so.
        signal.pthread_sigmask(signal.SIG_BLOCK, worker.HELD_BACK)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, worker.HELD_BACK - {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, worker.HELD_BACK)


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
        job: Work | bytes,
        ticking: bool,
    ) -> None:
        descriptors = (orders.fileno(), results.fileno(), lifeline.fileno())
        arguments = (*descriptors, os.getpid(), slot, ticking)
        path = [os.path.join(_ORIGINAL_FOLDER, p) for p in sys.path if isinstance(p, str)]
        program = (
            f"import sys; sys.path[:] = {path!r}; "
            f"from perftricks.parallel.worker import main_in_interpreter as main; main{arguments}"
        )
        self._popen = subprocess.Popen(
            [sys.executable, *_interpreter_flags(), "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
        )
        self.pid = self._popen.pid
        authkey = bytes(multiprocessing.process.current_process().authkey)
        self.greeting = pickle.dumps((sys.argv, authkey, job))

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._popen.poll()

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._popen.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._popen.kill()

    def close(self) -> None:
        """Do nothing: nothing is held."""


def _interpreter_flags() -> list[str]:
    """Return the options of this interpreter: -O, -X, -W and their like."""
    from multiprocessing import util

    flags: list[str] = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _forget_the_parent() -> None:
    """In any child forked off this process: have nothing to do with the workers of the parent.

    Pipe ends held open here would keep the workers from noticing that the parent is gone.
    """
    global _lock
    _lock = threading.RLock()
    close_ends(*_parent_ends)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _lock.acquire(),
        after_in_parent=lambda: _lock.release(),
        after_in_child=_forget_the_parent,
    )
