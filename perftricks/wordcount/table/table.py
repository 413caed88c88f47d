"""What a table of counts is, wherever it is kept: a Protocol, and one file for each place.

====================== ===============================================================
:mod:`.in_memory`      dicts
:mod:`.columnar`       arrays, which become dicts when they must
:mod:`.spilled`        parts on the disk, which are read in order
====================== ===============================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from perftricks.wordcount.table.rows import Block, Filter, Row

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns


class Table(Protocol):
    """Keys, their counts, and in how many documents each occurs if that was counted.

    A key is a token, a tuple of tokens where n-grams were counted, or a :class:`Tagged`.
    """

    @property
    def counts_documents(self) -> bool:
        """Whether documents were counted."""

    @property
    def total(self) -> int:
        """The sum of the counts."""

    def __len__(self) -> int:
        """Return how many keys there are."""

    def rows(self, n: int | None = None) -> Iterator[Row]:
        """Yield (key, count, documents or 0), the largest count first, equal counts by key.

        Args:
            n: How many; None for all.
        """

    def columns(self, *, ordered: bool = True) -> Iterator[Columns]:
        """Yield the rows as columns, in parts.

        Args:
            ordered: Whether they have to be in the order of tables, which takes longer.
        """

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the rows sorted by key, in blocks of about a size."""

    def counts(self, *, ordered: bool = False) -> dict[Any, int]:
        """Return key -> count, which must not be changed.

        Args:
            ordered: Whether the dict has to be in the order of tables.

        Raises:
            TableTooLargeError: If the memory limit does not allow that.
        """

    def frequency(self) -> dict[Any, int]:
        """Return key -> documents, which must not be changed; empty if they were not counted.

        Raises:
            TableTooLargeError: If the memory limit does not allow that.
        """

    def filtered(self, chosen: Filter) -> Table:
        """Return the table without the rows that are not kept."""
