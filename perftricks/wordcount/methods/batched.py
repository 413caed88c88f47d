"""Method "batched": one process, a table for each batch of documents, the tables added up."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

from perftricks.wordcount.methods.batches import (
    OneProcess,
    Tracker,
    batches,
    finished,
    make_keys,
)
from perftricks.wordcount.methods.method import Counted, Work
from perftricks.wordcount.table.spill import SpillingCounter

# Of so few characters jieba does not need its whole dictionary.
_FEW_CHARACTERS = 100_000


class Batched(OneProcess):
    """Counts as the second program of https://kexue.fm/archives/7031 does."""

    def count(self, work: Work) -> Counted:
        """Count all documents."""
        settings, tracker, keys = work.settings, Tracker(work), make_keys(work)
        table = SpillingCounter(work.spill, settings.strings)
        documents: Iterator[str] = iter(tracker)
        if settings.method is None:
            first, ended = _first(documents)
            keys.prepare(first if ended else None)
            documents = itertools.chain(first, documents)
        else:
            keys.prepare()
        for batch in batches(tracker, documents, settings.batch_size):
            table.update(Counter(itertools.chain.from_iterable(map(keys, batch))))
        return finished("batched", work, 1, table, tracker.read)


def _first(documents: Iterator[str]) -> tuple[list[str], bool]:
    """Take a few documents, and tell whether they are all there are."""
    first: list[str] = []
    characters = 0
    for text in documents:
        first.append(text)
        characters += len(text) + 1  # so that there is an end to empty documents too
        if characters > _FEW_CHARACTERS:
            return first, False
    return first, True
