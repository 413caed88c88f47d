"""Markdown that is written from results: tables, and pages with a place for them."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def fill(page: str, name: str, content: str) -> str:
    """Return a page with what stands between two markers replaced.

    Raises:
        ValueError: If the markers are not there, or are there twice.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed) or page.count(begin) > 1 or page.count(end) > 1:
        raise ValueError(f"expected the lines {begin.strip()!r} and {end!r} in the page, once")
    return f"{before}{begin}{content}\n{end}{after}"
