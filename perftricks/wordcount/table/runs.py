"""Sorted rows in files, and their merge: what a table is when memory does not hold it.

A run is a file of rows in ascending order, in blocks that are read one at a time. Each is a frame,
see ``frames.py``; the file's name belongs to all digests. What has changed, is missing or comes
from another file is noticed before a row of it is used, and the last digest stands for the file.

Merging goes by blocks as well: of the blocks at the front of the runs, all rows up to the smallest
of their last ones can be put in order, because nothing that is still on the disk comes before.
Python sorts what is sorted in parts already in little more than one pass.
"""

from __future__ import annotations

import itertools
import os
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perftricks.wordcount.table.frames import FrameWriter, damaged, read_frames
from perftricks.wordcount.table.rows import Block, Row, Tagged

_FORMAT = f"perftricks run 2 {sys.byteorder}".ljust(31).encode("ascii") + b"\n"
_FORM = struct.Struct("<IHH")  # rows, strings in a key (0: it is one), whether counts come first
_TAGGED = 1 << 15  # in place of strings in a key: it is a token with its tag


class Run(NamedTuple):
    """A file of rows in ascending order.

    Attributes:
        path: The file.
        rows: How many rows it has.
        digest: The last digest in it.
    """

    path: Path
    rows: int
    digest: str


def write_run(path: Path, blocks: Iterable[Block], *, sync: bool = False) -> Run:
    """Write rows to a new file.

    Args:
        path: The file.
        blocks: The rows in ascending order.
        sync: Wait until the disk has them.

    Raises:
        OSError: If that fails; the file is removed.
    """
    rows = 0
    try:
        with open(path, "xb") as file:
            frames = FrameWriter(file, _FORMAT, _salt(path))
            for block in blocks:
                frames.write(encoded_block(block))
                rows += len(block)
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except FileExistsError:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Run(path, rows, frames.digest)


def read_run(run: Run) -> Iterator[Block]:
    """Yield the rows of a run, a block at a time.

    Raises:
        OSError: If the file cannot be read, or is not what was written.
    """
    rows = 0
    for data in _frames(run):
        block = decoded_block(data)
        rows += len(block)
        yield block
    if rows != run.rows:
        raise damaged(run.path)


def check_run(run: Run) -> None:
    """Read a run to its end to see that it is what was written.

    Raises:
        OSError: If it is not, or cannot be read.
    """
    rows = 0
    for data in _frames(run):
        rows += _FORM.unpack_from(data)[0]
    if rows != run.rows:
        raise damaged(run.path)


def _frames(run: Run) -> Iterator[bytes]:
    """Yield the blocks as they are in the file."""
    return read_frames(run.path, _FORMAT, _salt(run.path), last=run.digest, smallest=_FORM.size)


def _salt(path: Path) -> bytes:
    return os.fsencode(path.name)


def encoded_block(block: Block) -> bytes:
    """Return rows as bytes: numbers in columns, then the text of all keys."""
    by_count = bool(block) and isinstance(block[0][0], int)
    first, second, documents = zip(*block, strict=True) if block else ((), (), ())
    keys, counts = (second, first) if by_count else (first, second)
    parts = len(keys[0]) if keys and isinstance(keys[0], tuple) else 0
    form = _TAGGED if keys and isinstance(keys[0], Tagged) else parts
    strings = list(itertools.chain.from_iterable(keys)) if parts else keys
    return b"".join(
        (
            _FORM.pack(len(block), form, by_count),
            array("I", map(len, strings)).tobytes(),
            array("q", counts).tobytes(),
            array("q", documents).tobytes(),
            "".join(strings).encode("utf-8", "surrogatepass"),
        )
    )


def decoded_block(data: bytes) -> Block:
    """Return the rows that :func:`encoded_block` made bytes of."""
    rows, form, by_count = _FORM.unpack_from(data)
    parts = 2 if form == _TAGGED else form
    position = _FORM.size
    columns = []
    for kind, size in (("I", rows * (parts or 1)), ("q", rows), ("q", rows)):
        column = array(kind)
        end = position + size * column.itemsize
        column.frombytes(data[position:end])
        position = end
        columns.append(column)
    lengths, counts, documents = columns
    text = data[position:].decode("utf-8", "surrogatepass")
    ends = itertools.accumulate(lengths, initial=0)
    keys: Iterable[Any] = [text[start:end] for start, end in itertools.pairwise(ends)]
    if parts:
        strings = iter(keys)
        keys = zip(*[strings] * parts, strict=True)
        keys = map(Tagged._make, keys) if form == _TAGGED else keys
    if by_count:
        return list(zip(counts, keys, documents, strict=True))
    return list(zip(keys, counts, documents, strict=True))


def blocks_of(rows: Iterable[Row], size: int) -> Iterator[Block]:
    """Yield rows in blocks of a size."""
    block: Block = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


class _Front:
    """Where the merge is in a run."""

    __slots__ = ("block", "blocks", "start")

    def __init__(self, blocks: Iterator[Block]) -> None:
        self.blocks = blocks
        self.block: Block = []
        self.start = 0

    def fill(self) -> bool:
        """Have rows in the block; return False if there are none left."""
        while self.start == len(self.block):
            block = next(self.blocks, None)
            if block is None:
                return False
            self.block, self.start = block, 0
        return True

    def take(self, bound: Row) -> Block:
        """Return the rows up to this one."""
        end = bisect_right(self.block, bound, self.start)
        taken = self.block[self.start : end]
        self.start = end
        return taken


def merged(runs: Iterable[Iterator[Block]]) -> Iterator[Block]:
    """Yield the rows of several sorted sequences in ascending order.

    One block of each is in memory at a time.
    """
    fronts = [front for front in map(_Front, runs) if front.fill()]
    while len(fronts) > 1:
        bound = min(front.block[-1] for front in fronts)
        rows: Block = []
        for front in fronts:
            rows += front.take(bound)
        rows.sort()
        yield rows
        fronts = [front for front in fronts if front.fill()]
    for front in fronts:
        yield front.block[front.start :]
        yield from front.blocks


def summed(blocks: Iterable[Block]) -> Iterator[Block]:
    """Add up the rows of each key, which follow each other; the blocks may divide them."""
    last: Row | None = None
    for block in blocks:
        sums: Block = []
        for row in block:
            if last is None:
                last = row
            elif row[0] == last[0]:
                last = (row[0], last[1] + row[1], last[2] + row[2])
            else:
                sums.append(last)
                last = row
        yield sums
    if last is not None:
        yield [last]
