"""What an item costs: microseconds for a task that does nothing, GB/s for arrays; two workers."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import joblib
import mpire
import numpy as np
import pytest

from bench.tasks import nothing
from perftricks.parallel import parallel_apply

ITEMS = 20_000
WORKERS = 2


def perftricks(items):
    """With the defaults: bounded, and each item seeded."""
    return parallel_apply(nothing, items, WORKERS, 2000)


def perftricks_unseeded(items):
    """Without seeds, as all the others are."""
    return parallel_apply(nothing, items, WORKERS, 2000, random_seeds=False)


def perftricks_ordered(items):
    """In the order of the items."""
    return parallel_apply(nothing, items, WORKERS, 2000, random_seeds=False, unordered=False)


def perftricks_spawn(items):
    """On fresh interpreters."""
    return parallel_apply(nothing, items, WORKERS, 2000, random_seeds=False, start_method="spawn")


def perftricks_batch_size_1(items):
    """One item at a time: what a batch costs."""
    return parallel_apply(nothing, items, WORKERS, 2000, random_seeds=False, batch_size=1)


def pool_imap(items):
    """multiprocessing.Pool, its streaming call: unbounded reading, hangs when a worker dies."""
    with multiprocessing.Pool(WORKERS) as pool:
        return list(pool.imap_unordered(nothing, items))


def pool_map(items):
    """multiprocessing.Pool, its call for lists, which reads everything first and cuts 8 chunks."""
    with multiprocessing.Pool(WORKERS) as pool:
        return pool.map(nothing, items)


def process_pool_executor(items):
    """concurrent.futures: unbounded reading, all lost when a worker dies."""
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        return list(pool.map(nothing, items))


def joblib_loky(items):
    """Run joblib with its automatic batches."""
    return joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(nothing)(x) for x in items)


def mpire_imap(items):
    """Run mpire, its streaming call."""
    with mpire.WorkerPool(WORKERS) as pool:
        return list(pool.imap_unordered(nothing, items, iterable_len=ITEMS))


@pytest.mark.benchmark(group="an empty task, 20,000 items, 2 workers")
@pytest.mark.parametrize(
    "run",
    [
        perftricks,
        perftricks_unseeded,
        perftricks_ordered,
        perftricks_spawn,
        perftricks_batch_size_1,
        pool_imap,
        pool_map,
        process_pool_executor,
        joblib_loky,
        mpire_imap,
    ],
    ids=lambda run: run.__name__,
)
def bench_overhead(benchmark, run):
    """Time a whole run, starting and ending the workers included."""
    result = benchmark.pedantic(lambda: run(iter(range(ITEMS))), rounds=5, warmup_rounds=1)
    assert sorted(result) == list(range(ITEMS))
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["microseconds_per_item"] = round(seconds / ITEMS * 1e6, 2)


ARRAYS, NUMBERS = 8, 12_500_000  # of 100 MB each


def first(array):
    """Read one number, so that no computing hides what it costs to hand the array over."""
    return float(array[0])


def filled(number):
    """Return an array of 100 MB."""
    return np.full(NUMBERS, float(number))


def perftricks_arrays(function, items):
    """One array at a time, as joblib below."""
    return parallel_apply(
        function, items, WORKERS, 2 * WORKERS, unordered=False, random_seeds=False, batch_size=1
    )


def joblib_arrays(function, items):
    """Run joblib, which maps large arguments from files (in memory, where it may)."""
    return joblib.Parallel(n_jobs=WORKERS, batch_size=1)(joblib.delayed(function)(x) for x in items)


def executor_arrays(function, items):
    """concurrent.futures: arrays are pickled through a pipe."""
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        return list(pool.map(function, items))


@pytest.mark.parametrize("what", ["arguments", "results"])
@pytest.mark.parametrize(
    "run", [perftricks_arrays, joblib_arrays, executor_arrays], ids=lambda run: run.__name__
)
def bench_large_arrays(benchmark, run, what):
    """Hand over 8 arrays of 100 MB; workers are started and ended, joblib's stay for the rounds."""
    benchmark.group = f"8 arrays of 100 MB as {what}, 2 workers"
    if what == "arguments":
        items = [filled(number) for number in range(ARRAYS)]
        result = benchmark.pedantic(lambda: run(first, items), rounds=5, warmup_rounds=1)
        assert result == [float(number) for number in range(ARRAYS)]
    else:
        result = benchmark.pedantic(lambda: run(filled, range(ARRAYS)), rounds=5, warmup_rounds=1)
        assert [float(array[-1]) for array in result] == [float(n) for n in range(ARRAYS)]
    gigabytes = ARRAYS * NUMBERS * 8 / 1e9
    benchmark.extra_info["gigabytes_per_second"] = gigabytes / benchmark.stats.stats.median
