"""Method "naive": one process, one loop over all tokens, one growing dict."""

from __future__ import annotations

from perftricks.wordcount.methods.batches import (
    OneProcess,
    Tracker,
    batches,
    finished,
    make_keys,
)
from perftricks.wordcount.methods.method import Counted, Work
from perftricks.wordcount.table.spill import SpillingCounter


class Naive(OneProcess):
    """Counts as the first program of https://kexue.fm/archives/7031 does."""

    def count(self, work: Work) -> Counted:
        """Count all documents; between batches progress is reported."""
        tracker, keys = Tracker(work), make_keys(work, plain=True)
        table = SpillingCounter(work.spill, work.settings.strings)
        keys.prepare()
        for batch in batches(tracker, tracker, work.settings.batch_size):
            for text in batch:
                for key in keys(text):
                    table[key] = table.get(key, 0) + 1
            table.relieve()
        return finished("naive", work, 1, table, tracker.read)
