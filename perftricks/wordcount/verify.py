"""Counting some documents once more with jieba, to see that the kernel counts the same.

The documents are chosen at random while the corpus is read, each with the same probability.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perftricks.wordcount.kernel import Engine
    from perftricks.wordcount.kernel.driver import Newline


class VerificationError(Exception):
    """The kernel counted a document differently from jieba; the message names the document."""


@dataclass(frozen=True)
class Sample:
    """A document to count once more.

    Attributes:
        name: Where it comes from.
        number: Which of the documents from there it is, from 1.
        data: Its bytes as they were fed, or the document.
        newline: How the kernel was told to read the bytes.
    """

    name: str
    number: int
    data: bytes | str = field(repr=False)
    newline: Newline

    @property
    def text(self) -> str:
        """The document as any method reads it."""
        if isinstance(self.data, str):
            return self.data
        text = self.data.decode()
        if self.newline == "none":
            return text
        return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


class Sampler:
    """Keeps documents chosen at random, all of them as long as there are few.

    Args:
        size: How many to keep.
        seed: Makes the choice repeatable; None makes it another one each time.
    """

    def __init__(self, size: int, seed: int | None = None) -> None:
        self.samples: list[Sample] = []
        self._size = size
        self._random = random.Random(seed)
        self._seen = 0
        self._next = 0  # the number, of all documents, of the next one to take
        self._name = ""
        self._weight = 1.0
        self._first = 0  # the number of the first document of this name

    def take_piece(self, name: str, data: bytes | memoryview, newline: Newline) -> None:
        """Consider the documents of a piece, which holds whole ones only."""
        self._start(name)
        data = bytes(data)
        lines = newline == "crlf"
        documents = data.count(b"\n") + (not data.endswith(b"\n") and len(data) > 0) if lines else 1
        if self._next < self._seen + documents:
            for document in _lines(data) if lines else [data]:
                self._consider(document, newline)
        else:
            self._seen += documents

    def take(self, name: str, text: str) -> None:
        """Consider a document."""
        self._start(name)
        self._consider(text, "byte")

    def _start(self, name: str) -> None:
        if name != self._name:
            self._name, self._first = name, self._seen

    def _consider(self, data: bytes | str, newline: Newline) -> None:
        if self._next == self._seen:
            number = self._seen - self._first + 1
            sample = Sample(self._name, number, data, newline)
            if len(self.samples) < self._size:
                self.samples.append(sample)
                self._next += 1
            else:
                self.samples[self._random.randrange(self._size)] = sample
            if len(self.samples) == self._size:
                self._next = self._seen + 1 + self._gap()
        self._seen += 1

    def _gap(self) -> int:
        """Return how many documents to pass over before the next one is taken (algorithm L)."""
        self._weight *= math.exp(math.log(1 - self._random.random()) / self._size)
        rest = math.log1p(-min(self._weight, 1 - 1e-16))
        return int(math.log(1 - self._random.random()) / rest) if rest else 1 << 62


def _lines(data: bytes) -> list[bytes]:
    """Split at line feeds, which stay."""
    *lines, last = data.split(b"\n")
    return [*(line + b"\n" for line in lines), *([last] if last else [])]


def verify(
    samples: Iterable[Sample],
    engine: Engine,
    keys: Callable[[str], Iterable[Any]],
    options: dict[str, Any],
    check_cache: Callable[[], bool],
    tagged: Callable[[dict[str, int]], dict[Any, int]] | None = None,
) -> int:
    """Count documents with the kernel and with jieba, each by itself.

    Args:
        samples: The documents.
        engine: The kernel and its tables.
        keys: Gives what jieba counts for a document.
        options: The kernel's.
        check_cache: Says whether the kernel's tables are those of jieba's dictionary, and removes
            them from the cache if not; called if a document differs.
        tagged: Makes counts of tokens with tags of what the kernel counts, if these are counted.

    Returns:
        How many documents were compared.

    Raises:
        VerificationError: If a table is not the same.
    """
    from perftricks.wordcount.kernel import TextCounter

    compared = 0
    for sample in samples:
        data = sample.data
        if isinstance(data, str):
            try:
                data = data.encode()
            except UnicodeEncodeError:  # it was counted by jieba
                continue
        counter = TextCounter(*engine, newline=sample.newline, **options)
        counter.feed(data)
        table = counter.table()
        found: dict[Any, int]
        if options["ngram"] > 1:
            found = {gram: count for gram, count, _ in table.ngram_items()}
        else:
            found = {**table.to_dict()} if tagged is None else tagged(table.to_dict())
        expected = Counter(keys(sample.text))
        if found != expected:
            token = min(
                (key for key in {**found, **expected} if found.get(key, 0) != expected[key]),
                key=str,
            )
            step = (
                "the cache was checked, and its tables are those of jieba's dictionary: please "
                "report this, and use method 'parallel'"
                if check_cache()
                else "the cache was checked, and its tables are not those of jieba's dictionary: "
                "they have been removed from it; run this again"
            )
            raise VerificationError(
                f"{sample.name}, document {sample.number}: the compiled method counts {token!r} "
                f"{found.get(token, 0)} times, jieba {expected[token]} times; {step}"
            )
        compared += 1
    return compared
