"""Dictionaries for jieba, read as jieba reads them: what it makes of a line is what counts.

A user dictionary (``jieba.load_userdict``) takes any line at all. Where frequency or tag are not
written as jieba expects, it takes them for a part of the word; :func:`read_user_dictionary` says so
and does the same. A main dictionary (``jieba.set_dictionary``) is stricter.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from perftricks.files import PathLike
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.sources import read_small_file

UserDictionary = PathLike | Iterable[str | bytes]

# jieba.re_userdict and jieba.re_han_default, for when jieba has not been imported.
_LINE = re.compile(r"^(.+?)( [0-9]+)?( [a-z]+)?$")
_BLOCK = re.compile("([\u4e00-\u9fd5a-zA-Z0-9+#&\\._%\\-]+)")

# What looks like a frequency in a word: a number behind white space, with a tag or without.
_NUMBER = re.compile(r"\s[-+]?[.,]?\d\S*(\s+\S+)?$")

# jieba computes with frequencies as floats.
_LONGEST_NUMBER = 300

_BOM = "\ufeff"


def read_user_dictionary(source: UserDictionary) -> tuple[bytes, list[str]]:
    """Read a user dictionary as ``jieba.load_userdict`` does.

    Args:
        source: The path of a file, an open file, or lines; UTF-8 where they are bytes.

    Returns:
        The lines as jieba takes them, UTF-8; and in sentences what is surely not meant.

    Raises:
        OptionError: If jieba would raise an error: bytes that are not UTF-8, for example.
        OSError: If the file cannot be read.
    """
    lines: Iterable[str | bytes]
    if isinstance(source, (str, os.PathLike)):
        name = f"user dictionary {os.fspath(source)!r}"
        lines = read_small_file(source, "user dictionary").split(b"\n")
    else:
        path = getattr(source, "name", None)
        name = f"user dictionary {path!r}" if isinstance(path, str) else "user dictionary"
        lines = source
    doubts = _Doubts(name)
    taken = []
    for number, line in enumerate(lines, 1):
        text = _as_jieba_takes_it(line, f"{name}, line {number}")
        if text:
            taken.append(text)
            word, frequency, _ = split_line(text, f"{name}, line {number}")
            doubts.consider(number, text, word, frequency)
    return "\n".join(taken).encode("utf-8", "surrogatepass"), list(doubts.sentences())


def split_line(line: str, where: str) -> tuple[str, str | None, str | None]:
    """Return word, frequency and tag of a line of a user dictionary.

    Args:
        line: The line.
        where: Where it is, for the error.

    Raises:
        OptionError: If jieba would raise an error.

    >>> split_line("New York 300 ns", "line 1")
    ('New York', '300', 'ns')
    """
    match = _pattern("re_userdict", _LINE).match(line)
    if match is None:
        raise OptionError(f"{where}: jieba cannot read {line[:50]!r}")
    word, *rest = match.groups()
    frequency, tag = (part and part.strip() for part in rest)
    if frequency is not None:
        if len(frequency) > _LONGEST_NUMBER:
            raise OptionError(
                f"{where}: the frequency is too large; expected 'word', 'word frequency', 'word "
                "tag' or 'word frequency tag'"
            )
        try:
            int(frequency)
        except ValueError:  # a program has replaced jieba.re_userdict
            raise OptionError(f"{where}: {frequency!r} is no frequency") from None
    return word, frequency, tag


def _as_jieba_takes_it(line: str | bytes, where: str) -> str:
    """Do what ``jieba.load_userdict`` does with a line before it looks at it."""
    if isinstance(line, str):
        text = line.strip()
    else:
        try:
            text = line.strip().decode("utf-8").lstrip(_BOM)
        except UnicodeDecodeError as error:
            raise OptionError(
                f"{where}: not UTF-8 ({error.reason}, byte {error.start}); jieba takes nothing "
                "else: convert the file"
            ) from None
        except AttributeError:
            raise OptionError(
                f"{where}: expected a str or bytes, not a {type(line).__name__}"
            ) from None
    if "\n" in text:
        raise OptionError(f"{where}: {text[:50]!r} is more than one line")
    return text


def read_main_dictionary(path: PathLike) -> tuple[bytes, list[str]]:
    """Read a dictionary that takes the place of jieba's own, as ``jieba.set_dictionary`` does.

    Returns:
        Its content; and in sentences what is surely not meant.

    Raises:
        OptionError: If a line is not ``word frequency`` or ``word frequency tag``, or nothing is
            in it.
        OSError: If the file cannot be read.
    """
    content = read_small_file(path, "dictionary")
    name = f"dictionary {os.fspath(path)!r}"
    total = 0
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        try:
            _, frequency = line.strip().decode("utf-8").split(" ")[:2]
            if len(frequency) > _LONGEST_NUMBER:
                raise ValueError
            count = int(frequency)
        except ValueError as error:
            problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"{line[:50]!r}"
            with contextlib.suppress(UnicodeDecodeError):
                problem = f"{line.decode()[:50]!r}"
            raise OptionError(
                f"{name}, line {number}: {problem}; expected 'word frequency' or 'word frequency "
                "tag' on every line, with single spaces, in UTF-8"
            ) from None
        if count < 0:
            raise OptionError(
                f"{name}, line {number}: a frequency of {count}; jieba takes the logarithm of "
                "frequencies, so none may be less than 0"
            )
        total += count
    if total <= 0:
        raise OptionError(f"{name}: the frequencies add up to {total}; jieba needs more than 0")
    if content.startswith(_BOM.encode()):
        return content, [
            f"{name}: it begins with a byte order mark, which jieba takes for a part of the first "
            "word; save it without"
        ]
    return content, []


class _Doubts:
    """Collects what is surely not meant, a sentence for each kind however many lines there are."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: dict[str, tuple[int, str, int]] = {}  # kind -> first line, word, how many
        self._block = _pattern("re_han_default", _BLOCK)

    def consider(self, number: int, line: str, word: str, frequency: str | None) -> None:
        """Look at a line that is read as a word."""
        kind = self._kind(line, word, frequency)
        if kind is not None:
            first, example, count = self._found.get(kind, (number, word, 0))
            self._found[kind] = first, example, count + 1

    def _kind(self, line: str, word: str, frequency: str | None) -> str | None:
        if line.startswith("#") and (frequency is None or not word[1:2].strip()):
            return "jieba knows no comments: it takes {word} for a word"
        if word.startswith(_BOM):
            return "jieba takes the byte order mark for a part of the word {word}"
        if "\t" in word:
            return (
                "jieba takes {word} for a word, tab and all; between word, frequency and tag it "
                "expects single spaces"
            )
        if (frequency is None and _NUMBER.search(word)) or word != word.strip() or "  " in word:
            return (
                "jieba takes {word} for a word; it expects 'word', 'word frequency', 'word tag' or "
                "'word frequency tag' with single spaces, a whole number and a tag of letters a-z"
            )
        if isinstance(self._block, re.Pattern) and not self._block.fullmatch(word):
            return (
                "jieba cuts a text at whatever jieba.re_han_default does not match before it looks "
                "for words, and so never finds {word}"
            )
        return None

    def sentences(self) -> Iterator[str]:
        """Yield what was found."""
        for kind, (first, word, count) in self._found.items():
            more = "" if count == 1 else f" (and {count - 1:,} more like it)"
            yield f"{self._name}, line {first}{more}: {kind.format(word=repr(word[:50]))}"


def _pattern(name: str, usual: re.Pattern[str]) -> Any:
    return getattr(sys.modules.get("jieba"), name, usual)
