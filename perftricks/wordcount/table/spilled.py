"""A table whose parts are on the disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from perftricks import glibc
from perftricks.wordcount.table.in_memory import OnDisk
from perftricks.wordcount.table.rows import Block, Filter, Row
from perftricks.wordcount.table.runs import Run, merged, read_run
from perftricks.wordcount.table.spill import Spill, flattened

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns


class SpilledTable(OnDisk):
    """A :class:`~perftricks.wordcount.table.table.Table` whose parts are on the disk.

    Its rows can be read in order, again and again, within the memory limit. To look up a key
    all of them are loaded; where the limit does not allow that, TableTooLargeError says so.

    Args:
        spill: The parts.
        document_frequency: Whether documents were counted.
        filters: A row is left in if all of these keep it.
    """

    def __init__(
        self, spill: Spill, *, document_frequency: bool, filters: Sequence[Filter] = ()
    ) -> None:
        self._spill = spill
        self._filters = tuple(filters)
        self.counts_documents = document_frequency
        self._ordered: list[Run] | None = None
        self._size = 0
        self._total = 0
        self.memory_limit = spill.limit

    @property
    def total(self) -> int:
        """The sum of the counts."""
        if not self._filters:
            return self._spill.total
        self._order()
        return self._total

    def rows(self, n: int | None = None) -> Iterator[Row]:
        """Yield the rows in the order of tables, from the disk.

        Raises:
            SpillError: If the disk is full or fails.
        """
        return itertools.islice(self._read(), None if n is None else max(n, 0))

    def _read(self) -> Iterator[Row]:
        runs = self._order()
        with self._spill.explained():
            for block in merged(map(read_run, runs)):
                for negated, key, documents in block:
                    yield key, -negated, documents

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the rows sorted by key, in the blocks that they have.

        Raises:
            SpillError: If the disk is full or fails.
        """
        for block in self._spill.summed():
            for chosen in self._filters:
                block = [row for row in block if chosen.keeps(row[0], row[1])]
            if block:
                yield block

    def filtered(self, chosen: Filter) -> SpilledTable:
        """Return the table without the rows that are not kept."""
        return SpilledTable(
            self._spill,
            document_frequency=self.counts_documents,
            filters=(*self._filters, chosen),
        )

    def _order(self) -> list[Run]:
        """Return the rows as runs in the order of the table."""
        if self._ordered is not None:
            return self._ordered
        # What counting has freed lies between what it keeps, and may not do for what comes now.
        glibc.give_back()
        runs = []
        waiting: Block = []
        size = total = 0
        for block in self.blocks(self._spill.block_rows):
            waiting += ((-count, key, documents) for key, count, documents in block)
            total += sum(count for _, count, _ in block)
            if len(waiting) >= self._spill.rows_in_memory:
                runs.append(self._sorted(waiting))
                size += len(waiting)
                waiting = []
        if waiting:
            runs.append(self._sorted(waiting))
            size += len(waiting)
        self._size, self._total = size, total
        self._spill.reduce(runs, flattened)
        self._ordered = runs
        return self._ordered

    def _sorted(self, rows: Block) -> Run:
        rows.sort()
        size = self._spill.block_rows
        return self._spill.write(rows[start : start + size] for start in range(0, len(rows), size))

    def columns(self, *, ordered: bool = True) -> Iterator[Columns]:
        """Yield the rows as columns, in parts; in the order of tables if that is asked for.

        Raises:
            SpillError: If the disk is full or fails.
        """
        from perftricks.wordcount.table.columns import columns_of

        rows = self.rows() if ordered else flattened(self.blocks(self._spill.block_rows))
        return columns_of(rows, document_frequency=self.counts_documents)

    def __len__(self) -> int:
        self._order()
        return self._size
