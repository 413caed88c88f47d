"""What callers ask for: checked, and turned into the backend that it means."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

from perftricks.parallel import memory, seeds
from perftricks.parallel.backends import (
    Backend,
    ExecutorBackend,
    SerialBackend,
    ThreadBackend,
    interpreter_pool,
    runs_threads,
)
from perftricks.parallel.cluster import ClusterBackend, check_client, is_client, threads_of
from perftricks.parallel.cores import available_cores
from perftricks.parallel.launch import StartMethod, refuse_while_set_up
from perftricks.parallel.processes import ProcessBackend
from perftricks.parallel.work import Work
from perftricks.sizes import parse_size

if TYPE_CHECKING:
    from distributed import Client

ExecutorChoice = Union[
    Literal["process", "thread", "interpreter", "serial"], concurrent.futures.Executor, "Client"
]

_EXECUTORS = ("process", "thread", "interpreter", "serial")


def open_backend(
    work: Work,
    executor: ExecutorChoice,
    workers: int,
    random_seeds: bool | Sequence[Any] | None,
    root_seed: int | None,
    timeout: float | None,
    start_method: StartMethod | None,
    max_tasks: int | None,
    memory_limit: int | str | None,
) -> Backend:
    """Check what concerns the workers, complete the job accordingly, open where it runs."""
    if not callable(work.func):
        raise TypeError(f"func must be callable, not {work.func!r}")
    if timeout is not None and executor != "process":
        raise ValueError(
            "timeout needs executor='process': nothing but a process can be stopped from outside"
        )
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds or None, not {timeout!r}")
    limit = None if memory_limit is None else _bytes(memory_limit)
    if max_tasks is not None:
        at_least(1, "max_tasks_per_worker", max_tasks)
    if executor != "process" and not (limit is None and max_tasks is None):
        raise ValueError(
            "max_tasks_per_worker and memory_limit need executor='process': other workers are not "
            "replaced"
        )
    foreign = isinstance(executor, concurrent.futures.Executor) or is_client(executor)
    if work.finalizer is not None and foreign:
        raise ValueError(
            "finalizer needs workers of this run, but the workers are those of an executor, which "
            "ends them when it likes"
        )
    _set_seeds(work, executor, workers, random_seeds, root_seed)
    if start_method is not None:
        _check_start_method(start_method)
    if executor == "process":
        refuse_while_set_up()
        return ProcessBackend(work, workers, start_method, timeout, max_tasks, limit)
    if executor == "thread":
        work.seed_globals = False
        return ThreadBackend(work, workers)
    if executor == "serial":
        work.in_caller = True
        return SerialBackend(work)
    if executor == "interpreter":
        return ExecutorBackend(work, interpreter_pool(workers), owned=True)
    if is_client(executor):
        # Workers that are added later are used too, unless fewer were asked for than there are.
        most = workers if workers < threads_of(executor) else None
        return ClusterBackend(work, executor, most)
    assert isinstance(executor, concurrent.futures.Executor)
    work.seed_globals = not runs_threads(executor)
    return ExecutorBackend(work, executor)


def _set_seeds(
    work: Work,
    executor: ExecutorChoice,
    workers: int,
    random_seeds: bool | Sequence[Any] | None,
    root_seed: int | None,
) -> None:
    if random_seeds is True:
        work.root_seed = seeds.new_root_seed() if root_seed is None else operator.index(root_seed)
        return
    if root_seed is not None:
        raise ValueError(
            f"root_seed={root_seed!r} seeds the items, which random_seeds={random_seeds!r} "
            "excludes: leave one of them out"
        )
    if random_seeds is not None and random_seeds is not False:
        if executor == "interpreter" or not isinstance(executor, str):
            raise ValueError(
                "random_seeds is a sequence of one seed for each worker, but the workers are those "
                "of an executor: give True to seed each item"
            )
        work.worker_seeds = tuple(random_seeds)
        if len(work.worker_seeds) != workers:
            raise ValueError(
                f"random_seeds has {len(work.worker_seeds)} seeds for {workers} workers: give one "
                "for each worker, or True to seed each item"
            )


def chosen_executor(executor: ExecutorChoice | None, dummy: bool) -> ExecutorChoice:
    """Return where items are to be run; it can be used."""
    if executor is None:
        return "thread" if dummy else "process"
    if dummy and executor != "thread":
        raise ValueError(f"dummy=True means threads, executor={executor!r} does not: leave one out")
    if is_client(executor):
        check_client(executor)
    elif not isinstance(executor, concurrent.futures.Executor) and executor not in _EXECUTORS:
        raise ValueError(
            f"executor must be one of {', '.join(map(repr, _EXECUTORS))}, a "
            f"concurrent.futures.Executor or a client of dask.distributed, not {executor!r}"
        )
    return executor


def _check_start_method(start_method: StartMethod) -> None:
    check_choice("start_method", start_method, (*multiprocessing.get_all_start_methods(), "fresh"))
    in_daemon = multiprocessing.current_process().daemon
    if in_daemon and start_method not in ("spawn", "fresh"):
        raise ValueError(
            f"start_method={start_method!r} is not possible in a daemonic process of "
            "multiprocessing, which may have no children of that kind; use 'spawn'"
        )


def _bytes(memory_limit: int | str) -> int:
    if not memory.can_be_measured():
        raise ValueError("memory_limit needs Linux, which tells how much memory a worker has")
    if isinstance(memory_limit, str):
        memory_limit = parse_size(memory_limit)
    return at_least(1, "memory_limit", memory_limit)


def number_of_workers(workers: int | None, executor: ExecutorChoice) -> int:
    """Return how many workers there will be."""
    if workers is not None:
        return at_least(1, "workers", workers)
    if is_client(executor):
        return threads_of(executor)
    # The pools of the standard library, and most that are made after them, have this and no public
    # name for it. Too few workers would leave some of a pool idle; too many cost nothing but room.
    own = getattr(executor, "_max_workers", None)
    return own if isinstance(own, int) and own > 0 else available_cores()


def queue_size(given: int | None, workers: int, items_a_worker: int) -> int:
    """Return how many items are read ahead at most."""
    if given is None:
        return workers * items_a_worker
    return at_least(1, "max_queue_size", given)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError if a value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def at_least(least: int, name: str, value: int) -> int:
    """Return a whole number that must not be less than another."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int of at least {least}, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return number
