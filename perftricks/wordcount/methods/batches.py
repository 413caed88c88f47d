"""What the methods share that use the tokenizer itself: batches, progress, the finished table."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from perftricks.wordcount.methods.keys import TokenKeys
from perftricks.wordcount.methods.method import (
    JIEBA_BYTES_PER_SECOND,
    JIEBA_SECONDS,
    Counted,
    Work,
)
from perftricks.wordcount.settings import MethodName, Settings
from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.spill import SpillingCounter, separated
from perftricks.wordcount.table.spilled import SpilledTable
from perftricks.wordcount.table.table import Table
from perftricks.wordcount.tokenizers import is_jieba_ready

# A batch of long documents is closed early, which bounds memory and keeps progress moving.
_BATCH_CHARACTERS = 500_000


def estimate(settings: Settings, size: float, workers: int) -> float:
    """Return about how many seconds so many processes take with the tokenizer itself."""
    ready = is_jieba_ready() and not settings.spec.has_dictionaries
    return size / (JIEBA_BYTES_PER_SECOND * workers) + (0 if ready else JIEBA_SECONDS)


class OneProcess:
    """What methods of the calling process have in common: no workers."""

    def why_not(self, settings: Settings) -> str | None:
        """Say why it cannot count like this: workers were asked for."""
        if settings.workers in (None, 1):
            return None
        return f"it works in one process; leave workers={settings.workers} out, or use 'parallel'"

    def estimate(self, settings: Settings, size: float, workers: int) -> float:
        """Return about how many seconds it takes."""
        return estimate(settings, size, 1)


def make_keys(work: Work, workers: int = 1, *, plain: bool = False) -> TokenKeys:
    """Return what gives the keys of a document."""
    settings = work.settings
    return TokenKeys(
        settings.spec,
        settings.document_frequency,
        settings.ngrams,
        limit=settings.limit // workers,
        plain=plain,
    )


def finished(
    method: MethodName, work: Work, workers: int, counter: SpillingCounter, documents: int
) -> Counted:
    """Return what was counted; from the disk, if the table outgrew the memory limit."""
    spill, document_frequency = work.spill, work.settings.document_frequency
    table: Table
    if spill.runs:
        spill.add_counter(counter)
        table = SpilledTable(spill, document_frequency=document_frequency)
    elif document_frequency:
        table = MemoryTable(*separated(counter))
    else:
        table = MemoryTable(counter, None)
    return Counted(method, workers, table, documents)


def batches(tracker: Tracker, documents: Iterable[str], batch_size: int) -> Iterator[list[str]]:
    """Yield batches of documents, and report each once the next one is asked for."""
    batch: list[str] = []
    characters = done = 0
    for text in documents:
        batch.append(text)
        characters += len(text)
        if len(batch) >= batch_size or characters >= _BATCH_CHARACTERS:
            yield batch
            done += len(batch)
            tracker.delivered(done)
            batch, characters = [], 0
    yield batch
    tracker.delivered(done + len(batch))


class Tracker:
    """Passes documents on, and tells how many bytes those that have been counted make up."""

    def __init__(self, work: Work) -> None:
        self.read = 0
        self._feed = work.feed
        self._progress = work.progress
        self._marks: deque[tuple[int, int]] = deque()  # documents read, bytes read by then

    def __iter__(self) -> Iterator[str]:
        meter = self._feed.meter
        for text in self._feed:
            self.read += 1
            if self._progress is not None and (
                not self._marks or self._marks[-1][1] != meter.stored
            ):
                self._marks.append((self.read, meter.stored))
            yield text

    def delivered(self, documents: int) -> None:
        """Report that so many documents have been counted."""
        if self._progress is None:
            return
        position = None
        while self._marks and self._marks[0][0] <= documents:
            position = self._marks.popleft()[1]
        if documents == self.read:
            position = self._feed.meter.stored
        if position is not None:
            self._progress(position, self._feed.total)
