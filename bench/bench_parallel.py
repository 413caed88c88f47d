"""What an item costs: microseconds of overhead for tasks that do nothing, two workers."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import joblib
import mpire
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
    """joblib with automatic batches."""
    return joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(nothing)(x) for x in items)


def mpire_imap(items):
    """mpire, its streaming call."""
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
