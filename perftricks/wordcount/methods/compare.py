"""The methods side by side on the same documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.job import run
from perftricks.wordcount.methods.choice import METHODS
from perftricks.wordcount.methods.compiled import Compiled
from perftricks.wordcount.reading.feeds import Feed, TextFeed, sample
from perftricks.wordcount.settings import MethodName, Settings
from perftricks.wordcount.table.counts import WordCounts

SAMPLE_BYTES = 5_000_000


@dataclass(frozen=True)
class Timing:
    """One method's run.

    Attributes:
        method: The method.
        workers: Worker processes or threads; 1 for the calling process.
        seconds: Wall time.
        ratio: How many times faster than the first method.
    """

    method: MethodName
    workers: int
    seconds: float
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """What running all methods showed.

    Attributes:
        timings: One for each method, naive first.
        documents: How many documents were counted.
        text_bytes: Their size in UTF-8.
        complete: Whether these were all documents, or the first ones.
        skipped: Method -> why it was not run.
        counts: The table of the first method.
        differences: Method -> a few tokens with its count and the first method's; empty if all
            tables are equal.
    """

    timings: tuple[Timing, ...]
    documents: int
    text_bytes: int
    complete: bool
    counts: WordCounts
    differences: dict[str, list[tuple[Any, int, int]]]
    skipped: dict[str, str]

    @property
    def equal(self) -> bool:
        """Whether all methods gave the same table."""
        return not self.differences


def compare_methods(
    feed: Feed,
    settings: Settings,
    *,
    text_bytes: int = SAMPLE_BYTES,
    progress: Callable[[str], object] | None = None,
) -> Comparison:
    """Run every method on the same documents, which are read beforehand.

    The tokenizer is ready before the first run, so that none pays for loading its dictionary.

    Args:
        feed: The documents.
        settings: How to count; the method in it is not used.
        text_bytes: Read documents until they make up so many bytes.
        progress: Called with the name of each method before it runs.

    Returns:
        Times and whether the tables are equal.
    """
    documents, complete = sample(feed, text_bytes)
    settings.spec.load()("")
    skipped: dict[str, str] = {}
    compiled = Compiled()
    reason = compiled.why_not(settings)
    if reason is None:
        try:
            compiled.load(settings)
        except OptionError as error:
            reason = str(error)
    if reason is not None:
        skipped["compiled"] = reason
    tables: list[WordCounts] = []
    timings: list[Timing] = []
    differences: dict[str, list[tuple[Any, int, int]]] = {}
    for method in METHODS:
        if method in skipped:
            continue
        if progress is not None:
            progress(method)
        workers = settings.workers if method in ("parallel", "compiled") else None
        counts = run(
            TextFeed(documents),
            replace(settings, method=method, workers=workers, verify=0),
            method=compiled if method == "compiled" else None,
        )
        assert counts.run is not None
        seconds = counts.run.seconds
        first = timings[0].seconds if timings else seconds
        timings.append(Timing(method, counts.run.workers, seconds, first / max(seconds, 1e-9)))
        tables.append(counts)
        different = _differences(tables[0], counts)
        if different:
            differences[method] = different
    assert tables[0].run is not None
    return Comparison(
        timings=tuple(timings),
        documents=len(documents),
        text_bytes=tables[0].run.text_bytes,
        complete=complete,
        counts=tables[0],
        differences=differences,
        skipped=skipped,
    )


def _differences(
    expected: WordCounts, found: WordCounts, limit: int = 5
) -> list[tuple[Any, int, int]]:
    """Return the tokens whose counts differ most, with the count found and the one expected."""
    if expected == found and expected.document_frequency == found.document_frequency:
        return []
    rows = [
        (token, found.get(token, 0), expected.get(token, 0))
        for token in expected.keys() | found.keys()
    ]
    different = [row for row in rows if row[1] != row[2]]
    different.sort(key=lambda row: (-abs(row[1] - row[2]), str(row[0])))
    return different[:limit] or [("(document frequency)", 0, 0)]
