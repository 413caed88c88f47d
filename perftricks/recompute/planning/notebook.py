"""What a notebook shows: the table, in letters of one width."""

from __future__ import annotations

from html import escape


def as_html(thing: object) -> str:
    """Return what ``str`` says as a piece of HTML.

    Example:
        >>> as_html("1 < 2")
        '<pre style="font-family: monospace; overflow-x: auto">1 &lt; 2</pre>'
    """
    # Not every notebook has <pre> in letters of one width.
    style = "font-family: monospace; overflow-x: auto"
    return '<pre style="%s">%s</pre>' % (style, escape(str(thing)))
