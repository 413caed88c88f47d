"""The inside of a worker process: take an order, run it, send the result, until told to stop.

::

    parent                               worker
    orders  ── pickled batch ──────────▶ main thread: run_order
    results ◀─ READY, TICK..., PACKING, RETIRING, result, ENDING
    lifeline   (nothing is ever sent)  ─▶ the kernel, and a watching thread

Each worker has three pipes of its own. No lock and no queue is shared between workers, so one that
is killed in the middle of anything leaves nothing locked for the others. The lifeline closes when
the parent dies, however it dies, and the worker dies with it.

A worker that is told to stop ends as a process should: handlers of ``atexit``, finalizers of
``multiprocessing``, files flushed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from perftricks.parallel import aside, memory, pickling
from perftricks.parallel.errors import Failure
from perftricks.parallel.state import set_for_process
from perftricks.parallel.threads import LockFreeThread
from perftricks.parallel.work import Order, Work, run_order

STOP = b""
READY = b"ready"
TICK = b"tick"
PACKING = b"packing"
RETIRING = b"retiring"
ENDING = b"ending"

# In the environment of an interpreter that has been started to become a worker, until it is one.
SETTING_UP = "PERFTRICKS_SETTING_UP"

# Blocked until a worker has its own handlers, and for good in the threads that talk to workers.
HELD_BACK = {signal.SIGINT, signal.SIGTERM}
if hasattr(signal, "SIGPIPE"):
    HELD_BACK.add(signal.SIGPIPE)
_WATCH_SECONDS = 1.0
_THREADS_SECONDS = 3.0  # how long a worker that ends waits for threads that its tasks have left

_unpacking = 0


class Terms(NamedTuple):
    """What a worker is told besides its job.

    Attributes:
        ticking: Whether the parent is told of each item.
        max_tasks: After how many items the worker ends; None for no limit.
        memory_limit: How many bytes of memory it may have after an item; None for no limit.
    """

    ticking: bool = False
    max_tasks: int | None = None
    memory_limit: int | None = None


class Greeting(NamedTuple):
    """The first message to a worker that does not share the parent's memory.

    Attributes:
        path: The parent's ``sys.path``.
        environment: The parent's environment, None where it is inherited.
        preparation: What ``multiprocessing`` tells a new interpreter, pickled.
        job: The work, pickled.
        terms: What the worker is told besides.
    """

    path: list[str]
    environment: dict[str, str] | None
    preparation: bytes
    job: bytes
    terms: Terms


class Entry(NamedTuple):
    """What a fresh interpreter is to become: a worker.

    It is called as ``multiprocessing`` calls the process that a new interpreter has to run.
    """

    orders: int
    results: int
    lifeline: int
    parent: int
    slot: int

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        os.environ.pop(SETTING_UP, None)
        if parent_sentinel is not None:
            os.close(parent_sentinel)
        for descriptor in (self.orders, self.results, self.lifeline):
            os.set_inheritable(descriptor, False)
        return bootstrap(self.orders, self.results, self.lifeline, self.parent, self.slot)


def bootstrap(
    orders: int,
    results: int,
    lifeline: int,
    parent: int,
    slot: int,
    work: Work | None = None,
    terms: Terms | None = None,
) -> int:
    """Be a worker as a process of ``multiprocessing``; return the exit status.

    Args:
        orders: Descriptor of the pipe that batches come from.
        results: Descriptor of the pipe that results go to.
        lifeline: Descriptor of the pipe that closes when the parent dies.
        parent: The process id of this process's parent.
        slot: The worker's number.
        work: The work if this is a fork of the caller; else it comes in a :class:`Greeting`.
        terms: With ``work``.
    """
    incoming = Connection(orders)
    outgoing = Connection(results)
    watched = Connection(lifeline, writable=False)
    job: Work | bytes
    if work is None:
        try:
            greeting: Greeting = pickle.loads(incoming.recv_bytes())
        except EOFError:  # the parent was interrupted before it said anything
            return 0
        _prepare(greeting)
        job, terms = greeting.job, greeting.terms
    else:
        pickling.share_main()
        job = work
    process = multiprocessing.Process(
        target=main,
        args=(incoming, outgoing, watched, parent, slot, job, terms),
        name=f"perftricks-{slot}",
        daemon=False,  # a task may have processes of its own
    )
    process._parent_pid = parent  # type: ignore[attr-defined]
    # Tools such as coverage begin and end there.
    code: int = process._bootstrap()  # type: ignore[attr-defined]
    return code


def _prepare(greeting: Greeting) -> None:
    """Have the ways of the parent's interpreter."""
    if greeting.environment is not None and greeting.environment != dict(os.environ):
        os.environ.clear()
        os.environ.update(greeting.environment)
    sys.path[:] = greeting.path
    from multiprocessing import spawn

    spawn.prepare(pickle.loads(greeting.preparation))


def main_in_process(
    orders: Connection,
    results: Connection,
    lifeline: Connection,
    parent: int,
    slot: int,
    job: bytes,
    terms: Terms,
) -> None:
    """Run :func:`main` in a process that :mod:`multiprocessing` has started."""
    multiprocessing.current_process().daemon = False  # a task may have processes of its own
    main(orders, results, lifeline, parent, slot, job, terms)


def main(
    orders: Connection,
    results: Connection,
    lifeline: Connection,
    parent: int,
    slot: int,
    job: Work | bytes,
    terms: Terms,
) -> None:
    """Serve orders until told to stop or until the parent is gone.

    Args:
        orders: Where batches come from; ``STOP`` ends the worker.
        results: Where results go. The first message is ``READY``, or a pickled ``Failure`` when the
            set-up raised. If the terms say so, ``TICK`` precedes each item, and ``PACKING`` what is
            done with its result. ``RETIRING`` precedes the last result of a worker that ends by its
            terms. The last message is ``ENDING``, with the pickled ``Failure`` of a finalizer that
            raised.
        lifeline: Closes when the parent dies.
        parent: The process id of this process's parent.
        slot: The worker's number, from 0.
        job: The work, pickled unless the worker is a fork of the parent.
        terms: What else is asked of it.
    """
    _keep_from_children(orders, results, lifeline)
    _die_with(parent, lifeline)
    _install_signal_handlers()
    with contextlib.suppress(OSError):
        work, state = _set_up(job, slot, results)
        if work is not None:
            set_for_process(state)
            _serve(work, state, orders, results, terms)
            results.send_bytes(ENDING + _finish(work, state))
    _end()


def setting_up() -> bool:
    """Whether this process is a worker that is importing what it needs."""
    return _unpacking > 0


@contextlib.contextmanager
def _unpacking_noted() -> Iterator[None]:
    global _unpacking
    _unpacking += 1
    try:
        yield
    finally:
        _unpacking -= 1


def _set_up(job: Work | bytes, slot: int, results: Connection) -> tuple[Work | None, object]:
    try:
        if isinstance(job, Work):
            work = job
        else:
            with _unpacking_noted():
                work = pickle.loads(job)
        state = work.set_up(slot)
    except BaseException as error:
        results.send_bytes(pickling.dumps(Failure.of(error)))
        return None, None
    results.send_bytes(READY)
    return work, state


def _finish(work: Work, state: object) -> bytes:
    try:
        work.finish(state)
    except BaseException as error:
        return pickling.dumps(Failure.of(error))
    return b""


class _Share:
    """What a worker does of the work, by its terms.

    Attributes:
        retiring: Whether it ends after the batch at hand.
    """

    def __init__(self, terms: Terms, results: Connection) -> None:
        self.retiring = False
        self._terms = terms
        self._results = results
        self._done = 0

    def before_item(self) -> bool:
        """Tell the parent of the item; False if it is too much."""
        if self._done and self._has_done_it():
            self.retiring = True
            return False
        self._done += 1
        if self._terms.ticking:
            self._results.send_bytes(TICK)
        return True

    def before_packing(self) -> None:
        """Tell the parent that the item is done."""
        if self._terms.ticking:
            self._results.send_bytes(PACKING)

    def after_batch(self) -> None:
        """Find out whether to go on."""
        self.retiring = self.retiring or self._has_done_it()

    def _has_done_it(self) -> bool:
        _, max_tasks, limit = self._terms
        if max_tasks is not None and self._done >= max_tasks:
            return True
        return limit is not None and memory.exceeds(os.getpid(), limit)


def _serve(
    work: Work, state: object, orders: Connection, results: Connection, terms: Terms
) -> None:
    share = _Share(terms, results)
    before: Callable[[], bool] | None = share.before_item
    after: Callable[[], None] | None = share.before_packing
    if terms == Terms():
        before = after = None
    large = aside.is_possible()
    while True:
        asides: list[aside.Aside] = []
        try:
            while (message := orders.recv_bytes()).startswith(aside.SIGN):
                asides.append(aside.Aside.receive(orders, message))
        except EOFError:
            return
        if message == STOP:
            return
        order = Order(message, asides)
        reply = run_order(work, order, before, after, _unpacking_noted, state, large)
        share.after_batch()
        if share.retiring:
            results.send_bytes(RETIRING)
        if reply.aside is not None:
            reply.aside.send(results)
        results.send_bytes(reply.pickled)
        if share.retiring:
            return
        del order, asides, reply  # files may be open for them


def _keep_from_children(*connections: Connection) -> None:
    """Close the pipes in any process that a task forks.

    It would hold them open when the worker dies, and one that returns from the task by mistake
    would answer in the worker's place.
    """

    def close() -> None:
        for connection in connections:
            connection.close()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)


def _end() -> None:
    """Do what an interpreter does at its end, for ``multiprocessing`` leaves most of it out.

    Threads that tasks have left and that are no daemons are waited for, but not for ever.
    """
    once = threading.Lock()

    def end_now() -> None:
        if once.acquire(blocking=False):
            _run_exit_handlers()
            os._exit(0)

    timer = threading.Timer(_THREADS_SECONDS, end_now)
    timer.daemon = True
    timer.start()
    threading._shutdown()  # type: ignore[attr-defined]
    if not once.acquire(blocking=False):
        threading.Event().wait()  # the timer's thread ends the process
    timer.cancel()
    _run_exit_handlers()


def _run_exit_handlers() -> None:
    from multiprocessing import util

    atexit._run_exitfuncs()
    _write_out(_open_files())
    util._exit_function()  # type: ignore[attr-defined]
    files = _open_files()
    _write_out(files)
    # What a buffer writes to goes last: a compressed file may have a buffer of its own before it.
    last = {id(raw) for raw in map(_raw_of, files) if raw is not None}
    for file in sorted(files, key=lambda file: id(file) in last):
        with contextlib.suppress(BaseException):
            if type(file).__module__ not in ("io", "_io"):  # a compressed file has more to add
                file.close()
    _write_out(files)


def _open_files() -> list[io.IOBase]:
    """List the files that were opened in this process, not those that it was forked with."""
    # What was there when the server forked is frozen, and not in the list.
    things = gc.get_objects()
    kinds = {id(type(thing)): type(thing) for thing in things}  # some have no hash of their own
    of_files = {number for number, kind in kinds.items() if _is_kind_of(kind, io.IOBase)}
    return [thing for thing in things if id(type(thing)) in of_files]


def _is_kind_of(kind: type, base: type) -> bool:
    """Whether a class derives from one of :mod:`io`, or is registered as if it did."""
    if issubclass(kind, base.__bases__[0]):  # the one in C, which asks no metaclass
        return True
    try:
        return issubclass(kind, base)
    except BaseException:  # the class has a metaclass that does not work
        return False


def _raw_of(file: io.IOBase) -> object:
    try:
        return getattr(file, "raw", None)
    except BaseException:  # it is of a class of the program's
        return None


def _write_out(files: list[io.IOBase]) -> None:
    texts = [file for file in files if _is_kind_of(type(file), io.TextIOBase)]
    for file in (sys.stdout, sys.stderr, *texts, *files):
        with contextlib.suppress(BaseException):
            file.flush()


def _install_signal_handlers() -> None:
    """Leave Ctrl-C, which reaches the whole process group, to the parent; die of SIGTERM.

    The handler does nothing, which is not ``SIG_IGN``: a program that a task starts would inherit
    that.
    """
    signal.set_wakeup_fd(-1)  # a fork's still leads to the parent's event loop
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def _die_with(parent: int, lifeline: Connection) -> None:
    """Arrange that this process ends when its parent does.

    On Linux the kernel kills it the moment the lifeline closes, even while a task holds the
    interpreter lock. Everywhere, a thread watches as well.
    """
    if sys.platform == "linux":
        import fcntl

        descriptor = lifeline.fileno()
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    LockFreeThread(lambda: _watch(parent, lifeline), "perftricks-lifeline").start()


def _watch(parent: int, lifeline: Connection) -> None:
    """Leave when the lifeline closes, or when this process has been handed to another parent.

    The second is for a lifeline that some other process, forked by the caller at an unlucky moment,
    still holds open. The child of multiprocessing's fork server is not the caller's, so there only
    the first holds.
    """
    is_child = os.getppid() == parent
    while not wait([lifeline], timeout=_WATCH_SECONDS):
        if is_child and os.getppid() != parent:
            break
    os._exit(1)
