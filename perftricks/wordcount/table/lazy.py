"""A table that is somewhere else and becomes dicts when it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.runs import Block, Row
from perftricks.wordcount.table.table import Keep


class LazyTable:
    """A :class:`~perftricks.wordcount.table.table.Table`: its most frequent keys can be had before.

    Args:
        size: How many keys there are.
        total: The sum of the counts.
        counts: Makes the dict of counts.
        frequency: Makes the dict of documents; None if they were not counted.
        top: Gives the most frequent keys of a number with their counts, in the order of tables;
            None if it needs the dict for that.
    """

    def __init__(
        self,
        size: int,
        total: int,
        counts: Callable[[], dict[Any, int]],
        frequency: Callable[[], dict[Any, int]] | None = None,
        top: Callable[[int], list[tuple[Any, int]]] | None = None,
    ) -> None:
        self.total = total
        self.counts_documents = frequency is not None
        self._size = size
        self._make_counts = counts
        self._make_frequency = frequency
        self._top = top
        self._made: MemoryTable | None = None

    def __len__(self) -> int:
        return self._size

    def _in_memory(self) -> MemoryTable:
        if self._made is None:
            frequency = None if self._make_frequency is None else self._make_frequency()
            self._made = MemoryTable(self._make_counts(), frequency)
        return self._made

    def rows(self, n: int | None = None) -> Iterator[Row]:
        """Yield the rows in the order of tables."""
        if n is None or self._top is None or self.counts_documents or self._made is not None:
            return self._in_memory().rows(n)
        return ((key, count, 0) for key, count in self._top(max(n, 0)))

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the rows sorted by key, in blocks of a size."""
        return self._in_memory().blocks(size)

    def counts(self) -> dict[Any, int]:
        """Return key -> count."""
        return self._in_memory().counts()

    def frequency(self) -> dict[Any, int]:
        """Return key -> documents; empty if they were not counted."""
        return self._in_memory().frequency()

    def filtered(self, keep: Keep) -> MemoryTable:
        """Return the table without the rows that are not to be kept."""
        return self._in_memory().filtered(keep)
