r"""Tokens in lines and columns: backslash escapes for what would break one.

``\\ \t \n \r``, ``\xHH`` and ``\uHHHH`` for other control characters, line separators and lone
surrogates. An n-gram is its tokens with a space between, a space in one as ``\x20``.
"""

from __future__ import annotations

import re

# Backslash, control characters, everything that str.splitlines takes for a line end, surrogates.
_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:(x[0-9a-f]{2}|u[0-9a-f]{4})|(.?))", re.DOTALL)
_SHORT = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_LONG = {escaped[1]: character for character, escaped in _SHORT.items()}


def escape(token: str) -> str:
    r"""Write a token so that it fits in a line and a column.

    >>> print(escape("a\tb"), escape("\\"), escape("\u2028"))
    a\tb \\ \u2028
    """
    if token.isprintable() and "\\" not in token:  # nearly all are
        return token
    return _UNSAFE.sub(_escape_one, token)


def unescape(text: str) -> str:
    r"""Undo :func:`escape`.

    Raises:
        ValueError: If a backslash does not stand before what it does there.

    >>> unescape(r"a\tb") == "a\tb"
    True
    """
    return _ESCAPE.sub(_unescape_one, text) if "\\" in text else text


def _escape_one(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _unescape_one(match: re.Match[str]) -> str:
    code, short = match.groups()
    if code:
        return chr(int(code[1:], 16))
    if short not in _LONG:
        raise ValueError(f"unknown escape {match.group()!r}")
    return _LONG[short]


def escape_in_ngram(token: str) -> str:
    r"""Write a token of an n-gram.

    >>> print(" ".join(map(escape_in_ngram, ["a b", "c"])))
    a\x20b c
    """
    return escape(token).replace(" ", "\\x20")


def unescape_ngram(text: str) -> tuple[str, ...]:
    r"""Return the tokens of an n-gram, of which each was written by :func:`escape_in_ngram`.

    >>> unescape_ngram(r"a\x20b c")
    ('a b', 'c')
    """
    return tuple(map(unescape, text.split(" ")))
