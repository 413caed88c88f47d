"""What a format of tables is: a Protocol, and one file for each.

====================== ===============================================================
:mod:`.delimited`      .tsv, .csv
:mod:`.json_tables`    .json
:mod:`.arrow_tables`   .parquet, .arrow, .feather (with pyarrow)
====================== ===============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

from perftricks.wordcount.table.rows import COUNT, DOCUMENT_FREQUENCY
from perftricks.wordcount.table.saved import Facts

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns
    from perftricks.wordcount.table.counts import WordCounts

Written = Callable[[int], None]  # is told how many more rows have been written


class Found(NamedTuple):
    """What a file of a table holds.

    Attributes:
        parts: The rows in the order of the file.
        facts: What belongs to the table beside its rows; None if the format does not say.
        document_frequency: Whether documents were counted.
    """

    parts: Iterator[Columns]
    facts: Facts | None
    document_frequency: bool


class Format(Protocol):
    """A format of tables in files."""

    def why_not(self) -> str | None:
        """Say why the format cannot be used here; None if it can."""

    def write(self, file: IO[bytes], counts: WordCounts, written: Written) -> None:
        """Write a table.

        Args:
            file: Where to; it need not be one that can seek.
            counts: The table.
            written: Called with the number of rows of each part that has been written.
        """

    def read(self, name: str) -> Found:
        """Read a table.

        Args:
            name: The file.

        Raises:
            CorpusError: If the file is no such table; it names the line. Also while the rows are
                read.
        """


def column_names(counts: WordCounts) -> tuple[str, ...]:
    """Return the names of a table's columns."""
    return (
        *counts.key_names,
        COUNT,
        *([DOCUMENT_FREQUENCY] if counts.has_document_frequency else []),
    )
