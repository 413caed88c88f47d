"""The inside of a worker process: take an order, run it, send the result, until told to stop.

::

    parent                               worker
    orders  ── pickled batch ──────────▶ main thread: run_order
    results ◀─ READY, TICK..., result ── main thread
    lifeline   (nothing is ever sent)  ─▶ the kernel, and a watching thread

Each worker has three pipes of its own. No lock and no queue is shared between workers, so one that
is killed in the middle of anything leaves nothing locked for the others. The lifeline closes when
the parent dies, however it dies, and the worker dies with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

from perftricks.parallel.errors import Failure
from perftricks.parallel.work import Work, run_order

STOP = b""
READY = b"ready"
TICK = b""
HELD_BACK = {signal.SIGINT, signal.SIGTERM}  # blocked until a worker has its own handlers
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
            set-up raised; with ``ticking`` a ``TICK`` precedes each item.
        lifeline: Closes when the parent dies.
        parent: The parent's process id.
        slot: The worker's number, from 0.
        job: The work, pickled unless the worker is a fork of the parent.
        ticking: Whether the parent times each item.
    """
    _die_with(parent, lifeline)
    _install_signal_handlers()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        work = _set_up(job, slot, results)
        if work is not None:
            _serve(work, orders, results, ticking)


def main_from_descriptors(
    orders: int, results: int, lifeline: int, parent: int, slot: int, ticking: bool
) -> None:
    """Run :func:`main` in a fresh interpreter, on inherited file descriptors.

    The pickled work is the first message on ``orders``.
    """
    incoming = Connection(orders, writable=False)
    main(
        incoming,
        Connection(results, readable=False),
        Connection(lifeline, writable=False),
        parent,
        slot,
        incoming.recv_bytes(),
        ticking,
    )


def _set_up(job: Work | bytes, slot: int, results: Connection) -> Work | None:
    try:
        work = job if isinstance(job, Work) else pickle.loads(job)
        assert isinstance(work, Work)
        work.set_up(slot)
    except BaseException as error:
        results.send_bytes(pickle.dumps(Failure.of(error)))
        return None
    results.send_bytes(READY)
    return work


def _serve(work: Work, orders: Connection, results: Connection, ticking: bool) -> None:
    def tick() -> bool:
        results.send_bytes(TICK)
        return True

    before_item: Callable[[], bool] | None = tick if ticking else None
    while True:
        try:
            order = orders.recv_bytes()
        except EOFError:
            return
        if order == STOP:
            return
        results.send_bytes(run_order(work, order, before_item))


def _install_signal_handlers() -> None:
    """Leave Ctrl-C, which reaches the whole process group, to the parent; die of SIGTERM.

    The handler does nothing, which is not ``SIG_IGN``: a program that a task starts would inherit
    that.
    """
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
