"""The public functions: check the arguments, choose a backend, deliver the results."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from perftricks.parallel import aside
from perftricks.parallel.backends import (
    Backend,
    News,
    SerialBackend,
)
from perftricks.parallel.launch import StartMethod
from perftricks.parallel.options import (
    ExecutorChoice,
    at_least,
    check_choice,
    chosen_executor,
    number_of_workers,
    open_backend,
    queue_size,
)
from perftricks.parallel.pickling import Keeper
from perftricks.parallel.processes import ProcessBackend
from perftricks.parallel.progress import Progress, Reporter, reporter
from perftricks.parallel.source import ReadIn, Source, open_source
from perftricks.parallel.window import BatchSizer, Piece, Window
from perftricks.parallel.work import CountCollector, ListCollector, Work

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)

OnError = Literal["raise", "skip", "return"]

_BATCHES = 4  # for each worker, the most that are handed out
# What max_queue_size is for each worker by default. At 50 items in a batch, half of this, an item's
# share of what a batch costs is below 2 microseconds; more room makes it hardly cheaper.
_ITEMS_A_WORKER = 100
_MAX_CHARS = 500_000  # length of the strings that are counted in one table


class _Options(TypedDict, total=False):
    """The keyword-only options, for type checkers."""

    executor: ExecutorChoice | None
    batch_size: int | Literal["auto"]
    on_error: OnError
    retries: int
    timeout: float | None
    initializer: Callable[[], object] | None
    progress: Progress
    root_seed: int | None
    start_method: StartMethod | None
    read_in: ReadIn
    finalizer: Callable[[], object] | None
    max_tasks_per_worker: int | None
    memory_limit: int | str | None


@overload
def parallel_apply(
    func: Callable[[T], R],
    iterable: Iterable[T],
    workers: int | None = None,
    max_queue_size: int | None = None,
    callback: None = None,
    dummy: bool = False,
    random_seeds: bool | Sequence[Any] | None = True,
    unordered: bool = True,
    **options: Unpack[_Options],
) -> list[R]: ...


@overload
def parallel_apply(
    func: Callable[[T], R],
    iterable: Iterable[T],
    workers: int | None,
    max_queue_size: int | None,
    callback: Callable[[R], object],
    dummy: bool = False,
    random_seeds: bool | Sequence[Any] | None = True,
    unordered: bool = True,
    **options: Unpack[_Options],
) -> None: ...


@overload
def parallel_apply(
    func: Callable[[T], R],
    iterable: Iterable[T],
    workers: int | None = None,
    max_queue_size: int | None = None,
    *,
    callback: Callable[[R], object],
    dummy: bool = False,
    random_seeds: bool | Sequence[Any] | None = True,
    unordered: bool = True,
    **options: Unpack[_Options],
) -> None: ...


def parallel_apply(
    func: Callable[[T], R],
    iterable: Iterable[T],
    workers: int | None = None,
    max_queue_size: int | None = None,
    callback: Callable[[R], object] | None = None,
    dummy: bool = False,
    random_seeds: bool | Sequence[Any] | None = True,
    unordered: bool = True,
    *,
    executor: ExecutorChoice | None = None,
    batch_size: int | Literal["auto"] = "auto",
    on_error: OnError = "raise",
    retries: int = 0,
    timeout: float | None = None,
    initializer: Callable[[], object] | None = None,
    progress: Progress = None,
    root_seed: int | None = None,
    start_method: StartMethod | None = None,
    read_in: ReadIn = "auto",
    finalizer: Callable[[], object] | None = None,
    max_tasks_per_worker: int | None = None,
    memory_limit: int | str | None = None,
) -> list[R] | None:
    """Apply ``func`` to every item of an iterable on many workers, with bounded memory.

    ``parallel_apply(func, iterable)`` is all it takes. The first eight parameters are those of
    bert4keras, so that its calls run unchanged. Nothing hangs: a task that raises, a worker that is
    killed, an object that cannot be pickled and an iterable or callback that raises all end the run
    with an error that says so, and no process is left behind.

    Args:
        func: Called with one item in a worker. Lambdas and closures work.
        iterable: The items, possibly without end. Each is what it was when it was read, whatever
            becomes of it later; only threads get the very object.
        workers: How many workers; None for :func:`~perftricks.parallel.available_cores`, or for as
            many as a thread or process pool that is given as ``executor`` has.
        max_queue_size: The most items that are read from ``iterable`` and not yet delivered. None
            for 100 for each worker, or four batches of a given ``batch_size`` if that is more:
            enough for tasks that do nothing to travel in batches, little enough for items of a
            megabyte. Ten, or as few as there are workers, do for items that are large or take long.
        callback: Called with each result in the calling thread, as results come.
        dummy: Use threads, not processes.
        random_seeds: True seeds ``random`` and ``numpy.random`` for each *item*, from ``root_seed``
            and the item's index, so that results do not depend on the number of workers (threads
            share those generators, also those of one dask worker: see
            :func:`~perftricks.parallel.item_seed`). A sequence holds
            one seed for each *worker*, set once when it starts. False or None seeds nothing.
        unordered: Deliver results as they come; False delivers them in the order of the items.
        executor: "process", "thread", "interpreter" (threads with an interpreter each, from Python
            3.14 on), "serial" (the calling thread), any ``concurrent.futures.Executor``, or a
            client of dask.distributed, whose workers may come, go and die; both stay open.
        batch_size: How many items go to a worker at a time, fewer if ``max_queue_size`` would not
            hold a batch for each worker. "auto" finds a size at which a batch takes about 0.1 s.
        on_error: What to do with an item that fails. "raise" (default) raises its exception: at
            once if the task raised it; if the item killed its worker or ran out of time, after all
            other items that were read have been delivered. "skip" leaves it out. "return" delivers
            the exception in the place of the result.
        retries: How often an item that failed is tried again before ``on_error`` applies.
        timeout: Seconds an item may take; the worker that exceeds it is killed and replaced.
            Processes only.
        initializer: Called without arguments in each worker before its first item; what it returns
            is what :func:`~perftricks.parallel.worker_state` gives in that worker.
        progress: True for a progress bar, on stderr if that is a terminal or in the output of a
            notebook's cell, else nothing; or a function that is called in the calling thread with
            the number of items delivered.
        root_seed: Where the items' seeds come from, an int; None draws a new one for each call.
        start_method: How processes start: "fork" (they share this process's memory), "fresh" (they
            are forked by a fresh interpreter, one for all runs of this process), "spawn" (each is a
            fresh interpreter) or "forkserver" (as :mod:`multiprocessing` does). Fresh interpreters
            do not import the main module, so a script needs no ``if __name__ == "__main__":``; on
            Windows it does. None chooses "fork" where that is what :mod:`multiprocessing` uses and
            this process has no other threads, beside which a fork may hang; else "fresh".
        read_in: Where ``iterable`` is read. "thread": in a thread of its own, so that results come
            when they are ready, also while the iterable waits, for one of them maybe. "caller": in
            the thread that takes the results. "auto": in the calling thread where reading cannot
            wait (lists, arrays, files on a disk) or must not be elsewhere (what refers to a cursor
            of sqlite3, to a ``threading.local``), else in a thread.
        finalizer: Called without arguments in each worker at its end, unless it is killed; not for
            an executor of the caller's.
        max_tasks_per_worker: After so many items a worker is replaced; None for never. Processes
            only.
        memory_limit: The most memory that a worker may have for itself, in bytes or as a size such
            as "2GiB". One that has more after an item is replaced. One that has a quarter more in
            the midst of an item is killed; the item is run again by a new worker, and is to blame
            if that has to be killed as well. Processes on Linux only.

    Returns:
        The list of results; None when ``callback`` is given.

    Raises:
        Exception: What a task, the iterable, the callback or the initializer raised; a task's
            exception has the worker's traceback as its cause.
        WorkerCrashedError: If an item kills its worker each time; ``index`` names it. A batch that
            a dead worker held is run again, in halves, so its items may be run more than once.
        ItemTimeoutError: If an item takes longer than ``timeout``.
        UnpicklableError: If the function, an item or a result cannot be sent between processes.
        RemoteError: If a task's exception cannot be pickled.
        ClusterError: If the scheduler of a dask client is lost, the client is closed meanwhile, or
            a worker has another version of this package.
        ValueError: If an argument is out of range or contradicts another.

    Source: Su Jianlin, https://kexue.fm/archives/7031 (2019), for the signature.

    >>> from perftricks.parallel import parallel_apply
    >>> parallel_apply(lambda x: x * x, range(5), unordered=False)
    [0, 1, 4, 9, 16]
    """
    results = parallel_apply_generator(
        func,
        iterable,
        workers,
        max_queue_size,
        dummy,
        random_seeds,
        unordered=unordered,
        executor=executor,
        batch_size=batch_size,
        on_error=on_error,
        retries=retries,
        timeout=timeout,
        initializer=initializer,
        progress=progress,
        root_seed=root_seed,
        start_method=start_method,
        read_in=read_in,
        finalizer=finalizer,
        max_tasks_per_worker=max_tasks_per_worker,
        memory_limit=memory_limit,
    )
    del iterable  # a generator is closed by whoever read it, when nobody else has it
    with contextlib.closing(results):
        if callback is None:
            return [result for _, result in results]
        for _, result in results:
            callback(result)
    return None


def parallel_apply_generator(
    func: Callable[[T], R],
    iterable: Iterable[T],
    workers: int | None = None,
    max_queue_size: int | None = None,
    dummy: bool = False,
    random_seeds: bool | Sequence[Any] | None = True,
    *,
    unordered: bool = True,
    executor: ExecutorChoice | None = None,
    batch_size: int | Literal["auto"] = "auto",
    on_error: OnError = "raise",
    retries: int = 0,
    timeout: float | None = None,
    initializer: Callable[[], object] | None = None,
    progress: Progress = None,
    root_seed: int | None = None,
    start_method: StartMethod | None = None,
    read_in: ReadIn = "auto",
    finalizer: Callable[[], object] | None = None,
    max_tasks_per_worker: int | None = None,
    memory_limit: int | str | None = None,
) -> Generator[tuple[int, R], None, None]:
    """Apply ``func`` to every item of an iterable and yield each result as it comes.

    Closing the generator, or dropping it, ends the workers at once. The arguments are checked in
    this call, not at the first result.

    Args:
        func: Called with one item in a worker. Lambdas and closures work.
        iterable: The items, possibly without end. Each is what it was when it was read, whatever
            becomes of it later; only threads get the very object.
        workers: How many workers; None for :func:`~perftricks.parallel.available_cores`, or for as
            many as a thread or process pool that is given as ``executor`` has.
        max_queue_size: The most items that are read from ``iterable`` and not yet delivered. None
            for 100 for each worker, or four batches of a given ``batch_size`` if that is more:
            enough for tasks that do nothing to travel in batches, little enough for items of a
            megabyte. Ten, or as few as there are workers, do for items that are large or take long.
        dummy: Use threads, not processes.
        random_seeds: True seeds ``random`` and ``numpy.random`` for each *item*, from ``root_seed``
            and the item's index, so that results do not depend on the number of workers (threads
            share those generators, also those of one dask worker: see
            :func:`~perftricks.parallel.item_seed`). A sequence holds
            one seed for each *worker*, set once when it starts. False or None seeds nothing.
        unordered: Deliver results as they come; False delivers them in the order of the items.
        executor: "process", "thread", "interpreter" (threads with an interpreter each, from Python
            3.14 on), "serial" (the calling thread), any ``concurrent.futures.Executor``, or a
            client of dask.distributed, whose workers may come, go and die; both stay open.
        batch_size: How many items go to a worker at a time, fewer if ``max_queue_size`` would not
            hold a batch for each worker. "auto" finds a size at which a batch takes about 0.1 s.
        on_error: What to do with an item that fails. "raise" (default) raises its exception: at
            once if the task raised it; if the item killed its worker or ran out of time, after all
            other items that were read have been delivered. "skip" leaves it out. "return" delivers
            the exception in the place of the result.
        retries: How often an item that failed is tried again before ``on_error`` applies.
        timeout: Seconds an item may take; the worker that exceeds it is killed and replaced.
            Processes only.
        initializer: Called without arguments in each worker before its first item; what it returns
            is what :func:`~perftricks.parallel.worker_state` gives in that worker.
        progress: True for a progress bar, on stderr if that is a terminal or in the output of a
            notebook's cell, else nothing; or a function that is called in the calling thread with
            the number of items delivered.
        root_seed: Where the items' seeds come from, an int; None draws a new one for each call.
        start_method: How processes start: "fork" (they share this process's memory), "fresh" (they
            are forked by a fresh interpreter, one for all runs of this process), "spawn" (each is a
            fresh interpreter) or "forkserver" (as :mod:`multiprocessing` does). Fresh interpreters
            do not import the main module, so a script needs no ``if __name__ == "__main__":``; on
            Windows it does. None chooses "fork" where that is what :mod:`multiprocessing` uses and
            this process has no other threads, beside which a fork may hang; else "fresh".
        read_in: Where ``iterable`` is read. "thread": in a thread of its own, so that results come
            when they are ready, also while the iterable waits, for one of them maybe. "caller": in
            the thread that takes the results. "auto": in the calling thread where reading cannot
            wait (lists, arrays, files on a disk) or must not be elsewhere (what refers to a cursor
            of sqlite3, to a ``threading.local``), else in a thread.
        finalizer: Called without arguments in each worker at its end, unless it is killed; not for
            an executor of the caller's.
        max_tasks_per_worker: After so many items a worker is replaced; None for never. Processes
            only.
        memory_limit: The most memory that a worker may have for itself, in bytes or as a size such
            as "2GiB". One that has more after an item is replaced. One that has a quarter more in
            the midst of an item is killed; the item is run again by a new worker, and is to blame
            if that has to be killed as well. Processes on Linux only.

    Yields:
        ``(index, result)``, where ``index`` counts the items from 0.

    Raises:
        Exception: The same as :func:`parallel_apply`.

    >>> from perftricks.parallel import parallel_apply_generator
    >>> words = parallel_apply_generator(str.upper, iter(["a", "b"]), 2, 10, dummy=True)
    >>> sorted(words)
    [(0, 'A'), (1, 'B')]
    """
    executor = chosen_executor(executor, dummy)
    workers = number_of_workers(workers, executor)
    size = None if batch_size == "auto" else at_least(1, "batch_size", batch_size)
    limit = queue_size(max_queue_size, workers, max(_ITEMS_A_WORKER, _BATCHES * (size or 0)))
    check_choice("on_error", on_error, ("raise", "skip", "return"))
    check_choice("read_in", read_in, ("auto", "thread", "caller"))
    backend = open_backend(
        Work(func, ListCollector, initializer, finalizer),
        executor,
        workers,
        random_seeds,
        root_seed,
        timeout,
        start_method,
        max_tasks_per_worker,
        memory_limit,
    )
    if isinstance(backend, SerialBackend):
        size = 1  # with a larger batch the caller would wait for several results to get one
    sizer = BatchSizer(
        size,
        limit=limit // workers if size else limit // (2 * workers),
        budget=None if size else 4 * BatchSizer.TARGET_SECONDS,
    )
    source = _open_source(backend, iterable, read_in, automatic=size is None, max_chars=None)
    window = Window(
        backend,
        source,
        max_queue_size=limit,
        sizer=sizer,
        workers=workers,
        max_batches=None if size else _BATCHES * workers,
        retries=at_least(0, "retries", retries),
    )
    return _results(window, unordered, on_error, reporter(progress, iterable))


def parallel_count(
    func: Callable[[T], Iterable[K]],
    iterable: Iterable[T],
    workers: int | None = None,
    batch_size: int | Literal["auto"] = 1000,
    *,
    max_queue_size: int | None = None,
    executor: ExecutorChoice | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    retries: int = 0,
    timeout: float | None = None,
    initializer: Callable[[], object] | None = None,
    progress: Progress = None,
    random_seeds: bool | Sequence[Any] | None = False,
    root_seed: int | None = None,
    start_method: StartMethod | None = None,
    into: Counter[K] | None = None,
    finalizer: Callable[[], object] | None = None,
    max_tasks_per_worker: int | None = None,
    memory_limit: int | str | None = None,
) -> Counter[K]:
    """Count the keys that ``func`` gives for each item of an iterable, on many workers.

    Each worker counts a batch of items in a table of its own and sends the table, not the keys; the
    tables are added up in the calling thread. The result equals that of the plain loop
    ``for item in iterable: counter.update(func(item))``, whichever worker dies on the way.

    Args:
        func: Called with one item in a worker; returns the keys to count, each of them hashable.
        iterable: The items, read in the calling thread; must end.
        workers: How many workers; None for :func:`~perftricks.parallel.available_cores`, or for as
            many as a thread or process pool that is given as ``executor`` has.
        batch_size: How many items are counted in one table; fewer if they are long strings. A
            worker that is at a batch for long hands the rest of it to others. "auto" finds a size.
        max_queue_size: The most items read and not yet counted; None for what keeps the workers
            busy, at most four batches each.
        executor: "process", "thread", "interpreter" (threads with an interpreter each, from Python
            3.14 on), "serial" (the calling thread), any ``concurrent.futures.Executor``, or a
            client of dask.distributed, whose workers may come, go and die; both stay open.
        on_error: "raise" (default), or "skip" to leave out an item that fails; the keys of such an
            item are not counted, not even those before the failure.
        retries: How often an item that failed is tried again before ``on_error`` applies.
        timeout: Seconds an item may take; the worker that exceeds it is killed and replaced.
            Processes only.
        initializer: Called without arguments in each worker before its first item; what it returns
            is what :func:`~perftricks.parallel.worker_state` gives in that worker.
        progress: True for a progress bar, on stderr if that is a terminal or in the output of a
            notebook's cell, else nothing; or a function that is called in the calling thread with
            the number of items counted.
        random_seeds: True seeds ``random`` and ``numpy.random`` for each *item*, from ``root_seed``
            and the item's index. A sequence holds one seed for each *worker*, set once when it
            starts. False (default) or None seeds nothing.
        root_seed: Where the items' seeds come from, an int; None draws a new one for each call.
        start_method: How processes start: "fork" (they share this process's memory), "fresh" (they
            are forked by a fresh interpreter, one for all runs of this process), "spawn" (each is a
            fresh interpreter) or "forkserver" (as :mod:`multiprocessing` does). Fresh interpreters
            do not import the main module, so a script needs no ``if __name__ == "__main__":``; on
            Windows it does. None chooses "fork" where that is what :mod:`multiprocessing` uses and
            this process has no other threads, beside which a fork may hang; else "fresh".
        into: The counter to add to, by its ``update``, once for each batch; None for a new one.
        finalizer: Called without arguments in each worker at its end, unless it is killed; not for
            an executor of the caller's.
        max_tasks_per_worker: After so many items a worker is replaced; None for never. Processes
            only.
        memory_limit: The most memory that a worker may have for itself, in bytes or as a size such
            as "2GiB". One that has more after an item is replaced. One that has a quarter more in
            the midst of an item is killed; the item is run again by a new worker, and is to blame
            if that has to be killed as well. Processes on Linux only.

    Returns:
        Key -> how often it came; ``into`` if that is given.

    Raises:
        Exception: As :func:`parallel_apply`.

    Source: Su Jianlin, https://kexue.fm/archives/7031 (2019).

    >>> from perftricks.parallel import parallel_count
    >>> parallel_count(str.split, ["a b a", "b a"], workers=2)
    Counter({'a': 3, 'b': 2})
    """
    executor = chosen_executor(executor, dummy=False)
    workers = number_of_workers(workers, executor)
    size = None if batch_size == "auto" else at_least(1, "batch_size", batch_size)
    limit = queue_size(max_queue_size, workers, _BATCHES * (size or 1000))
    check_choice("on_error", on_error, ("raise", "skip"))
    backend = open_backend(
        Work(func, CountCollector, initializer, finalizer),
        executor,
        workers,
        random_seeds,
        root_seed,
        timeout,
        start_method,
        max_tasks_per_worker,
        memory_limit,
    )
    window = Window(
        backend,
        # What is counted is seen at the end, so no result has to be delivered meanwhile.
        _open_source(backend, iterable, "caller", automatic=size is None, max_chars=_MAX_CHARS),
        max_queue_size=limit,
        sizer=BatchSizer(
            size,
            limit=limit // workers if size else limit // (2 * workers),
            budget=2.0,
        ),
        workers=workers,
        max_batches=_BATCHES * workers,
        retries=at_least(0, "retries", retries),
    )
    total: Counter[K] = Counter() if into is None else into
    return _total(window, on_error, reporter(progress, iterable), total)


def _open_source(
    backend: Backend,
    iterable: Iterable[Any],
    read_in: ReadIn,
    *,
    automatic: bool,
    max_chars: int | None,
) -> Source:
    """Choose how the iterable is read; where items are copied, they are kept as they were read."""

    def shares_main() -> bool:
        return isinstance(backend, ProcessBackend) and backend.shares_main

    large = isinstance(backend, ProcessBackend) and aside.is_possible()
    return open_source(
        iterable,
        "caller" if isinstance(backend, SerialBackend) else read_in,
        Keeper(shares_main, large=large) if backend.copies else None,
        lambda: backend.reports.put(News()),
        automatic=automatic,
        max_chars=max_chars,
    )


def _results(
    window: Window, unordered: bool, on_error: OnError, report: Reporter
) -> Generator[tuple[int, Any], None, None]:
    """Yield ``(index, result)`` from the window's pieces."""
    postponed: list[Exception] = []
    finished = False
    arrange = _as_they_come if unordered else _in_order
    try:
        with report:
            for index, value, error, worker_lost in arrange(window.pieces()):
                window.deliver()
                if error is None:
                    yield index, value
                elif on_error == "return":
                    yield index, error
                elif on_error == "raise" and not worker_lost:
                    raise error
                elif on_error == "raise":
                    window.halt()
                    postponed.append(error)
                report.done(1)
        finished = True
    finally:
        window.close(kill=not finished)
        # An error that is raised refers to this frame, which must not refer to it.
        error = value = None
    if postponed:
        raise postponed.pop(0)


def _total(
    window: Window,
    on_error: OnError,
    report: Reporter,
    total: Counter[Any],
) -> Counter[Any]:
    """Add up the counters of the window's pieces."""
    piece: Piece | None
    error: Exception | None
    postponed: list[Exception] = []
    finished = False
    try:
        with report:
            for piece in window.pieces():
                if isinstance(piece.values, dict):
                    total.update(piece.values)
                window.deliver(piece.items)
                report.done(piece.items)
                if piece.errors and on_error == "raise":
                    error = min(piece.errors.items())[1]
                    if not piece.worker_lost:
                        raise error
                    window.halt()
                    postponed.append(error)
        finished = True
    finally:
        window.close(kill=not finished)
        error = piece = None  # see _results
    if postponed:
        raise postponed.pop(0)
    return total


_Item = tuple[int, Any, "Exception | None", bool]  # index, value, error, worker lost


def _as_they_come(pieces: Iterable[Piece]) -> Iterator[_Item]:
    for piece in pieces:
        for index, value in enumerate(piece.values, piece.start):
            if index not in piece.missing:
                yield index, value, piece.errors.get(index), piece.worker_lost


def _in_order(pieces: Iterable[Piece]) -> Iterator[_Item]:
    waiting: dict[int, _Item] = {}
    due = 0
    for item in _as_they_come(pieces):
        waiting[item[0]] = item
        while due in waiting:
            yield waiting.pop(due)
            due += 1
