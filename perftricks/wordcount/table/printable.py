"""Tokens as people read them."""

from __future__ import annotations

from perftricks.wordcount.table.rows import Tagged


def printable(token: str | tuple[str, ...]) -> str:
    r"""Return a token as it can be shown in one line: what cannot be seen is escaped.

    The tokens of an n-gram have a space between, a token and its tag a slash.

    >>> printable("a\tb"), printable(" "), printable("茶"), printable(("茶", " "))
    ('a\\tb', '\\x20', '茶', '茶 \\x20')
    >>> printable(Tagged("茶", "n"))
    '茶/n'
    """
    if isinstance(token, Tagged):
        return "/".join(map(printable, token))
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
