"""What benchmarks share: ``--full``, and corpora.

A corpus is generated; PERFTRICKS_CORPUS may name others.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from bench.corpus import write_corpus
from perftricks.environment import find_gpus
from perftricks.wordcount.reading.feeds import FileFeed, sample
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.sources import find_sources

GENERATED = "generated"
SIZE = 3_000_000  # bytes; the naive loop takes about 5 s
LARGE = 60_000_000
_FEW = 2  # rounds, without --full


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--full``."""
    parser.addoption("--full", action="store_true", help="measure everything, at its full size")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of what takes long."""
    config.addinivalue_line("markers", "full: measured only with --full")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Look into benchmarks only: what they stand on may import what is not installed here."""
    is_other = collection_path.suffix == ".py" and not collection_path.name.startswith("bench_")
    return True if is_other else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture
def benchmark(benchmark: Any, pytestconfig: pytest.Config) -> Any:
    """Pytest-benchmark's, with a few rounds unless all of it is asked for."""
    if not pytestconfig.getoption("--full"):
        pedantic = benchmark.pedantic

        def few(*arguments: Any, rounds: int = 1, **options: Any) -> Any:
            return pedantic(*arguments, rounds=min(rounds, _FEW), **options)

        benchmark.pedantic = few
    return benchmark


def _corpora() -> list[str]:
    return [GENERATED, *filter(None, os.environ.get("PERFTRICKS_CORPUS", "").split(os.pathsep))]


@pytest.fixture(scope="session", params=_corpora(), ids=lambda name: Path(name).name)
def corpus_name(request: pytest.FixtureRequest) -> str:
    """Name a corpus: the one that is generated, or a file."""
    return str(request.param)


@pytest.fixture(scope="session")
def corpus(corpus_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 3 MB, a document a line; of a given corpus, its beginning."""
    return _written(corpus_name, tmp_path_factory.mktemp("corpus") / "corpus.txt", SIZE)


@pytest.fixture(scope="session")
def large_corpus(corpus_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of 60 MB, nothing of which is repeated; of a given corpus, what there is of it."""
    return _written(corpus_name, tmp_path_factory.mktemp("large") / "large.txt", LARGE)


def _written(name: str, path: Path, size: int) -> Path:
    if name == GENERATED:
        write_corpus(path, size, seed=7)
    else:
        # Any format that needs no further option.
        documents, _ = sample(FileFeed(find_sources([name]), ReadOptions()), size)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{document}\n" for document in documents)
    return path


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Name the GPUs too."""
    machine_info["gpus"] = [gpu.name for gpu in find_gpus()]


def pytest_benchmark_group_stats(
    benchmarks: list[dict[str, Any]],
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Show what was measured on the same corpus together; most benchmarks have none."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for benchmark in benchmarks:
        corpus = (benchmark["params"] or {}).get("corpus_name")
        name = benchmark["group"] or benchmark["name"]
        groups[f"{name}, {Path(corpus).name}" if corpus else name].append(benchmark)
    return sorted(groups.items())
