"""Tables add up: in memory where that is enough, else on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.rows import table_bytes
from perftricks.wordcount.table.spill import Spill
from perftricks.wordcount.table.spilled import SpilledTable
from perftricks.wordcount.table.table import Table

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns

_MOST = 1 << 63  # more does not fit into a column of numbers


def added(tables: Sequence[Table], limit: int) -> Table:
    """Return the sum of tables: the counts of each key together, and so its documents.

    Args:
        tables: One or more; either all of them count documents, or none does.
        limit: Bytes that the sum may take in memory. One that might take more is on the disk.

    Raises:
        SpillError: If the disk is full or fails.

    >>> tea, water = MemoryTable({"茶": 2}, None), MemoryTable({"水": 1, "茶": 1}, None)
    >>> list(added([tea, water], 1 << 20).rows())
    [('茶', 3, 0), ('水', 1, 0)]
    """
    if len(tables) == 1:
        return tables[0]
    documents = any(table.counts_documents for table in tables)
    if table_bytes(sum(map(len, tables)), document_frequency=documents) > limit:
        spill = Spill(limit)
        for table in tables:
            spill.add_table(table)
        return SpilledTable(spill, document_frequency=documents)
    if sum(table.total for table in tables) < _MOST:
        parts = (part for table in tables for part in table.columns())
        return gathered(parts, limit, document_frequency=documents)
    counts: Counter[Any] = Counter()
    frequency: Counter[Any] = Counter()
    for table in tables:
        counts.update(table.counts())
        frequency.update(table.frequency())
    return MemoryTable(counts, frequency if documents else None)


def gathered(parts: Iterable[Columns], limit: int, *, document_frequency: bool) -> Table:
    """Return the table of rows, in which those with the same key add up.

    Args:
        parts: The rows.
        limit: Bytes that the table may take in memory. One that might take more is on the disk.
        document_frequency: Whether documents were counted.

    Raises:
        SpillError: If the disk is full or fails.
    """
    from perftricks.wordcount.table.columnar import ColumnTable
    from perftricks.wordcount.table.columns import Columns, sorted_blocks

    waiting: list[Columns] = []
    rows = 0
    spill: Spill | None = None
    for part in parts:
        waiting.append(part)
        rows += len(part)
        if table_bytes(rows, document_frequency=document_frequency) > limit:
            spill = Spill(limit) if spill is None else spill
            spill.add(sorted_blocks(waiting, spill.block_rows))
            waiting, rows = [], 0
    if spill is not None:
        if waiting:
            spill.add(sorted_blocks(waiting, spill.block_rows))
        return SpilledTable(spill, document_frequency=document_frequency)
    if not waiting:
        return MemoryTable({}, {} if document_frequency else None)
    return ColumnTable.of(Columns.joined(waiting).summed())
