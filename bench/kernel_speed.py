"""How fast the compiled kernel counts a text, and how hard the text is.

``python -m bench.kernel_speed [FILE ...]`` prints a row for each file, and one for a generated
corpus of the same size as the first of them (or of 30 MB). Times are the least of seven rounds:
the processor time of one thread, the wall time of two, and the wall time of ``count_files`` from
the first byte read to a table in memory. A token is what jieba yields.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.corpus import write_corpus
from perftricks.wordcount import count_files
from perftricks.wordcount.kernel import Engine, TextCounter, load

HEADER = (
    "| text | MB | million tokens | ns/token | MB/s, 1 thread | 2 threads | count_files"
    " | distinct | not in the dictionary | characters/token |"
)


def least(rounds: int, clock: Callable[[], float], call: Callable[[], object]) -> float:
    """The least of some rounds, in seconds."""
    times = []
    for _ in range(rounds):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def fed(engine: Engine, data: bytes, threads: int) -> TextCounter:
    """A counter that has counted the text."""
    counter = TextCounter(engine.kernel, engine.lexicon, threads=threads)
    counter.feed(data)
    return counter


def row(engine: Engine, path: Path, rounds: int) -> str:
    """What is measured of a file."""
    data = path.read_bytes()
    size = len(data) / 1e6
    table = fed(engine, data, 1).table()
    outside = int(table.tokens.count[table.first_oov :].sum())
    one = least(rounds, time.thread_time, lambda: fed(engine, data, 1))
    two = least(rounds, time.perf_counter, lambda: fed(engine, data, 2))
    whole = least(rounds, time.perf_counter, lambda: count_files([path], method="compiled"))
    characters = len(data.decode()) - table.separators
    return (
        f"| {path.stem} | {size:.1f} | {table.total / 1e6:.2f} | {one / table.total * 1e9:.1f}"
        f" | {size / one:.0f} | {size / two:.0f} | {size / whole:.0f}"
        f" | {len(table):,} | {outside / table.total:.1%}, {table.n_entries:,} distinct"
        f" | {characters / table.total:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    engine = load()
    print(f"{len(os.sched_getaffinity(0))} cores, numpy {np.__version__}\n\n{HEADER}")
    print("| --- |" + " ---: |" * (HEADER.count("|") - 2))
    for path in chosen.files:
        print(row(engine, path, chosen.rounds), flush=True)
    size = chosen.files[0].stat().st_size if chosen.files else 30 * 10**6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "generated.txt")
        write_corpus(path, size, seed=7)
        print(row(engine, path, chosen.rounds), flush=True)


if __name__ == "__main__":
    main()
