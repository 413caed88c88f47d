"""Method "naive": one process, one loop over all tokens, one growing dict."""

from __future__ import annotations

from perftricks.wordcount.methods.batches import (
    Tracker,
    batches,
    estimate,
    finished,
    make_keys,
    why_more_workers,
)
from perftricks.wordcount.methods.method import Counted, Work
from perftricks.wordcount.settings import Settings
from perftricks.wordcount.table.spill import SpillingCounter


class Naive:
    """Counts as the first program of https://kexue.fm/archives/7031 does."""

    def why_not(self, settings: Settings) -> str | None:
        """Say why it cannot count like this: it has no workers."""
        return why_more_workers(settings)

    def estimate(self, settings: Settings, size: float, workers: int) -> float:
        """Return about how many seconds it takes."""
        return estimate(settings, size, 1)

    def count(self, work: Work) -> Counted:
        """Count all documents; between batches progress is reported."""
        tracker, keys = Tracker(work), make_keys(work)
        table = SpillingCounter(work.spill, work.settings.ngrams)
        keys.prepare()
        for batch in batches(tracker, tracker, work.settings.batch_size):
            for text in batch:
                for key in keys(text):
                    table[key] = table.get(key, 0) + 1
            table.relieve()
        return finished("naive", work, 1, table, tracker.read)
