"""What the post on counting with processes claims: counting alone, and more and more workers.

The claims about whole runs (naive, batched, parallel) are measured by ``bench_small`` of
:mod:`bench.bench_wordcount`; here segmentation is taken out, or the number of workers varied.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from perftricks.parallel import available_cores
from perftricks.wordcount import count_files

TOKENS = 1_000_000
DOCUMENT = 50  # tokens
BATCH = 1000  # documents
LOOKUPS = 200_000


def one_dict(documents):
    """Count into one dict, as everybody does."""
    table = {}
    for document in documents:
        for token in document:
            table[token] = table.get(token, 0) + 1
    return table


def one_counter(documents):
    """Count into one Counter, a document at a time."""
    table = Counter()
    for document in documents:
        table.update(document)
    return table


def dict_for_each_batch(documents):
    """Count 1000 documents into a small dict, and add it to the large one."""
    table = {}
    for start in range(0, len(documents), BATCH):
        batch = {}
        for document in documents[start : start + BATCH]:
            for token in document:
                batch[token] = batch.get(token, 0) + 1
        for token, count in batch.items():
            table[token] = table.get(token, 0) + count
    return table


def written(vocabulary):
    """Return a text of tokens that follow Zipf's law, a space between each two.

    The rank of a token is a power of the vocabulary's size, which makes 1 / rank its probability.
    """
    draw = random.Random(vocabulary)
    return " ".join(f"词{vocabulary ** draw.random():.0f}" for _ in range(TOKENS))


def cut(text):
    """Return documents of tokens whose hashes nobody knows yet, as those of a segmenter."""
    tokens = text.split(" ")
    return [tokens[start : start + DOCUMENT] for start in range(0, TOKENS, DOCUMENT)]


@pytest.fixture(scope="module", params=[10_000, 100_000, 1_000_000, 10_000_000])
def text(request):
    """A text over a vocabulary of a size."""
    return written(request.param)


@pytest.mark.benchmark(group="counting alone, 1,000,000 tokens")
@pytest.mark.parametrize(
    "run", [one_dict, one_counter, dict_for_each_batch], ids=lambda run: run.__name__
)
def bench_counting(benchmark, text, run):
    """Time the counting of tokens that are cut already."""
    table = benchmark.pedantic(run, setup=lambda: ((cut(text),), {}), rounds=5, warmup_rounds=1)
    assert table == one_dict(cut(text))
    benchmark.extra_info["distinct"] = len(table)
    benchmark.extra_info["ns_per_token"] = benchmark.stats.stats.median / TOKENS * 1e9


@pytest.mark.benchmark(group="a token more in a dict of so many keys")
@pytest.mark.parametrize("keys", [1_000, 10_000, 100_000, 600_000, 2_000_000])
def bench_growing_dict(benchmark, keys):
    """Time tokens that are all in the table already: what its size costs, and nothing else."""
    table = {f"词{number}": 1 for number in range(keys)}
    draw = random.Random(keys)
    text = " ".join(f"词{draw.randrange(keys)}" for _ in range(LOOKUPS))

    def count(tokens):
        for token in tokens:
            table[token] = table.get(token, 0) + 1

    benchmark.pedantic(count, setup=lambda: ((text.split(" "),), {}), rounds=7, warmup_rounds=1)
    assert len(table) == keys
    benchmark.extra_info["keys"] = keys
    benchmark.extra_info["ns_per_token"] = benchmark.stats.stats.median / LOOKUPS * 1e9


def numbers_of_workers():
    """Return 1, 2, 4, ... as far as there are cores, the number of cores, and one step beyond."""
    cores = available_cores()
    powers = [2**power for power in range(cores.bit_length() + 1)]
    return sorted({*powers, cores})


@pytest.mark.benchmark(group="from a file of 3 MB to the table, more and more workers")
@pytest.mark.parametrize("workers", numbers_of_workers())
@pytest.mark.parametrize("method", ["parallel", "compiled"])
def bench_workers(benchmark, corpus, method, workers):
    """Time processes around jieba, and threads of the kernel; cores run out at some number."""
    count_files([corpus], method="compiled")  # the kernel and the dictionary are loaded
    counts = benchmark.pedantic(
        lambda: count_files([corpus], method=method, workers=workers), rounds=3
    )
    assert counts.run.workers == workers
    benchmark.extra_info["method"] = method
    benchmark.extra_info["workers"] = workers
    size = corpus.stat().st_size
    benchmark.extra_info["MB_per_s"] = size / benchmark.stats.stats.median / 1e6
