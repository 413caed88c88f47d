"""Rows of a table as columns: one text with all tokens, where each starts, and numbers.

A table of a million rows is four arrays here and no object for a row. It can be put in order,
written and handed to Arrow as a whole.

The order of a table is the largest count first, equal counts by code point. The bytes of UTF-8 are
in the same order as its code points, so they are sorted as what they are: eight bytes of every
token at a time are a number, and only tokens that are equal so far are looked at further (the
radix sort of strings from the left, in words).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perftricks.wordcount.table.rows import Block, Filter, Row, Tagged

# Rows of a part: its arrays and what is made of them fit into a cache.
PART_ROWS = 1 << 15

WORD_BYTES = 8  # bytes that are compared at once
_SMALL = 1 << 16  # what two bytes hold is less


@dataclass(frozen=True)
class Strings:
    """Strings in one text.

    Attributes:
        text: uint8, their UTF-8, one after the other; a lone surrogate is three bytes
            ("surrogatepass").
        start: int64, where each starts in ``text``, and where the last one ends.
    """

    text: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, strings: Sequence[str]) -> Strings:
        """Return strings of Python as columns.

        >>> Strings.of(["茶", "tea"]).start.tolist()
        [0, 3, 6]
        """
        code = np.frombuffer("".join(strings).encode("utf-32-le", "surrogatepass"), np.uint32)
        size = np.ones(code.size + 1, np.int64)
        for first in (0x80, 0x800, 0x10000):
            size[:-1] += code >= first
        ends = np.concatenate(([0], np.cumsum(size[:-1])))
        length = np.fromiter(map(len, strings), np.int64, len(strings))
        start = ends[np.concatenate(([0], np.cumsum(length)))]
        text = np.frombuffer("".join(strings).encode("utf-8", "surrogatepass"), np.uint8)
        return cls(text, start)

    @classmethod
    def joined(cls, parts: Sequence[Strings]) -> Strings:
        """Return the strings of all parts."""
        before = np.cumsum([0, *(int(part.start[-1]) for part in parts)])
        starts = [part.start[:-1] + shift for part, shift in zip(parts, before, strict=False)]
        return cls(
            np.concatenate([np.zeros(0, np.uint8), *(part.text for part in parts)]),
            np.concatenate([*starts, before[-1:]]).astype(np.int64),
        )

    def __len__(self) -> int:
        return int(self.start.size) - 1

    def __getitem__(self, part: slice) -> Strings:
        first, stop, _ = part.indices(len(self))
        start = self.start[first : max(first, stop) + 1]
        return Strings(self.text[start[0] : start[-1]], start - start[0])

    @classmethod
    def cut(cls, text: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Strings:
        """Return parts of a text as strings, by where each begins and ends."""
        length = end - begin
        start = np.concatenate(([0], np.cumsum(length)))
        copied = np.empty(int(start[-1]), np.uint8)
        for first in range(0, begin.size, PART_ROWS):
            part = slice(first, min(first + PART_ROWS, begin.size))
            into = start[part]
            place = np.repeat(begin[part] - into, length[part])
            place += np.arange(into[0], into[0] + place.size)
            copied[into[0] : into[0] + place.size] = text[place]
        return cls(copied, start)

    def taken(self, index: np.ndarray) -> Strings:
        """Return the strings at these places, in this order."""
        return Strings.cut(self.text, self.start[index], self.start[index + 1])

    def characters(self) -> np.ndarray:
        """Return how many characters each string has."""
        begins = np.concatenate(([0], np.cumsum((self.text & 0xC0) != 0x80)))
        length: np.ndarray = np.diff(begins[self.start])
        return length

    def hold_letters(self) -> np.ndarray:
        """Return for each string whether a letter is in it, as ``str.isalpha`` has it."""
        whole = self.text.tobytes().decode("utf-8", "surrogatepass")
        code = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), np.uint32)
        present, which = np.unique(code, return_inverse=True)
        letter = np.fromiter((chr(c).isalpha() for c in present.tolist()), np.bool_, present.size)
        letters = np.concatenate(([0], np.cumsum(letter[which.reshape(-1)])))
        ends = np.concatenate(([0], np.cumsum(self.characters())))
        held: np.ndarray = np.diff(letters[ends]) > 0
        return held

    def among(self, words: Collection[str]) -> np.ndarray:
        """Return for each string whether it is one of some words."""
        both = Strings.joined([self, Strings.of(list(words))])
        order, repeats = both.order()
        group = np.empty(order.size, np.int64)
        group[order] = np.cumsum(~repeats)
        is_word = np.zeros(order.size + 1, np.bool_)
        is_word[group[len(self) :]] = True
        return is_word[group[: len(self)]]

    def decoded(self) -> list[str]:
        """Return the strings as Python's."""
        whole = self.text.tobytes().decode("utf-8", "surrogatepass")
        begins = np.concatenate(([0], np.cumsum((self.text & 0xC0) != 0x80)))
        return [whole[a:b] for a, b in itertools.pairwise(begins[self.start].tolist())]

    def order(self, before: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the strings in ascending order, and which of them repeat.

        Args:
            before: int64; what is smaller here comes first, and strings tell apart what is equal.

        Returns:
            int64, the places; bool, for each of them whether it equals the one before it.
        """
        return _order(Words(self.text), self.start[:-1], np.diff(self.start), before)


def interleaved(pieces: Sequence[bytes | Strings], rows: int) -> Strings:
    """Return for each row its pieces, one behind the other.

    Args:
        pieces: Bytes that are in all rows, and strings, one for each row.
        rows: How many rows there are.

    >>> interleaved([b"<", Strings.of(["茶", "tea"]), b">"], 2).decoded()
    ['<茶>', '<tea>']
    """
    length = np.zeros(rows, np.int64)
    for piece in pieces:
        length += len(piece) if isinstance(piece, bytes) else np.diff(piece.start)
    start = np.concatenate(([0], np.cumsum(length)))
    text = np.empty(int(start[-1]), np.uint8)
    place = start[:-1].copy()
    for piece in pieces:
        if isinstance(piece, bytes):
            for byte in piece:
                text[place] = byte
                place += 1
        else:
            size = np.diff(piece.start)
            into = np.repeat(place - piece.start[:-1], size)
            into += np.arange(into.size)
            text[into] = piece.text
            place += size
    return Strings(text, start)


class Words:
    """Eight bytes of a text from any place on, as a number that sorts like them."""

    def __init__(self, text: np.ndarray) -> None:
        padded = np.concatenate((text, np.zeros(WORD_BYTES, np.uint8)))
        self._at = np.ndarray((text.size + 1,), ">u8", padded, strides=(1,))

    def at(self, place: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Return the words at places; of those with fewer bytes left, the rest is zero."""
        word = self._at[np.minimum(place, self._at.size - 1)].astype(np.uint64)
        gone = (WORD_BYTES - np.clip(left, 0, WORD_BYTES)) * 8
        word[gone == 8 * WORD_BYTES] = 0
        gone = np.minimum(gone, 8 * WORD_BYTES - 1).astype(np.uint64)
        cut: np.ndarray = (word >> gone) << gone
        return cut


def largest(count: np.ndarray, n: int | None) -> np.ndarray:
    """Return the places of the n largest counts, and of those that equal the last of them."""
    if n is None or n >= count.size:
        return np.arange(count.size)
    if n <= 0:
        return np.arange(0)
    return np.flatnonzero(count >= np.partition(count, count.size - n)[count.size - n])


def _order(
    words: Words, begin: np.ndarray, length: np.ndarray, before: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what :meth:`Strings.order` does, for strings that begin anywhere in a text."""
    word = words.at(begin, length)
    order = np.argsort(word)
    if before is not None:
        order = order[_stable_order(before[order])]
    repeats = np.zeros(order.size, np.bool_)
    equal = word[order[1:]] == word[order[:-1]]
    if before is not None:
        equal &= before[order[1:]] == before[order[:-1]]
    # Ties of what has been seen so far stand side by side: places in the order, groups.
    place, group = _ties(np.arange(order.size), equal)
    depth = 0
    while place.size:
        rows = order[place]
        left = length[rows] - depth
        word = words.at(begin[rows] + depth, left)
        # Behind the end of a string there are zeros, and NUL is a character: the shorter one of
        # what looks equal comes first.
        seen = np.minimum(left, WORD_BYTES + 1)
        inside = np.lexsort((seen, word, group))
        order[place] = rows[inside]
        word, seen, group = word[inside], seen[inside], group[inside]
        equal = (group[1:] == group[:-1]) & (word[1:] == word[:-1]) & (seen[1:] == seen[:-1])
        ended = seen[1:] <= WORD_BYTES
        repeats[place[1:][equal & ended]] = True
        place, group = _ties(place, equal & ~ended)
        depth += WORD_BYTES
    return order, repeats


def _stable_order(numbers: np.ndarray) -> np.ndarray:
    """Return the places of numbers in ascending order, equal ones in the order they have.

    Numbers of two bytes are sorted in linear time, and of counts nearly all are that small.
    """
    low = numbers.max() - _SMALL + 1 if numbers.size else 0
    small = np.maximum(numbers, low) - low
    order = np.argsort(small.astype(np.uint16), kind="stable")
    beyond = int(np.count_nonzero(numbers <= low))
    first = order[:beyond]
    order[:beyond] = first[np.argsort(numbers[first], kind="stable")]
    return order


def _ties(place: np.ndarray, equal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of what is equal to a neighbour, and a number for each group of them."""
    tied = np.zeros(place.size, np.bool_)
    tied[1:] |= equal
    tied[:-1] |= equal
    begins = np.concatenate(([True], ~equal))
    return place[tied], np.cumsum(begins)[tied]


@dataclass(frozen=True)
class Columns:
    """Rows of a table.

    Attributes:
        tokens: The tokens; the tokens of an n-gram follow each other.
        count: int64, how often each row occurs.
        documents: int64, in how many documents each occurs; None if that was not counted.
        ngram: How many strings make up a row; 0 where a row is a token.
        tagged: Whether these are a token and its tag.
    """

    tokens: Strings
    count: np.ndarray
    documents: np.ndarray | None = None
    ngram: int = 0
    tagged: bool = False

    @classmethod
    def of_rows(cls, rows: Sequence[Row], *, document_frequency: bool) -> Columns:
        """Return rows of Python as columns.

        >>> columns = Columns.of_rows([("茶", 2, 0), ("水", 1, 0)], document_frequency=False)
        >>> columns.count.tolist(), columns.keys()
        ([2, 1], ['茶', '水'])
        """
        keys, counts, documents = zip(*rows, strict=True) if rows else ((), (), ())
        ngram = len(keys[0]) if keys and isinstance(keys[0], tuple) else 0
        strings = list(itertools.chain.from_iterable(keys)) if ngram else keys
        return cls(
            Strings.of(strings),
            np.array(counts, np.int64),
            np.array(documents, np.int64) if document_frequency else None,
            ngram,
            bool(keys) and isinstance(keys[0], Tagged),
        )

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Return the rows of all parts, of which there is one at least."""
        documents = [part.documents for part in parts if part.documents is not None]
        return cls(
            Strings.joined([part.tokens for part in parts]),
            np.concatenate([part.count for part in parts]),
            np.concatenate(documents) if documents else None,
            parts[0].ngram,
            parts[0].tagged,
        )

    def __len__(self) -> int:
        return int(self.count.size)

    def __getitem__(self, part: slice) -> Columns:
        first, stop, _ = part.indices(len(self))
        width = self.ngram or 1
        return Columns(
            self.tokens[first * width : stop * width],
            self.count[first:stop],
            None if self.documents is None else self.documents[first:stop],
            self.ngram,
            self.tagged,
        )

    def ordered(self) -> Columns:
        """Return the rows in the order of tables."""
        return self.taken(self.order_of_tables)

    @functools.cached_property
    def order_of_tables(self) -> np.ndarray:
        """int64, the places of the rows in the order of tables, found once."""
        return self.order(-self.count)[0]

    def ordered_parts(self, n: int | None = None) -> Iterator[Columns]:
        """Yield the rows in the order of tables, in parts, each of which is made when its turn is.

        Args:
            n: How many are needed; None for all.
        """
        if n is not None and n < len(self) and "order_of_tables" not in vars(self):
            yield from self.taken(largest(self.count, n)).ordered_parts()
            return
        order = self.order_of_tables
        for first in range(0, order.size, PART_ROWS):
            yield self.taken(order[first : first + PART_ROWS])

    def summed(self) -> Columns:
        """Return the rows in ascending order of their keys, those with the same key added up."""
        return self.added(*self.order())

    def added(self, order: np.ndarray, repeats: np.ndarray) -> Columns:
        """Return the rows in an order in which equal keys stand together, and these added up.

        Args:
            order: int64, the places of the rows.
            repeats: bool, for each of them whether its key equals that of the one before.
        """
        if not len(self):
            return self
        first = np.flatnonzero(~repeats)
        documents = None if self.documents is None else self.documents[order]
        return replace(
            self.taken(order[first]),
            count=np.add.reduceat(self.count[order], first),
            documents=None if documents is None else np.add.reduceat(documents, first),
        )

    def order(self, before: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return what :meth:`Strings.order` does, by key."""
        if not self.ngram:
            return self.tokens.order(before)
        # Tokens by their rank among all of them, which equal ones share.
        place, repeats = self.tokens.order()
        rank = np.empty(place.size, np.int64)
        rank[place] = np.cumsum(~repeats)
        ranks = rank.reshape(-1, self.ngram)
        keys = ranks if before is None else np.column_stack((before, ranks))
        order = np.lexsort(keys.T[::-1])
        repeats = np.zeros(order.size, np.bool_)
        repeats[1:] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
        return order, repeats

    def filtered(self, chosen: Filter) -> Columns:
        """Return the rows that are kept, in the same order."""
        kept = self.count >= chosen.min_count
        tokens, width = self.tokens, self.ngram or 1
        if self.tagged:
            tokens, width = self.strings_at(0), 1
            if chosen.tags:
                known: dict[str, bool] = {}
                for tag in (tags := self.strings_at(1).decoded()):
                    known.setdefault(tag, chosen.keeps_tag(tag))
                kept &= np.fromiter(map(known.__getitem__, tags), np.bool_, len(tags))
        if chosen.min_length > 0:
            long = tokens.characters() >= chosen.min_length
            kept &= long.reshape(-1, width).all(axis=1)
        if chosen.stop_words:
            stopped = tokens.among(chosen.stop_words)
            kept &= ~stopped.reshape(-1, width).any(axis=1)
        if chosen.words_only:
            kept &= tokens.hold_letters().reshape(-1, width).all(axis=1)
        return self if kept.all() else self.taken(np.flatnonzero(kept))

    def strings_at(self, place: int) -> Strings:
        """Return the first, second, ... string of each row."""
        return self.tokens.taken(np.arange(place, len(self.tokens), self.ngram or 1))

    def taken(self, index: np.ndarray) -> Columns:
        """Return the rows at these places, in this order."""
        places = index
        if self.ngram:
            places = (index[:, None] * self.ngram + np.arange(self.ngram)).reshape(-1)
        return Columns(
            self.tokens.taken(places),
            self.count[index],
            None if self.documents is None else self.documents[index],
            self.ngram,
            self.tagged,
        )

    def parts(self, size: int | None = None) -> Iterator[Columns]:
        """Yield the rows in parts of a size, by default :data:`PART_ROWS`."""
        size = size or PART_ROWS
        for first in range(0, len(self), size):
            yield self[first : first + size]

    def keys(self) -> list[Any]:
        """Return the keys as Python objects."""
        tokens = self.tokens.decoded()
        if self.ngram:
            grams = zip(*[iter(tokens)] * self.ngram, strict=True)
            return list(map(Tagged._make, grams) if self.tagged else grams)
        return tokens

    def rows(self) -> Iterator[Row]:
        """Yield the rows as Python objects: key, count, documents or 0."""
        documents = itertools.repeat(0) if self.documents is None else self.documents.tolist()
        return zip(self.keys(), self.count.tolist(), documents, strict=False)


def sorted_blocks(parts: Sequence[Columns], size: int) -> Iterator[Block]:
    """Yield rows sorted by key, those with the same key added up, in blocks of a size."""
    if parts:
        for part in Columns.joined(parts).summed().parts(size):
            yield list(part.rows())


def columns_of(rows: Iterable[Row], *, document_frequency: bool) -> Iterator[Columns]:
    """Yield rows of Python as columns, in parts of :data:`PART_ROWS`."""
    rows = iter(rows)
    while part := list(itertools.islice(rows, PART_ROWS)):
        yield Columns.of_rows(part, document_frequency=document_frequency)
