"""Tables in the order of a hash of their keys: they add up in one pass, and any range can be had.

A table that is sorted like that is partitioned by hash whatever the number of parts: a part is a
range of hashes, found by bisection. Keys with the same hash (one pair is to be expected among five
thousand million keys) are told apart by their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from perftricks.wordcount.table.arrow import array_of, strings_of, values_of
from perftricks.wordcount.table.columns import WORD_BYTES, Columns, Strings, Words

_BASE = 0x9E3779B97F4A7C15  # odd, so that no power of it is zero
_HASHES = 1 << 64


class Hashed(NamedTuple):
    """Rows in ascending order of the hash of their keys, each key once.

    Attributes:
        columns: The rows.
        hashes: uint64.
    """

    columns: Columns
    hashes: np.ndarray

    @classmethod
    def of(cls, columns: Columns) -> Hashed:
        """Return rows, each key of which occurs once, in the order of hashes."""
        hashes = hash_keys(columns)
        order = np.argsort(hashes)
        return cls(columns.taken(order), hashes[order])

    @classmethod
    def summed(cls, tables: Sequence[Hashed]) -> Hashed:
        """Return the sum of tables, one at least."""
        if len(tables) == 1:
            return tables[0]
        columns = Columns.joined([table.columns for table in tables])
        hashes = np.concatenate([table.hashes for table in tables])
        # Timsort, which merges what is sorted in parts.
        order = np.argsort(hashes, kind="stable")
        repeats = _repeats(columns, hashes, order)
        if repeats is None:
            order, repeats = columns.order(hashes.view(np.int64) ^ np.int64(-1 << 63))
        return cls(columns.added(order, repeats), hashes[order[~repeats]])

    def part(self, number: int, parts: int) -> Hashed:
        """Return the rows of one of so many equal ranges of hashes."""
        start, stop = (_bound(self.hashes, n, parts) for n in (number, number + 1))
        return Hashed(self.columns[start:stop], self.hashes[start:stop])

    def to_arrow(self) -> Any:
        """Return the rows as a table of Arrow, which shares their memory."""
        import pyarrow as pa

        return columns_to_arrow(self.columns, hash=array_of(pa.uint64(), self.hashes))

    @classmethod
    def of_arrow(cls, table: Any) -> Hashed:
        """Return the rows of a table of Arrow that :meth:`to_arrow` has made."""
        return cls(columns_of_arrow(table), _values(table, "hash", np.uint64))


def columns_to_arrow(columns: Columns, **more: Any) -> Any:
    """Return rows as a table of Arrow, which shares their memory.

    Keys are bytes, since a token may hold what Arrow's strings cannot.

    Args:
        columns: The rows.
        more: Arrays of Arrow to be in it too, by name.
    """
    import pyarrow as pa

    text = columns.tokens
    start = np.ascontiguousarray(text.start, np.int64)
    data = np.ascontiguousarray(text.text)
    buffers = [None, pa.py_buffer(start), pa.py_buffer(data)]
    keys = pa.Array.from_buffers(pa.large_binary(), len(text), buffers)
    if columns.ngram:
        keys = pa.FixedSizeListArray.from_arrays(keys, columns.ngram)
    key = "tagged" if columns.tagged else "key"
    found = {key: keys, **more, "count": array_of(pa.int64(), columns.count)}
    if columns.documents is not None:
        found["documents"] = array_of(pa.int64(), columns.documents)
    return pa.table(found)


def columns_of_arrow(table: Any) -> Columns:
    """Return the rows of a table of Arrow that :func:`columns_to_arrow` has made."""
    import pyarrow as pa

    tagged = "tagged" in table.column_names
    keys = table.column("tagged" if tagged else "key")
    ngram = keys.type.list_size if pa.types.is_fixed_size_list(keys.type) else 0
    keys = keys.combine_chunks()
    keys = keys.chunk(0) if isinstance(keys, pa.ChunkedArray) else keys
    keys = keys.flatten() if ngram else keys
    has_documents = "documents" in table.column_names
    documents = _values(table, "documents", np.int64) if has_documents else None
    return Columns(strings_of(keys), _values(table, "count", np.int64), documents, ngram, tagged)


def _values(table: Any, name: str, kind: type) -> np.ndarray:
    parts = [values_of(chunk, kind) for chunk in table.column(name).chunks if len(chunk)]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, kind), *parts])


def hash_keys(columns: Columns) -> np.ndarray:
    """Return 64 bits for each key, the same on every machine.

    A polynomial of eight bytes at a time, and of the tokens of an n-gram, mixed at each step by the
    last one of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014).

    >>> columns = Columns(Strings.of(["茶", "tea"]), np.array([2, 1]))
    >>> [n % 1000 for n in hash_keys(columns).tolist()]
    [471, 822]
    """
    hashes = _hash_strings(columns.tokens)
    if columns.ngram:
        rows = hashes.reshape(-1, columns.ngram)
        hashes = np.zeros(len(rows), np.uint64)
        for place in range(columns.ngram):
            hashes = _mixed(hashes * np.uint64(_BASE) + rows[:, place])
    return hashes


def _hash_strings(strings: Strings) -> np.ndarray:
    length = np.diff(strings.start)
    words = Words(strings.text)
    hashes = length.astype(np.uint64)
    # Few tokens are long, so that the strings that are left become few soon.
    rows: np.ndarray | slice = slice(None)
    begin, left = strings.start[:-1], length
    while left.size:
        hashes[rows] = _mixed(hashes[rows] * np.uint64(_BASE) + words.at(begin, left))
        more = np.flatnonzero(left > WORD_BYTES)
        rows = more if isinstance(rows, slice) else rows[more]
        begin, left = begin[more] + WORD_BYTES, left[more] - WORD_BYTES
    return hashes


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _repeats(columns: Columns, hashes: np.ndarray, order: np.ndarray) -> np.ndarray | None:
    """Return for each row in order whether its key is that before; None if hashes collide."""
    repeats = np.zeros(order.size, np.bool_)
    sorted_hashes = hashes[order]
    repeats[1:] = sorted_hashes[1:] == sorted_hashes[:-1]
    twice = np.flatnonzero(repeats)
    width = columns.ngram or 1
    for place in range(width):
        one, other = order[twice] * width + place, order[twice - 1] * width + place
        if not _are_equal(columns.tokens, one, other):
            return None
    return repeats


def _are_equal(strings: Strings, one: np.ndarray, other: np.ndarray) -> bool:
    """Say whether strings at places equal those at other places, all of them."""
    left, right = strings.taken(one), strings.taken(other)
    return np.array_equal(left.start, right.start) and np.array_equal(left.text, right.text)


def _bound(hashes: np.ndarray, number: int, parts: int) -> int:
    if number >= parts:
        return int(hashes.size)
    return int(np.searchsorted(hashes, np.uint64(number * _HASHES // parts)))
