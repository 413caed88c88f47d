"""Method "parallel": batches of documents go to worker processes, each sends a table back."""

from __future__ import annotations

from perftricks.wordcount.methods.batches import Tracker, estimate, finished, make_keys
from perftricks.wordcount.methods.method import Counted, Work
from perftricks.wordcount.settings import Settings
from perftricks.wordcount.table.spill import SpillingCounter
from perftricks.wordcount.tokenizers import WorkerSetup

# Seconds that it takes until workers have started.
_START = 0.33


class Parallel:
    """Counts as the third program of https://kexue.fm/archives/7031 means to."""

    def why_not(self, settings: Settings) -> str | None:
        """Say why it cannot count like this: fresh workers may not get the tokenizer."""
        if settings.start_method == "fork":
            return None
        stays = settings.spec.why_it_stays()
        if stays is None or settings.start_method is None:
            return stays
        return f"with start_method {settings.start_method!r} {stays}; use 'batched', or 'fork'"

    def estimate(self, settings: Settings, size: float, workers: int) -> float:
        """Return about how many seconds it takes."""
        return estimate(settings, size, workers) + _START

    def count(self, work: Work) -> Counted:
        """Count all documents."""
        from perftricks.parallel import parallel_count

        settings, tracker = work.settings, Tracker(work)
        keys = make_keys(work, work.workers)
        table = SpillingCounter(work.spill, settings.strings)
        keys.prepare()  # before workers fork, so that they share it
        parallel_count(
            keys,
            tracker,
            work.workers,
            settings.batch_size,
            initializer=WorkerSetup(settings.spec),
            progress=tracker.delivered,
            start_method=settings.start_method,
            into=table,
        )
        return finished("parallel", work, work.workers, table, tracker.read)
