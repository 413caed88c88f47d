"""Word counts: the loop everybody writes, the blog's ways, the compiled kernel, other libraries.

All but rjieba give jieba's own table, which is asserted; for rjieba the share of tokens that differ
is reported.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections import Counter
from itertools import islice

import jieba
import mpire
import pytest
import rjieba

from perftricks.wordcount import count_files, count_words

WORKERS = 2
BATCH = 1000


def batches(path):
    """Yield lists of 1000 documents."""
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = (line.rstrip("\n") for line in file)
        while batch := list(islice(lines, BATCH)):
            yield batch


def count_batch(batch):
    """Count one batch with jieba."""
    counter = Counter()
    for text in batch:
        counter.update(jieba.lcut(text))
    return counter


def count_batch_rjieba(batch):
    """Count one batch with rjieba, which differs from jieba here and there."""
    counter = Counter()
    for text in batch:
        counter.update(rjieba.cut(text))
    return counter


def total(counters):
    """Add tables up."""
    table = Counter()
    for counter in counters:
        table.update(counter)
    return table


def naive_loop(path):
    """Count as everybody does."""
    tokens = {}
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            for token in jieba.lcut(line.rstrip("\n")):
                tokens[token] = tokens.get(token, 0) + 1
    return tokens


def perftricks_batched(path):
    """One process, a Counter for each 1000 documents."""
    return count_files([path], method="batched")


def perftricks_parallel(path):
    """Two processes, by parallel_count."""
    return count_files([path], method="parallel", workers=WORKERS)


def perftricks_compiled_1(path):
    """The compiled kernel, one thread."""
    return count_files([path], method="compiled", workers=1)


def perftricks_compiled_2(path):
    """The compiled kernel, two threads."""
    return count_files([path], method="compiled", workers=WORKERS)


def pool_imap(path):
    """Run multiprocessing.Pool over batches."""
    with multiprocessing.Pool(WORKERS) as pool:
        return total(pool.imap_unordered(count_batch, batches(path)))


def mpire_imap(path):
    """Run mpire over batches."""
    arguments = ((batch,) for batch in batches(path))  # it would unpack a bare list
    with mpire.WorkerPool(WORKERS) as pool:
        return total(pool.imap_unordered(count_batch, arguments, chunk_size=1))


def rjieba_pool(path):
    """Run multiprocessing.Pool over batches, with rjieba in place of jieba."""
    with multiprocessing.Pool(WORKERS) as pool:
        return total(pool.imap_unordered(count_batch_rjieba, batches(path)))


def as_dict(table):
    """Return a dict; a WordCounts iterates in sorted order, which is not what is timed."""
    return table.to_counter() if hasattr(table, "to_counter") else table


_expected = {}


def expected(path):
    """Return the table of the naive loop, made once for each corpus."""
    if path not in _expected:
        _expected[path] = naive_loop(path)
    return _expected[path]


def share_that_differs(table, reference):
    """Return the share of tokens that one table has and the other has not."""
    differing = sum(
        abs(table.get(token, 0) - reference.get(token, 0)) for token in {*table, *reference}
    )
    return differing / 2 / sum(reference.values())


def note_speed(benchmark, path):
    """Add megabytes a second to the record."""
    size = path.stat().st_size
    benchmark.extra_info["MB_per_s"] = round(size / benchmark.stats.stats.median / 1e6, 3)


@pytest.fixture(autouse=True)
def warm():
    """The dictionaries and the kernel are loaded: start-up has a benchmark of its own."""
    jieba.setLogLevel("ERROR")
    jieba.initialize()
    rjieba.cut("")
    count_words(["茶"], method="compiled")


@pytest.mark.benchmark(group="from a file of 3 MB to the table, 2 workers")
@pytest.mark.parametrize(
    "run",
    [
        naive_loop,
        perftricks_batched,
        perftricks_parallel,
        perftricks_compiled_1,
        perftricks_compiled_2,
        pool_imap,
        mpire_imap,
        rjieba_pool,
    ],
    ids=lambda run: run.__name__,
)
def bench_small(benchmark, corpus, run):
    """Time from the file to a dict; the tables are equal, rjieba's apart."""
    table = benchmark.pedantic(lambda: as_dict(run(corpus)), rounds=3, warmup_rounds=0)
    if run is rjieba_pool:
        differs = share_that_differs(table, expected(corpus))
        benchmark.extra_info["tokens_that_differ"] = f"{differs:.3%}"
    else:
        assert table == expected(corpus)
    note_speed(benchmark, corpus)


@pytest.mark.benchmark(group="from a file of 60 MB to the table")
@pytest.mark.parametrize(
    "run", [perftricks_compiled_1, perftricks_compiled_2, rjieba_pool], ids=lambda run: run.__name__
)
def bench_large(benchmark, large_corpus, run):
    """The same on the corpus repeated: what remains when building the table no longer counts."""
    corpus, path, times = large_corpus
    table = benchmark.pedantic(lambda: as_dict(run(path)), rounds=3, warmup_rounds=0)
    if run is not rjieba_pool:
        assert table == {token: times * count for token, count in expected(corpus).items()}
    note_speed(benchmark, path)


COMMAND = [sys.executable, "-m", "perftricks", "wordcount", "--json"]


@pytest.mark.benchmark(group="the command on a file of 50 kB, start-up included")
@pytest.mark.parametrize("method", ["naive", "compiled", None])
def bench_start_up(benchmark, tmp_path, method):
    """A small input must not wait for the kernel: left to itself the command does not use it."""
    path = tmp_path / "small.txt"
    path.write_text("我在北京的茶馆里喝茶，看人来人往。\n" * 1000, encoding="utf-8")
    arguments = [*COMMAND, str(path), *(["--method", method] if method else [])]
    output = benchmark.pedantic(
        subprocess.check_output, args=[arguments], rounds=5, warmup_rounds=1
    )
    assert json.loads(output)["documents"] == 1000


PEAK = """
import json, resource, sys
from perftricks.wordcount import count_files
counts = count_files(sys.argv[1], method="compiled", workers=2)
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(counts)]))
"""


@pytest.mark.benchmark(group="peak memory of the compiled method, 2 threads")
@pytest.mark.parametrize("megabytes", [100, 1000])
def bench_peak_memory(benchmark, corpus, tmp_path, megabytes):
    """Resident MiB at the peak; a corpus ten times as large takes no more."""
    path = tmp_path / "large.txt"
    repeat(corpus, path, megabytes * 1_000_000)
    command = [sys.executable, "-c", PEAK, str(path)]
    output = benchmark.pedantic(subprocess.check_output, args=[command], rounds=1)
    peak, distinct = json.loads(output)
    benchmark.extra_info["peak_resident_MiB"] = round(peak)
    benchmark.extra_info["distinct"] = distinct
    note_speed(benchmark, path)
    path.unlink()


def repeat(corpus, path, size):
    """Write the corpus again and again until the file has at least ``size`` bytes."""
    text = corpus.read_bytes()
    times = -(-size // len(text))
    with open(path, "wb") as file:
        for _ in range(times):
            file.write(text)
    return times


@pytest.fixture
def large_corpus(corpus, tmp_path):
    """The corpus, the corpus repeated to 60 MB, and how many times."""
    path = tmp_path / "large.txt"
    return corpus, path, repeat(corpus, path, 60_000_000)
