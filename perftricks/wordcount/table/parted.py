"""A table in a folder of .parquet files, which may be larger than memory: read when asked.

Each file is a part of the table: the keys of a range of hashes, in the order of tables. So the
first rows of the table are the first of what a merge of the parts gives, and few rows of each are
read for them. Names say how many parts there are, so that none is missed.
"""

from __future__ import annotations

import heapq
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from perftricks.wordcount.errors import CorpusError, OptionError
from perftricks.wordcount.reading.urls import FileSystem, Storage, is_url
from perftricks.wordcount.table.columns import Columns, columns_of
from perftricks.wordcount.table.in_memory import MemoryTable, OnDisk
from perftricks.wordcount.table.rows import NGRAM, PART_NAME, TAG, TOKEN, Block, Filter, Row
from perftricks.wordcount.table.saved import Facts
from perftricks.wordcount.table.spill import Spill
from perftricks.wordcount.table.spilled import SpilledTable

_TOTAL = b"perftricks total"
_GROUP_ROWS = 1 << 15  # that are read at a time


def _system(folder: str, storage: Storage, name: str = "") -> FileSystem:
    path = folder if is_url(folder) else f"file://{folder}"
    return FileSystem(f"{path.rstrip('/')}/{name}" if name else path, storage)


def check_new(folder: str, storage: Storage) -> None:
    """Check that a folder is not there, or is empty.

    Raises:
        OptionError: If it is not.
    """
    system = _system(folder, storage)
    try:
        found = system.information()
        taken = found is not None and (found["type"] != "directory" or bool(system.files()))
    except OSError as error:
        raise OptionError(f"folder {folder!r} cannot be used: {error}") from None
    if taken:
        raise OptionError(f"folder {folder!r} is there and not empty; name a new one")


def write_part(
    folder: str, storage: Storage, facts: Facts, number: int, parts: int, rows: Columns
) -> int:
    """Write a part of a table; written again, it is the same.

    Args:
        folder: The path or URL of the folder.
        storage: Options of its file system.
        facts: What belongs to the table; how many rows the part has is put in here.
        number: Which part it is.
        parts: How many there are.
        rows: Its rows in the order of tables.

    Returns:
        How many rows it has.

    Raises:
        OSError: If it cannot be written.
        ValueError: If a token is one that Arrow's strings cannot hold.
    """
    from perftricks.wordcount.table.arrow import batches_of, parquet_writer, schema_of

    keys = [TOKEN, TAG] if rows.tagged else [NGRAM if rows.ngram else TOKEN]
    schema = schema_of(replace(facts, rows=len(rows)), keys)
    total = json.dumps(int(rows.count.sum())).encode()
    schema = schema.with_metadata({**schema.metadata, _TOTAL: total})
    with io.BytesIO() as buffer:
        with parquet_writer(buffer, schema) as writer:
            for batch in batches_of(rows.parts(_GROUP_ROWS), schema):
                writer.write_batch(batch, row_group_size=_GROUP_ROWS)
        _system(folder, storage, f"part-{number:05}-of-{parts:05}.parquet").write(buffer.getvalue())
    return len(rows)


class _Part:
    """A file of a part.

    Attributes:
        facts: What its metadata says.
        total: The sum of its counts.
    """

    def __init__(self, url: str, storage: Storage) -> None:
        from perftricks.wordcount.table.arrow import check_schema, facts_in

        self._url = url
        self._storage = storage
        with self._opened() as file:
            schema = file.schema_arrow
            self.ngrams, self.documents = check_schema(schema)
            facts = facts_in(schema)
            total = (schema.metadata or {}).get(_TOTAL)
            if facts is None or total is None or facts.rows != file.metadata.num_rows:
                raise CorpusError(url, "is not a part of a table that workers wrote")
        self.facts: Facts = facts
        self.total = int(json.loads(total))

    def _opened(self) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(FileSystem(self._url, self._storage).open())

    def columns(self) -> Iterator[Columns]:
        """Yield the rows in the order of tables, a group of rows at a time."""
        from perftricks.wordcount.table.arrow import columns_in

        with self._opened() as file:
            for number in range(file.num_row_groups):
                for batch in file.read_row_group(number).to_batches():
                    yield from columns_in(batch)


class PartedTable(OnDisk):
    """A :class:`~perftricks.wordcount.table.table.Table` of parts in a folder.

    Args:
        parts: The parts.
        limit: Bytes that the table may take in memory where all of it is asked for at once.
        filters: A row is left in if all of these keep it.
    """

    def __init__(self, parts: Sequence[_Part], limit: int, filters: Sequence[Filter] = ()) -> None:
        self._parts = parts
        self._filters = tuple(filters)
        self._size: int | None = None
        self._total: int | None = None
        self.memory_limit = limit
        self.counts_documents = parts[0].facts.document_frequency
        if not filters:
            self._size = sum(part.facts.rows for part in parts)
            self._total = sum(part.total for part in parts)

    @classmethod
    def opened(cls, folder: str, storage: Storage, limit: int) -> PartedTable:
        """Open a folder.

        Raises:
            CorpusError: If parts are missing, or are not those of one table.
            OSError: If it cannot be read.
        """
        urls = [url for url, _ in _system(folder, storage).files()]
        named = {PART_NAME.fullmatch(url.rpartition("/")[2]): url for url in urls}
        found = {tuple(map(int, match.groups())): url for match, url in named.items() if match}
        counts = {parts for _, parts in found}
        if len(counts) != 1 or len(found) != next(iter(counts)):
            raise CorpusError(
                folder, f"not a whole table: {len(found)} parts of {max(counts, default=0)}"
            )
        parts = [_Part(found[key], storage) for key in sorted(found)]
        if len({replace(part.facts, rows=0) for part in parts}) > 1:
            raise CorpusError(folder, "its parts are of different tables")
        return cls(parts, limit)

    @property
    def facts(self) -> Facts:
        """What belongs to the table beside its rows."""
        return replace(self._parts[0].facts, rows=len(self))

    @property
    def total(self) -> int:
        """The sum of the counts."""
        self._measure()
        assert self._total is not None
        return self._total

    def __len__(self) -> int:
        self._measure()
        assert self._size is not None
        return self._size

    def _measure(self) -> None:
        if self._size is None:
            self._size = self._total = 0
            for columns in self._unordered():
                self._size += len(columns)
                self._total += int(columns.count.sum())

    def _kept(self, columns: Columns) -> Columns:
        for chosen in self._filters:
            columns = columns.filtered(chosen)
        return columns

    def _unordered(self) -> Iterator[Columns]:
        for part in self._parts:
            yield from map(self._kept, part.columns())

    def rows(self, n: int | None = None) -> Iterator[Row]:
        """Yield the rows in the order of tables, from the files."""
        return itertools.islice(self._merged(), None if n is None else max(n, 0))

    def _merged(self) -> Iterator[Row]:
        def rows(part: _Part) -> Iterator[Row]:
            for columns in part.columns():
                yield from self._kept(columns).rows()

        return heapq.merge(*map(rows, self._parts), key=lambda row: (-row[1], row[0]))

    def columns(self, *, ordered: bool = True) -> Iterator[Columns]:
        """Yield the rows as columns, in parts; in the order of tables if that is asked for."""
        if not ordered:
            return (columns for columns in self._unordered() if len(columns))
        return columns_of(self.rows(), document_frequency=self.counts_documents)

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the rows sorted by key, in blocks of about a size; sorts them on the disk."""
        spill = Spill(self.memory_limit)
        for part in self._parts:
            rows = [row for columns in part.columns() for row in self._kept(columns).rows()]
            spill.add_table(MemoryTable.of_rows(rows, document_frequency=self.counts_documents))
        yield from SpilledTable(spill, document_frequency=self.counts_documents).blocks(size)

    def filtered(self, chosen: Filter) -> PartedTable:
        """Return the table without the rows that are not kept."""
        return PartedTable(self._parts, self.memory_limit, (*self._filters, chosen))
