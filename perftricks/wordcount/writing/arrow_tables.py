"""Tables of Arrow in files: .parquet, and .arrow and .feather (Arrow's file format)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from perftricks.wordcount.errors import CorpusError, OptionError
from perftricks.wordcount.writing.formats import Found, Written

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns
    from perftricks.wordcount.table.counts import WordCounts

# Rows of a group of .parquet, which a reader may skip or read alone.
_GROUP_ROWS = 1 << 17


class _ArrowFormat:
    """What the formats of Arrow have in common."""

    def why_not(self) -> str | None:
        """Say why the format cannot be used here."""
        from perftricks.wordcount.table.arrow import why_not

        return why_not()

    def write(self, file: IO[bytes], counts: WordCounts, written: Written) -> None:
        """Write a table.

        Raises:
            OptionError: If a token is one that Arrow cannot hold.
        """
        from perftricks.wordcount.table.arrow import batches_of, schema_of

        schema = schema_of(counts.facts, counts.key_names)
        with self._writer(file, schema) as writer:
            try:
                for batch in batches_of(counts.columns(), schema):
                    self._write_batch(writer, batch)
                    written(batch.num_rows)
            except ValueError as error:
                raise OptionError(str(error)) from None

    def _writer(self, file: IO[bytes], schema: Any) -> Any:
        raise NotImplementedError

    def _write_batch(self, writer: Any, batch: Any) -> None:
        writer.write_batch(batch)

    def read(self, name: str) -> Found:
        """Read a table.

        Raises:
            OptionError: If pyarrow is not installed.
        """
        from perftricks.wordcount.table.arrow import check_schema, facts_in

        reason = self.why_not()
        if reason is not None:
            raise OptionError(f"{name!r} cannot be read: {reason}")
        with explained(name):
            schema, batches = self._opened(name)
            _, document_frequency = check_schema(schema)
            facts = facts_in(schema)
        return Found(_parts(name, batches), facts, document_frequency)

    def _opened(self, name: str) -> tuple[Any, Iterator[Any]]:
        """Return the schema of a file, and its record batches, which are read when asked for."""
        raise NotImplementedError


class Parquet(_ArrowFormat):
    """Columns that are encoded and compressed, in groups of rows."""

    def _writer(self, file: IO[bytes], schema: Any) -> Any:
        from perftricks.wordcount.table.arrow import parquet_writer

        return parquet_writer(file, schema)

    def _write_batch(self, writer: Any, batch: Any) -> None:
        writer.write_batch(batch, row_group_size=_GROUP_ROWS)

    def _opened(self, name: str) -> tuple[Any, Iterator[Any]]:
        import pyarrow.parquet as pq

        if os.path.isdir(name):
            parts = sorted(
                os.path.join(name, part) for part in os.listdir(name) if part.endswith(".parquet")
            )
            if not parts:
                raise ValueError("a folder without .parquet files")
            files = [pq.ParquetFile(part) for part in parts]
            for part, file in zip(parts, files, strict=True):
                if not file.schema_arrow.equals(files[0].schema_arrow):
                    raise ValueError(f"{part!r} has other columns than {parts[0]!r}")
        else:
            files = [pq.ParquetFile(name)]
        batches = (batch for file in files for batch in file.iter_batches(_GROUP_ROWS))
        return files[0].schema_arrow, batches


class ArrowFile(_ArrowFormat):
    """Record batches as they are in memory."""

    def _writer(self, file: IO[bytes], schema: Any) -> Any:
        import pyarrow as pa

        return pa.ipc.new_file(file, schema)

    def _opened(self, name: str) -> tuple[Any, Iterator[Any]]:
        from perftricks.wordcount.table.arrow import opened_arrow

        schema, batches, _ = opened_arrow(name)
        return schema, batches


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into an error that names the file.

    Raises:
        CorpusError: In place of it.
    """
    from perftricks.wordcount.table.arrow import is_damage

    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        what = str(error).partition("\n")[0]
        raise CorpusError(name, f"not a table: {what}") from None


def _parts(name: str, batches: Iterator[Any]) -> Iterator[Columns]:
    from perftricks.wordcount.table.arrow import columns_in

    while True:
        with explained(name):
            batch = next(batches, None)
            parts = [] if batch is None else list(columns_in(batch))
        if batch is None:
            return
        yield from parts
