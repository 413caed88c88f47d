"""Word counts of real text, nothing of which is repeated: from the first byte to the last.

PERFTRICKS_REAL_CORPUS names a folder of text files, such as ``python -m bench.real_corpus`` writes
from public repositories. Without it there is a generated corpus of 30 MB.

The naive loop and rjieba, which take minutes, count a part: documents from all of it, evenly.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import jieba
import pytest
import rjieba

from bench.corpus import write_corpus
from bench.wordcount.loops import naive_loop
from bench.wordcount.native import count_share, share_that_differs
from perftricks.wordcount import WordCounts, count_files, write_table
from perftricks.wordcount.table.columnar import ColumnTable
from perftricks.wordcount.table.columns import Columns, interleaved
from perftricks.wordcount.writing.bulk import separated_ngrams

WORKERS = 2
PART_BYTES = 10_000_000
ROWS = 1_000_000


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The files of the corpus."""
    folder = os.environ.get("PERFTRICKS_REAL_CORPUS")
    if folder:
        return sorted(path for path in Path(folder).iterdir() if path.suffix == ".txt")
    path = tmp_path_factory.mktemp("texts") / "generated.txt"
    write_corpus(path, 30_000_000, seed=11)
    return [path]


@pytest.fixture(scope="module")
def part(texts, tmp_path_factory):
    """A file with about 10 MB of the documents, taken evenly."""
    every = max(1, round(size_of(texts) / PART_BYTES))
    path = tmp_path_factory.mktemp("part") / "part.txt"
    with open(path, "wb") as file:
        for text in texts:
            with open(text, "rb") as lines:
                file.writelines(islice(lines, None, None, every))
    return path


def size_of(paths):
    """Return the bytes of files."""
    return sum(path.stat().st_size for path in paths)


def note_speed(benchmark, paths):
    """Add megabytes a second to the record."""
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["MB"] = round(size_of(paths) / 1e6, 1)
    benchmark.extra_info["MB_per_s"] = round(size_of(paths) / seconds / 1e6, 2)


@pytest.fixture(scope="module", autouse=True)
def warm(texts):
    """The kernel, its tables and the files are where a second run finds them."""
    jieba.setLogLevel("ERROR")
    jieba.initialize()
    rjieba.cut("")
    count_files(texts, method="compiled")


@pytest.mark.benchmark(group="real text, from the start of the command to the table on the disk")
@pytest.mark.parametrize("extension", ["tsv", "csv", "json", "parquet"])
def bench_command(benchmark, texts, tmp_path, extension):
    """A process of its own, start-up included."""
    output = tmp_path / f"table.{extension}"
    command = [sys.executable, "-m", "perftricks", "wordcount", *texts, "-q", "-o", output]
    benchmark.pedantic(subprocess.check_call, args=[command], rounds=5, warmup_rounds=1)
    note_speed(benchmark, texts)


def to_counter(paths):
    """Count, and make a Counter."""
    return count_files(paths, method="compiled", workers=WORKERS).to_counter()


def to_dict(paths):
    """Count, and make a dict from the Mapping."""
    return dict(count_files(paths, method="compiled", workers=WORKERS))


def table_alone(paths, workers):
    """Count, and make no Python object."""
    return count_files(paths, method="compiled", workers=workers)


@pytest.mark.benchmark(group="real text, from the files to a table in the program")
@pytest.mark.parametrize(
    "run",
    [
        to_counter,
        to_dict,
        pytest.param(lambda paths: table_alone(paths, 1), id="table_alone_1_thread"),
        pytest.param(lambda paths: table_alone(paths, 2), id="table_alone_2_threads"),
    ],
)
def bench_program(benchmark, texts, run):
    """In a program that goes on with the table."""
    table = benchmark.pedantic(run, args=[texts], rounds=5)
    benchmark.extra_info["distinct"] = len(table)
    note_speed(benchmark, texts)


def rjieba_processes(path):
    """Two processes, each reads its share itself and returns one table."""
    with multiprocessing.Pool(WORKERS) as pool:
        shares = [("rjieba", [path], number, WORKERS) for number in range(WORKERS)]
        first, *others = pool.starmap(count_share, shares)
    for other in others:
        first.update(other)
    return first


@pytest.mark.benchmark(group="real text, a part of it: jieba itself and rjieba")
@pytest.mark.parametrize("run", [naive_loop, rjieba_processes], ids=lambda run: run.__name__)
def bench_others(benchmark, part, run):
    """What others take for a part; the naive loop's table is ours, rjieba's nearly."""
    table = benchmark.pedantic(run, args=[part], rounds=1 if run is naive_loop else 3)
    ours = count_files(part, method="compiled")
    differs = share_that_differs(table, ours.to_counter())
    benchmark.extra_info["tokens_that_differ"] = f"{differs:.3%}"
    assert run is rjieba_processes or table == ours
    note_speed(benchmark, [part])


@pytest.mark.benchmark(group="a table of a million rows, written")
@pytest.mark.parametrize("extension", ["tsv", "csv", "json", "parquet", "arrow"])
def bench_writing(benchmark, texts, tmp_path, extension):
    """Pairs of tokens of the corpus, as strings; where they are as counting leaves them."""
    pairs = Columns.joined(list(count_files(texts, method="compiled", ngrams=2).columns()))[:ROWS]
    names = interleaved(separated_ngrams(pairs, b" "), len(pairs))
    counts = WordCounts.of(ColumnTable.of(Columns(names, pairs.count)), documents=None)
    path = tmp_path / f"rows.{extension}"
    benchmark.pedantic(write_table, args=[path, counts], rounds=3, warmup_rounds=1)
    benchmark.extra_info["rows"] = len(counts)
