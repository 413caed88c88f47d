"""A table that is in memory as columns, and becomes dicts when it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from perftricks.wordcount.table.columns import Columns, sorted_blocks
from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.rows import Block, Filter, Row


class ColumnTable:
    """A :class:`~perftricks.wordcount.table.table.Table` of arrays.

    Args:
        size: How many rows there are.
        total: The sum of the counts.
        counts_documents: Whether documents were counted.
        parts: Gives the rows in the order of tables, in parts; those of the first so many are
            enough if a number is given. It is asked whenever rows are read.
        counts: Gives key -> count in any order, if that is faster; None if it is not.
        unordered: Gives the rows in any order, if that is faster; None if it is not.
    """

    def __init__(
        self,
        size: int,
        total: int,
        counts_documents: bool,
        parts: Callable[[int | None], Iterator[Columns]],
        counts: Callable[[], dict[Any, int]] | None = None,
        unordered: Callable[[], Iterator[Columns]] | None = None,
    ) -> None:
        self.total = total
        self.counts_documents = counts_documents
        self._size = size
        self._parts = parts
        self._counts = counts
        self._unordered = unordered
        self._made: MemoryTable | None = None
        self._counted: dict[Any, int] | None = None

    @classmethod
    def of(cls, columns: Columns) -> ColumnTable:
        """Return the table of rows in any order, each key of which occurs once."""
        return cls(
            len(columns),
            int(columns.count.sum()),
            columns.documents is not None,
            columns.ordered_parts,
            unordered=lambda: iter([columns]),
        )

    def __len__(self) -> int:
        return self._size

    def _in_memory(self) -> MemoryTable:
        if self._made is None:
            self._made = MemoryTable.of_columns(
                self._parts(None), document_frequency=self.counts_documents
            )
        return self._made

    def rows(self, n: int | None = None) -> Iterator[Row]:
        """Yield the rows in the order of tables."""
        if self._made is not None:
            yield from self._made.rows(n)
            return
        left = self._size if n is None else max(n, 0)
        for part in self._parts(None if n is None else left):
            if not left:
                return
            yield from part[:left].rows()
            left -= min(len(part), left)

    def columns(self, *, ordered: bool = True) -> Iterator[Columns]:
        """Yield the rows as columns, in parts; in the order of tables if that is asked for."""
        if ordered or self._unordered is None:
            return self._parts(None)
        return self._unordered()

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the rows sorted by key, in blocks of a size."""
        return sorted_blocks(list(self.columns(ordered=False)), size)

    def counts(self, *, ordered: bool = False) -> dict[Any, int]:
        """Return key -> count."""
        if ordered or self._counts is None or self._made is not None:
            self._counted = None
            return self._in_memory().counts(ordered=ordered)
        if self._counted is None:
            self._counted = self._counts()
        return self._counted

    def frequency(self) -> dict[Any, int]:
        """Return key -> documents; empty if they were not counted."""
        return self._in_memory().frequency()

    def filtered(self, chosen: Filter) -> ColumnTable:
        """Return the table without the rows that are not kept."""
        parts = [part.filtered(chosen) for part in self._parts(None)]
        return ColumnTable(
            sum(map(len, parts)),
            sum(int(part.count.sum()) for part in parts),
            self.counts_documents,
            lambda _: (part for part in parts if len(part)),
        )
