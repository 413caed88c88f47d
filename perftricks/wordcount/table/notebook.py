"""A table as notebooks show it: the first rows, and how many there are."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from perftricks.wordcount.table.printable import printable

if TYPE_CHECKING:
    from perftricks.wordcount.table.counts import WordCounts

_ROWS = 20


def fragment(counts: WordCounts) -> str:
    """Return a piece of HTML that is a table; every text in it that is not ours is escaped.

    >>> from perftricks.wordcount import WordCounts
    >>> fragment(WordCounts({"<b>": 3}, documents=1))[:80]
    '<table class="dataframe"><thead><tr><th scope="col">token</th><th scope="col">co'
    """
    names = ["n-gram" if counts.are_ngrams else "token", "count", "share"]
    if counts.has_document_frequency:
        names.append("documents")
    rows = []
    for key, count, documents in counts.rows(_ROWS):
        cells = [f"{count:,}", f"{count / counts.tokens:.2%}"]
        if documents is not None:
            cells.append(f"{documents:,}")
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(printable(key))}</th>{numbers}</tr>')
    header = "".join(f'<th scope="col">{name}</th>' for name in names)
    known = counts.facts.documents
    what = f"{len(counts):,} distinct of {counts.tokens:,} tokens"
    where = "" if known is None else f" in {known:,} document{'' if known == 1 else 's'}"
    return (
        f'<table class="dataframe"><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table><p>{what}{where}</p>"
    )
