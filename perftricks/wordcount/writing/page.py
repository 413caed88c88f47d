"""The report: one page that needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from importlib import resources
from string import Template
from typing import Any

import perftricks
from perftricks.files import PathLike, replacing
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.sources import Source
from perftricks.wordcount.table.counts import WordCounts, check_counts
from perftricks.wordcount.table.printable import printable
from perftricks.wordcount.writing import svg
from perftricks.wordcount.writing.export import check_place
from perftricks.wordcount.writing.zipf import zipf

# A browser searches and sorts that many while one looks on; the page takes some 20 bytes for each.
ROWS = 500_000
_ROWS_WITHOUT_SCRIPT = 50
_WIDE, _NARROW = (880, 460), (400, 380)


def check_report(path: PathLike, sources: Sequence[Source] = ()) -> None:
    """Check that a report can be written, before the work of counting.

    Args:
        path: Where to.
        sources: The files that are read, none of which may be overwritten.

    Raises:
        OptionError: If the extension is another than .html, or the place will not do; see
            :func:`perftricks.wordcount.writing.export.check_output`.

    >>> check_report("report.pdf")
    Traceback (most recent call last):
    perftricks.wordcount.errors.OptionError: report 'report.pdf': unknown extension '.pdf'; \
expected .html
    """
    name = os.fspath(path)
    extension = os.path.splitext(name)[1].lower()
    if extension not in (".html", ".htm"):
        found = f"unknown extension {extension!r}" if extension else "no extension"
        raise OptionError(f"report {name!r}: {found}; expected .html")
    check_place(path, sources)


def write_report(
    path: PathLike,
    counts: WordCounts,
    *,
    title: str = "Word counts",
    details: Mapping[str, str] | None = None,
    rows: int = ROWS,
) -> None:
    """Write a page with figures, a plot of Zipf's law, and a table to search and sort.

    The page is one file, loads nothing, and follows the reader's choice of light or dark. It holds
    the rows as data and draws those in sight. Without JavaScript it shows the most frequent tokens
    only.

    Args:
        path: Where to: ``.html``. The file appears complete or not at all.
        counts: The table.
        title: The heading.
        details: Name -> text, to add to what ``counts.run`` says about how it was counted.
        rows: How many of the most frequent tokens the page holds; it says so if there are more.

    Raises:
        OptionError: As :func:`check_report` does; also if ``counts`` is no WordCounts.
        OSError: If writing fails.
    """
    check_report(path)
    check_counts(counts)
    content = render(counts, title=title, details=details or {}, rows=rows)
    with replacing(os.fspath(path)) as file:
        file.write(content.encode("utf-8", "backslashreplace"))


def render(counts: WordCounts, *, title: str, details: Mapping[str, str], rows: int) -> str:
    """Return the page; every text in it that is not ours is escaped."""
    top = list(counts.rows(rows))
    plot = zipf(counts)
    script = _resource("page.js")
    unit = "n-gram" if counts.are_ngrams else "token"
    return Template(_resource("page.html")).substitute(
        policy=f"script-src 'sha256-{_digest(script)}'",
        title=escape(title),
        style=_resource("page.css") + svg.STYLE,
        figures="\n".join(_figure(*figure) for figure in _figures(counts)),
        wide=svg.fragment(plot, width=_WIDE[0], height=_WIDE[1]),
        narrow=svg.fragment(plot, width=_NARROW[0], height=_NARROW[1]),
        shown=_shown(len(top), len(counts), unit),
        unit=unit,
        documents=_header("documents", "documents") if counts.has_document_frequency else "",
        head="\n".join(
            _row(counts, number, *row) for number, row in enumerate(top[:_ROWS_WITHOUT_SCRIPT], 1)
        ),
        details="\n".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
            for name, text in {**_details(counts), **details}.items()
        ),
        data=_data(counts, top),
        script=script,
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The hash by which a page says that this script, and no other, may run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _figures(counts: WordCounts) -> list[tuple[str, str]]:
    documents = counts.facts.documents
    figures = [
        *([] if documents is None else [("documents", f"{documents:,}")]),
        ("tokens", f"{counts.tokens:,}"),
        ("distinct", f"{len(counts):,}"),
    ]
    if counts.run is not None:
        figures.append(("MB of text", f"{counts.run.text_bytes / 1e6:,.1f}"))
    return figures


def _figure(name: str, value: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _shown(shown: int, distinct: int, unit: str) -> str:
    if shown == distinct:
        return f"All {distinct:,} {unit}s." if distinct else f"No {unit}s."
    return (
        f"The {shown:,} most frequent of {distinct:,} {unit}s, so that the page stays quick; "
        "search and sorting know no others. The option --output writes all."
    )


def _header(key: str, name: str) -> str:
    return f'<th scope="col" class="number" data-key="{key}"><button>{name}</button></th>'


def _row(counts: WordCounts, rank: int, token: Any, count: int, frequency: int | None) -> str:
    numbers = [("number", f"{count:,}"), ("number share", f"{count / counts.tokens:.3%}")]
    if frequency is not None:
        numbers.append(("number", f"{frequency:,}"))
    cells = "".join(f'<td class="{kind}">{number}</td>' for kind, number in numbers)
    name = escape(printable(token))
    return (
        f'<tr><td class="number">{rank:,}</td>'
        f'<th scope="row" class="token" title="{name}">{name}</th>{cells}</tr>'
    )


def _details(counts: WordCounts) -> dict[str, str]:
    details = {"made": date.today().isoformat()}
    run = counts.run
    if run is not None:
        files = f"{run.files:,}" + (f", {run.passed_over:,} passed over" if run.passed_over else "")
        details |= {
            "files": files,
            "tokenizer": run.tokenizer,
            "method": f"{run.method}, workers: {run.workers:,}",
            "time": f"{run.seconds:.2f} s, {run.megabytes_per_second:.1f} MB a second",
        }
        if run.ngrams > 1:
            details["counted"] = f"sequences of {run.ngrams} tokens"
    details["versions"] = f"perftricks {perftricks.__version__}, Python {platform.python_version()}"
    return details


def _data(counts: WordCounts, top: Sequence[tuple[Any, int, int | None]]) -> str:
    r"""The rows as JSON that no browser takes for markup: < > & are written as \u003c and so on."""
    data = {
        "total": counts.tokens,
        "tokens": [printable(token) for token, _, _ in top],
        "counts": [count for _, count, _ in top],
        "documents": [documents for _, _, documents in top]
        if counts.has_document_frequency
        else None,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
