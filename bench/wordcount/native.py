"""Counting words beside native programs: the same files, the same counting, other segmenters.

::

    python -m bench.wordcount.native corpus/*.txt --threads 1 2 --rounds 3
    python -m bench.wordcount.native corpus/*.txt --vendor vendor --cppjieba ~/cppjieba   # offline

Each counts documents, one a line, in a table per thread or process, and adds the tables up:

- jieba-rs, by a program in Rust (``native_programs/jieba_rs``; needs cargo and crates.io);
- cppjieba, by a program in C++ (``native_programs/cppjieba``; needs a compiler, git and GitHub);
- rjieba and jieba_fast, in as many processes as threads, each of which reads its share of the lines
  and returns one Counter;
- perftricks, ``count_files(..., method="compiled")``, and with a Counter made of its table.

The programs are built in a temporary folder, for this machine's processor and with all that the
compiler has. All but rjieba, which has it built in, read jieba's own dictionary. The time is that
from opening the files to the finished table in memory: loading dictionaries and starting processes
are not in it, writing is not. The files are read once before, each way runs in turn, and the best
of the rounds is what counts. Tokens that differ are those of perftricks' table, which is jieba's:
half of the sum of all differences of counts, over the number of tokens.

What cannot be built or imported is named, with the reason. Linux and macOS.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import perftricks
from bench.markdown import table as markdown_table
from perftricks import signals
from perftricks.wordcount import CorpusError, count_files, count_words

PROGRAMS = Path(__file__).with_name("native_programs")
JIEBA_RS = "0.10.1"  # as in native_programs/jieba_rs/Cargo.toml
CPPJIEBA = "https://github.com/yanyiwu/cppjieba"
CPPJIEBA_COMMIT = "8fe7b9304d2730320e2e275721b1b330056c581b"  # which pins its submodule limonp
PATIENCE = 1800.0  # seconds for a build or a run

OURS = "perftricks"
OTHERS = ("jieba-rs", "cppjieba", "rjieba", "jieba_fast")

AnyPath = str | os.PathLike[str]
Table = Mapping[str, int]
Run = Callable[[int, Sequence[Path]], tuple[float, Table]]


class UnavailableError(Exception):
    """Something cannot be built, imported or run here; the message says why, in one line."""


@dataclass(frozen=True)
class Way:
    """A way to count: its name, its version, and what counts."""

    name: str
    version: str
    run: Run


@dataclass(frozen=True)
class Figure:
    """What one way took: the best time, and the share of tokens that differ from jieba's."""

    way: Way
    threads: int
    seconds: float
    differ: float


# ---------------------------------------------------------------------- what all of them share


def lines_of(paths: Iterable[AnyPath], number: int, every: int) -> Iterator[str]:
    r"""Yield one share of the lines of files, in order; a line ends at ``\n`` or ``\r\n``.

    Args:
        paths: UTF-8 files, without a byte order mark.
        number: Which share, from 0.
        every: How many shares there are: lines of a file go to one after the other.
    """
    for path in paths:
        with open(path, encoding="utf-8", newline="\n") as file:
            for line in islice(file, number, None, every):
                yield line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")


def share_that_differs(table: Table, right: Table) -> float:
    """Return half the sum of all differences of counts, over the number of tokens.

    >>> share_that_differs({"a": 3, "b": 1}, {"a": 2, "b": 1, "c": 1})
    0.25
    """
    tokens = sum(right.values())
    sums = sum(abs(count - right.get(token, 0)) for token, count in table.items())
    sums += sum(count for token, count in right.items() if token not in table)
    return sums / 2 / tokens if tokens else float(sums > 0)


def read_rows(path: Path) -> dict[str, int]:
    """Read what a program has written: a token, a tab and a count a line, in any order.

    A token is written as it is, so that it may be a tab; none has a line feed.
    """
    table = {}
    for row in path.read_bytes().split(b"\n")[:-1]:
        token, _, count = row.rpartition(b"\t")
        table[token.decode()] = int(count)
    return table


# ---------------------------------------------------------------------- native programs


def _tool(name: str) -> str:
    """Return where a program is."""
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(f"there is no {name} on the PATH")
    return found


def _output(command: Sequence[AnyPath], **options: Any) -> str:
    """Run a program and return what it prints."""
    name = Path(command[0]).name
    options = {"capture_output": True, "text": True, "timeout": PATIENCE, **options}
    try:
        return str(subprocess.run(command, check=True, **options).stdout)
    except subprocess.CalledProcessError as error:
        said = _reason(error.stderr) or f"status {error.returncode}"
        raise UnavailableError(f"{name} failed: {said}") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{name} took more than {PATIENCE:.0f} seconds") from None
    except OSError as error:
        raise UnavailableError(f"{name} cannot be run: {error.strerror}") from None


_ERROR = re.compile(r"\b(error|fatal)(\[\w+\])?:")


def _reason(said: str) -> str:
    """Return the line of a compiler, cargo or git that says what is wrong, and the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if _ERROR.search(line)), None)
    if first is None:
        return lines[-1] if lines else ""
    causes = [
        line for line in lines[first + 1 :] if "resolve host" in line or "no matching" in line
    ]
    return "; ".join([lines[first], *causes[-1:]])


def build_jieba_rs(
    folder: Path, vendor: Path | None = None, config: Path | None = None
) -> list[AnyPath]:
    """Build the program in Rust, and return the command that runs it.

    Args:
        folder: Where to build.
        vendor: A folder that ``cargo vendor`` has filled; None asks crates.io.
        config: A configuration file for cargo, such as one with a mirror of crates.io.

    Raises:
        UnavailableError: If there is no cargo, or it fails.
    """
    cargo = _tool("cargo")
    source = folder / "jieba_rs"
    shutil.copytree(PROGRAMS / "jieba_rs", source, ignore=shutil.ignore_patterns("target"))
    command: list[AnyPath] = [cargo, "build", "--release", "--target-dir", folder / "target"]
    if config is not None:
        command += ["--config", config.resolve()]
    if vendor is not None:
        command += ["--offline", "--config", 'source.crates-io.replace-with="vendored"']
        command += ["--config", f"source.vendored.directory='{vendor.resolve()}'"]
    flags = f"{os.environ.get('RUSTFLAGS', '')} -C target-cpu=native".strip()
    _output(command, cwd=source, env={**os.environ, "RUSTFLAGS": flags})
    return [folder / "target" / "release" / "count-jieba-rs"]


def build_cppjieba(folder: Path, checkout: Path | None = None) -> list[AnyPath]:
    """Build the program in C++, and return the command that runs it.

    Args:
        folder: Where to build.
        checkout: A checkout of cppjieba with its submodule; None fetches the pinned commits.

    Raises:
        UnavailableError: If there is no compiler or no git, or one of them fails.
    """
    compiler = [_tool(word) if not number else word for number, word in enumerate(_compiler())]
    if checkout is None:
        git, checkout = _tool("git"), folder / "cppjieba"
        within: list[AnyPath] = [git, "-C", checkout]
        _output([git, "init", "--quiet", checkout])
        _output([*within, "fetch", "--quiet", "--depth=1", CPPJIEBA, CPPJIEBA_COMMIT])
        _output([*within, "checkout", "--quiet", CPPJIEBA_COMMIT])
        _output([*within, "submodule", "--quiet", "update", "--init", "--depth=1", "deps/limonp"])
    headers = [checkout / "include", checkout / "deps" / "limonp" / "include"]
    for path in (headers[0] / "cppjieba", headers[1] / "limonp"):
        if not path.is_dir():
            raise UnavailableError(f"expected a checkout of cppjieba with its submodule: no {path}")
    program = folder / "count-cppjieba"
    options = ["-std=c++17", "-O3", "-march=native", "-flto=auto", "-DNDEBUG", "-pthread"]
    included = [word for path in headers for word in ("-isystem", path)]
    _output([*compiler, *options, *included, PROGRAMS / "cppjieba" / "count.cpp", "-o", program])
    return [program, checkout / "dict" / "hmm_model.utf8"]


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "")) or ["g++"]


def program(command: Sequence[AnyPath], output: Path) -> Run:
    """Return what runs a program and reads the seconds and the table that it gives."""
    dictionary = Path(importlib.import_module("jieba").__file__ or "").with_name("dict.txt")
    binary, *model = command

    def run(threads: int, paths: Sequence[Path]) -> tuple[float, Table]:
        seconds = _output([binary, str(threads), dictionary, *model, output, *paths])
        return float(seconds), read_rows(output)

    return run


# ---------------------------------------------------------------------- Python packages


def load(name: str) -> Callable[[str], Iterable[str]]:
    """Import a segmenter of the names and habits of jieba, and load its dictionary.

    Raises:
        UnavailableError: If it cannot be imported.
    """
    logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its source
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UnavailableError(f"import {name}: {error}") from None
    if hasattr(module, "setLogLevel"):
        module.setLogLevel(logging.ERROR)
    cut: Callable[[str], Iterable[str]] = getattr(module, "lcut", module.cut)
    for _ in cut("杭研大厦"):  # what is made at the first use is made now
        pass
    return cut


def count_share(name: str, paths: Sequence[AnyPath], number: int, every: int) -> Counter[str]:
    """Count one share of the lines with a segmenter."""
    cut = load(name)
    counter: Counter[str] = Counter()
    for line in lines_of(paths, number, every):
        counter.update(cut(line))
    return counter


def _get_ready(name: str, barrier: Any) -> None:
    load(name)
    barrier.wait(PATIENCE)


def in_processes(name: str) -> Run:
    """Return what counts with a segmenter in as many processes as threads are asked for."""

    def run(threads: int, paths: Sequence[Path]) -> tuple[float, Table]:
        if threads == 1:
            began = time.perf_counter()
            counter = count_share(name, paths, 0, 1)
            return time.perf_counter() - began, counter
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(threads + 1)
        with context.Pool(threads, initializer=_get_ready, initargs=(name, barrier)) as pool:
            barrier.wait(PATIENCE)
            began = time.perf_counter()
            shares = [(name, paths, number, threads) for number in range(threads)]
            first, *others = pool.starmap(count_share, shares, chunksize=1)
            for other in others:
                first.update(other)
            return time.perf_counter() - began, first

    return run


def _ours(threads: int, paths: Sequence[Path]) -> tuple[float, Table]:
    began = time.perf_counter()
    counts = count_files(paths, method="compiled", workers=threads)
    return time.perf_counter() - began, counts.to_counter()


def _ours_as_counter(threads: int, paths: Sequence[Path]) -> tuple[float, Table]:
    began = time.perf_counter()
    counter = count_files(paths, method="compiled", workers=threads).to_counter()
    return time.perf_counter() - began, counter


# ---------------------------------------------------------------------- the comparison


def find_ways(folder: Path, given: argparse.Namespace) -> tuple[list[Way], dict[str, str]]:
    """Build and import what there is.

    Args:
        folder: Where to build, and where programs write.
        given: What the command line says: ``only``, ``vendor``, ``cargo_config``, ``cppjieba``.

    Returns:
        The ways to count, perftricks first, and why others cannot be had, by name.
    """

    def jieba_rs(name: str) -> Way:
        command = build_jieba_rs(folder, given.vendor, given.cargo_config)
        return Way(name, JIEBA_RS, program(command, folder / "jieba_rs.tsv"))

    def cppjieba(name: str) -> Way:
        command = build_cppjieba(folder, given.cppjieba)
        version = "a checkout" if given.cppjieba else CPPJIEBA_COMMIT[:7]
        return Way(name, version, program(command, folder / "cppjieba.tsv"))

    def package(name: str) -> Way:
        load(name)
        return Way(name, importlib.metadata.version(name), in_processes(name))

    own = perftricks.__version__
    ways = [Way(OURS, own, _ours), Way(f"{OURS}, to_counter()", own, _ours_as_counter)]
    missing = {}
    makers = dict(zip(OTHERS, (jieba_rs, cppjieba, package, package), strict=True))
    for name in given.only or OTHERS:
        try:
            ways.append(makers[name](name))
        except UnavailableError as error:
            missing[name] = str(error)
    return ways, missing


def measure(
    ways: Sequence[Way], threads: Sequence[int], paths: Sequence[Path], rounds: int
) -> tuple[list[Figure], dict[str, str]]:
    """Run each way with each number of threads in turn, so many rounds.

    Returns:
        A figure of each, of which those of one way stand together, and why others failed, by name.
        The first way's table is the right one.
    """
    best: dict[tuple[Way, int], Figure] = {}
    failed: dict[str, str] = {}
    right: Table | None = None
    for _ in range(rounds):
        for way, many in ((way, many) for many in threads for way in ways):
            if way.name in failed:
                continue
            try:
                seconds, table = way.run(many, paths)
            except UnavailableError as error:
                failed[way.name] = str(error)
                continue
            right = table if right is None else right
            before = best.get((way, many))
            if before is not None:
                seconds = min(seconds, before.seconds)
            best[way, many] = Figure(way, many, seconds, share_that_differs(table, right))
    order = [(way, many) for way in ways if way.name not in failed for many in threads]
    return [best[key] for key in order], failed


def rows(figures: Sequence[Figure], size: int) -> list[list[str]]:
    """Return a row of text for each figure of files of so many bytes."""
    return [
        [
            figure.way.name,
            figure.way.version,
            str(figure.threads),
            f"{size / 1e6 / figure.seconds:.1f}",
            f"{figure.differ:.4%}" if figure.differ else "none",
        ]
        for figure in figures
    ]


def main(arguments: list[str] | None = None) -> int:
    """Build, measure, print the table and what is missing from it, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.wordcount.native")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="UTF-8, without a mark")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many (3)")
    parser.add_argument("--only", nargs="+", choices=OTHERS, help="beside perftricks")
    parser.add_argument("--vendor", type=Path, help="crates, of cargo vendor, to build offline")
    parser.add_argument("--cargo-config", type=Path, help="a configuration file for cargo")
    parser.add_argument("--cppjieba", type=Path, help="a checkout with its submodule, to build so")
    given = parser.parse_args(arguments)
    if min(given.threads) < 1 or given.rounds < 1:
        parser.error("expected a positive number of threads and of rounds")
    paths = [path.resolve() for path in given.files]
    threads = list(dict.fromkeys(given.threads))
    try:
        with signals.ending(), tempfile.TemporaryDirectory(prefix="native-") as folder:
            size = sum(len(path.read_bytes()) for path in paths)  # warms the page cache
            count_words(["杭研大厦"], method="compiled")  # loads the kernel
            ways, missing = find_ways(Path(folder), given)
            figures, failed = measure(ways, threads, paths, given.rounds)
    except (CorpusError, OSError, UnicodeDecodeError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except signals.Terminated as error:
        return error.status
    python = platform.python_version()
    print(f"{size / 1e6:.1f} MB, {platform.machine()}, {os.cpu_count()} cores, Python {python}\n")
    header = ["", "version", "threads", "MB/s", "tokens that differ"]
    print(markdown_table(header, rows(figures, size)))
    print("\nFrom opening the files to the finished table; loading dictionaries is not in it.")
    for name, reason in {**missing, **failed}.items():
        print(f"not measured: {name}: {reason}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
