"""Tables that outgrow their memory: they move to the disk in parts, which are merged at the end.

::

    counting ─full table─▶ run ┐
             ─full table─▶ run ┼─merge, add up─▶ filter ─sort by count─▶ runs ─merge─▶ rows
             ─last table─▶ run ┘

This is the external merge sort, twice: by key, which brings the counts of a key together, then in
the order of the table. Memory holds one block of each run, whatever the size of the table.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from perftricks.files import try_lock
from perftricks.wordcount.errors import SpillError
from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.rows import ROW_BYTES, Block, Row
from perftricks.wordcount.table.runs import Run, blocks_of, merged, read_run, summed, write_run
from perftricks.wordcount.table.table import Table

PREFIX = "perftricks-spill-"

_LOCK = "lock"
_FAN_IN = 32  # runs that are merged at once, where so many files may be open
_OTHER_FILES = 8  # that may have to be opened meanwhile
_LARGEST_BLOCK = 8192  # rows


def separated(table: Mapping[Any, int]) -> tuple[dict[Any, int], dict[Any, int]]:
    """Take the counts of tokens and of documents apart, which one table holds."""
    counts = {}
    frequency = {}
    for key, count in table.items():
        if is_document_key(key):
            frequency[key[0]] = count
        else:
            counts[key] = count
    return counts, frequency


def is_document_key(key: Any) -> bool:
    """Whether what is counted stands for the documents that hold it."""
    return isinstance(key, tuple) and len(key) == 1


class Spill:
    """Parts of a table on the disk.

    Args:
        limit: Bytes that tables may take in memory.
        folder: Where the parts are kept, synchronized; None for a folder of their own in the
            temporary one, which ends with this object or the process. A process that is killed
            leaves it behind, and the next that spills deletes it.
        runs: Parts that are in the folder already.
        total: The sum of the counts in them.
    """

    def __init__(
        self, limit: int, folder: Path | None = None, runs: Iterable[Run] = (), total: int = 0
    ) -> None:
        self.limit = limit
        self.runs = list(runs)
        self.total = total
        self._lock = threading.Lock()
        self._folder = folder
        self._temporary: Path | None = None
        self._remove: Callable[[], object] | None = None
        self._numbers = itertools.count(1 + max(map(_number, self.runs), default=0))

    @property
    def share(self) -> int:
        """Bytes that the tables may take while counting: what is left is for spilling them."""
        return self.limit // 2

    @property
    def rows_in_memory(self) -> int:
        """How many rows may be in memory at once while parts are merged or sorted."""
        return max(2 * _FAN_IN, self.limit // 4 // ROW_BYTES)

    @property
    def block_rows(self) -> int:
        """How many rows make a block."""
        return min(self.rows_in_memory // _FAN_IN, _LARGEST_BLOCK)

    def add(self, blocks: Iterable[Block]) -> None:
        """Write a part: rows sorted by key, each key once. Threads may do so at a time.

        Raises:
            SpillError: If it cannot be written.
        """
        total = 0

        def counted() -> Iterator[Block]:
            nonlocal total
            for block in blocks:
                total += sum(count for _, count, _ in block)
                yield block

        with self._lock:
            path = self._new_path(self._folder)
        with self.explained():
            run = write_run(path, counted(), sync=self._folder is not None)
        if not run.rows:
            path.unlink()
            return
        with self._lock:
            self.runs.append(run)
            self.total += total

    def add_table(self, table: Table) -> None:
        """Write a part that is a table."""
        self.add(table.blocks(self.block_rows))

    def add_counter(self, counter: Mapping[Any, int]) -> None:
        """Write a part that is a mapping; the counts of documents stand in it as 1-tuples."""
        self.add_table(MemoryTable(*separated(counter)))

    def summed(self) -> Iterator[Block]:
        """Yield the rows of all parts by key, each key once, in blocks.

        Raises:
            SpillError: If parts cannot be read, or merging them needs room that is not there.
        """
        self.reduce(self.runs, lambda blocks: flattened(summed(blocks)))
        with self.explained():
            yield from summed(merged(map(read_run, self.runs)))

    def reduce(
        self,
        runs: list[Run],
        combine: Callable[[Iterator[Block]], Iterable[Row]],
    ) -> None:
        """Merge runs to larger ones, in place, until there are so few that one merge will do.

        Args:
            runs: Sorted runs. Those that have been merged are deleted if they are temporary.
            combine: Makes the rows to write of the merged blocks.
        """
        fan_in = _fan_in()
        while len(runs) > fan_in:
            some = runs[:fan_in]
            rows = combine(merged(map(read_run, some)))
            runs[:fan_in] = [self.write(blocks_of(rows, self.block_rows))]
            runs.append(runs.pop(0))  # small runs are merged before large ones
            for run in some:
                if run.path.parent == self._temporary:
                    run.path.unlink()

    def write(self, blocks: Iterable[Block]) -> Run:
        """Write sorted rows to a temporary file.

        Raises:
            SpillError: If that fails.
        """
        path = self._new_path(None)
        with self.explained():
            return write_run(path, blocks)

    def close(self) -> None:
        """Delete the temporary files."""
        if self._remove is not None:
            self._remove()

    def forget(self) -> None:
        """From now on write to the temporary folder: what is kept elsewhere is complete."""
        self._folder = None

    def _new_path(self, folder: Path | None) -> Path:
        if folder is None:
            folder = self._temporary
        if folder is None:
            with self.explained():
                folder = self._make_folder()
        return folder / f"run-{next(self._numbers)}"

    def _make_folder(self) -> Path:
        _delete_abandoned()
        while True:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            held = open(folder / _LOCK, "wb")  # noqa: SIM115  # held until the folder is deleted
            if try_lock(held) is not False and os.path.exists(held.name):
                break
            held.close()  # in between another process took it for abandoned
        self._temporary = folder
        self._remove = weakref.finalize(self, _delete, folder, held, os.getpid())
        return folder

    def explained(self) -> _Explained:
        """Say what a system's error means here, in a ``with`` statement."""
        return _Explained(self.limit, self._folder, self._folder or self._temporary)


def _fan_in() -> int:
    """Return how many runs may be merged at once: as many files as may still be opened, or fewer.

    Two are always tried.
    """
    try:
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most == resource.RLIM_INFINITY:
            return _FAN_IN
        names = os.listdir("/dev/fd")
    except (ImportError, OSError):  # another system, or not one more
        return _FAN_IN if sys.platform == "win32" else 2
    return max(2, min(_FAN_IN, most - len(names) - _OTHER_FILES))


class _Explained:
    """Raises a SpillError in place of a system's error.

    A class, because in Python 3.10 a generator that is a context manager is part of a cycle with
    the error that leaves it, and the folder would stay until the cycle is found.

    Args:
        limit: The memory limit, in bytes.
        checkpoint: The folder that was asked for, if any.
        folder: The folder that is written to, if there is one yet.
    """

    def __init__(self, limit: int, checkpoint: Path | None, folder: Path | None) -> None:
        self._limit = limit
        self._checkpoint = checkpoint
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, OSError) or isinstance(error, SpillError):
            return
        folder = self._folder or Path(tempfile.gettempdir())
        reason = (error.strerror or str(error)).lower()
        if error.errno in (errno.EMFILE, errno.ENFILE):
            step = "allow more open files (ulimit -n)"
        elif self._checkpoint is None:
            step = "set TMPDIR to a folder with more room"
        else:
            step = "name a checkpoint folder with more room"
        raise SpillError(
            f"the table has outgrown the memory limit of {self._limit:,} bytes, and keeping it "
            f"in {str(folder)!r} failed: {reason}; {step}, or raise the limit"
        ) from error


def flattened(blocks: Iterable[Block]) -> Iterator[Row]:
    """Yield the rows of blocks one by one."""
    return itertools.chain.from_iterable(blocks)


def _number(run: Run) -> int:
    return int(run.path.name.rpartition("-")[2])


def _delete(folder: Path, held: IO[bytes], process: int) -> None:
    if os.getpid() == process:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)
    held.close()


def _delete_abandoned() -> None:
    """Delete the folders of processes that were killed, which nobody holds the lock of."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / _LOCK, "r+b") as file:
            if try_lock(file):
                shutil.rmtree(folder, ignore_errors=True)


class SpillingCounter(Counter[Any]):
    """A counter that moves to the disk when it has outgrown its share of memory.

    Args:
        spill: Where to.
        strings: How many strings make up a key.
    """

    def __init__(self, spill: Spill, strings: int) -> None:
        # Bytes of a key with its tokens, its count and its place in the dict, about.
        key_bytes = 200 if strings == 1 else 150 + 90 * strings
        self._most = spill.share // key_bytes
        self._spill = spill
        super().__init__()

    def __reduce__(self) -> tuple[Any, ...]:
        return Counter, (dict(self),)

    def update(self, iterable: Any = None, /, **counts: int) -> None:
        """Add counts."""
        super().update(iterable, **counts)
        self.relieve()

    def relieve(self) -> None:
        """Move to the disk if that is due."""
        if len(self) > self._most:
            self._spill.add_counter(self)
            self.clear()
