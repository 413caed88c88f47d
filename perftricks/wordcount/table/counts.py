"""The table that counting gives: tokens and how often they occur."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from perftricks.wordcount.reading.sources import NotRead
from perftricks.wordcount.table.spill import SpilledTable


@dataclass(frozen=True)
class RunInfo:
    """How a table came about.

    Attributes:
        method: The method that was used: "naive", "batched", "parallel" or "compiled".
        workers: The number of worker processes, or of threads of method "compiled"; 1 where the
            calling process did the work.
        batch_size: The largest number of documents in a batch.
        tokenizer: The tokenizer and its version, such as "jieba 0.42.1".
        files: How many files were read; the standard input is one.
        passed_over: How many files in folders were not read.
        text_bytes: Bytes of text, after decompression.
        stored_bytes: Bytes as stored; the same unless files are compressed.
        seconds: Wall time from the first document to the finished table.
        note: Why the method is not "compiled", where the choice was left open; else empty.
        verified: How many documents were counted once more by jieba, with the same result.
        ngrams: How many tokens make up what was counted.
        spilled: How many parts of the table went to the disk, because it outgrew the memory limit.
            They are merged when the table is first read, which ``seconds`` does not include.
        resumed: "resumed" if a run that was killed went on from its checkpoint, "complete" if the
            checkpoint held all of it; else empty.
        not_read: Files and folders in folders that were not read, each with its reason, and files
            with nothing in them.
        bad: Files that could not be read and count for nothing, each with its reason.
        encodings: Encodings -> files, as encoding "auto" has found out; else empty.
    """

    method: str
    workers: int
    batch_size: int
    tokenizer: str
    files: int
    passed_over: int
    text_bytes: int
    stored_bytes: int
    seconds: float
    note: str = ""
    verified: int = 0
    ngrams: int = 1
    resumed: str = ""
    spilled: int = 0
    not_read: tuple[NotRead, ...] = ()
    bad: tuple[NotRead, ...] = ()
    encodings: Mapping[str, int] = field(default_factory=dict)

    @property
    def megabytes_per_second(self) -> float:
        """Speed in 10**6 bytes of text a second; 0 if there was nothing to read."""
        return self.text_bytes / 1e6 / self.seconds if self.seconds > 0 else 0.0


class LazyTable(Mapping[Any, int]):
    """A table that becomes a dict when it must: the most frequent tokens can be had before.

    Args:
        make: Makes the dict.
        size: How many tokens there are.
        top: Gives the most frequent tokens of a number, as ``WordCounts.most_common`` does.
        total: The sum of the counts.
    """

    __slots__ = ("_make", "_size", "_table", "top", "total")

    def __init__(
        self,
        make: Callable[[], dict[Any, int]],
        size: int,
        top: Callable[[int], list[tuple[Any, int]]] | None = None,
        total: int | None = None,
    ) -> None:
        self.top = top
        self.total = total
        self._make = make
        self._size = size
        self._table: dict[Any, int] | None = None

    def table(self) -> dict[Any, int]:
        """Return the dict, which must not be changed."""
        if self._table is None:
            self._table = self._make()
        return self._table

    def plus(self, other: Mapping[Any, int]) -> LazyTable:
        """Return a table with the counts of another one added."""
        total = Counter(self.table())
        total.update(other)
        table = dict(total)
        return LazyTable(lambda: table, len(table))

    def __getitem__(self, token: Any) -> int:
        return self.table()[token]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.table())

    def __len__(self) -> int:
        return self._size

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.table(),)


class WordCounts(Mapping[Any, int]):
    """A read-only mapping of tokens to counts.

    Iteration follows the order of the table: the largest count first, equal counts by code point.
    So two runs over the same corpus list their tokens in the same order, whatever the number of
    workers. A token is a str; where n-grams were counted, a key is a tuple of tokens.

    A table that outgrew the memory limit is on the disk. Iterating, :meth:`rows`,
    :meth:`most_common`, :meth:`filtered` and ``write_table`` read it from there, a part at a time.
    Looking up a token needs all of it in memory; where the limit does not allow that,
    TableTooLargeError is raised.

    Args:
        counts: Token -> count. The mapping is not copied and must not change any more.
        documents: How many documents were counted.
        tokens: How many tokens were counted, the ones that were filtered out included. By default
            the sum of the counts.
        document_frequency: Token -> the number of documents it occurs in, if that was asked for.
        run: How the table came about.

    >>> counts = WordCounts({"茶": 2, "水": 1, "the": 2}, documents=1)
    >>> counts["茶"], len(counts), counts.tokens
    (2, 3, 5)
    >>> counts.most_common(2)
    [('the', 2), ('茶', 2)]
    >>> counts == {"茶": 2, "水": 1, "the": 2}
    True
    """

    __slots__ = ("_counts", "_document_frequency", "_documents", "_order", "_run", "_tokens")

    def __init__(
        self,
        counts: Mapping[Any, int],
        *,
        documents: int,
        tokens: int | None = None,
        document_frequency: Mapping[Any, int] | None = None,
        run: RunInfo | None = None,
    ) -> None:
        self._counts = counts
        self._documents = documents
        if tokens is None and isinstance(counts, (LazyTable, SpilledTable)):
            tokens = counts.total
        self._tokens = sum(counts.values()) if tokens is None else tokens
        self._document_frequency = document_frequency
        self._run = run
        self._order: list[tuple[Any, int]] | None = None

    @property
    def documents(self) -> int:
        """How many documents were counted, empty ones included."""
        return self._documents

    @property
    def tokens(self) -> int:
        """How many tokens were counted, the ones that were filtered out included."""
        return self._tokens

    @property
    def document_frequency(self) -> Mapping[Any, int] | None:
        """Token -> the number of documents it occurs in; None if that was not asked for."""
        if isinstance(self._counts, SpilledTable) and self._counts.counts_documents:
            return MappingProxyType(self._counts.frequency())
        if self._document_frequency is None:
            return None
        return MappingProxyType(self._document_frequency)

    @property
    def has_document_frequency(self) -> bool:
        """Whether documents were counted; does not load them from the disk."""
        if isinstance(self._counts, SpilledTable):
            return self._counts.counts_documents
        return self._document_frequency is not None

    @property
    def run(self) -> RunInfo | None:
        """How the table came about: method, workers, bytes, seconds."""
        return self._run

    def most_common(self, n: int | None = None) -> list[tuple[Any, int]]:
        """Return the ``n`` most frequent tokens with their counts, all of them by default.

        Args:
            n: How many; None for all.

        Returns:
            Pairs sorted by count, descending, then by the token's code points.
        """
        if isinstance(self._counts, SpilledTable):
            return [(token, count) for token, count, _ in self.rows(n)]
        if n is None:
            return list(self._sorted())
        if self._order is not None:
            return self._order[: max(n, 0)]
        if isinstance(self._counts, LazyTable) and self._counts.top is not None:
            return self._counts.top(max(n, 0))
        return heapq.nsmallest(n, self._counts.items(), key=lambda pair: (-pair[1], pair[0]))

    def rows(self, n: int | None = None) -> Iterator[tuple[Any, int, int | None]]:
        """Yield the table in its order, from the disk if that is where it is.

        Args:
            n: How many rows; None for all.

        Yields:
            The token, its count, and the number of documents it occurs in; None if documents were
            not counted.

        Raises:
            SpillError: If the disk, where the table is, is full or fails.

        >>> list(WordCounts({"茶": 2, "水": 1}, documents=1).rows())
        [('茶', 2, None), ('水', 1, None)]
        """
        if isinstance(self._counts, SpilledTable):
            documents = self._counts.counts_documents
            for token, count, frequency in itertools.islice(
                self._counts.rows(), None if n is None else max(n, 0)
            ):
                yield token, count, frequency if documents else None
            return
        of_token = self._document_frequency
        for token, count in self.most_common(n) if n is not None else self._sorted():
            yield token, count, None if of_token is None else of_token[token]

    def to_counter(self) -> Counter[Any]:
        """Return the counts as a new ``collections.Counter``."""
        return Counter(_as_dict(self._counts))

    def filtered(
        self, *, min_count: int = 1, min_length: int = 0, stop_words: Collection[str] = ()
    ) -> WordCounts:
        """Return the table without some of its tokens; ``documents`` and ``tokens`` stay.

        Args:
            min_count: Keep tokens that occur at least as often.
            min_length: Keep tokens of at least as many characters.
            stop_words: Tokens to leave out. An n-gram is left out if one of its tokens is.

        >>> WordCounts({"茶": 2, "水": 1}, documents=1).filtered(min_count=2)
        WordCounts({'茶': 2}, 1 distinct of 3 tokens in 1 document)
        """
        if min_count <= 1 and min_length <= 0 and not stop_words:
            return self
        dropped = frozenset(stop_words)

        def stays(key: Any) -> bool:
            tokens = key if isinstance(key, tuple) else (key,)
            return all(len(token) >= min_length and token not in dropped for token in tokens)

        if isinstance(self._counts, SpilledTable):
            return WordCounts(
                self._counts.filtered(lambda key, count: count >= min_count and stays(key)),
                documents=self._documents,
                tokens=self._tokens,
                run=self._run,
            )
        kept = {
            key: count for key, count in self._counts.items() if count >= min_count and stays(key)
        }
        frequency = self._document_frequency
        return WordCounts(
            kept,
            documents=self._documents,
            tokens=self._tokens,
            document_frequency=None
            if frequency is None
            else {token: frequency[token] for token in kept},
            run=self._run,
        )

    def _sorted(self) -> list[tuple[Any, int]]:
        if self._order is None:
            # Two stable passes with C keys are several times faster than one with a tuple key.
            by_token = sorted(self._counts.items(), key=itemgetter(0))
            self._order = sorted(by_token, key=itemgetter(1), reverse=True)
        return self._order

    def __getitem__(self, token: Any) -> int:
        return self._counts[token]

    def __contains__(self, token: object) -> bool:
        return token in self._counts

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._counts, SpilledTable):
            return iter(self._counts)
        return (token for token, _ in self._sorted())

    def __len__(self) -> int:
        return len(self._counts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, WordCounts):
            return _as_dict(self._counts) == _as_dict(other._counts)
        if isinstance(other, Mapping):
            return _as_dict(self._counts) == _as_dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to dicts, which have none

    def __repr__(self) -> str:
        shown = ", ".join(f"{token!r}: {count}" for token, count in self.most_common(6))
        more = ", ..." if len(self) > 6 else ""
        documents = "1 document" if self._documents == 1 else f"{self._documents} documents"
        return (
            f"WordCounts({{{shown}{more}}}, {len(self)} distinct of {self._tokens} tokens "
            f"in {documents})"
        )


def _as_dict(table: Mapping[Any, int]) -> dict[Any, int]:
    """Return a table as a dict, which may be the table itself."""
    if isinstance(table, (LazyTable, SpilledTable)):
        return table.table()
    return table if isinstance(table, dict) else dict(table)
