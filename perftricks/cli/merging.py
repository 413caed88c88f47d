"""``perftricks wordcount --merge``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

    from perftricks.cli.keywords import KeywordOptions
    from perftricks.cli.table_files import TableFiles
    from perftricks.wordcount.settings import TableFilter

# What --merge goes together with.
_OF_MERGE = frozenset(
    {
        "paths",
        "merge",
        "output",
        "output_format",
        "top",
        "report",
        "title",
        "plot",
        "cloud",
        "font",
        "quiet",
        "json",
    }
    | {"stop_words", "words_only", "min_count", "min_length", "memory_limit", "pos", "tfidf", "idf"}
)


def refuse_others(context: typer.Context) -> None:
    """Refuse options that mean nothing to tables that are added up."""
    from perftricks.wordcount.errors import OptionError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        given = source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
        if given and parameter.name not in _OF_MERGE:
            name = next(name for name in parameter.opts if name.startswith("--"))
            raise OptionError(
                f"--merge adds tables up, to which {name} means nothing; leave it out"
            )


def merge(
    paths: Sequence[str],
    table_filter: TableFilter,
    memory_limit: str | None,
    files: TableFiles,
    top: int,
    chosen: KeywordOptions | None,
    *,
    quiet: bool,
) -> None:
    """Add tables up, write the files, show what came out."""
    from perftricks.cli.render import terminal
    from perftricks.cli.render import wordcount as render
    from perftricks.wordcount.merging import filtered, matched, merge_tables

    began = time.perf_counter()
    paths = matched(paths)
    with terminal.announcer(hidden=quiet) as announce:
        if announce is not None:
            announce("adding up")
        counts = filtered(merge_tables(paths, memory_limit=memory_limit), table_filter)
    left_out = table_filter.describe()
    details = {"sum of": ", ".join(paths), **({"left out": left_out} if left_out else {})}
    weighed = None if chosen is None else render.Weighed.of(chosen, counts)
    files.write(counts, details, weighed and weighed.words, quiet=quiet)
    seconds = time.perf_counter() - began
    if not quiet and not files.json.to_stdout:
        render.show_sum(counts, paths, seconds, weighed, top=top, output=files.name)
        render.show_files(files.figures)
    if files.json.wanted:
        record = render.sum_summary(counts, paths, seconds, weighed, top=top, output=files.name)
        files.json.write({**record, **files.figures})
    sys.stdout.flush()
