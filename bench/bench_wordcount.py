"""Exact word counts: the loop everybody writes, the blog's ways, other pools around jieba."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from itertools import islice

import jieba
import mpire
import pytest

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


def perftricks_count_words(path):
    """The same on strings already in memory."""
    with open(path, encoding="utf-8", newline="\n") as file:
        texts = [line.rstrip("\n") for line in file]
    return count_words(texts, method="parallel", workers=WORKERS)


def pool_imap(path):
    """Run multiprocessing.Pool over batches."""
    with multiprocessing.Pool(WORKERS) as pool:
        return total(pool.imap_unordered(count_batch, batches(path)))


def mpire_imap(path):
    """Run mpire over batches."""
    arguments = ((batch,) for batch in batches(path))  # it would unpack a bare list
    with mpire.WorkerPool(WORKERS) as pool:
        return total(pool.imap_unordered(count_batch, arguments, chunk_size=1))


_expected = {}


@pytest.mark.benchmark(group="exact word counts, 2 workers")
@pytest.mark.parametrize(
    "run",
    [
        naive_loop,
        perftricks_batched,
        perftricks_parallel,
        perftricks_count_words,
        pool_imap,
        mpire_imap,
    ],
    ids=lambda run: run.__name__,
)
def bench_wordcount(benchmark, corpus, run):
    """Time from the file to the table; the tables are equal."""
    jieba.setLogLevel("ERROR")
    jieba.initialize()
    table = benchmark.pedantic(run, args=[corpus], rounds=3, warmup_rounds=0)
    if corpus not in _expected:
        _expected[corpus] = naive_loop(corpus)
    assert dict(table) == _expected[corpus]
    size = corpus.stat().st_size
    benchmark.extra_info["MB_per_s"] = round(size / benchmark.stats.stats.median / 1e6, 3)
