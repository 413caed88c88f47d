"""A table that is in memory, as mappings."""

from __future__ import annotations

import heapq
import itertools
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from perftricks.wordcount.errors import TableTooLargeError
from perftricks.wordcount.table.rows import Block, Filter, Row, table_bytes
from perftricks.wordcount.table.runs import blocks_of

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns

_TOO_LARGE = 1 << 63  # for a column of numbers


class MemoryTable:
    """A :class:`~perftricks.wordcount.table.table.Table` of mappings.

    Args:
        counts: Key -> count. A dict is not copied and must not change any more; of what may
            answer otherwise where a key is missing, such as a Counter, a dict is made.
        frequency: Key -> documents, for the same keys; None if they were not counted.
        ordered: Whether the counts are in the order of tables.
    """

    def __init__(
        self,
        counts: Mapping[Any, int],
        frequency: Mapping[Any, int] | None,
        *,
        ordered: bool = False,
    ) -> None:
        self._counts = _as_dict(counts)
        self._frequency = None if frequency is None else _as_dict(frequency)
        self._ordered = ordered

    @classmethod
    def of_columns(cls, parts: Iterable[Columns], *, document_frequency: bool) -> MemoryTable:
        """Return the table of rows in the order of tables, each key of which occurs once."""
        counts: dict[Any, int] = {}
        frequency: dict[Any, int] = {}
        for part in parts:
            keys = part.keys()
            counts.update(zip(keys, part.count.tolist(), strict=True))
            if part.documents is not None:
                frequency.update(zip(keys, part.documents.tolist(), strict=True))
        return cls(counts, frequency if document_frequency else None, ordered=True)

    @classmethod
    def of_rows(
        cls, rows: Iterable[Row], *, document_frequency: bool, ordered: bool = False
    ) -> MemoryTable:
        """Return the table of rows, each key of which occurs once.

        Args:
            rows: The rows.
            document_frequency: Whether documents were counted.
            ordered: Whether the rows are in the order of tables.
        """
        if not document_frequency:
            return cls({key: count for key, count, _ in rows}, None, ordered=ordered)
        counts: dict[Any, int] = {}
        frequency: dict[Any, int] = {}
        for key, count, documents in rows:
            counts[key] = count
            frequency[key] = documents
        return cls(counts, frequency, ordered=ordered)

    @property
    def counts_documents(self) -> bool:
        """Whether documents were counted."""
        return self._frequency is not None

    @property
    def total(self) -> int:
        """The sum of the counts."""
        return sum(self._counts.values())

    def __len__(self) -> int:
        return len(self._counts)

    def rows(self, n: int | None = None) -> Iterator[Row]:
        """Yield the rows in the order of tables."""
        of_key = self._frequency or {}
        return ((key, count, of_key.get(key, 0)) for key, count in self._first(n))

    def _first(self, n: int | None) -> Iterable[tuple[Any, int]]:
        if n is not None and not self._ordered:
            return heapq.nsmallest(n, self._counts.items(), key=lambda pair: (-pair[1], pair[0]))
        self._put_in_order()
        items = self._counts.items()
        return items if n is None else itertools.islice(items, max(n, 0))

    def _put_in_order(self) -> None:
        if not self._ordered:
            # Two stable passes with C keys are several times faster than one with a tuple key.
            by_key = sorted(self._counts.items(), key=itemgetter(0))
            self._counts = dict(sorted(by_key, key=itemgetter(1), reverse=True))
            self._ordered = True

    def columns(self, *, ordered: bool = True) -> Iterator[Columns]:
        """Yield the rows as columns, in parts; in the order of tables if that is asked for."""
        from perftricks.wordcount.table.columns import Columns, columns_of

        of_key = self._frequency or {}
        rows = ((key, count, of_key.get(key, 0)) for key, count in self._counts.items())
        parts = columns_of(rows, document_frequency=self.counts_documents)
        if self._ordered or not ordered or not self._counts:
            return parts
        return Columns.joined(list(parts)).ordered_parts()

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the rows sorted by key, in blocks of a size."""
        of_key = self._frequency or {}
        rows = ((key, self._counts[key], of_key.get(key, 0)) for key in sorted(self._counts))
        return blocks_of(rows, size)

    def counts(self, *, ordered: bool = False) -> dict[Any, int]:
        """Return key -> count."""
        if ordered:
            self._put_in_order()
        return self._counts

    def frequency(self) -> dict[Any, int]:
        """Return key -> documents; empty if they were not counted."""
        return {} if self._frequency is None else self._frequency

    def filtered(self, chosen: Filter) -> MemoryTable:
        """Return the table without the rows that are not kept."""
        kept = {key: count for key, count in self._counts.items() if chosen.keeps(key, count)}
        frequency = self._frequency
        return MemoryTable(
            kept,
            None if frequency is None else {key: frequency[key] for key in kept},
            ordered=self._ordered,
        )


class OnDisk(ABC):
    """A table that is somewhere else, and is held in memory where a dict is asked for.

    Attributes:
        counts_documents: Whether documents were counted.
        memory_limit: Bytes that it may take in memory.
    """

    counts_documents: bool
    memory_limit: int
    _loaded: MemoryTable | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return how many keys there are."""

    @abstractmethod
    def rows(self, n: int | None = None) -> Iterator[Row]:
        """Yield the rows in the order of tables."""

    def counts(self, *, ordered: bool = False) -> dict[Any, int]:
        """Return key -> count, in the order of tables in any case.

        Raises:
            TableTooLargeError: If the memory limit does not allow that.
        """
        return self._load().counts(ordered=ordered)

    def frequency(self) -> dict[Any, int]:
        """Return key -> documents; empty if they were not counted.

        Raises:
            TableTooLargeError: If the memory limit does not allow that.
        """
        return self._load().frequency()

    def _load(self) -> MemoryTable:
        if self._loaded is not None:
            return self._loaded
        documents, limit = self.counts_documents, self.memory_limit
        need = table_bytes(len(self), document_frequency=documents)
        if need > limit:
            raise TableTooLargeError(
                f"the table has {len(self):,} rows, about {need:,} bytes, and the memory limit "
                f"is {limit:,} bytes: raise memory_limit, leave rows out (min_count), or use what "
                "reads it in order: rows(), most_common(n), write_table"
            )
        rows = self.rows()
        self._loaded = MemoryTable.of_rows(rows, document_frequency=documents, ordered=True)
        return self._loaded


def checked_counts(counts: Mapping[Any, int], name: str) -> Mapping[Any, int]:
    """Return counts that the columns of a table can hold; a mapping that has such is not copied.

    Args:
        counts: Key -> count.
        name: What to call them.

    Raises:
        TypeError: If a key is neither a str nor a tuple, or a count is no whole number.
        ValueError: If a count is negative, or too large.
    """
    if not isinstance(counts, Mapping):
        raise TypeError(f"{name} is a {type(counts).__name__}; expected a mapping, token -> count")
    for key in counts:
        if not isinstance(key, (str, tuple)):
            raise TypeError(f"{name}: {key!r} is a key; expected a str, or a tuple of them")
    if not set(map(type, counts.values())) <= {int}:
        counts = {key: _whole(count, key, name) for key, count in counts.items()}
    for key, count in counts.items():
        if not 0 <= count < _TOO_LARGE:
            raise ValueError(f"{name}: {key!r} has {count}; expected 0 to 2**63 - 1")
    return counts


def _whole(count: Any, key: Any, name: str) -> int:
    try:
        return operator.index(count)
    except TypeError:
        raise TypeError(f"{name}: {key!r} has {count!r}; expected a whole number") from None


def _as_dict(mapping: Mapping[Any, int]) -> dict[Any, int]:
    return mapping if type(mapping) is dict else dict(mapping)
