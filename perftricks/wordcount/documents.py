r"""From the text of a file to its documents.

* text: a document is a line, or the whole file. A line ends at ``\n`` or ``\r\n`` and nowhere else.
* jsonl: a document is a field of the JSON object on each line.
* csv, tsv: a document is a column of each row.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perftricks.wordcount.errors import CorpusError, OptionError
from perftricks.wordcount.sources import Source
from perftricks.wordcount.streams import Meter, check_compression, check_encoding, read_text

Document = Literal["line", "file"]


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        encoding: The encoding of the text.
        errors: What happens to bytes that are not that encoding: "strict", "replace", "ignore".
        document: What a document is in text files: a "line" or the whole "file".
        field: Where the text is in the other formats: a key, a key path with dots, a column's name
            or its number from 1.
    """

    encoding: str = "utf-8"
    errors: str = "strict"
    document: Document = "line"
    field: str | None = None

    def check(self, sources: Sequence[Source]) -> None:
        """Check that these options can be used on these files.

        Raises:
            OptionError: If not.
        """
        check_encoding(self.encoding, self.errors)
        if self.document not in ("line", "file"):
            raise OptionError(f"document must be 'line' or 'file', not {self.document!r}")
        records = [source for source in sources if source.format != "text"]
        if records and self.field is None:
            one = records[0]
            raise OptionError(
                f"{one.name!r} is {one.format}: say which field holds the text (--field)"
            )
        if self.field is not None and not records:
            raise OptionError(
                f"field {self.field!r} is given, but no file is jsonl, csv or tsv; leave it out, "
                "or name the format (--format)"
            )
        if records and self.document == "file":
            raise OptionError(
                f"{records[0].name!r} is {records[0].format}, where a document is a record; "
                "document 'file' is for text files"
            )
        for source in sources:
            check_compression(source.compression)


def read_documents(source: Source, options: ReadOptions, meter: Meter) -> Iterator[str]:
    """Yield the documents of a source in order.

    Args:
        source: What to read.
        options: How.
        meter: Counts the bytes.

    Raises:
        CorpusError: If the data is bad; it names the file and the line or the byte.
    """
    text = read_text(source, options.encoding, options.errors, meter)
    if source.format == "text":
        return iter(["".join(text)]) if options.document == "file" else split_lines(text)
    assert options.field is not None
    if source.format == "jsonl":
        return _json_fields(split_lines(text), source.name, options.field)
    return _columns(text, source, options.field)


def split_lines(chunks: Iterable[str]) -> Iterator[str]:
    r"""Yield the lines of a text that comes in pieces, without their ends.

    A line ends at ``\n`` or ``\r\n``. A lone ``\r``, ``\x0b``, ``\x0c``, ``\x85``, ``\u2028`` or
    ``\u2029`` is part of its line, as it would be part of the document for a tokenizer.

    Args:
        chunks: The pieces, cut anywhere.

    >>> list(split_lines(["one\ntw", "o\r", "\n\nlast\r"]))
    ['one', 'two', '', 'last\r']
    """
    for line in _lines_with_ends(chunks):
        if not line.endswith("\n"):
            yield line
        elif line.endswith("\r\n"):
            yield line[:-2]
        else:
            yield line[:-1]


def _lines_with_ends(chunks: Iterable[str]) -> Iterator[str]:
    r"""Yield lines with the ``\n`` that ends them."""
    begun: list[str] = []  # pieces of a line whose end has not come; one join, however long it gets
    for chunk in chunks:
        *complete, tail = chunk.split("\n")
        for line in complete:
            if begun:
                begun.append(line)
                line = "".join(begun)
                begun = []
            yield line + "\n"
        if tail:
            begun.append(tail)
    if begun:
        yield "".join(begun)


def _json_fields(lines: Iterable[str], name: str, field: str) -> Iterator[str]:
    """Yield a field of each line's JSON object; blank lines are no objects and are left out."""
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(name, f"not JSON: {error}", line=number) from None
        value = _look_up(record, field)
        if isinstance(value, str):
            yield value
            continue
        if not isinstance(record, dict):
            problem = f"expected a JSON object with field {field!r}, found {_json_type(record)}"
        elif value is _MISSING:
            keys = ", ".join(map(repr, record)) or "none"
            problem = f"no field {field!r}; the fields are: {keys}"
        else:
            problem = f"field {field!r} is {_json_type(value)}; expected a string"
        raise CorpusError(name, problem, line=number)


_MISSING = object()


def _look_up(record: Any, field: str) -> Any:
    """Return the value of a key or of a path of keys with dots between; a whole key comes first."""
    if isinstance(record, dict) and field in record:
        return record[field]
    for key in field.split("."):
        if not isinstance(record, dict) or key not in record:
            return _MISSING
        record = record[key]
    return record


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", dict: "an object", list: "an array", str: "a string"}
    return names.get(type(value), "a number")


def _columns(text: Iterable[str], source: Source, field: str) -> Iterator[str]:
    """Yield a column of each row; a column given by name takes the first row for the header."""
    _lift_field_limit()
    rows = csv.reader(
        _lines_with_ends(text),
        delimiter="," if source.format == "csv" else "\t",
        quoting=csv.QUOTE_NONE if source.format == "tsv-raw" else csv.QUOTE_MINIMAL,
        strict=True,  # an open quote must not swallow the rest of the file
    )
    column = int(field) - 1 if _is_number(field) else None
    try:
        for row in rows:
            if not row:
                continue
            if column is None:
                column = _find_column(row, source, field)
            elif column < len(row):
                yield row[column]
            else:
                problem = f"a row of {len(row)} columns has no column {field!r}"
                raise CorpusError(source.name, problem, line=rows.line_num)
    except csv.Error as error:
        problem = f"not {source.format}: {error}"
        raise CorpusError(source.name, problem, line=rows.line_num) from None


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and int(field) > 0


def _find_column(header: list[str], source: Source, field: str) -> int:
    found = header.count(field)
    if found == 1:
        return header.index(field)
    columns = ", ".join(map(repr, header))
    problem = f"the header has {found} columns named {field!r}" if found else f"no column {field!r}"
    raise CorpusError(
        source.name, f"{problem}; the columns are: {columns} (or give a number from 1)", line=1
    )


def _lift_field_limit() -> None:
    """Let a field of a table be as long as a document may be: the csv module stops at 128 kB.

    The limit is the process's own and is never put back, because another thread may be reading.
    """
    try:
        csv.field_size_limit(sys.maxsize)
    except OverflowError:  # a C long has 32 bits on Windows
        csv.field_size_limit(2**31 - 1)
