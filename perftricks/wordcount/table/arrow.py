"""Tables as Arrow: the columns of one are the buffers of the other, and nothing is converted.

A table has the columns ``token`` (string) and ``count`` (int64), and ``document_frequency`` (int64)
if documents were counted. A table of n-grams has ``ngram`` (list of strings) in place of ``token``,
one of tokens with their tags ``tag`` (string) behind ``token``.
What else belongs to it is in the schema's metadata, as JSON under ``perftricks``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from perftricks.wordcount.table.columns import PART_ROWS, Columns, Strings
from perftricks.wordcount.table.rows import COUNT, DOCUMENT_FREQUENCY, NGRAM, TAG, TOKEN
from perftricks.wordcount.table.saved import Facts

_METADATA = b"perftricks"


def why_not() -> str | None:
    """Say why Arrow cannot be used here; None if it can."""
    try:
        pyarrow("it")
    except ImportError as error:
        return str(error)
    return None


def pyarrow(what: str) -> Any:
    """Import pyarrow.

    Raises:
        ImportError: If it is not installed; says what needs it.
    """
    try:
        import pyarrow
    except ImportError:
        raise ImportError(f"{what} needs pyarrow: pip install 'perftricks[arrow]'") from None
    return pyarrow


def is_damage(error: BaseException) -> bool:
    """Say whether pyarrow has raised an error because a file is not what it should be.

    It raises OSError for that too, without the number that those of the system have.
    """
    pa = pyarrow("a file of Arrow")
    if isinstance(error, OSError) and not isinstance(error, pa.ArrowException):
        return error.errno is None
    return isinstance(error, (pa.ArrowException, ValueError, EOFError))


def schema_of(facts: Facts, keys: Sequence[str]) -> Any:
    """Return the schema of a table.

    Args:
        facts: What belongs to it beside its rows.
        keys: The names of the columns that hold its keys.
    """
    pa = pyarrow("a table of Arrow")
    kinds = {NGRAM: pa.list_(pa.string())}
    fields = [pa.field(name, kinds.get(name, pa.string())) for name in keys]
    fields.append(pa.field(COUNT, pa.int64()))
    if facts.document_frequency:
        fields.append(pa.field(DOCUMENT_FREQUENCY, pa.int64()))
    return pa.schema(fields, metadata={_METADATA: json.dumps(asdict(facts)).encode()})


def batches_of(parts: Iterator[Columns], schema: Any) -> Iterator[Any]:
    """Yield rows as record batches, which share their memory.

    Raises:
        ValueError: If a token holds a lone surrogate, which Arrow's strings cannot hold.
    """
    pa = pyarrow("a table of Arrow")
    for part in parts:
        if part.tagged:
            keys = [_array(pa, part.strings_at(0)), _array(pa, part.strings_at(1))]
        else:
            keys = [_array(pa, part.tokens)]
        if part.ngram and not part.tagged:
            ends = np.arange(0, len(part.tokens) + 1, part.ngram)
            keys = [pa.ListArray.from_arrays(array_of(pa.int32(), ends), *keys)]
        columns = [part.count] if part.documents is None else [part.count, part.documents]
        numbers = (array_of(pa.int64(), column) for column in columns)
        yield pa.record_batch([*keys, *numbers], schema=schema)


def array_of(kind: Any, numbers: np.ndarray) -> Any:
    """Return numbers as an array of Arrow; its own ``pa.array`` would import pandas first."""
    pa = pyarrow("a table of Arrow")
    values = np.ascontiguousarray(numbers, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, numbers.size, [None, pa.py_buffer(values)])


def _array(pa: Any, strings: Strings) -> Any:
    start = strings.start.astype(np.int32)  # a part is far from two gigabytes
    # Of UTF-8 three bytes from 0xed on with more than 0x9f behind stand for a surrogate.
    text = strings.text
    if ((text[:-1] == 0xED) & (text[1:] > 0x9F)).any():
        token = next(token for token in strings.decoded() if not _is_unicode(token))
        raise ValueError(
            f"the token {token!r} holds a lone surrogate, which Arrow's strings cannot: write "
            ".tsv, .csv or .json"
        )
    buffers = [None, pa.py_buffer(start), pa.py_buffer(np.ascontiguousarray(text))]
    return pa.Array.from_buffers(pa.string(), len(strings), buffers)


def _is_unicode(token: str) -> bool:
    try:
        token.encode()
    except UnicodeEncodeError:
        return False
    return True


def facts_in(schema: Any) -> Facts | None:
    """Return what the metadata says; None if it was not written by :func:`schema_of`.

    Raises:
        ValueError: If it is damaged.
    """
    content = (schema.metadata or {}).get(_METADATA)
    if content is None:
        return None
    try:
        return Facts(**json.loads(content))
    except (ValueError, TypeError):
        raise ValueError("what the metadata says of the table is damaged") from None


def check_schema(schema: Any) -> tuple[bool, bool]:
    """Return whether a schema is one of n-grams, and whether documents were counted.

    Raises:
        ValueError: If it is not that of a table.
    """
    pa = pyarrow("a table of Arrow")
    names = list(schema.names)
    tagged = names[:2] == [TOKEN, TAG]
    numbers = names[2:] if tagged else names[1:]
    if numbers not in ([COUNT], [COUNT, DOCUMENT_FREQUENCY]) or names[0] not in (TOKEN, NGRAM):
        raise ValueError(f"expected columns {TOKEN}, {COUNT}, found {', '.join(names) or 'none'}")
    key = schema.field(0).type
    if names[0] == NGRAM:
        key = key.value_type if pa.types.is_list(key) or pa.types.is_large_list(key) else None
    if key is None or not is_of_strings(key):
        raise ValueError(f"column {names[0]!r} is {schema.field(0).type}, not of strings")
    if tagged and not is_of_strings(schema.field(1).type):
        raise ValueError(f"column {TAG!r} is {schema.field(1).type}, not of strings")
    for name in numbers:
        if not pa.types.is_integer(schema.field(name).type):
            raise ValueError(f"column {name!r} is {schema.field(name).type}, not of whole numbers")
    return names[0] == NGRAM, len(numbers) == 2


def is_of_strings(kind: Any) -> bool:
    """Whether a type of Arrow is one of strings, in any form but a dictionary."""
    types = pyarrow("a table of Arrow").types
    is_view = getattr(types, "is_string_view", None)  # from pyarrow 16 on
    return bool(types.is_string(kind) or types.is_large_string(kind) or (is_view and is_view(kind)))


def columns_in(batch: Any) -> Iterator[Columns]:
    """Yield the rows of a record batch that passed :func:`check_schema`, in parts.

    Raises:
        ValueError: If a value is missing, or the n-grams are of different lengths.
    """
    pa = pyarrow("a table of Arrow")
    for first in range(0, batch.num_rows, PART_ROWS):
        part = batch.slice(first, PART_ROWS)
        key, *numbers = part.columns
        tagged = part.schema.names[1] == TAG
        if any(column.null_count for column in part.columns):
            raise ValueError("a value is missing")
        ngram = 0
        if tagged:
            tags, *numbers = numbers
            pairs = [strings_in(key), strings_in(tags)]
            both = Strings.joined(pairs)
            strings = both.taken(np.arange(len(both)).reshape(2, -1).T.reshape(-1))
            ngram = 2
        if part.schema.names[0] == NGRAM:
            lengths = key.value_lengths().unique().to_pylist()
            if len(lengths) > 1 or lengths[0] < 1:
                raise ValueError(f"n-grams of different lengths: {lengths}")
            ngram = lengths[0]
            key = key.flatten()
            if key.null_count:
                raise ValueError("a value is missing")
        counts = [values_of(column.cast(pa.int64()), np.int64) for column in numbers]
        if any((count < 0).any() for count in counts):
            raise ValueError("a count is negative")
        documents = counts[1] if len(counts) > 1 else None
        strings = strings if tagged else strings_in(key)
        yield Columns(strings, counts[0], documents, ngram, tagged)


def values_of(array: Any, kind: type) -> np.ndarray:
    """Return an array of numbers of eight bytes, none of which is missing, as one of numpy.

    Its own conversion would import pandas.
    """
    if not len(array):
        return np.zeros(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * 8)


def strings_in(array: Any) -> Strings:
    """Return an array of strings, none of which is missing, as columns."""
    return strings_of(array.cast(pyarrow("a table of Arrow").large_string()))


def strings_of(array: Any) -> Strings:
    """Return an array of type large_string or large_binary, which shares its memory."""
    _, start, text = array.buffers()
    begin, size = array.offset, len(array)
    starts = np.frombuffer(start, np.int64, size + 1, begin * 8) if size else np.zeros(1, np.int64)
    first, last = int(starts[0]), int(starts[-1])
    data = np.frombuffer(text, np.uint8)[first:last] if last > first else np.zeros(0, np.uint8)
    return Strings(data, starts - first)


def parquet_writer(where: Any, schema: Any) -> Any:
    """Return what writes a table to a file of .parquet."""
    import pyarrow.parquet as pq

    # Tokens are all different: a dictionary of them would only take time.
    return pq.ParquetWriter(where, schema, compression="zstd", use_dictionary=False)


def opened_arrow(
    source: Any, start: int = 0, stop: int | None = None
) -> tuple[Any, Iterator[Any], int]:
    """Open a file of Arrow, in its file format or its stream format.

    Args:
        source: Its path, or an open file that can be positioned.
        start: The number of the first record batch to read, in the file format.
        stop: That of the one behind the last; None for the end of the file.

    Returns:
        The schema; the record batches, which are read when they are asked for; how many there
        are, 0 if that is not known.
    """
    pa = pyarrow("a file of Arrow")
    file = pa.memory_map(source) if isinstance(source, str) else pa.PythonFile(source, "r")
    try:
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        stream = pa.ipc.open_stream(file)
        return stream.schema, iter(stream), 0
    numbers = range(reader.num_record_batches)[start:stop]
    return reader.schema, map(reader.get_batch, numbers), len(numbers)
