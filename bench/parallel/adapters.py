"""The executors that are compared, each behind the same call.

An adapter opens the executor with two workers, applies a function to items, and gives an iterator
over the results; all are used as their documentation shows for streams. What is asked of all:
results as they come or in order, no more than ``QUEUE`` items ahead where that can be said, and a
time limit where there is one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

WORKERS = 2
QUEUE = 20
LIMIT = 1.0  # seconds an item may take, where that can be said


class Adapter(NamedTuple):
    """An executor.

    Attributes:
        name: What the table calls it.
        package: Whose version the table shows; empty for the standard library.
        open: Called with the function, the items and whether results must be in order; gives the
            results.
        in_threads: Whether the workers are threads, which die with the program.
        timed: The same with ``LIMIT`` for each item; None if there is no such thing.
        fresh: The same with workers that are fresh interpreters; None in threads.
    """

    name: str
    package: str
    open: Callable[[Callable[[Any], Any], Iterable[Any], bool], Results]
    in_threads: bool = False
    timed: Callable[[Callable[[Any], Any], Iterable[Any], bool], Results] | None = None
    fresh: str | None = None


Results = AbstractContextManager[Iterator[Any]]
Function = Callable[[Any], Any]


@contextlib.contextmanager
def _pool(func: Function, items: Iterable[Any], ordered: bool) -> Iterator[Iterator[Any]]:
    with multiprocessing.Pool(WORKERS) as pool:
        yield (pool.imap if ordered else pool.imap_unordered)(func, items)


@contextlib.contextmanager
def _processes(func: Function, items: Iterable[Any], ordered: bool) -> Iterator[Iterator[Any]]:
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        yield pool.map(func, items)


@contextlib.contextmanager
def _threads(func: Function, items: Iterable[Any], ordered: bool) -> Iterator[Iterator[Any]]:
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        yield pool.map(func, items)


@contextlib.contextmanager
def _joblib(func: Function, items: Iterable[Any], ordered: bool) -> Iterator[Iterator[Any]]:
    import joblib

    how = "generator" if ordered else "generator_unordered"
    yield joblib.Parallel(n_jobs=WORKERS, return_as=how)(joblib.delayed(func)(x) for x in items)


@contextlib.contextmanager
def _mpire(
    func: Function, items: Iterable[Any], ordered: bool, limit: float | None = None
) -> Iterator[Iterator[Any]]:
    import mpire

    with mpire.WorkerPool(WORKERS) as pool:
        imap = pool.imap if ordered else pool.imap_unordered
        yield iter(imap(func, items, max_tasks_active=QUEUE, chunk_size=1, task_timeout=limit))


@contextlib.contextmanager
def _pebble(
    func: Function, items: Iterable[Any], ordered: bool, limit: float | None = None
) -> Iterator[Iterator[Any]]:
    import pebble

    with pebble.ProcessPool(max_workers=WORKERS) as pool:
        try:
            yield pool.map(func, items, timeout=limit).result()
        except BaseException:
            pool.stop()
            raise


@contextlib.contextmanager
def _ours(
    func: Function, items: Iterable[Any], ordered: bool, **options: Any
) -> Iterator[Iterator[Any]]:
    from perftricks.parallel import parallel_apply_generator

    results = parallel_apply_generator(
        func, items, WORKERS, QUEUE, unordered=not ordered, **options
    )
    with contextlib.closing(results):
        yield (result for _, result in results)


def _with(opened: Callable[..., Results], **options: Any) -> Callable[..., Results]:
    def open_so(func: Function, items: Iterable[Any], ordered: bool) -> Results:
        return opened(func, items, ordered, **options)

    return open_so


# How a program applies a function to range(4) on fresh interpreters, without a main guard.
_FRESH_OURS = (
    "from perftricks.parallel import parallel_apply\n"
    "print(parallel_apply(double, range(4), 2, 4, start_method='spawn'))"
)
_FRESH_STDLIB = (
    "import multiprocessing, concurrent.futures\n"
    "multiprocessing.set_start_method('spawn', force=True)\n"
)
ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter(
            "perftricks, processes",
            "perftricks",
            _ours,
            timed=_with(_ours, timeout=LIMIT),
            fresh=_FRESH_OURS,
        ),
        Adapter("perftricks, threads", "perftricks", _with(_ours, dummy=True), in_threads=True),
        Adapter(
            "multiprocessing.Pool",
            "",
            _pool,
            fresh=_FRESH_STDLIB
            + "print(list(multiprocessing.Pool(2).imap_unordered(double, range(4))))",
        ),
        Adapter(
            "ProcessPoolExecutor",
            "",
            _processes,
            fresh=_FRESH_STDLIB
            + "print(list(concurrent.futures.ProcessPoolExecutor(2).map(double, range(4))))",
        ),
        Adapter("ThreadPoolExecutor", "", _threads, in_threads=True),
        Adapter(
            "joblib",
            "joblib",
            _joblib,
            fresh="import joblib\n"
            "print(joblib.Parallel(n_jobs=2)(joblib.delayed(double)(x) for x in range(4)))",
        ),
        Adapter(
            "mpire",
            "mpire",
            _mpire,
            timed=_with(_mpire, limit=LIMIT),
            fresh="import mpire\n"
            "print(mpire.WorkerPool(2, start_method='spawn').map(double, range(4)))",
        ),
        Adapter(
            "pebble",
            "pebble",
            _pebble,
            timed=_with(_pebble, limit=LIMIT),
            fresh="import multiprocessing, pebble\n"
            "pool = pebble.ProcessPool(2, context=multiprocessing.get_context('spawn'))\n"
            "print(list(pool.map(double, range(4)).result()))",
        ),
    )
}
