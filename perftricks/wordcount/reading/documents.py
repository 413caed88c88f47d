r"""From the text of a file to its documents.

* text: a document is a line, or the whole file. A line ends at ``\n`` or ``\r\n`` and nowhere else.
* jsonl: a document is a field of the JSON object on each line.
* json: a document is a field of each object, or a string, in an array or one after the other.
* csv, tsv: a document is a column of each row.
* parquet, arrow: so it is there.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from perftricks.wordcount.errors import CorpusError, OptionError, too_long
from perftricks.wordcount.reading.arrow_documents import (
    ARROW_FORMATS,
    ArrowDocuments,
    names_of_columns,
)
from perftricks.wordcount.reading.options import ReadOptions, most_characters, needed_bytes
from perftricks.wordcount.reading.sources import Source
from perftricks.wordcount.reading.streams import Meter, check_compression, check_encoding, read_text


def check_options(options: ReadOptions, sources: Sequence[Source]) -> None:
    """Check that options can be used on these files.

    Raises:
        OptionError: If not.
    """
    check_encoding(options.encoding, options.errors)
    if options.document not in ("line", "file"):
        raise OptionError(f"document must be 'line' or 'file', not {options.document!r}")
    records = [source for source in sources if source.format != "text"]
    for source in records:
        if options.field is None and source.format != "json":  # which may hold strings
            columns = names_of_columns(source) if source.format in ARROW_FORMATS else ""
            raise OptionError(
                f"{source.name!r} is {source.format}: say which field holds the text (--field)"
                f"{columns}"
            )
    if options.field is not None and not records:
        raise OptionError(
            f"field {options.field!r} is given, but no file is jsonl, csv, tsv, json, parquet or "
            "arrow; leave it out, or name the format (--format)"
        )
    if records and options.document == "file":
        raise OptionError(
            f"{records[0].name!r} is {records[0].format}, where a document is a record; "
            "document 'file' is for text files"
        )
    for source in sources:
        check_compression(source.compression)
        if source.format in ARROW_FORMATS:
            _check_arrow(source)


def _check_arrow(source: Source) -> None:
    """Check that a file of Arrow can be read.

    Raises:
        OptionError: If not.
    """
    from perftricks.wordcount.table.arrow import why_not

    if source.compression:
        raise OptionError(
            f"{source.name!r}: a .{source.format} is compressed inside; decompress the file"
        )
    if source.size is None:
        raise OptionError(f"{source.name!r} is {source.format}, which is read from files only")
    reason = why_not()
    if reason is not None:
        raise OptionError(f"{source.name!r} cannot be read: {reason}")


def read_documents(source: Source, options: ReadOptions, meter: Meter) -> Generator[str]:
    """Yield the documents of a source in order; the file is closed by the end, whatever that is.

    Args:
        source: What to read.
        options: How.
        meter: Counts the bytes.

    Raises:
        CorpusError: If the data is bad; it names the file and the line or the byte.
    """
    if source.format in ARROW_FORMATS:
        yield from ArrowDocuments(source, options, meter)
        return
    # An error keeps what was running when it was raised, which must not keep the file open.
    with contextlib.closing(read_text(source, options.encoding, options.errors, meter)) as text:
        yield from _documents_of(text, source, options)


def _documents_of(text: Iterable[str], source: Source, options: ReadOptions) -> Iterator[str]:
    """Yield the documents of a text."""
    if options.limit is not None:
        lines = source.format != "text" or options.document == "line"
        text = _bounded(text, source.name, options.limit, lines=lines)
    if source.format == "text":
        return iter(["".join(text)]) if options.document == "file" else split_lines(text)
    if source.format == "json":
        return _json_documents(text, source.name, options.field)
    assert options.field is not None
    if source.format == "jsonl":
        return _json_fields(split_lines(text), source.name, options.field)
    return _columns(text, source, options.field)


def _bounded(chunks: Iterable[str], name: str, limit: int, *, lines: bool) -> Iterator[str]:
    """Pass the pieces of a text on, and look that no document needs more memory than it may."""
    most = most_characters(limit)
    begun = 0
    for chunk in chunks:
        last = chunk.rfind("\n") if lines else -1
        begun = len(chunk) - last - 1 if last >= 0 else begun + len(chunk)
        if begun > most:
            what = f"a document of more than {begun:,} characters"
            raise CorpusError(name, too_long(what, needed_bytes(begun), limit))
        yield chunk


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
        except (ValueError, RecursionError):
            try:  # a number may be longer than Python reads
                record = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(name, f"not JSON: {error}", line=number) from None
        yield _text_of(record, field, name, number)


def _text_of(record: Any, field: str, name: str, line: int) -> str:
    value = _look_up(record, field)
    if isinstance(value, str):
        return value
    if not isinstance(record, dict):
        problem = f"expected a JSON object with field {field!r}, found {_json_type(record)}"
    elif value is _MISSING:
        problem = f"no field {field!r}; the fields are: {_keys(record)}"
    else:
        problem = f"field {field!r} is {_json_type(value)}; expected a string"
    raise CorpusError(name, problem, line=line)


def _keys(record: dict[str, Any]) -> str:
    return ", ".join(map(repr, record)) or "none"


# Numbers are no text; how long they are does not matter.
_DECODER = json.JSONDecoder(parse_int=float)


def _json_documents(chunks: Iterable[str], name: str, field: str | None) -> Iterator[str]:
    """Yield the strings, or a field of the objects, in an array or one after the other."""
    for value, line in _json_values(chunks, name):
        if field is not None:
            yield _text_of(value, field, name, line)
        elif isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            problem = f"an object: say which field holds the text (--field): {_keys(value)}"
            raise CorpusError(name, problem, line=line)
        else:
            problem = f"expected strings or objects, found {_json_type(value)}"
            raise CorpusError(name, problem, line=line)


def _json_values(chunks: Iterable[str], name: str) -> Iterator[tuple[Any, int]]:
    """Yield the elements of an array, or values that follow each other, each with its line.

    No more than a value and a chunk is in memory at a time.
    """
    text = _Text(chunks, name)
    character = text.next_character()
    if character != "[":
        while character:
            yield text.value()
            character = text.next_character()
        return
    text.position += 1
    character = text.next_character()
    while character != "]":
        yield text.value()
        character = text.next_character()
        if character not in (",", "]"):
            raise text.error("expected ',' or ']' in the array")
        if character == ",":
            text.position += 1
            text.next_character()
    text.position += 1
    if text.next_character():
        raise text.error("there is something behind the array")


class _Text:
    """JSON that comes in pieces."""

    # What is cut off by the end of the text fails so near to it, or is a string.
    _NEAR = 20

    def __init__(self, chunks: Iterable[str], name: str) -> None:
        self.position = 0
        self._chunks = iter(chunks)
        self._name = name
        self._text = ""
        self._line = 1
        self._counted = 0  # so much of the text is behind the lines that were counted

    def next_character(self) -> str:
        """Go to the next character that is not blank and return it; none at the end."""
        while True:
            match = _BLANKS.match(self._text, self.position)
            assert match is not None
            self.position = match.end()
            if self.position < len(self._text):
                return self._text[self.position]
            if not self._read():
                return ""

    def value(self) -> tuple[Any, int]:
        """Return the value that starts here, and its line."""
        line = self._line_here()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self.position)
            except json.JSONDecodeError as error:
                cut_off = error.pos > len(self._text) - self._NEAR or "Unterminated" in error.msg
                if not (cut_off and self._read()):
                    self.position = error.pos
                    raise self.error(error.msg) from None
            except RecursionError as error:
                raise self.error(str(error)) from None
            else:
                # A number may go on in the next piece.
                if end < len(self._text) or isinstance(value, (str, dict, list)):
                    self.position = end
                    return value, line
                if not self._read():
                    self.position = end
                    return value, line

    def error(self, problem: str) -> CorpusError:
        """Return what to raise for what is here."""
        return CorpusError(self._name, f"not JSON: {problem}", line=self._line_here())

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def _read(self) -> bool:
        """Take more text, at least as much as there is; return False if there is none."""
        self._line_here()
        pieces = [self._text[self.position :]]
        self.position = self._counted = 0
        wanted, found = len(pieces[0]), 0
        for chunk in self._chunks:
            pieces.append(chunk)
            found += len(chunk)
            if found > wanted:
                break
        self._text = "".join(pieces)
        return found > 0


_BLANKS = re.compile(r"[ \t\r\n]*")

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
        reason = str(error)
        if "universal-newline" in reason:
            reason = "a carriage return without a line feed stands outside of quotes"
        problem = f"not {source.format}: {reason}"
        raise CorpusError(source.name, problem, line=rows.line_num) from None


def _is_number(field: str) -> bool:
    # No table has a column with a number of ten digits; Python reads no number of 5,000.
    return field.isascii() and field.isdigit() and len(field) < 10 and int(field) > 0


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
