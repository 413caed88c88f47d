"""What ``perftricks wordcount`` does with its options: count or compare, and show."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from perftricks.cli.errors import BAD_DATA, complain, forget_stdout

if TYPE_CHECKING:
    from perftricks.cli.json_files import JsonFile
    from perftricks.cli.keywords import KeywordOptions
    from perftricks.cli.table_files import TableFiles
    from perftricks.wordcount import WordCounts
    from perftricks.wordcount.cluster.engine import ClusterJob
    from perftricks.wordcount.job import FileJob


def count(
    counted_by: FileJob | ClusterJob,
    job: FileJob,
    files: TableFiles,
    top: int,
    command: str,
    chosen: KeywordOptions | None,
    *,
    quiet: bool,
) -> None:
    """Count, write the files, show what came out; name what was skipped, whoever reads on."""
    from perftricks.cli.render import wordcount as render

    with render.progress_bar(hidden=quiet) as progress:
        counts = counted_by.run(progress)
    assert counts.run is not None
    try:
        _show(job, counts, files, top, chosen, quiet=quiet)
    except BrokenPipeError:
        if not counts.run.bad:
            raise
        forget_stdout()
    for path, reason in counts.run.bad:
        complain(command, f"skipped: {path}: {reason}")
    if counts.run.bad:
        raise typer.Exit(BAD_DATA)


def _show(
    job: FileJob,
    counts: WordCounts,
    files: TableFiles,
    top: int,
    chosen: KeywordOptions | None,
    *,
    quiet: bool,
) -> None:
    """Write the files, show what came out."""
    from perftricks.cli.render import wordcount as render

    details = render.report_details(job.settings, job.table_filter)
    weighed = None if chosen is None else render.Weighed.of(chosen, counts)
    seconds = files.write(counts, details, weighed and weighed.words, quiet=quiet)
    if not quiet and not files.json.to_stdout:
        render.show_counts(counts, job, seconds, weighed, top=top, output=files.name)
        render.show_files(files.figures)
    if files.json.wanted:
        record = render.summary(counts, job, seconds, weighed, top=top, output=files.name)
        files.json.write({**record, **files.figures})
    sys.stdout.flush()


def compare(job: FileJob, command: str, json_file: JsonFile, *, quiet: bool) -> None:
    """Run all methods and show how they compare; unequal tables are an error."""
    from perftricks.cli.render import terminal
    from perftricks.cli.render import wordcount as render
    from perftricks.wordcount.methods.compare import compare_methods

    with terminal.announcer(hidden=quiet) as announce:
        comparison = compare_methods(job.feed(), job.settings, progress=announce)
    if not json_file.to_stdout:
        render.show_comparison(comparison)
    if json_file.wanted:
        json_file.write(render.comparison_summary(comparison))
    if not comparison.equal:
        methods = ", ".join(comparison.differences)
        complain(command, f"THE TABLES DIFFER: {methods} against naive. Please report this.")
        raise typer.Exit(BAD_DATA)
