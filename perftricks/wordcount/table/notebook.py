"""A table as notebooks show it: the first rows, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from perftricks.wordcount.table.printable import printable
from perftricks.wordcount.table.saved import Facts

ROWS = 20


def fragment(name: str, facts: Facts, first: Iterable[tuple[Any, int, int | None]]) -> str:
    """Return a piece of HTML that is a table; every text in it that is not ours is escaped.

    Args:
        name: What a key is called.
        facts: What belongs to the table beside its rows.
        first: The first rows: key, count, documents or None.

    >>> from perftricks.wordcount import WordCounts
    >>> WordCounts({"<b>": 3}, documents=1)._repr_html_()[:80]
    '<table class="dataframe"><thead><tr><th scope="col">token</th><th scope="col">co'
    """
    names = [name, "count", "share"]
    if facts.document_frequency:
        names.append("documents")
    rows = []
    for key, count, documents in first:
        cells = [f"{count:,}", f"{count / facts.tokens:.2%}"]
        if documents is not None:
            cells.append(f"{documents:,}")
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(printable(key))}</th>{numbers}</tr>')
    header = "".join(f'<th scope="col">{name}</th>' for name in names)
    known = facts.documents
    what = f"{facts.rows:,} distinct of {facts.tokens:,} tokens"
    where = "" if known is None else f" in {known:,} document{'' if known == 1 else 's'}"
    return (
        f'<table class="dataframe"><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table><p>{what}{where}</p>"
    )
