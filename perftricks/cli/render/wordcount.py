"""What ``perftricks wordcount`` shows."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.filesize import decimal

from perftricks.cli.render.terminal import print_facts, print_line, show_table
from perftricks.wordcount.table.printable import printable
from perftricks.wordcount.table.rows import Tagged

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from perftricks.cli.keywords import KeywordOptions
    from perftricks.wordcount.job import FileJob
    from perftricks.wordcount.methods.compare import Comparison
    from perftricks.wordcount.methods.method import Progress
    from perftricks.wordcount.reading.sources import NotRead
    from perftricks.wordcount.settings import Settings, TableFilter
    from perftricks.wordcount.table.counts import RunInfo, WordCounts
    from perftricks.wordcount.tfidf import Keyword

_REFRESH_SECONDS = 0.1
_FACT_WIDTH = 10


@contextlib.contextmanager
def progress_bar(*, hidden: bool = False) -> Iterator[Progress | None]:
    """Show a bar over bytes on stderr while the block runs.

    Args:
        hidden: Show nothing.

    Yields:
        A function to call with the bytes done and the bytes there are; None when there is no
        terminal to show anything on.
    """
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich import progress

    with _bar(
        "counting",
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
    ) as update:
        yield update


@contextlib.contextmanager
def row_bar(*, hidden: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar over the rows that are written, like :func:`progress_bar`."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich import progress

    rows = progress.TextColumn("writing {task.completed:,} of {task.total:,} rows")
    with _bar("writing", rows, total=1) as update:
        yield update


@contextlib.contextmanager
def _bar(
    what: str, *columns: ProgressColumn, total: int | None = None
) -> Iterator[Callable[[int, int | None], None]]:
    from rich import progress

    # No refreshing thread: workers are forked from this process.
    bar = progress.Progress(
        progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(),
        *columns,
        console=Console(stderr=True),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
        expand=True,
    )
    task = bar.add_task(what, total=total)
    refreshed = 0.0

    def update(done: int, total: int | None) -> None:
        nonlocal refreshed
        bar.update(task, completed=done, total=total)
        if time.monotonic() - refreshed >= _REFRESH_SECONDS:
            bar.refresh()
            refreshed = time.monotonic()

    with bar:
        bar.refresh()
        yield update


class Weighed(NamedTuple):
    """Keywords to show, and which they are."""

    options: KeywordOptions
    words: list[Keyword]

    @classmethod
    def of(cls, options: KeywordOptions, counts: WordCounts) -> Weighed:
        """Find the keywords of a table."""
        return cls(options, options.of(counts))

    def shown(self, top: int) -> list[Keyword]:
        """Return those to show where so many are if nobody says how many."""
        return self.words[: top and (self.options.n or top)]


def show_counts(
    counts: WordCounts,
    job: FileJob,
    writing: float,
    weighed: Weighed | None = None,
    *,
    top: int,
    output: str | None,
) -> None:
    """Print the most frequent tokens, then what was counted and how fast.

    Args:
        counts: The table; ``counts.run`` must be there.
        job: How it was counted.
        writing: Seconds that writing files took.
        weighed: Keywords to show in place of the most frequent tokens.
        top: How many tokens to show.
        output: Where the whole table was written to.
    """
    _show_rows(counts, weighed, top)
    facts = _facts(counts, job, writing, output)
    if weighed is not None:
        facts["weights"] = weighed.options.describe()
    print_facts(facts, width=_FACT_WIDTH)


def show_files(paths: Mapping[str, str | None]) -> None:
    """Print where figures were written to: name -> path, None for what was not asked for."""
    written = {name: printable(path) for name, path in paths.items() if path is not None}
    if written:
        print_facts(written, width=_FACT_WIDTH)


def show_sum(
    counts: WordCounts,
    paths: Sequence[str],
    seconds: float,
    weighed: Weighed | None = None,
    *,
    top: int,
    output: str | None,
) -> None:
    """Print the most frequent tokens of a sum of tables, then what was added up.

    Args:
        counts: The sum.
        paths: The tables.
        seconds: What all of it took.
        weighed: Keywords to show in place of the most frequent tokens.
        top: How many tokens to show.
        output: Where the sum was written to.
    """
    _show_rows(counts, weighed, top)
    known = counts.facts.documents
    facts = {
        "tables": f"{len(paths):,}, in {seconds:.2f} s",
        "documents": "not known: a table does not say" if known is None else f"{known:,}",
        "tokens": f"{counts.tokens:,}",
        "distinct": f"{len(counts):,}",
    }
    if weighed is not None:
        facts["weights"] = weighed.options.describe()
    if output is not None:
        facts["table"] = "standard output" if output == "-" else printable(output)
    print_facts(facts, width=_FACT_WIDTH)


def sum_summary(
    counts: WordCounts,
    paths: Sequence[str],
    seconds: float,
    weighed: Weighed | None = None,
    *,
    top: int,
    output: str | None,
) -> dict[str, Any]:
    """Return a sum of tables for machines; see :func:`show_sum`."""
    return {
        "tables": list(paths),
        "documents": counts.facts.documents,
        "tokens": counts.tokens,
        "distinct": len(counts),
        "seconds": round(seconds, 3),
        "output": output,
        **_top(counts, weighed, top),
    }


def report_details(settings: Settings, table_filter: TableFilter) -> dict[str, str]:
    """Return what a report says about how was counted that the table does not know."""
    spec = settings.spec
    text = table_filter.describe()
    left_out = {"left out": text} if text else {}
    if not spec.uses_jieba:
        return left_out
    hmm = {} if spec.mode == "all" else {"HMM": "on" if spec.hmm else "off"}
    own = {} if spec.dictionary is None else {"user dictionary": "yes"}
    if spec.main is not None:
        own["dictionary"] = "another than jieba's own"
    return {"mode": spec.mode, **hmm, **own, **left_out}


def _show_rows(counts: WordCounts, weighed: Weighed | None, top: int) -> None:
    if weighed is None:
        rows = list(counts.rows(top))
        if rows:
            _show_tokens(counts, rows)
            print()
        return
    words = weighed.shown(top)
    if not words:
        return
    documents = words[0].document_frequency is not None
    cells = [
        [
            *(map(printable, word.key) if isinstance(word.key, Tagged) else [printable(word.key)]),
            f"{word.count:,}",
            *([f"{word.document_frequency:,}"] if documents else []),
            f"{word.weight:.6f}",
        ]
        for word in words
    ]
    header = [*counts.key_names, "count", *(["documents"] if documents else []), "tf-idf"]
    show_table(header, cells, text_columns=len(counts.key_names))
    print()


def _top(counts: WordCounts, weighed: Weighed | None, top: int) -> dict[str, Any]:
    """Return the first rows for machines."""
    if weighed is None:
        return {"top": [_top_row(counts, *row) for row in counts.rows(top)]}
    from perftricks.wordcount.writing.keyword_tables import records

    return {"idf": weighed.options.name, "keywords": list(records(weighed.shown(top)))}


def _show_tokens(counts: WordCounts, rows: list[tuple[Any, int, int | None]]) -> None:
    header = [*counts.key_names, "count", "share"] + (
        ["documents"] if counts.has_document_frequency else []
    )

    def cells(token: Any, count: int, frequency: int | None) -> list[str]:
        documents = [] if frequency is None else [f"{frequency:,}"]
        keys = map(printable, token) if isinstance(token, Tagged) else [printable(token)]
        return [*keys, f"{count:,}", f"{count / counts.tokens:.2%}", *documents]

    show_table(
        header,
        [cells(*row) for row in rows],
        bars=[count for _, count, _ in rows],
        text_columns=len(counts.key_names),
    )


def show_comparison(comparison: Comparison) -> None:
    """Print the times of the methods and whether their tables are equal."""
    which = "all" if comparison.complete else "the first"
    size = decimal(comparison.text_bytes)
    print_line(f"{which} {size} of text, {comparison.documents:,} documents")
    print()
    rows = [
        [
            timing.method,
            f"{timing.workers:,}",
            f"{timing.seconds:.2f} s",
            f"{comparison.text_bytes / 1e6 / max(timing.seconds, 1e-9):.2f}",
            f"{timing.ratio:.2f}x",
            "NO" if timing.method in comparison.differences else "yes",
        ]
        for timing in comparison.timings
    ]
    show_table(["method", "workers", "time", "MB/s", "against naive", "same table"], rows)
    print()
    counts = comparison.counts
    if comparison.equal:
        print_line(f"all tables are equal: {counts.tokens:,} tokens, {len(counts):,} distinct")
    for method, reason in comparison.skipped.items():
        print_line(f"{method} was not run: {reason}")
    for method, tokens in comparison.differences.items():
        for token, found, expected in tokens:
            print_line(f"{printable(token)}: {method} counts {found:,}, naive {expected:,}")


def summary(
    counts: WordCounts,
    job: FileJob,
    writing: float,
    weighed: Weighed | None = None,
    *,
    top: int,
    output: str | None,
) -> dict[str, Any]:
    """Return the result for machines.

    Args:
        counts: The table; ``counts.run`` must be there.
        job: How it was counted.
        writing: Seconds that writing files took.
        weighed: Keywords in place of the most frequent tokens.
        top: How many tokens to include.
        output: Where the whole table was written to.
    """
    run = counts.run
    assert run is not None
    spec = job.settings.spec
    return {
        "documents": counts.documents,
        "tokens": counts.tokens,
        "distinct": len(counts),
        "files": run.files,
        "files_passed_over": run.passed_over,
        "not_read": _rows(run.not_read),
        "bad": _rows(run.bad),
        "encodings": dict(run.encodings) or None,
        "text_bytes": run.text_bytes,
        "stored_bytes": run.stored_bytes,
        "seconds": round(run.seconds + writing, 3),
        "writing_seconds": round(writing, 3),
        "megabytes_per_second": round(_speed(run, writing), 3),
        "method": run.method,
        "method_note": run.note or None,
        "workers": run.workers,
        "batch_size": run.batch_size,
        "tokenizer": run.tokenizer,
        "mode": spec.mode if spec.uses_jieba else None,
        "hmm": spec.hmm and spec.mode != "all" if spec.uses_jieba else None,
        "user_dict": spec.dictionary is not None,
        "dictionary": spec.main is not None,
        "ngrams": run.ngrams,
        "pos": _tags(job.settings, job.table_filter),
        "left_out": job.table_filter.describe() or None,
        "verified": run.verified if job.settings.verify else None,
        "resumed": run.resumed or None,
        "spilled": run.spilled,
        "output": output,
        **_top(counts, weighed, top),
    }


def _rows(files: Iterable[NotRead]) -> list[dict[str, str]]:
    return [file._asdict() for file in files]


def comparison_summary(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison for machines."""
    return {
        "documents": comparison.documents,
        "text_bytes": comparison.text_bytes,
        "complete": comparison.complete,
        "tokens": comparison.counts.tokens,
        "distinct": len(comparison.counts),
        "equal": comparison.equal,
        "skipped": comparison.skipped,
        "methods": [
            {
                "method": timing.method,
                "workers": timing.workers,
                "seconds": round(timing.seconds, 3),
                "ratio": round(timing.ratio, 3),
            }
            for timing in comparison.timings
        ],
    }


def _speed(run: RunInfo, writing: float) -> float:
    """Return the megabytes of text a second, from the first byte read to the last one written."""
    return run.text_bytes / 1e6 / max(run.seconds + writing, 1e-9)


def _facts(counts: WordCounts, job: FileJob, writing: float, output: str | None) -> dict[str, str]:
    run = counts.run
    assert run is not None
    stored = "" if run.stored_bytes == run.text_bytes else f", {decimal(run.stored_bytes)} stored"
    written = f", {writing:.2f} s of which to write" if output is not None else ""
    passed_over = f", {run.passed_over:,} passed over" if run.passed_over else ""
    bad = f", {len(run.bad):,} SKIPPED, which could not be read" if run.bad else ""
    facts = {
        "documents": f"{counts.documents:,}",
        "tokens": f"{counts.tokens:,}",
        "distinct": f"{len(counts):,}",
        "files": f"{run.files:,}{passed_over}{bad}",
        "speed": f"{_speed(run, writing):.2f} MB/s ({decimal(run.text_bytes)} of text{stored}, "
        f"in {run.seconds + writing:.2f} s{written})",
        "workers": f"{run.workers:,}",
        "method": run.method + (f" (not compiled: {run.note})" if run.note else ""),
        "tokenizer": _tokenizer(job.settings, run.tokenizer),
    }
    if run.encodings:
        files = (f"{name} ({count:,})" for name, count in sorted(run.encodings.items()))
        facts["encoding"] = ", ".join(files) + ", found out"
    if run.ngrams > 1:
        facts["tokens"] = f"{counts.tokens:,} sequences of {run.ngrams}"
    left_out = job.table_filter.describe()
    if left_out:
        facts["left out"] = left_out
    if job.settings.verify:
        what = f"{run.verified:,} documents counted again by jieba: equal"
        facts["verified"] = what if run.method == "compiled" else "all counted by jieba itself"
    if run.resumed:
        what = "was complete already" if run.resumed == "complete" else "went on from there"
        facts["checkpoint"] = what
    if run.spilled:
        parts = "1 part" if run.spilled == 1 else f"{run.spilled:,} parts"
        facts["memory"] = f"{parts} of the table went to the disk"
    if output is not None:
        facts["table"] = "standard output" if output == "-" else printable(output)
    return facts


def _tokenizer(settings: Settings, name: str) -> str:
    spec = settings.spec
    if not spec.uses_jieba:
        return name
    hmm = "" if spec.mode == "all" else f", HMM {'on' if spec.hmm else 'off'}"
    if spec.pos:
        name = name.replace("jieba", "jieba.posseg", 1)
    own = ", with user dictionary" if spec.dictionary is not None else ""
    main = ", with another dictionary than its own" if spec.main is not None else ""
    return f"{name}, mode {spec.mode}{hmm}{main}{own}"


def _tags(settings: Settings, table_filter: TableFilter) -> list[str] | None:
    """Return the part-of-speech tags that were asked for; None if tokens have none."""
    if not settings.spec.pos:
        return None
    return sorted(table_filter.chosen.tags) or ["all"]


def _top_row(counts: WordCounts, token: Any, count: int, frequency: int | None) -> dict[str, Any]:
    key = token._asdict() if isinstance(token, Tagged) else {counts.key_names[0]: token}
    row = {**key, "count": count, "share": count / counts.tokens}
    if frequency is not None:
        row["document_frequency"] = frequency
    return row
