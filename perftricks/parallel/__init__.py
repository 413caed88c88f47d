"""Apply a function to a stream of items over many workers: bounded memory, nothing ever hangs.

::

    your thread                                     workers
    iterable ─read─▶ window (bounded) ─batches─▶ processes, threads or any Executor
    results ◀─────── order, errors, retries ◀─── values, exceptions, deaths

:func:`parallel_apply` returns the results or passes them to a callback,
:func:`parallel_apply_generator` yields them as they come, :func:`parallel_count` counts keys.
"""

from perftricks.parallel.apply import parallel_apply, parallel_apply_generator, parallel_count
from perftricks.parallel.cores import available_cores
from perftricks.parallel.errors import (
    ItemTimeoutError,
    ParallelError,
    RemoteError,
    UnpicklableError,
    WorkerCrashedError,
)
from perftricks.parallel.seeds import item_seed

__all__ = [
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
]
