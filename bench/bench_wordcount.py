"""Word counts: the loop everybody writes, the blog's ways, the compiled kernel, other libraries.

All but rjieba give jieba's own table, which is asserted; for rjieba the share of tokens that differ
is reported.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice

import jieba
import mpire
import pytest
import rjieba

from bench.corpus import write_corpus
from bench.wordcount.loops import naive_loop
from bench.wordcount.native import share_that_differs
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


_large = {}


@pytest.mark.benchmark(group="from a file of 60 MB to the table")
@pytest.mark.parametrize(
    "run", [perftricks_compiled_1, perftricks_compiled_2, rjieba_pool], ids=lambda run: run.__name__
)
def bench_large(benchmark, large_corpus, run):
    """The same on a corpus twenty times as large, nothing of which is repeated."""
    table = benchmark.pedantic(lambda: as_dict(run(large_corpus)), rounds=3, warmup_rounds=0)
    reference = _large.setdefault(large_corpus, table)
    if run is rjieba_pool:
        differs = share_that_differs(table, reference)
        benchmark.extra_info["tokens_that_differ"] = f"{differs:.3%}"
    else:
        assert table == reference
    note_speed(benchmark, large_corpus)


@pytest.mark.benchmark(group="from 1 to 2 threads, a file of 60 MB")
def bench_scaling(benchmark, large_corpus):
    """How many times faster two threads are, run in turn with one; the best of five each.

    Also how much of the time with two threads goes into making the dict.
    """
    seconds = {1: [], 2: []}
    building = []

    def run(workers):
        began = time.perf_counter()
        counts = count_files([large_corpus], method="compiled", workers=workers)
        counted = time.perf_counter()
        counts.to_counter()
        building.append(time.perf_counter() - counted)
        seconds[workers].append(time.perf_counter() - began)
        return len(counts)

    def both():
        assert run(1) == run(2)

    benchmark.pedantic(both, rounds=5)
    one, two = min(seconds[1]), min(seconds[2])
    benchmark.extra_info["times_faster"] = round(one / two, 2)
    benchmark.extra_info["share_of_building"] = f"{min(building) / two:.1%}"


COMMAND = [sys.executable, "-m", "perftricks", "wordcount", "--json", "-"]
BARE_LOOP = """
import sys, jieba
tokens = {}
for line in open(sys.argv[1], encoding="utf-8"):
    for token in jieba.lcut(line.rstrip("\\n")):
        tokens[token] = tokens.get(token, 0) + 1
"""


@pytest.fixture(params=[50_000, 900_000])
def small(request, corpus, tmp_path):
    """The first bytes of the corpus, whole documents."""
    path = tmp_path / "small.txt"
    path.write_bytes(corpus.read_bytes()[: request.param].rpartition(b"\n")[0] + b"\n")
    return path


@pytest.mark.benchmark(group="the command on a small file, start-up included")
@pytest.mark.parametrize("how", ["bare loop", "cold", "warm", "--method compiled"])
def bench_start_up(benchmark, small, tmp_path, monkeypatch, how):
    """A small input must not wait for the kernel: left to itself the command knows when to use it.

    The bare loop is jieba and a dict, nothing else. Cold is without anything in the cache.
    """
    if how == "cold":
        monkeypatch.setenv("PERFTRICKS_CACHE", str(tmp_path / "cache"))
    more = how.split() if how.startswith("-") else []
    command = [sys.executable, "-c", BARE_LOOP] if how == "bare loop" else [*COMMAND, *more]
    output = benchmark.pedantic(
        subprocess.check_output,
        args=[[*command, small]],
        kwargs={"stderr": subprocess.DEVNULL},
        rounds=5,
        warmup_rounds=1,
    )
    if how != "bare loop":
        summary = json.loads(output)
        assert summary["text_bytes"] == small.stat().st_size
        benchmark.extra_info["method"] = summary["method"]


# VmHWM and not ru_maxrss, which a process has from the one that started it.
PEAK = """
import json, re, sys
from perftricks.wordcount import count_files, write_table
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
corpus, table, limit, ngrams = sys.argv[1:]
options = {"method": "compiled", "workers": 2, "ngrams": int(ngrams)}
count_files("docs/samples", **options)
before = peak()
counts = count_files(corpus, memory_limit=limit or None, **options)
if table:
    write_table(table, counts)
print(json.dumps({
    "peak_resident_MiB": round(peak()),
    "of_these_before": round(before),
    "rows": len(counts),
    "parts_on_disk": counts.run.spilled,
}))
"""


def note_peak(benchmark, path, *, table="", limit="", ngrams=1):
    """Count in a process of its own and add its peak memory to the record."""
    command = [sys.executable, "-c", PEAK, path, table, limit, str(ngrams)]
    output = benchmark.pedantic(subprocess.check_output, args=[command], rounds=1)
    benchmark.extra_info.update(json.loads(output))


@pytest.mark.benchmark(group="peak memory of the compiled method, 2 threads")
@pytest.mark.parametrize("megabytes", [10, 100, pytest.param(1000, marks=pytest.mark.full)])
def bench_peak_memory(benchmark, tmp_path, megabytes):
    """Resident MiB at the peak, of generated text: what grows is the table, by its new tokens."""
    path = tmp_path / "large.txt"
    write_corpus(path, megabytes * 1_000_000, seed=7)
    note_peak(benchmark, path)
    note_speed(benchmark, path)
    path.unlink()


@pytest.mark.benchmark(group="peak memory of 3-grams, counted and written, 2 threads")
@pytest.mark.parametrize("limit", ["", "100MB", "50MB", "20MB"])
def bench_memory_limit(benchmark, corpus, tmp_path, limit):
    """Resident MiB at the peak of a table that outgrows its limit, or has none to outgrow."""
    note_peak(benchmark, corpus, table=tmp_path / "table.tsv", limit=limit, ngrams=3)


KILLED = """
import os, signal, sys, threading
from perftricks.wordcount import count_files
seconds = float(sys.argv[3])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def progress(done, total):
    global seconds
    if seconds:
        threading.Timer(seconds, die).start()
        seconds = 0
count_files(sys.argv[1], checkpoint=sys.argv[2], checkpoint_seconds=0.2, progress=progress)
"""


@pytest.mark.benchmark(group="a run that is killed 20 times, against one that is not")
@pytest.mark.parametrize("kills", [0, 20])
def bench_resume(benchmark, large_corpus, tmp_path, kills):
    """Seconds of all parts of the run; the table in the end is the same."""
    generator = random.Random(7)
    folders = (tmp_path / f"state-{i}" for i in itertools.count())

    def run():
        folder = next(folders)
        killed = 0
        for kill in range(kills + 1):
            seconds = generator.uniform(0.05, 0.8) if kill < kills else 0
            command = [sys.executable, "-c", KILLED, large_corpus, folder, str(seconds)]
            done = subprocess.run(command, check=False)
            assert done.returncode in (0, -signal.SIGKILL)
            killed += done.returncode != 0
        return folder, killed

    folder, killed = benchmark.pedantic(run, rounds=1)
    counts = count_files(large_corpus, checkpoint=folder)
    assert counts.run.resumed == "complete"
    assert counts == count_files(large_corpus, method="compiled")
    benchmark.extra_info["killed"] = killed
