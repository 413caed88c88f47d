"""The files that a command writes a table to: the table itself, a report, a plot."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Annotated, NamedTuple

import typer

from perftricks.cli.errors import complain
from perftricks.cli.json_files import JsonFile

if TYPE_CHECKING:
    from perftricks.wordcount import WordCounts
    from perftricks.wordcount.reading.sources import Source
    from perftricks.wordcount.tfidf import Keyword
    from perftricks.wordcount.writing.export import TableFormat

STDOUT = "-"


CloudOption = Annotated[
    str | None,
    typer.Option(
        "--cloud",
        metavar="FILE",
        help="Draw the most frequent words as a word cloud: .svg or .png (with wordcloud).",
    ),
]

FontOption = Annotated[
    str | None,
    typer.Option(
        "--font",
        metavar="FILE",
        help="The font of --cloud, and of --plot where it is .png or .pdf: .ttf, .otf or .ttc.",
        show_default="an installed one that has the characters",
    ),
]


class TableFiles(NamedTuple):
    """The files to write, each None if it is not wanted, and what the report is about."""

    output: str | IO[bytes] | None
    format: TableFormat | None
    report: str | None
    plot: str | None
    title: str
    json: JsonFile
    cloud: str | None
    font: str | None

    @property
    def figures(self) -> dict[str, str | None]:
        """What there is to look at beside the table: name -> where it is written."""
        return {"report": self.report, "plot": self.plot, "cloud": self.cloud}

    @property
    def name(self) -> str | None:
        """What to call the place where the table is written."""
        return self.output if isinstance(self.output, str | None) else STDOUT

    def check(
        self, sources: Sequence[Source], taken: Sequence[str | None], *, chinese: bool = False
    ) -> None:
        """Check that they can be written, before the work.

        Args:
            sources: The files that are counted.
            taken: Other files that are read.
            chinese: Whether the words will be Chinese.

        Raises:
            OptionError: If not.
        """
        from perftricks.wordcount.errors import OptionError
        from perftricks.wordcount.writing import check_cloud, check_plot, check_report
        from perftricks.wordcount.writing.export import check_apart, check_output, check_place
        from perftricks.wordcount.writing.fonts import check_font

        # What stands for a stream that is closed writes nowhere.
        json_file = None if self.json.to_stdout else self.json.path
        written = [self.output, self.report, self.plot, self.cloud, json_file]
        if sys.__stdout__ is None and not any(written):
            raise OptionError("the standard output is closed: name a file with --output")
        if self.output == STDOUT:
            raise OptionError("output '-': the standard output is closed; name a file")
        if isinstance(self.output, str):
            check_output(self.output, sources, format=self.format)
        if self.report is not None:
            check_report(self.report, sources)
        if self.plot is not None:
            check_plot(self.plot, sources)
        if self.cloud is not None:
            check_cloud(self.cloud, sources, font=self.font, chinese=chinese)
        elif self.font is not None and (self.plot or "").lower().endswith((".png", ".pdf")):
            check_font(self.font)
        elif self.font is not None:
            raise OptionError("--font is for --cloud, and for --plot FILE.png or .pdf")
        if self.name == STDOUT and self.json.to_stdout:
            raise OptionError(
                "--output - and --json - are both the standard output; name a file for one of them"
            )
        try:
            self.json.check()
        except ValueError as error:
            raise OptionError(str(error)) from None
        if json_file is not None:
            check_place(json_file, sources)
        check_apart([one for one in written if one is None or isinstance(one, str)], taken)

    def write(
        self,
        counts: WordCounts,
        details: Mapping[str, str],
        words: Sequence[Keyword] | None = None,
        *,
        quiet: bool,
    ) -> float:
        """Write them, and return the seconds that took; keywords in place of counts if given."""
        from perftricks.cli.render import wordcount as render
        from perftricks.wordcount.writing import write_cloud, write_plot, write_report
        from perftricks.wordcount.writing.export import write_table
        from perftricks.wordcount.writing.keyword_tables import write_keywords

        began = time.perf_counter()
        if self.output is not None and words is not None:
            write_keywords(self.output, words, format=self.format)
        elif self.output is not None:
            with render.row_bar(hidden=quiet) as progress:
                write_table(self.output, counts, format=self.format, progress=progress)
        if self.report is not None:
            write_report(self.report, counts, title=self.title, details=details)
        if self.plot is not None:
            write_plot(self.plot, counts, font=self.font)
        if self.cloud is not None:
            with warnings.catch_warnings(record=True) as doubts:
                warnings.simplefilter("always", UserWarning)
                write_cloud(self.cloud, counts, font=self.font)
            for doubt in doubts:
                complain("perftricks wordcount", f"warning: {doubt.message}")
        return time.perf_counter() - began
