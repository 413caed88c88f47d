"""The inside of a worker process: take an order, run it, send the result, until told to stop.

::

    parent                               worker
    orders  ── pickled batch ──────────▶ main thread: run_order
    results ◀─ READY, TICK..., PACKING, result
    lifeline   (nothing is ever sent)  ─▶ the kernel, and a watching thread

Each worker has three pipes of its own. No lock and no queue is shared between workers, so one that
is killed in the middle of anything leaves nothing locked for the others. The lifeline closes when
the parent dies, however it dies, and the worker dies with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection, wait

from perftricks.parallel import pickling
from perftricks.parallel.errors import Failure
from perftricks.parallel.work import Work, run_order

STOP = b""
READY = b"ready"
TICK = b"tick"
PACKING = b"packing"

# Blocked until a worker has its own handlers, and for good in the threads that talk to workers.
HELD_BACK = {signal.SIGINT, signal.SIGTERM}
if hasattr(signal, "SIGPIPE"):
    HELD_BACK.add(signal.SIGPIPE)
_WATCH_SECONDS = 1.0


def main(
    orders: Connection,
    results: Connection,
    lifeline: Connection,
    parent: int,
    slot: int,
    job: Work | bytes,
    ticking: bool,
) -> None:
    """Serve orders until told to stop or until the parent is gone.

    Args:
        orders: Where batches come from; ``STOP`` ends the worker.
        results: Where results go. The first message is ``READY``, or a pickled ``Failure`` when the
            set-up raised; with ``ticking``, ``TICK`` precedes each item and ``PACKING`` a result.
        lifeline: Closes when the parent dies.
        parent: The parent's process id.
        slot: The worker's number, from 0.
        job: The work, pickled unless the worker is a fork of the parent.
        ticking: Whether the parent times each item.
    """
    _keep_from_children(orders, results, lifeline)
    _die_with(parent, lifeline)
    _install_signal_handlers()
    with contextlib.suppress(OSError):
        work = _set_up(job, slot, results)
        if work is not None:
            _serve(work, orders, results, ticking)
    _leave()


def main_in_process(
    orders: Connection,
    results: Connection,
    lifeline: Connection,
    parent: int,
    slot: int,
    job: Work | bytes,
    ticking: bool,
) -> None:
    """Run :func:`main` in a process that :mod:`multiprocessing` has started."""
    multiprocessing.current_process().daemon = False  # a task may have processes of its own
    if isinstance(job, Work):
        pickling.share_main()
    main(orders, results, lifeline, parent, slot, job, ticking)


def main_in_interpreter(
    orders: int, results: int, lifeline: int, parent: int, slot: int, ticking: bool
) -> None:
    """Run :func:`main` in a fresh interpreter, on inherited file descriptors.

    The first message on ``orders`` holds the arguments of the program, the key for
    :mod:`multiprocessing`'s connections, and the pickled work.
    """
    for descriptor in (orders, results, lifeline):
        os.set_inheritable(descriptor, False)
    incoming = Connection(orders, writable=False)
    outgoing = Connection(results, readable=False)
    watched = Connection(lifeline, writable=False)
    try:
        sys.argv[:], authkey, job = pickle.loads(incoming.recv_bytes())
    except EOFError:  # the parent was interrupted before it said anything
        return
    multiprocessing.current_process().authkey = authkey
    main(incoming, outgoing, watched, parent, slot, job, ticking)


def _set_up(job: Work | bytes, slot: int, results: Connection) -> Work | None:
    try:
        work = job if isinstance(job, Work) else pickle.loads(job)
        assert isinstance(work, Work)
        work.set_up(slot)
    except BaseException as error:
        results.send_bytes(pickling.dumps(Failure.of(error)))
        return None
    results.send_bytes(READY)
    return work


def _serve(work: Work, orders: Connection, results: Connection, ticking: bool) -> None:
    def tick() -> bool:
        results.send_bytes(TICK)
        return True

    def packing() -> None:
        results.send_bytes(PACKING)

    hooks = (tick, packing) if ticking else (None, None)
    while True:
        try:
            order = orders.recv_bytes()
        except EOFError:
            return
        if order == STOP:
            return
        results.send_bytes(run_order(work, order, *hooks))


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


def _leave() -> None:
    """End at once: all results are sent, and threads that a task has left are nobody's."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)


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
    threading.Thread(
        target=_watch, args=(parent, lifeline), name="perftricks-lifeline", daemon=True
    ).start()


def _watch(parent: int, lifeline: Connection) -> None:
    """Leave when the lifeline closes, or when this process has been handed to another parent.

    The second is for a lifeline that some other process, forked by the caller at an unlucky moment,
    still holds open. The child of a fork server is not the caller's, so there only the first holds.
    """
    is_child = os.getppid() == parent
    while not wait([lifeline], timeout=_WATCH_SECONDS):
        if is_child and os.getppid() != parent:
            break
    os._exit(1)
