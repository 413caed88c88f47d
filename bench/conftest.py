"""Corpora for the benchmarks: a generated one, and any that PERFTRICKS_CORPUS names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.corpus import write_corpus
from perftricks.wordcount.documents import ReadOptions
from perftricks.wordcount.job import FileFeed, sample
from perftricks.wordcount.sources import find_sources

GENERATED = "generated"
SIZE = 3_000_000  # bytes; the naive loop takes about 3 s


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
