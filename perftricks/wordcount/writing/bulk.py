"""Rows of a table as bytes of a file, many at a time and without an object for each.

A row is a sequence of pieces: bytes that are the same in all rows, tokens, and numbers in decimal.
Tokens that a format does not take as they are, which are few, go through the function that writes
one; that they are among the rest is seen by the bytes that are in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from perftricks.wordcount.table.columns import Columns, Strings

_DIGITS = 18  # that every int64 holds


@dataclass(frozen=True)
class Suspects:
    """The bytes by which tokens are known that may have to be written otherwise than they are.

    Attributes:
        anywhere: bool[256], the bytes that count wherever they are.
        at_ends: bool[256], those that count in the first byte, or in the last three, which hold the
            last character; None if there are none. An empty token counts too then.
    """

    anywhere: np.ndarray
    at_ends: np.ndarray | None = None

    @classmethod
    def of(cls, *ranges: range, at_ends: Sequence[range] = ()) -> Suspects:
        """Return the suspects for ranges of bytes."""
        return cls(_chosen(ranges), _chosen(at_ends) if at_ends else None)

    def among(self, strings: Strings) -> np.ndarray:
        """Return the places of the strings that hold one."""
        found = np.zeros(len(strings), np.bool_)
        places = np.flatnonzero(self.anywhere[strings.text])
        found[np.searchsorted(strings.start, places, "right") - 1] = True
        if self.at_ends is not None:
            first, last = strings.start[:-1], strings.start[1:] - 1
            found |= last < first
            if strings.text.size:
                for place in (first, last, last - 1, last - 2):
                    inside = np.clip(place, first, np.maximum(first, last))
                    inside = np.minimum(inside, strings.text.size - 1)
                    found |= self.at_ends[strings.text[inside]]
        return np.flatnonzero(found)


def _chosen(ranges: Sequence[range]) -> np.ndarray:
    table = np.zeros(256, np.bool_)
    for part in ranges:
        table[part.start : part.stop] = True
    return table


def rewritten(strings: Strings, suspects: Suspects, write: Callable[[str], bytes]) -> Strings:
    """Return strings of which the suspects have been written by a function."""
    chosen = suspects.among(strings)
    if not chosen.size:
        return strings
    length = np.diff(strings.start)
    pieces = []
    position = 0
    begins, ends = strings.start[chosen].tolist(), strings.start[chosen + 1].tolist()
    tokens = strings.taken(chosen).decoded()
    for row, token, begin, end in zip(chosen.tolist(), tokens, begins, ends, strict=True):
        new = write(token)
        pieces += [strings.text[position:begin].tobytes(), new]
        length[row] = len(new)
        position = end
    pieces.append(strings.text[position:].tobytes())
    text = np.frombuffer(b"".join(pieces), np.uint8)
    return Strings(text, np.concatenate(([0], np.cumsum(length))))


def decimals(numbers: np.ndarray) -> Strings:
    """Return numbers, which are not negative, in decimal.

    >>> decimals(np.array([0, 7, 120])).decoded()
    ['0', '7', '120']
    """
    length = np.ones(numbers.size, np.int64)
    power = 10
    while power <= 10**18 and (more := numbers >= power).any():
        length += more
        power *= 10
    start = np.concatenate(([0], np.cumsum(length)))
    text = np.empty(int(start[-1]), np.uint8)
    rest, last = numbers, start[1:] - 1
    while rest.size:
        text[last] = ord("0") + rest % 10
        rest = rest // 10
        more = rest > 0
        rest, last = rest[more], last[more] - 1
    return Strings(text, start)


def numbers_in(text: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """Return the numbers that parts of a text are in decimal; None if one is something else.

    Args:
        text: uint8.
        begin: int64, where each begins.
        end: int64, where each ends.
    """
    length = end - begin
    if not length.size or length.min() < 1 or length.max() > _DIGITS:
        return None if length.size else np.zeros(0, np.int64)
    value = np.zeros(length.size, np.int64)
    rows = np.arange(length.size)
    for place in range(int(length.max())):
        rows = rows[length[rows] > place]
        digit = text[end[rows] - 1 - place].astype(np.int64) - ord("0")
        if ((digit < 0) | (digit > 9)).any():
            return None
        value[rows] += digit * 10**place
    return value


def separated_ngrams(columns: Columns, separator: bytes) -> list[bytes | Strings]:
    """Return the tokens of n-grams as pieces, with a separator between."""
    pieces: list[bytes | Strings] = [columns.strings_at(0)]
    for place in range(1, columns.ngram):
        pieces += [separator, columns.strings_at(place)]
    return pieces


def numbers_of(columns: Columns) -> list[Strings]:
    """Return counts, and documents if they were counted, in decimal."""
    if columns.documents is None:
        return [decimals(columns.count)]
    return [decimals(columns.count), decimals(columns.documents)]
