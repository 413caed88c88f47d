"""All that is shown on a screen. The only module that uses rich, and only when there is one.

The result goes to stdout, progress to stderr and only to a terminal. On a terminal the table fits
its width and has bars; elsewhere it is plain text of stable columns, whatever their width.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from perftricks.wordcount.compare import Comparison
    from perftricks.wordcount.counts import WordCounts
    from perftricks.wordcount.job import Progress, Settings

_REFRESH_SECONDS = 0.1
_BAR_ROOM = 50  # columns of a terminal from which on there is room for bars


def printable(token: str | tuple[str, ...]) -> str:
    r"""Return a token as it can be shown in one line: what cannot be seen is escaped.

    The tokens of an n-gram have a space between.

    >>> printable("a\tb"), printable(" "), printable("茶"), printable(("茶", " "))
    ('a\\tb', '\\x20', '茶', '茶 \\x20')
    """
    if isinstance(token, tuple):
        return " ".join(printable(part).replace(" ", "\\x20") for part in token)
    if not token:
        return "(empty)"
    shown = "".join(c if c.isprintable() and c != "\\" else _escaped(c) for c in token)
    if token[0] == " ":
        shown = "\\x20" + shown[1:]
    if token[-1] == " " and len(token) > 1:
        shown = shown[:-1] + "\\x20"
    return shown


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


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

    # No refreshing thread: workers are forked from this process.
    bar = progress.Progress(
        progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
        expand=True,
    )
    task = bar.add_task("counting", total=None)
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


@contextlib.contextmanager
def announcer(*, hidden: bool = False) -> Iterator[Callable[[str], object] | None]:
    """Say on stderr which method is running, if that is a terminal."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    clear = "\r\x1b[K"
    try:
        yield lambda method: print(f"{clear}{method} ...", end="", file=sys.stderr, flush=True)
    finally:
        print(clear, end="", file=sys.stderr, flush=True)


def show_counts(counts: WordCounts, settings: Settings, *, top: int, output: str | None) -> None:
    """Print the most frequent tokens, then what was counted and how fast.

    Args:
        counts: The table; ``counts.run`` must be there.
        settings: How it was counted.
        top: How many tokens to show.
        output: Where the whole table was written to.
    """
    rows = counts.most_common(top)
    if rows:
        _show_tokens(counts, rows)
        print()
    for name, value in _facts(counts, settings, output).items():
        _print_line((f"{name:<11}", "bold"), value)


def _show_tokens(counts: WordCounts, rows: list[tuple[Any, int]]) -> None:
    frequency = counts.document_frequency
    ngrams = counts.run is not None and counts.run.ngrams > 1
    header = ["ngram" if ngrams else "token", "count", "share"] + (
        [] if frequency is None else ["documents"]
    )

    def cells(token: Any, count: int) -> list[str]:
        documents = [] if frequency is None else [f"{frequency[token]:,}"]
        return [printable(token), f"{count:,}", f"{count / counts.tokens:.2%}", *documents]

    _show_table(header, [cells(*row) for row in rows], bars=[count for _, count in rows])


def show_comparison(comparison: Comparison) -> None:
    """Print the times of the methods and whether their tables are equal."""
    which = "all" if comparison.complete else "the first"
    size = decimal(comparison.text_bytes)
    _print_line(f"{which} {size} of text, {comparison.documents:,} documents")
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
    _show_table(["method", "workers", "time", "MB/s", "against naive", "same table"], rows)
    print()
    counts = comparison.counts
    if comparison.equal:
        _print_line(f"all tables are equal: {counts.tokens:,} tokens, {len(counts):,} distinct")
    for method, reason in comparison.skipped.items():
        _print_line(f"{method} was not run: {reason}")
    for method, tokens in comparison.differences.items():
        for token, found, expected in tokens:
            _print_line(f"{printable(token)}: {method} counts {found:,}, naive {expected:,}")


def summary(
    counts: WordCounts, settings: Settings, *, top: int, output: str | None
) -> dict[str, Any]:
    """Return the result for machines.

    Args:
        counts: The table; ``counts.run`` must be there.
        settings: How it was counted.
        top: How many tokens to include.
        output: Where the whole table was written to.
    """
    run = counts.run
    assert run is not None
    spec = settings.spec
    return {
        "documents": counts.documents,
        "tokens": counts.tokens,
        "distinct": len(counts),
        "files": run.files,
        "files_passed_over": run.passed_over,
        "text_bytes": run.text_bytes,
        "stored_bytes": run.stored_bytes,
        "seconds": round(run.seconds, 3),
        "megabytes_per_second": round(run.megabytes_per_second, 3),
        "method": run.method,
        "method_note": run.note or None,
        "workers": run.workers,
        "batch_size": run.batch_size,
        "tokenizer": run.tokenizer,
        "mode": spec.mode if spec.uses_jieba else None,
        "hmm": spec.hmm and spec.mode != "all" if spec.uses_jieba else None,
        "user_dict": spec.dictionary is not None,
        "ngrams": run.ngrams,
        "verified": run.verified if settings.verify else None,
        "resumed": run.resumed or None,
        "output": output,
        "top": [_top_row(counts, token, count) for token, count in counts.most_common(top)],
    }


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


def print_json(value: Mapping[str, Any]) -> None:
    """Print an object in ASCII, which every machine reads whatever its encoding."""
    print(json.dumps(value, indent=2))


def _print_line(*parts: str | tuple[str, str]) -> None:
    """Print text, or texts with a style each, on one line however long it is."""
    if sys.stdout.isatty():
        Console(highlight=False).print(Text.assemble(*parts), soft_wrap=True)
    else:
        print("".join(part if isinstance(part, str) else part[0] for part in parts))


def _show_table(header: list[str], rows: list[list[str]], *, bars: list[int] | None = None) -> None:
    """Print a table of a column of names and columns of numbers.

    Args:
        header: The names of the columns.
        rows: What to print in them.
        bars: A number for each row, drawn as a bar after it on a terminal, the first the largest.
    """
    if not sys.stdout.isatty():
        _print_plain([header, *rows])
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(header[0], no_wrap=True, overflow="ellipsis")
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    if bars is None or console.width < _BAR_ROOM or not console.encoding.startswith("utf"):
        bars = None
    else:
        table.expand = True
        table.columns[0].max_width = console.width // 3
        table.add_column("", ratio=1)
    for number, row in enumerate(rows):
        cells: list[RenderableType] = [Text(cell) for cell in row]
        if bars is not None:
            cells.append(Bar(bars[0], 0, bars[number], color="cyan"))
        table.add_row(*cells)
    console.print(table)


def _print_plain(rows: list[list[str]]) -> None:
    """Print aligned columns, row by row: someone may stop reading after a few of millions."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        line = [name + " " * (widths[0] - cell_len(name))]
        line += [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        print("  ".join(line))


def _facts(counts: WordCounts, settings: Settings, output: str | None) -> dict[str, str]:
    run = counts.run
    assert run is not None
    stored = "" if run.stored_bytes == run.text_bytes else f", {decimal(run.stored_bytes)} stored"
    passed_over = f", {run.passed_over:,} passed over" if run.passed_over else ""
    facts = {
        "documents": f"{counts.documents:,}",
        "tokens": f"{counts.tokens:,}",
        "distinct": f"{len(counts):,}",
        "files": f"{run.files:,}{passed_over}",
        "speed": f"{run.megabytes_per_second:.2f} MB/s"
        f" ({decimal(run.text_bytes)} of text{stored}, in {run.seconds:.2f} s)",
        "workers": f"{run.workers:,}",
        "method": run.method + (f" (not compiled: {run.note})" if run.note else ""),
        "tokenizer": _tokenizer(settings, run.tokenizer),
    }
    if run.ngrams > 1:
        facts["tokens"] = f"{counts.tokens:,} sequences of {run.ngrams}"
    if settings.verify:
        what = f"{run.verified:,} documents counted again by jieba: equal"
        facts["verified"] = what if run.method == "compiled" else "all counted by jieba itself"
    if run.resumed:
        what = "was complete already" if run.resumed == "complete" else "went on from there"
        facts["checkpoint"] = what
    if output is not None:
        facts["table"] = printable(output)
    return facts


def _tokenizer(settings: Settings, name: str) -> str:
    spec = settings.spec
    if not spec.uses_jieba:
        return name
    hmm = "" if spec.mode == "all" else f", HMM {'on' if spec.hmm else 'off'}"
    own = ", with user dictionary" if spec.dictionary is not None else ""
    return f"{name}, mode {spec.mode}{hmm}{own}"


def _top_row(counts: WordCounts, token: Any, count: int) -> dict[str, Any]:
    name = "ngram" if isinstance(token, tuple) else "token"
    row = {name: token, "count": count, "share": count / counts.tokens}
    if counts.document_frequency is not None:
        row["document_frequency"] = counts.document_frequency[token]
    return row
