"""The table of counts: growing, merging, saving, and turning token ids back into strings."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from perftricks.files import open_plainly, replacing
from perftricks.wordcount.storage.sealed import DamagedError, digest_of, seal, unsealed

from .arrays import packed, unpacked
from .layout import (
    CRLF,
    EMPTY,
    ENTRY_CAPACITY,
    FIRST_OOV,
    N_ENTRIES,
    N_UNITS,
    N_WORDS,
    SEPARATOR,
    SIZE_FIELDS,
    SLOT_BITS,
    UNIT_CAPACITY,
    Lexicon,
    NgramTable,
    Table,
)
from .native import Kernel

UTF_16 = f"utf-16-{sys.byteorder[0]}e"
_FORM = f"table 3 {sys.byteorder}"
INITIAL_ENTRIES = 3 << 14
UNITS_PER_ENTRY = 4
_ENTRY_BYTES = 40  # an entry's count, and its slots in a table that is half full


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    """The array with zeros behind it."""
    bigger = np.zeros(size, array.dtype)
    bigger[: array.size] = array
    return bigger


def _slot_bits(entries: int) -> int:
    """Bits of a slot table that is at most three quarters full.

    A small table means fewer cache misses.
    """
    return max(10, (entries * 4 // 3 - 1).bit_length())


def _empty_slots(bits: int) -> np.ndarray:
    """A slot table, four slots to a cache line."""
    size = 2 << bits
    slots = np.zeros(size + 8, np.int64)
    start = -slots.__array_interface__["data"][0] % 64 // slots.itemsize
    return slots[start : start + size]


class TokenTable:
    """Counts of tokens, and on demand of documents that contain them and of n-grams of them.

    ``doc_freq``: also count in how many documents a token (or an n-gram, if ``ngram`` > 1) occurs.
    ``ngram``: also count sequences of so many consecutive tokens of a document; 1 counts none.
    """

    def __init__(
        self, kernel: Kernel, lexicon: Lexicon, *, ngram: int = 1, doc_freq: bool = False
    ) -> None:
        self.kernel = kernel
        self.lexicon = lexicon
        self.ngram = ngram
        self.has_doc_freq = doc_freq
        self.first_oov = int(lexicon.shape[N_WORDS]) + FIRST_OOV
        size = np.zeros(SIZE_FIELDS, np.int64)
        size[ENTRY_CAPACITY] = INITIAL_ENTRIES
        size[UNIT_CAPACITY] = INITIAL_ENTRIES * UNITS_PER_ENTRY
        size[SLOT_BITS] = _slot_bits(INITIAL_ENTRIES)
        ids = self.first_oov + INITIAL_ENTRIES
        self.tokens = Table(
            count=np.zeros(ids, np.int64),
            slot=_empty_slots(int(size[SLOT_BITS])),
            unit=np.zeros(int(size[UNIT_CAPACITY]), np.uint16),
            start=np.zeros(INITIAL_ENTRIES + 1, np.int64),
            size=size,
            doc_freq=np.zeros(ids if doc_freq else 1, np.int64),
            last_document=np.zeros(ids if doc_freq else 1, np.int64),
        )
        self.ngrams = self._empty_ngrams(INITIAL_ENTRIES if ngram > 1 else 1)

    def _empty_ngrams(self, entries: int) -> NgramTable:
        size = np.zeros(SIZE_FIELDS, np.int64)
        size[ENTRY_CAPACITY] = entries
        size[SLOT_BITS] = _slot_bits(entries)
        documents = entries if self.has_doc_freq and self.ngram > 1 else 1
        return NgramTable(
            count=np.zeros(entries, np.int64),
            slot=_empty_slots(int(size[SLOT_BITS])),
            gram=np.zeros(entries * self.ngram, np.int32),
            size=size,
            window=np.zeros(self.ngram, np.int32),
            doc_freq=np.zeros(documents, np.int64),
            last_document=np.zeros(documents, np.int64),
        )

    # ------------------------------------------------------------------ size

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the arrays take, untouched pages included."""
        return sum(a.nbytes for a in (*self.tokens, *self.ngrams))

    @property
    def outgrown(self) -> int:
        """Bytes that what was counted takes, beyond what a table of the dictionary always takes."""
        documents = 16 if self.has_doc_freq else 0
        tokens = self.n_entries * (_ENTRY_BYTES + 8 + documents)
        grams = self.n_ngrams * (_ENTRY_BYTES + 4 * self.ngram + documents)
        return tokens + 2 * int(self.tokens.size[N_UNITS]) + grams

    @property
    def n_entries(self) -> int:
        """How many distinct tokens outside the vocabulary the table holds."""
        return int(self.tokens.size[N_ENTRIES])

    @property
    def n_ngrams(self) -> int:
        """How many distinct n-grams the table holds."""
        return int(self.ngrams.size[N_ENTRIES])

    def reserve(self, entries: int, units: int) -> None:
        """Make room for so many more tokens outside the vocabulary, of so many UTF-16 units."""
        old = self.tokens
        need_entries = self.n_entries + entries
        need_units = int(old.size[N_UNITS]) + units
        size = old.size.copy()
        while size[ENTRY_CAPACITY] < need_entries:
            size[ENTRY_CAPACITY] *= 2
        while size[UNIT_CAPACITY] < need_units:
            size[UNIT_CAPACITY] *= 2
        size[SLOT_BITS] = max(int(size[SLOT_BITS]), _slot_bits(int(size[ENTRY_CAPACITY])))
        capacity = int(size[ENTRY_CAPACITY])
        ids = self.first_oov + capacity
        if capacity > int(old.size[ENTRY_CAPACITY]):
            self.tokens = self.tokens._replace(
                count=_grown(old.count, ids),
                start=_grown(old.start, capacity + 1),
                doc_freq=_grown(old.doc_freq, ids if self.has_doc_freq else 1),
                last_document=_grown(old.last_document, ids if self.has_doc_freq else 1),
            )
        if size[UNIT_CAPACITY] > old.size[UNIT_CAPACITY]:
            self.tokens = self.tokens._replace(unit=_grown(old.unit, int(size[UNIT_CAPACITY])))
        self.tokens = self.tokens._replace(size=size)
        if size[SLOT_BITS] > old.size[SLOT_BITS]:
            self.tokens = self.tokens._replace(slot=_empty_slots(int(size[SLOT_BITS])))
            self.kernel.call("rehash_table", self.tokens)

    def reserve_ngrams(self, entries: int) -> None:
        """Make room for so many more n-grams."""
        old = self.ngrams
        size = old.size.copy()
        while size[ENTRY_CAPACITY] < self.n_ngrams + entries:
            size[ENTRY_CAPACITY] *= 2
        size[SLOT_BITS] = _slot_bits(int(size[ENTRY_CAPACITY]))
        if np.array_equal(size, old.size):
            return
        capacity = int(size[ENTRY_CAPACITY])
        with_documents = self.has_doc_freq and self.ngram > 1
        self.ngrams = NgramTable(
            count=_grown(old.count, capacity),
            slot=_empty_slots(int(size[SLOT_BITS])),
            gram=_grown(old.gram, capacity * self.ngram),
            size=size,
            window=old.window,
            doc_freq=_grown(old.doc_freq, capacity if with_documents else 1),
            last_document=_grown(old.last_document, capacity if with_documents else 1),
        )
        self.kernel.call("rehash_ngrams", (*self.ngrams, np.array([self.ngram])))

    # ------------------------------------------------------------------ merging

    def merge(self, other: TokenTable) -> None:
        """Add the counts of another table of the same lexicon and options.

        The other one is left as it is.
        """
        if other.ngram != self.ngram or other.has_doc_freq != self.has_doc_freq:
            raise ValueError("only tables with the same options can be merged")
        entries = other.n_entries
        self.reserve(entries, int(other.tokens.size[N_UNITS]) + 8)
        entry_map = np.empty(entries, np.int64)
        mine, theirs, first = self.tokens, other.tokens, self.first_oov
        self.kernel.call("merge_entries", (*mine, *theirs, entry_map))
        mine.count[:first] += theirs.count[:first]
        mine.count[first + entry_map] += theirs.count[first : first + entries]
        if self.has_doc_freq:
            mine.doc_freq[:first] += theirs.doc_freq[:first]
            mine.doc_freq[first + entry_map] += theirs.doc_freq[first : first + entries]
        if self.ngram > 1:
            self.reserve_ngrams(other.n_ngrams)
            token_map = np.concatenate((np.arange(first), first + entry_map)).astype(np.int32)
            options = np.array([self.ngram, int(self.has_doc_freq)])
            self.kernel.call("merge_ngrams", (*self.ngrams, *other.ngrams, token_map, options))

    # ------------------------------------------------------------------ sorted rows

    def emptied(self) -> TokenTable:
        """A new table with the counts of dictionary words and of single characters alone."""
        new = TokenTable(self.kernel, self.lexicon, ngram=self.ngram, doc_freq=self.has_doc_freq)
        first = self.first_oov
        new.tokens.count[:first] = self.tokens.count[:first]
        if self.has_doc_freq:
            new.tokens.doc_freq[:first] = self.tokens.doc_freq[:first]
        return new

    def sorted_blocks(self, size: int, *, rest: bool) -> Iterator[list[tuple[Any, int, int]]]:
        """What is counted as (key, count, documents), sorted by key, in blocks of a size.

        Of tokens, those that :meth:`emptied` forgets; with ``rest`` the others too. Of n-grams,
        all.
        """
        if self.ngram > 1:
            yield from self._sorted_ngrams(size)
            return
        ids = self.used_ids()
        if not rest:
            ids = ids[np.searchsorted(ids, self.first_oov) :]
        tokens = self.strings(ids)
        order = np.array(sorted(range(len(tokens)), key=tokens.__getitem__), np.int64)
        for start in range(0, order.size, size):
            chosen = order[start : start + size]
            yield _rows(
                map(tokens.__getitem__, chosen.tolist()),
                self.tokens.count[ids[chosen]],
                self.tokens.doc_freq[ids[chosen]] if self.has_doc_freq else None,
            )

    def _sorted_ngrams(self, size: int) -> Iterator[list[tuple[Any, int, int]]]:
        n, grams = self.ngram, self.n_ngrams
        ids, tokens = self._gram_tokens()
        by_token = np.array(sorted(range(len(tokens)), key=tokens.__getitem__), np.int64)
        rank = np.empty(self.first_oov + self.n_entries, np.int32)
        rank[ids[by_token]] = np.arange(ids.size)
        tokens = [tokens[i] for i in by_token.tolist()]
        ranks = rank[self.ngrams.gram[: n * grams].reshape(grams, n)]
        order = np.lexsort(ranks.T[::-1])
        for start in range(0, grams, size):
            chosen = order[start : start + size]
            columns = [map(tokens.__getitem__, column) for column in ranks[chosen].T.tolist()]
            yield _rows(
                zip(*columns, strict=True),
                self.ngrams.count[chosen],
                self.ngrams.doc_freq[chosen] if self.has_doc_freq else None,
            )

    def _gram_tokens(self) -> tuple[np.ndarray, list[str]]:
        """The ids of the tokens that n-grams are made of, and the tokens."""
        used = np.zeros(self.first_oov + self.n_entries, np.bool_)
        used[self.ngrams.gram[: self.ngram * self.n_ngrams]] = True
        ids = np.flatnonzero(used)
        return ids, self.strings(ids)

    # ------------------------------------------------------------------ disk

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the table to a file, atomically, and return its digest.

        After a crash there is the old file, the new one or none.
        """
        used = self.tokens.count.nonzero()[0]
        entries, units = self.n_entries, int(self.tokens.size[N_UNITS])
        grams = self.n_ngrams
        contents: dict[str, Any] = {
            "options": np.array([self.first_oov, self.ngram, int(self.has_doc_freq)]),
            "used": used,
            "count": self.tokens.count[used],
            "start": self.tokens.start[: entries + 1],
            "unit": self.tokens.unit[:units],
        }
        if self.has_doc_freq:
            contents["doc_freq"] = self.tokens.doc_freq[used]
        if self.ngram > 1:
            contents["gram"] = self.ngrams.gram[: grams * self.ngram]
            contents["gram_count"] = self.ngrams.count[:grams]
            if self.has_doc_freq:
                contents["gram_doc_freq"] = self.ngrams.doc_freq[:grams]
        parts = list(packed(contents))
        header = seal(_FORM, os.path.basename(path), parts)
        with replacing(path, follow=False) as file:
            file.write(header)
            for part in parts:
                file.write(part)
        return digest_of(header)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        kernel: Kernel,
        lexicon: Lexicon,
        *,
        digest: str | None = None,
    ) -> TokenTable:
        """Read a table that was saved with the same lexicon.

        Args:
            path: The file.
            kernel: The kernel.
            lexicon: The tables of the dictionary.
            digest: What :meth:`save` returned; None if any table of this name will do.

        Raises:
            OSError: If the file cannot be read.
            DamagedError: If it is not what was saved.
        """
        with open_plainly(path) as file:
            data = file.read()
        contents = unpacked(unsealed(_FORM, os.path.basename(path), data))
        if digest not in (None, digest_of(data)):
            raise DamagedError("it is another table than the one that was saved last")
        first_oov, ngram, doc_freq = contents["options"].tolist()
        table = cls(kernel, lexicon, ngram=ngram, doc_freq=bool(doc_freq))
        if first_oov != table.first_oov:
            raise DamagedError("it was written with another dictionary")
        table._fill(contents)
        return table

    def _fill(self, contents: dict[str, np.ndarray]) -> None:
        """Take over what was saved; the table is empty."""
        start, unit = contents["start"], contents["unit"]
        self.reserve(start.size - 1, unit.size + 8)
        used = contents["used"]
        self.tokens.count[used] = contents["count"]
        self.tokens.start[: start.size] = start
        self.tokens.unit[: unit.size] = unit
        self.tokens.size[N_ENTRIES] = start.size - 1
        self.tokens.size[N_UNITS] = unit.size
        self.kernel.call("rehash_table", self.tokens)
        if self.has_doc_freq:
            self.tokens.doc_freq[used] = contents["doc_freq"]
        if self.ngram > 1:
            gram, count = contents["gram"], contents["gram_count"]
            self.reserve_ngrams(count.size)
            self.ngrams.gram[: gram.size] = gram
            self.ngrams.count[: count.size] = count
            self.ngrams.size[N_ENTRIES] = count.size
            self.kernel.call("rehash_ngrams", (*self.ngrams, np.array([self.ngram])))
            if self.has_doc_freq:
                self.ngrams.doc_freq[: count.size] = contents["gram_doc_freq"]

    # ------------------------------------------------------------------ results

    @property
    def separators(self) -> int:
        """How many document ends were met (a last document without one is not among them)."""
        return int(self.tokens.count[self.first_oov - FIRST_OOV + SEPARATOR])

    def _units(self, function: str, text: np.ndarray, start: np.ndarray, index: np.ndarray) -> str:
        """The chosen strings, each with a line feed behind it.

        Tokens of two characters or more hold none, so they can be told apart.
        """
        size = int((start[index + 1] - start[index]).sum()) + index.size
        out = np.empty(size, np.uint16)
        n = np.array([index.size], np.int64)
        index = np.ascontiguousarray(index, np.int64)
        self.kernel.call(function, (text, start, index, n, out))
        return out.tobytes().decode(UTF_16)

    def _characters(self, codes: np.ndarray) -> list[str]:
        """The tokens of ids between those of words and those outside the vocabulary."""
        special = {CRLF: "\r\n", EMPTY: "", SEPARATOR: "\n"}
        n_words = self.first_oov - FIRST_OOV
        return [special[c] if c in special else chr(c) for c in (codes - n_words).tolist()]

    def strings(self, ids: np.ndarray) -> list[str]:
        """The tokens of the given ids, which must be ascending."""
        n_words = self.first_oov - FIRST_OOV
        words, codes, oov = np.split(ids, np.searchsorted(ids, [n_words, self.first_oov]))
        lexicon, tokens = self.lexicon, self.tokens
        result = self._units("write_words", lexicon.text, lexicon.text_start, words).split("\n")
        result[-1:] = self._characters(codes)
        entries = oov - self.first_oov
        result += self._units("write_entries", tokens.unit, tokens.start, entries).split("\n")
        return result[:-1]

    def encoded(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of the given ids, which must be ascending, as UTF-8.

        Returns:
            uint8, the tokens one after the other; int64, where each starts and the last one ends.
        """
        n_words = self.first_oov - FIRST_OOV
        words, codes, oov = np.split(ids, np.searchsorted(ids, [n_words, self.first_oov]))
        lexicon, tokens = self.lexicon, self.tokens
        characters = [code.encode() for code in self._characters(codes)]
        parts = (
            _lines(self._units("write_words", lexicon.text, lexicon.text_start, words)),
            (
                np.frombuffer(b"".join(characters), np.uint8),
                np.fromiter(map(len, characters), np.int64, len(characters)),
            ),
            _lines(self._units("write_entries", tokens.unit, tokens.start, oov - self.first_oov)),
        )
        text = np.concatenate([text for text, _ in parts])
        return text, np.cumsum(np.concatenate(([0], *(length for _, length in parts))))

    def used_ids(self) -> np.ndarray:
        """The ids of the tokens that occur, ascending."""
        used = np.flatnonzero(self.tokens.count)
        separator = self.first_oov - FIRST_OOV + SEPARATOR
        return np.asarray(used[used != separator])

    def items(self) -> tuple[list[str], np.ndarray]:
        """All tokens that occur and their counts."""
        ids = self.used_ids()
        return self.strings(ids), self.tokens.count[ids]

    def to_dict(self) -> dict[str, int]:
        """All tokens that occur, with their counts."""
        tokens, counts = self.items()
        return dict(zip(tokens, counts.tolist(), strict=True))

    @property
    def total(self) -> int:
        """How many tokens were counted."""
        return int(self.tokens.count.sum()) - self.separators

    def __len__(self) -> int:
        """How many distinct tokens there are."""
        return int(np.count_nonzero(self.tokens.count)) - (self.separators > 0)

    def ngram_items(self) -> Iterator[tuple[tuple[str, ...], int, int]]:
        """All n-grams: (tokens, count, documents that contain it).

        The last is 0 if documents were not counted.
        """
        n, grams = self.ngram, self.n_ngrams
        ids, strings = self._gram_tokens()
        place = np.empty(self.first_oov + self.n_entries, np.int32)
        place[ids] = np.arange(ids.size)
        tokens = list(map(strings.__getitem__, place[self.ngrams.gram[: grams * n]].tolist()))
        with_documents = self.has_doc_freq and n > 1
        documents = self.ngrams.doc_freq[:grams].tolist() if with_documents else [0] * grams
        counts = self.ngrams.count[:grams].tolist()
        return zip(
            zip(*(tokens[i::n] for i in range(n)), strict=True), counts, documents, strict=True
        )


def _lines(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The lines of a text, of which the last one ends too, as UTF-8 and their lengths."""
    data = np.frombuffer(text.encode(), np.uint8)
    ends = np.flatnonzero(data == 10)
    return data[data != 10], np.diff(ends, prepend=-1) - 1


def _rows(
    keys: Iterable[Any], counts: np.ndarray, documents: np.ndarray | None
) -> list[tuple[Any, int, int]]:
    numbers = itertools.repeat(0) if documents is None else documents.tolist()
    return list(zip(keys, counts.tolist(), numbers, strict=False))
