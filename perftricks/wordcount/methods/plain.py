"""The methods that use the tokenizer itself: naive, batched and parallel."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from perftricks.wordcount.errors import TokenizerError, too_long
from perftricks.wordcount.reading.feeds import Feed
from perftricks.wordcount.settings import Method, Settings
from perftricks.wordcount.table.spill import Spill, SpilledTable, SpillingCounter, separated
from perftricks.wordcount.tokenizers import Cut, TokenizerSpec, WorkerSetup

Progress = Callable[[int, int | None], object]

# Characters that a process counts with jieba in about a third of a second, which is what starting
# workers is worth at least.
_SMALL_TEXT = 100_000

# Bytes that jieba takes for each character of a stretch that it cuts as one, and how many
# characters such a stretch may have in any case.
_JIEBA_BYTES = 500
_LONG = 1 << 16

# A batch of long documents is closed early, which bounds memory and keeps progress moving.
_BATCH_CHARACTERS = 500_000


class Counted(NamedTuple):
    """What a method gives."""

    method: Method
    workers: int
    counts: Mapping[Any, int]
    frequency: Mapping[Any, int] | None
    documents: int
    verified: int = 0
    note: str = ""


def count_plainly(
    feed: Feed, settings: Settings, workers: int, progress: Progress | None, spill: Spill
) -> Counted:
    """Count the documents of a feed with the tokenizer itself.

    Args:
        feed: The documents.
        settings: How to count; method "compiled" is not meant.
        workers: How many processes may work.
        progress: Called with the bytes done and the bytes there are.
        spill: Where the table goes if it outgrows the memory limit.
    """
    tracker = _Tracker(feed, progress)
    documents, method, workers, note = _choose(iter(tracker), settings, workers)
    keys = TokenKeys(
        settings.spec,
        settings.document_frequency,
        settings.ngrams,
        limit=settings.limit // workers,
    )
    keys.prepare(documents if isinstance(documents, list) else None)
    table = SpillingCounter(spill, settings.ngrams)
    if method == "parallel":
        _parallel(documents, keys, settings, workers, tracker.delivered, table)
    else:
        count = _naive if method == "naive" else _batched
        count(_batches(documents, settings.batch_size, tracker.delivered), keys, table)
    counts: Mapping[Any, int] = table
    frequency = None
    if spill.runs:
        spill.add_table(table)
        counts = SpilledTable(spill, document_frequency=settings.document_frequency)
    elif settings.document_frequency:
        counts, frequency = separated(table)
    return Counted(method, workers, counts, frequency, tracker.read, note=note)


def _choose(
    documents: Iterator[str], settings: Settings, workers: int
) -> tuple[Iterable[str], Method, int, str]:
    """Return the documents, the method, the number of workers it uses, and a note.

    Left the choice, a small corpus is counted in the calling process, before workers would have
    started; its documents are a list. So is a corpus for a tokenizer that workers may not get.
    """
    if settings.method is not None:
        return documents, settings.method, workers if settings.method == "parallel" else 1, ""
    first: list[str] = []
    characters = 0
    for text in documents:
        first.append(text)
        characters += len(text) + 1  # so that there is an end to empty documents too
        if characters > _SMALL_TEXT:
            rest = itertools.chain(first, documents)
            stays = None if settings.start_method == "fork" else settings.spec.why_it_stays()
            if workers == 1 or stays is not None:
                return rest, "batched", 1, f"not parallel: {stays}" if stays else ""
            return rest, "parallel", workers, ""
    return first, "batched", 1, ""


def _batches(
    documents: Iterable[str], batch_size: int, delivered: Callable[[int], None]
) -> Iterator[list[str]]:
    """Yield batches of documents, and report each once the next one is asked for."""
    batch: list[str] = []
    characters = done = 0
    for text in documents:
        batch.append(text)
        characters += len(text)
        if len(batch) >= batch_size or characters >= _BATCH_CHARACTERS:
            yield batch
            done += len(batch)
            delivered(done)
            batch, characters = [], 0
    yield batch
    delivered(done + len(batch))


def _naive(batches: Iterable[list[str]], keys: TokenKeys, table: SpillingCounter) -> None:
    """Count as the blog's first program does; between batches progress is reported."""
    for batch in batches:
        for text in batch:
            for key in keys(text):
                table[key] = table.get(key, 0) + 1
        table.relieve()


def _batched(batches: Iterable[list[str]], keys: TokenKeys, table: SpillingCounter) -> None:
    """Count each batch in a table of its own and add up the tables."""
    for batch in batches:
        table.update(Counter(itertools.chain.from_iterable(map(keys, batch))))


def _parallel(
    documents: Iterable[str],
    keys: TokenKeys,
    settings: Settings,
    workers: int,
    delivered: Callable[[int], None],
    table: SpillingCounter,
) -> None:
    """Count batches in worker processes; each sends a table for each batch."""
    from perftricks.parallel import parallel_count

    parallel_count(
        keys,
        documents,
        workers,
        settings.batch_size,
        initializer=WorkerSetup(settings.spec),
        progress=delivered,
        start_method=settings.start_method,
        into=table,
    )


class TokenKeys:
    """Gives what to count for a document: its tokens or n-grams, and each once in a 1-tuple.

    The 1-tuples are there for the document frequency only. They travel in the same table, so that
    a document is either counted in both or in neither.
    """

    def __init__(
        self,
        spec: TokenizerSpec,
        document_frequency: bool,
        ngrams: int = 1,
        *,
        limit: int | None = None,
    ) -> None:
        self.spec = spec
        self.limit = limit
        self.document_frequency = document_frequency
        self.ngrams = ngrams
        self._cut: Cut | None = None

    def prepare(self, texts: Sequence[str] | None = None) -> None:
        """Make the tokenizer; before workers fork, so that they share it.

        Args:
            texts: The only documents there are, if they are few and short.
        """
        self._cut = self.spec.load() if texts is None else self.spec.load_for(texts)

    def __call__(self, text: str) -> Iterable[Any]:
        """Return what to count for a document.

        Raises:
            TokenizerError: If jieba would need more memory for it than the limit.
        """
        if self._cut is None:
            self.prepare()
            assert self._cut is not None
        if self.limit is not None and len(text) > _LONG and self.spec.uses_jieba:
            check_stretches(text, self.limit)
        tokens: Iterable[Any] = self._cut(text)
        if self.ngrams > 1:
            one = list(tokens)
            tokens = zip(*(one[first:] for first in range(self.ngrams)), strict=False)
        if not self.document_frequency:
            return tokens
        tokens = list(tokens)
        return [*tokens, *((token,) for token in set(tokens))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cut": None}  # made anew where it is needed


def check_stretches(text: str, limit: int) -> None:
    """Look whether jieba can cut a text within a memory limit.

    Args:
        text: A document.
        limit: The limit in bytes.

    Raises:
        TokenizerError: If not.
    """
    from jieba import re_han_default

    longest = max((m.end() - m.start() for m in re_han_default.finditer(text)), default=0)
    if longest > max(limit // _JIEBA_BYTES, _LONG):
        what = f"a stretch of {longest:,} characters that jieba cuts as one"
        need = f"about {longest * _JIEBA_BYTES:,} bytes"
        start = f"a document that starts with {text[:20]!r}"
        raise TokenizerError(f"{start}: {too_long(what, need, limit)}")


class _Tracker:
    """Passes documents on, and tells how many bytes those that have been counted make up."""

    def __init__(self, feed: Feed, progress: Progress | None) -> None:
        self.read = 0
        self._feed = feed
        self._progress = progress
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
