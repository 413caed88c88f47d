"""Documents in columns of Arrow: .parquet, .arrow and .feather, Hugging Face datasets on the disk.

A column goes to the kernel as it is in memory, without a Python object for a document.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from perftricks.wordcount.errors import CorpusError, too_long
from perftricks.wordcount.reading.urls import FileSystem, is_url

if TYPE_CHECKING:
    import numpy as np

    from perftricks.wordcount.reading.options import ReadOptions
    from perftricks.wordcount.reading.sources import Source
    from perftricks.wordcount.reading.streams import Meter

ARROW_FORMATS = ("parquet", "arrow")

# Bytes and rows of a part of a column, about, that is in memory at a time.
_PART_BYTES = 8 << 20
_PART_ROWS = 1 << 16

# The byte behind every document, which no UTF-8 has.
_END = b"\xff"


class ArrowDocuments:
    """The documents of a file.

    Args:
        source: The file.
        options: How it is read; ``field`` is the column.
        meter: Counts the bytes.
    """

    def __init__(self, source: Source, options: ReadOptions, meter: Meter) -> None:
        self._source = source
        self._options = options
        self._meter = meter

    def __iter__(self) -> Iterator[str]:
        for part in self._parts():
            yield from part.to_pylist()

    def encoded(self) -> Generator[np.ndarray]:
        """Yield the documents as bytes of UTF-8, each with a byte behind it that ends it."""
        return (ended(part) for part in self._parts())

    def _parts(self) -> Iterator[Any]:
        """Yield arrays of strings, none of which is missing.

        Raises:
            CorpusError: If the file is damaged, has no such column, or a value is missing, not
                UTF-8, or longer than memory allows.
        """
        from perftricks.wordcount.table.arrow import is_damage, strings_in

        name, field = self._source.name, self._options.field
        assert field is not None
        stored = self._meter.stored
        size = self._source.size or 0
        rows = 0
        try:
            read = _read_parquet if self._source.format == "parquet" else _read_arrow
            with _opened(self._source) as file:
                for column, done in read(file, field, self._source):
                    first = functools.partial(self._number, rows)
                    for part in checked_parts(column, field, name, first, self._options.limit):
                        self._meter.text += len(strings_in(part).text)
                        yield part
                    rows += len(column)
                    self._meter.stored = stored + int(size * done)
        except _NoColumnError as error:
            raise CorpusError(name, str(error)) from None
        except CorpusError:
            raise
        except Exception as error:
            if not is_damage(error):
                raise
            what = str(error).partition("\n")[0]
            raise CorpusError(name, f"not {self._source.format}: {what}") from None
        self._meter.stored = stored + size

    def _number(self, row: int) -> int:
        """Return the number in the file of a row of the partition, both from 0."""
        source = self._source
        if source.batches is None or not source.batches.start:
            return row if source.rows is None else source.rows.start + row
        from perftricks.wordcount.table.arrow import opened_arrow

        # The end of the file says where record batches are, and not how many rows they have.
        with _opened(source) as file:
            before = opened_arrow(file, 0, source.batches.start)[1]
            return row + sum(int(batch.num_rows) for batch in before)


def ended(part: Any) -> np.ndarray:
    """Return an array of strings as UTF-8, each with a byte behind it that ends it."""
    from perftricks.wordcount.table.arrow import strings_in
    from perftricks.wordcount.table.columns import interleaved

    return interleaved([strings_in(part), _END], len(part)).text


def holds_strings(kind: Any) -> bool:
    """Whether a type of Arrow is one of strings."""
    import pyarrow as pa

    from perftricks.wordcount.table.arrow import is_of_strings

    return is_of_strings(kind.value_type if pa.types.is_dictionary(kind) else kind)


def checked_parts(
    column: Any, field: str, name: str, first: Callable[[], int], limit: int | None
) -> Iterator[Any]:
    """Yield a column in parts of a size, as arrays of strings.

    Args:
        column: An array of Arrow.
        field: What to call it.
        name: Where it comes from.
        first: Gives the number of the row in front of it, for an error.
        limit: Bytes of memory that a document may need; None for any number.

    Raises:
        CorpusError: If it holds no strings, or a value is missing, too long or not UTF-8.
    """
    import pyarrow as pa
    from pyarrow import compute

    from perftricks.wordcount.reading.options import most_characters, needed_bytes

    if not holds_strings(column.type):
        raise CorpusError(name, f"column {field!r} is {column.type}; expected strings")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    rows = max(1, min(_PART_ROWS, _PART_BYTES * len(column) // max(column.nbytes, 1)))
    for start in range(0, len(column), rows):
        part = column.slice(start, rows)
        if part.null_count:
            missing = first() + start + part.is_null().index(True).as_py() + 1
            raise CorpusError(name, f"row {missing:,}: column {field!r} is null; expected a string")
        longest = compute.max(compute.utf8_length(part)).as_py() if limit is not None else 0
        if limit is not None and longest > most_characters(limit):
            what = f"a document of {longest:,} characters"
            raise CorpusError(name, too_long(what, needed_bytes(longest), limit))
        part = part.cast(pa.large_string())
        try:
            part.validate(full=True)  # nothing else looks whether it is UTF-8
        except pa.ArrowInvalid:
            bad = _first_that_is_not_utf8(part)
            if bad is None:
                raise
            row = first() + start + bad + 1
            what = f"row {row:,}: column {field!r} is not UTF-8, which strings of Arrow are"
            raise CorpusError(name, what) from None
        yield part


def _first_that_is_not_utf8(part: Any) -> int | None:
    """Return the number of a string in an array; None if all are UTF-8."""
    import pyarrow as pa

    for number, value in enumerate(part.cast(pa.large_binary())):
        try:
            value.as_py().decode()
        except UnicodeDecodeError:
            return number
    return None


class _NoColumnError(Exception):
    """A file has no such column."""


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """Give what pyarrow reads a file from: its path, or the open file of a URL."""
    if not is_url(source.path):
        yield source.path
        return
    with FileSystem(source.path, source.storage).open() as file:
        yield file


class Group(NamedTuple):
    """A row group of a .parquet, or a record batch of an .arrow.

    Attributes:
        length: How much it is of what a partition is a range of: its rows, or 1 record batch.
        stored: Its bytes as stored, or a number in proportion to them.
    """

    length: int
    stored: int


def find_groups(source: Source) -> list[Group]:
    """Return what a file may be divided into; nothing where that cannot be found out.

    Row groups without rows are left out. No more than the end of the file is read, which does not
    say how long record batches are: they are taken for equal.
    """
    try:
        with _opened(source) as file:
            if source.format == "parquet":
                return list(_row_groups(file))
            from perftricks.wordcount.table.arrow import opened_arrow

            return [Group(1, 1)] * opened_arrow(file)[2]
    except Exception:  # the file is looked at when it is read
        return []


def _row_groups(path: Any) -> Iterator[Group]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            columns = map(group.column, range(group.num_columns))
            if group.num_rows > 0:
                stored = sum(column.total_compressed_size for column in columns)
                yield Group(group.num_rows, max(stored, 1))


def _read_parquet(path: Any, field: str, source: Source) -> Iterator[tuple[Any, float]]:
    """Yield the column in parts, each with the share of the rows that have been read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        number, take = _find_column(file.schema_arrow, field)
        metadata = file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        rows = max(1, min(_PART_ROWS, _PART_BYTES * metadata.num_rows // max(size, 1)))
        ends = list(itertools.accumulate((group.num_rows for group in groups), initial=0))
        start, stop = source.rows or (0, None)
        stop = ends[-1] if stop is None else min(stop, ends[-1])
        wanted = [i for i in range(len(groups)) if max(ends[i], start) < min(ends[i + 1], stop)]
        if not wanted:
            return
        row = ends[wanted[0]]
        # By name, of which a file may have two; a column inside another has its path for a name.
        names = [file.schema_arrow.names[number]]
        for batch in file.iter_batches(rows, row_groups=wanted, columns=names):
            first = min(max(start - row, 0), batch.num_rows)
            kept = batch.slice(first, max(stop - row - first, 0))
            row += batch.num_rows
            if kept.num_rows:
                yield take(kept.column(0)), (min(row, stop) - start) / (stop - start)


def _read_arrow(path: Any, field: str, source: Source) -> Iterator[tuple[Any, float]]:
    """Yield the column in parts, each with the share of the file that has been read, about."""
    from perftricks.wordcount.table.arrow import opened_arrow

    schema, batches, number_of_batches = opened_arrow(path, *(source.batches or ()))
    number, take = _find_column(schema, field)
    for done, batch in enumerate(batches, 1):
        yield take(batch.column(number)), done / max(number_of_batches, done)


def _find_column(schema: Any, field: str) -> tuple[int, Callable[[Any], Any]]:
    """Return which column holds a field, and what takes the field from it.

    Raises:
        _NoColumnError: If there is none.
    """
    from pyarrow import compute, types

    names = list(schema.names)
    if names.count(field) > 1:
        raise _NoColumnError(f"{names.count(field)} columns are named {field!r}")
    if field in names:
        return names.index(field), lambda column: column
    outer, *inner = field.split(".")
    if inner and names.count(outer) == 1:
        kind = schema.field(outer).type
        for key in inner:
            if not types.is_struct(kind) or kind.get_field_index(key) < 0:
                break
            kind = kind.field(key).type
        else:
            return names.index(outer), lambda column: compute.struct_field(column, inner)
    if field.isascii() and field.isdigit() and 0 < int(field) <= len(names):
        return int(field) - 1, lambda column: column
    columns = ", ".join(map(repr, names)) or "none"
    raise _NoColumnError(f"no column {field!r}; the columns are: {columns}")


def names_of_columns(source: Source) -> str:
    """Say which columns a file has; "" where that cannot be found out."""
    try:
        with _opened(source) as file:
            if source.format == "parquet":
                import pyarrow.parquet as pq

                names = pq.read_schema(file).names
            else:
                from perftricks.wordcount.table.arrow import opened_arrow

                names = opened_arrow(file)[0].names
    except Exception:  # the file is looked at when it is read
        return ""
    return f"; the columns are: {', '.join(map(repr, names))}" if names else ""
