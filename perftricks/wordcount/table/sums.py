"""Tables add up: in memory where that is enough, else on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.spill import Spill
from perftricks.wordcount.table.spilled import SpilledTable
from perftricks.wordcount.table.table import Table, table_bytes


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
    documents = any(table.counts_documents for table in tables)
    if table_bytes(sum(map(len, tables)), document_frequency=documents) > limit:
        spill = Spill(limit)
        for table in tables:
            spill.add_table(table)
        return SpilledTable(spill, document_frequency=documents)
    counts: Counter[Any] = Counter()
    frequency: Counter[Any] = Counter()
    for table in tables:
        counts.update(table.counts())
        frequency.update(table.frequency())
    return MemoryTable(counts, frequency if documents else None)
