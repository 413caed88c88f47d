"""Apply a function to a stream of items over many workers: bounded memory, nothing ever hangs.

::

    your thread                                     workers
    iterable ─read─▶ window (bounded) ─batches─▶ processes, threads, any Executor, a dask cluster
    results ◀─────── order, errors, retries ◀─── values, exceptions, deaths

:func:`parallel_apply` returns the results or passes them to a callback,
:func:`parallel_apply_generator` yields them as they come, :func:`parallel_count` counts keys.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perftricks.parallel.apply import parallel_apply, parallel_apply_generator, parallel_count
    from perftricks.parallel.cores import available_cores
    from perftricks.parallel.errors import (
        ClusterError,
        ItemTimeoutError,
        ParallelError,
        RemoteError,
        UnpicklableError,
        WorkerCrashedError,
    )
    from perftricks.parallel.seeds import item_seed
    from perftricks.parallel.state import worker_state

__all__ = [
    "ClusterError",
    "ItemTimeoutError",
    "ParallelError",
    "RemoteError",
    "UnpicklableError",
    "WorkerCrashedError",
    "available_cores",
    "item_seed",
    "parallel_apply",
    "parallel_apply_generator",
    "parallel_count",
    "worker_state",
]

_ELSEWHERE = {"available_cores": "cores", "item_seed": "seeds", "worker_state": "state"}


def __getattr__(name: str) -> Any:
    """Import a part when it is first used: what starts workers imports all of multiprocessing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "apply" if name.startswith("parallel_") else _ELSEWHERE.get(name, "errors")
    return getattr(importlib.import_module(f"perftricks.parallel.{module}"), name)


def __dir__() -> list[str]:
    """List the public names, those that are still to be imported among them."""
    return sorted(__all__)
