"""The files that a command writes a table to: the table itself, a report, a plot."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from perftricks.wordcount import WordCounts
    from perftricks.wordcount.reading.sources import Source
    from perftricks.wordcount.writing.export import TableFormat

STDOUT = "-"


class TableFiles(NamedTuple):
    """The files to write, each None if it is not wanted, and what the report is about."""

    output: str | IO[bytes] | None
    format: TableFormat | None
    report: str | None
    plot: str | None
    title: str

    @property
    def name(self) -> str | None:
        """What to call the place where the table is written."""
        return self.output if isinstance(self.output, str | None) else STDOUT

    def check(self, sources: Sequence[Source], taken: Sequence[str | None]) -> None:
        """Check that they can be written, before the work.

        Args:
            sources: The files that are counted.
            taken: Other files that are read.

        Raises:
            OptionError: If not.
        """
        from perftricks.wordcount.errors import OptionError
        from perftricks.wordcount.writing import check_plot, check_report
        from perftricks.wordcount.writing.export import check_apart, check_output

        # What stands for a stream that is closed writes nowhere.
        if sys.__stdout__ is None and not (self.output or self.report or self.plot):
            raise OptionError("the standard output is closed: name a file with --output")
        if self.output == STDOUT:
            raise OptionError("output '-': the standard output is closed; name a file")
        if isinstance(self.output, str):
            check_output(self.output, sources, format=self.format)
        if self.report is not None:
            check_report(self.report, sources)
        if self.plot is not None:
            check_plot(self.plot, sources)
        written = self.output if isinstance(self.output, str) else None
        check_apart([written, self.report, self.plot], taken)

    def write(self, counts: WordCounts, details: Mapping[str, str], *, quiet: bool) -> float:
        """Write them, and return the seconds that took."""
        from perftricks.cli.render import wordcount as render
        from perftricks.wordcount.writing import write_plot, write_report
        from perftricks.wordcount.writing.export import write_table

        began = time.perf_counter()
        if self.output is not None:
            with render.row_bar(hidden=quiet) as progress:
                write_table(self.output, counts, format=self.format, progress=progress)
        if self.report is not None:
            write_report(self.report, counts, title=self.title, details=details)
        if self.plot is not None:
            write_plot(self.plot, counts)
        return time.perf_counter() - began
