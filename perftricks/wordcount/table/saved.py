"""A table in a file of its own, which another process or machine loads and adds to others.

The first frame says what belongs to the table beside its rows. Blocks of rows follow, sorted by
key, and an empty frame. So a table may be larger than memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from perftricks.files import PathLike, replacing
from perftricks.wordcount.table.frames import FrameWriter, damaged, read_frames
from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.rows import Block, table_bytes
from perftricks.wordcount.table.runs import decoded_block, encoded_block
from perftricks.wordcount.table.spill import Spill, flattened
from perftricks.wordcount.table.spilled import SpilledTable
from perftricks.wordcount.table.table import Table

_LINE = b"perftricks table 1".ljust(31) + b"\n"
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Facts:
    """What belongs to a table beside its rows.

    Attributes:
        documents: How many documents were counted; None if that is not known.
        tokens: How many tokens were counted, the ones that were filtered out included.
        smallest: Rows with a smaller count have been left out.
        document_frequency: Whether documents were counted for each key.
        rows: How many rows there are.
    """

    documents: int | None
    tokens: int
    smallest: int
    document_frequency: bool
    rows: int


def save(path: PathLike, table: Table, facts: Facts) -> None:
    """Write a table; the file appears complete or not at all.

    Raises:
        OSError: If it cannot be written.
        SpillError: If the table is on the disk and cannot be read.
    """
    with replacing(path) as file:
        frames = FrameWriter(file, _LINE)
        frames.write(json.dumps(asdict(facts)).encode("ascii"))
        for block in table.blocks(_BLOCK_ROWS):
            frames.write(encoded_block(block))
        frames.write(b"")


def load(path: PathLike, limit: int) -> tuple[Table, Facts]:
    """Read what :func:`save` wrote.

    Args:
        path: The file, which is not needed any more afterwards.
        limit: Bytes that the table may take in memory; a larger one is copied to the temporary
            folder.

    Raises:
        OSError: If the file cannot be read, or is not what was written.
    """
    where = Path(os.fspath(path))
    frames = read_frames(where, _LINE)
    try:
        facts = Facts(**json.loads(next(frames, b"")))
    except (ValueError, TypeError):
        raise damaged(where) from None
    blocks = _blocks(where, frames, facts.rows)
    if table_bytes(facts.rows, document_frequency=facts.document_frequency) > limit:
        spill = Spill(limit)
        spill.add(blocks)
        return SpilledTable(spill, document_frequency=facts.document_frequency), facts
    rows = flattened(blocks)
    return MemoryTable.of_rows(rows, document_frequency=facts.document_frequency), facts


def _blocks(path: Path, frames: Iterator[bytes], rows: int) -> Iterator[Block]:
    for data in frames:
        if not data:
            break
        block = decoded_block(data)
        rows -= len(block)
        yield block
    else:
        raise damaged(path)  # it ends too early
    if rows or next(frames, None) is not None:
        raise damaged(path)
