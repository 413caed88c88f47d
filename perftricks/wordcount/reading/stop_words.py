"""Words to leave out: given as words, in a file, or by the name of a list that ships."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib import resources

from perftricks.files import PathLike
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.sources import read_small_file

StopWords = PathLike | Iterable[str]

# Lists that ship: name -> file.
SHIPPED = {"zh": "zh.txt"}


def read_stop_words(given: StopWords | None) -> tuple[frozenset[str], str]:
    """Return stop words, and what to call them: "" for those that were given as words.

    Args:
        given: The path of a file with a word on each line, "zh" for the list that ships, or words;
            None for none. A str is never a word.

    Raises:
        OptionError: If the file is not UTF-8, or something else than a str is among the words.
        OSError: If the file cannot be read.

    >>> words, name = read_stop_words("zh")
    >>> len(words), name
    (671, 'zh')
    """
    name = ""
    words: Iterable[str] = ()
    if isinstance(given, str) and given in SHIPPED:
        name = given
        words = _shipped(name)
    elif isinstance(given, (str, os.PathLike)):
        name = os.fspath(given)
        words = _lines(name)
    elif given is not None:
        words = given
    found = frozenset(words)
    other = next((word for word in found if not isinstance(word, str)), None)
    if other is not None:
        raise OptionError(f"stop words are strings; one is {other!r}")
    return found, name


def _shipped(name: str) -> Iterator[str]:
    """Yield the words of a list that ships; its lines hold several, and those with # none."""
    file = resources.files("perftricks.wordcount").joinpath("stop_words").joinpath(SHIPPED[name])
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield from line.split()


def _lines(path: str) -> Iterator[str]:
    content = read_small_file(path, "stop words")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"stop words {path!r}: not UTF-8 (byte {error.start})") from None
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if line:
            yield line.strip() or line
