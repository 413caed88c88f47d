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
from perftricks.wordcount.reading.documents import ReadOptions
from perftricks.wordcount.reading.feeds import FileFeed, sample
from perftricks.wordcount.reading.sources import find_sources

GENERATED = "generated"
SIZE = 3_000_000  # bytes; the naive loop takes about 3 s


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--full``."""
    parser.addoption("--full", action="store_true", help="measure everything, at its full size")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of what takes long."""
    config.addinivalue_line("markers", "full: measured only with --full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def _corpora() -> list[str]:
    return [GENERATED, *filter(None, os.environ.get("PERFTRICKS_CORPUS", "").split(os.pathsep))]


@pytest.fixture(scope="session", params=_corpora(), ids=lambda name: Path(name).name)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file, a document a line; of a given corpus, the first few megabytes."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    if request.param == GENERATED:
        write_corpus(path, SIZE, seed=7)
    else:
        path.write_text(_head(Path(request.param)), encoding="utf-8", newline="\n")
    return path


def _head(path: Path) -> str:
    """Return the beginning of a corpus in any format that needs no further option."""
    feed = FileFeed(find_sources([path]), ReadOptions())
    documents, _ = sample(feed, SIZE)
    return "".join(f"{document}\n" for document in documents)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Name the GPUs too."""
    machine_info["gpus"] = [gpu.name for gpu in find_gpus()]


def pytest_benchmark_group_stats(
    benchmarks: list[dict[str, Any]],
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Show what was measured on the same corpus together; most benchmarks have none."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for benchmark in benchmarks:
        corpus = (benchmark["params"] or {}).get("corpus")
        name = benchmark["group"] or benchmark["name"]
        groups[f"{name}, {Path(corpus).name}" if corpus else name].append(benchmark)
    return sorted(groups.items())
