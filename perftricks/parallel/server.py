"""The inside of a server: a process with one thread that forks a worker whenever it is asked to.

::

    caller                                  server                      workers
    control  ── request, descriptors ─────▶ fork ─────────────────────▶ main
             ◀─ process id, or error ──────
    status   ◀─ how it ended ──────────────  one pipe for each worker

A worker that has ended stays a zombie until the caller closes the status pipe, so that its process
id cannot meanwhile be another's. The server ends when the control socket closes, which it does when
the caller dies, however it dies.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

from perftricks.parallel import worker
from perftricks.parallel.work import Work

_REQUEST = struct.Struct("!i?")
_REPLY = struct.Struct("!ii")
_MAX_DESCRIPTORS = 16


class Request(NamedTuple):
    """A request for a worker.

    With it come descriptors: the worker's ends of its three pipes, the server's end of its status
    pipe; for a fresh worker also its stdout, its stderr and its folder, and maybe the one of
    multiprocessing's resource tracker.

    Attributes:
        slot: The worker's number.
        wants_numpy: Whether the caller has imported numpy; a server that has spares the workers it.
    """

    slot: int
    wants_numpy: bool

    def pack(self) -> bytes:
        """Return the message."""
        return _REQUEST.pack(*self)


def send(control: Connection, request: bytes, descriptors: Sequence[int]) -> None:
    """Send a request and the descriptors that go with it."""
    with socket.socket(fileno=os.dup(control.fileno())) as duplicate:
        socket.send_fds(duplicate, [request], list(descriptors))


def unpack_reply(reply: bytes) -> tuple[int, int]:
    """Return the new worker's process id, and the ``errno`` if there is none."""
    pid, code = _REPLY.unpack(reply)
    return pid, code


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets over which descriptors can be sent."""
    return socket.socketpair(socket.AF_UNIX)


def above_standard(descriptor: int) -> int:
    """Return ``descriptor``, or in place of 0, 1 or 2 another for the same.

    Those three are free for a pipe where the program was started with stdin, stdout or stderr
    closed, and a program that a task starts would read from it or print to it.
    """
    if descriptor > 2:
        return descriptor
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


class Entry(NamedTuple):
    """What a fresh interpreter is to become: a server.

    It is called as ``multiprocessing`` calls the process that a new interpreter has to run.
    """

    control: int

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        os.environ.pop(worker.SETTING_UP, None)
        for descriptor in (self.control, parent_sentinel):
            if descriptor is not None:
                os.set_inheritable(descriptor, False)
        if parent_sentinel is not None:
            os.close(parent_sentinel)
        with open(os.devnull, "w") as null:  # a pipe of the caller's must end when it closes it
            os.dup2(null.fileno(), 2)
        _run(Connection(self.control), None, None)


def run_forked(control: Connection, work: Work, terms: worker.Terms) -> NoReturn:
    """Be the server of a run, in a fork of the caller."""
    try:
        atexit._clear()  # the handlers are the caller's
        _run(control, work, terms)
    finally:
        os._exit(1)


def _run(control: Connection, work: Work | None, terms: worker.Terms | None) -> NoReturn:
    """Serve requests until the caller is gone; with ``work``, workers have it already."""
    signal.set_wakeup_fd(-1)  # a fork's still leads to the parent's event loop
    inherited = _Inherited(
        mask=signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        on_child=signal.getsignal(signal.SIGCHLD),
    )
    # Whatever is meant for the caller and reaches its whole group; the workers ask for theirs.
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {signal.SIGCHLD})
    awake, alarm = (above_standard(end) for end in os.pipe())
    for end in (awake, alarm):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    _occupy_standard()
    gc.freeze()  # a collection in a worker would write to all pages that it shares
    name = _rename(b"perftricks")
    _Server(control, awake, alarm, work, terms, inherited, name).serve()
    os._exit(0)


class _Inherited(NamedTuple):
    """How the caller treats signals."""

    mask: set[int | signal.Signals]
    on_child: Any


class _Server:
    def __init__(
        self,
        control: Connection,
        awake: int,
        alarm: int,
        work: Work | None,
        terms: worker.Terms | None,
        inherited: _Inherited,
        name: bytes,
    ) -> None:
        self._control = control
        self._awake = awake
        self._alarm = alarm
        self._work = work
        self._terms = terms
        self._inherited = inherited
        self._name = name
        self._running: dict[int, Connection] = {}  # process id -> status pipe
        self._ended: dict[int, tuple[int, Connection]] = {}  # descriptor -> id, status pipe
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)
        self._poll.register(awake, select.POLLIN)

    def serve(self) -> None:
        """Fork and report until the control socket is closed."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._control.fileno():
                    if not self._answer():
                        return
                elif descriptor == self._awake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._awake, 4096)
                    self._report_ended()
                else:
                    self._release(descriptor)

    def _answer(self) -> bool:
        with socket.socket(fileno=os.dup(self._control.fileno())) as duplicate:
            request, descriptors, _, _ = socket.recv_fds(duplicate, _REQUEST.size, _MAX_DESCRIPTORS)
        if len(request) < _REQUEST.size:
            return False
        slot, wants_numpy = _REQUEST.unpack(request)
        if wants_numpy and self._work is None and "numpy" not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module("numpy")
            gc.freeze()
        code = 0
        try:
            pid = os.fork()
        except OSError as error:
            pid, code = 0, error.errno or 1
        else:
            if pid == 0:
                self._become_worker(slot, descriptors)
        status = Connection(descriptors.pop(3), readable=False)
        for descriptor in descriptors:
            os.close(descriptor)
        if code:
            status.close()
        else:
            self._running[pid] = status
        self._control.send_bytes(_REPLY.pack(pid, code))
        self._report_ended()  # a SIGCHLD of before the worker was known
        return True

    def _become_worker(self, slot: int, descriptors: list[int]) -> NoReturn:
        code = 1
        try:
            server = os.getppid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, self._inherited.on_child or signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._inherited.mask)
            self._control.close()
            for end in (self._awake, self._alarm, descriptors.pop(3)):
                os.close(end)
            for status in self._running.values():
                status.close()
            for _, status in self._ended.values():
                status.close()
            _rename(self._name)
            orders, results, lifeline, *more = descriptors
            if more:
                _take_over(*more)
            code = worker.bootstrap(
                orders, results, lifeline, server, slot, self._work, self._terms
            )
        finally:
            os._exit(code)

    def _report_ended(self) -> None:
        for pid, status in tuple(self._running.items()):
            code = _exit_code(pid)
            if code is None:
                continue
            with contextlib.suppress(OSError):  # the caller may have lost interest
                status.send_bytes(b"%d" % code)
            del self._running[pid]
            self._ended[status.fileno()] = pid, status
            self._poll.register(status.fileno(), 0)  # its other end being closed is always told

    def _release(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        pid, status = self._ended.pop(descriptor)
        status.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _exit_code(pid: int) -> int | None:
    """Return how a child ended, negative for a signal, None while it runs; leave it a zombie."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        ended, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None
    result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _take_over(stdout: int, stderr: int, folder: int, tracker: int | None = None) -> None:
    """Have the caller's stdout, stderr and working folder, as they are now."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.fchdir(folder)
    for descriptor in (stdout, stderr, folder):
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.reconfigure(line_buffering=stream is sys.stderr or os.isatty(1))  # type: ignore[union-attr]
    if tracker is not None:
        from multiprocessing import resource_tracker

        resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]


def _occupy_standard() -> None:
    """Open the null device as whichever of stdin, stdout and stderr is closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _rename(name: bytes) -> bytes:
    """Give this process a name that ``ps`` and ``top`` show; return the one it had."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "r+b", buffering=0) as file:
        before = file.read().strip()
        file.write(name)
        return before
    return name
