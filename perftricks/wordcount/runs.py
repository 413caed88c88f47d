"""Sorted rows in files, and their merge: what a table is when memory does not hold it.

A run is a file of rows in ascending order, in blocks that are read one at a time. Merging goes by
blocks as well: of the blocks at the front of the runs, all rows up to the smallest of their last
ones can be put in order, because nothing that is still on the disk comes before. Python sorts
what is sorted in parts already in little more than one pass.
"""

from __future__ import annotations

import marshal
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# (key, count, documents that hold the key or 0), where runs are sorted by key, and
# (-count, key, documents) where they are in the order of a table.
Row = tuple[Any, Any, int]
Block = list[Row]

_FORMAT = 4  # of marshal: older and newer versions of Python read it
_SIZE_BYTES = 8


class Run(NamedTuple):
    """A file of rows in ascending order.

    Attributes:
        path: The file.
        rows: How many rows it has.
    """

    path: Path
    rows: int


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
            for block in blocks:
                data = marshal.dumps(block, _FORMAT)
                file.write(len(data).to_bytes(_SIZE_BYTES, "little"))
                file.write(data)
                rows += len(block)
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Run(path, rows)


def read_run(run: Run) -> Iterator[Block]:
    """Yield the rows of a run, a block at a time.

    Raises:
        OSError: If the file cannot be read, or is not what was written.
    """
    rows = 0
    with open(run.path, "rb") as file:
        while size := file.read(_SIZE_BYTES):
            data = file.read(int.from_bytes(size, "little"))
            try:
                block: Block = marshal.loads(data)
            except (EOFError, ValueError, TypeError):
                rows = -1
                break
            rows += len(block)
            yield block
    if rows != run.rows:
        raise OSError(f"{str(run.path)!r} is damaged: expected {run.rows} rows")


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
