r"""Tables in files: written as a whole or not at all, and read back unchanged.

====== =======================================================================================
.tsv   header, then token, tab, count. In tokens, backslash escapes stand for what would break a
       line or a column: ``\\ \t \n \r``, ``\xHH`` and ``\uHHHH`` for other control characters,
       line separators and lone surrogates.
.csv   header, then token, comma, count, as in RFC 4180: quotes around tokens that need them.
.json  one object, token -> count; with document frequencies, token -> an object with both.
====== =======================================================================================

All are UTF-8 with ``\n`` line ends, the most frequent token first. A lone surrogate, which no UTF-8
can hold, is escaped in .tsv and .json and kept as three bytes ("surrogatepass") in .csv. A pair of
surrogates that a token holds as two characters becomes the one character it means in .json.

An n-gram is written as its tokens with a space between, each escaped as in .tsv and a space in it
as ``\x20``; the column is called "ngram". In .json a table of n-grams is an array of rows
``[[token, ...], count]``, with the document frequency as third element if there is one.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple

from perftricks.files import replacing
from perftricks.wordcount.errors import CorpusError, OptionError
from perftricks.wordcount.reading.sources import STDIN, PathLike, Source
from perftricks.wordcount.table.counts import WordCounts

TableFormat = Literal["tsv", "csv", "json"]

_COLUMNS = ("token", "count", "document_frequency")
_NGRAM = "ngram"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        token: The token; a tuple of tokens in a table of n-grams.
        count: How often it occurs.
        document_frequency: In how many documents it occurs; None if the table does not say.
    """

    token: Any
    count: int
    document_frequency: int | None = None


def write_table(
    path: PathLike | IO[bytes], counts: WordCounts, *, format: TableFormat | None = None
) -> None:
    """Write a table in the format of the file's extension: ``.tsv``, ``.csv`` or ``.json``.

    The file appears complete or not at all: what was there before stays until the new table is on
    the disk. Its permissions stay as well.

    Args:
        path: Where to. The folder must exist. Or a file that is open for bytes, such as
            ``sys.stdout.buffer``; what has been written when writing fails stays in it.
        counts: The table; its document frequencies are written if it has them.
        format: "tsv", "csv" or "json"; None goes by the extension, and is "tsv" for an open file.

    Raises:
        OptionError: If format or extension is another one, or the folder does not exist.
        OSError: If writing fails, for want of space for example.

    >>> write_table("a.xls", WordCounts({}, documents=0))
    Traceback (most recent call last):
    perftricks.wordcount.errors.OptionError: output 'a.xls': unknown extension '.xls'; expected \
.tsv, .csv or .json
    """
    if not isinstance(path, (str, os.PathLike)):
        _FORMATS[_extension("", format or "tsv")].write(path, counts)
        path.flush()
        return
    check_output(path, format=format)
    target = os.fspath(path)
    with replacing(target) as file:
        _FORMATS[_extension(target, format)].write(file, counts)


def read_rows(path: PathLike) -> list[Row]:
    """Read a table that :func:`write_table` wrote, with its document frequencies if it has them.

    Args:
        path: A ``.tsv``, ``.csv`` or ``.json`` file.

    Returns:
        The rows in the order of the file.

    Raises:
        OptionError: If the extension is another one.
        CorpusError: If the file is no such table; it names the line.
    """
    name = os.fspath(path)
    form = _FORMATS[_extension(name)]
    with open(name, "rb") as file:
        data = file.read()
    try:
        content = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        problem = f"not a table: 0x{data[error.start]:02x} is not UTF-8"
        raise CorpusError(name, problem, offset=error.start) from None
    return list(form.parse(content, name))


def read_table(path: PathLike) -> dict[Any, int]:
    """Read the counts of a table that :func:`write_table` wrote.

    Args:
        path: A ``.tsv``, ``.csv`` or ``.json`` file.

    Returns:
        Token -> count, in the order of the file; a tuple of tokens where n-grams were counted.

    Raises:
        OptionError: If the extension is another one.
        CorpusError: If the file is no such table; it names the line.
    """
    table: dict[Any, int] = {}
    for row in read_rows(path):
        if row.token in table:
            raise CorpusError(os.fspath(path), f"not a table: {row.token!r} is there twice")
        table[row.token] = row.count
    return table


def check_output(
    path: PathLike, sources: Sequence[Source] = (), *, format: TableFormat | None = None
) -> None:
    """Check that a table can be written, before the work of making it.

    Args:
        path: Where to.
        sources: The files that are read, none of which may be overwritten.
        format: As for :func:`write_table`.

    Raises:
        OptionError: If the extension is unknown, the folder does not exist or may not be written,
            or the path is one of the sources or no regular file.
    """
    _extension(os.fspath(path), format)
    check_place(path, sources)


def check_apart(files: Iterable[PathLike | None], taken: Iterable[PathLike | None]) -> None:
    """Check that files to write are not each other, nor others that are read.

    Raises:
        OptionError: If one of them would take the place of another.
    """
    found = {os.path.realpath(path): path for path in taken if path is not None}
    for path in files:
        if path is None:
            continue
        target = os.path.realpath(path)
        if target in found:
            raise OptionError(
                f"output {os.fspath(path)!r} would overwrite {os.fspath(found[target])!r}, which "
                "this run reads or writes too; choose another name"
            )
        found[target] = path


def check_place(path: PathLike, sources: Sequence[Source] = ()) -> None:
    """Check that a file can be written, whatever will be in it; see :func:`check_output`."""
    target = os.path.realpath(path)
    name = os.fspath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise OptionError(f"output {name!r}: folder {folder!r} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"output {name!r}: folder {folder!r} may not be written to")
    if os.path.exists(target) and not os.path.isfile(target):
        raise OptionError(f"output {name!r} exists and is no regular file; choose another name")
    for source in sources:
        if source.path != STDIN and os.path.realpath(source.path) == target:
            raise OptionError(f"output {name!r} would overwrite an input; choose another name")


def escape(token: str) -> str:
    r"""Write a token so that it fits in a line and a column.

    >>> print(escape("a\tb"), escape("\\"), escape("\u2028"))
    a\tb \\ \u2028
    """
    if token.isprintable() and "\\" not in token:  # nearly all are
        return token
    return _UNSAFE.sub(_escape_one, token)


def unescape(text: str) -> str:
    r"""Undo :func:`escape`.

    >>> unescape(r"a\tb") == "a\tb"
    True
    """
    return _ESCAPE.sub(_unescape_one, text) if "\\" in text else text


# Backslash, control characters, everything that str.splitlines takes for a line end, surrogates.
_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:(x[0-9a-f]{2}|u[0-9a-f]{4})|(.?))", re.DOTALL)
_SHORT = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_LONG = {escaped[1]: character for character, escaped in _SHORT.items()}


def _escape_one(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _unescape_one(match: re.Match[str]) -> str:
    code, short = match.groups()
    if code:
        return chr(int(code[1:], 16))
    if short not in _LONG:
        raise ValueError(f"unknown escape {match.group()!r}")
    return _LONG[short]


def escape_ngram(tokens: Iterable[str]) -> str:
    r"""Write tokens with a space between, and what could be mistaken escaped.

    >>> print(escape_ngram(["a b", "c"]))
    a\x20b c
    """
    return " ".join(escape(token).replace(" ", "\\x20") for token in tokens)


def unescape_ngram(text: str) -> tuple[str, ...]:
    r"""Undo :func:`escape_ngram`.

    >>> unescape_ngram(r"a\x20b c")
    ('a b', 'c')
    """
    return tuple(map(unescape, text.split(" ")))


def holds_ngrams(counts: WordCounts) -> bool:
    """Whether a table is one of n-grams."""
    if counts.run is not None:
        return counts.run.ngrams > 1
    return any(isinstance(key, tuple) for key, _ in counts.most_common(1))


def _header(counts: WordCounts) -> tuple[str, ...]:
    columns = _COLUMNS if counts.has_document_frequency else _COLUMNS[:2]
    return (_NGRAM, *columns[1:]) if holds_ngrams(counts) else columns


def _cells(numbers: Iterable[int | None]) -> list[str]:
    return [str(number) for number in numbers if number is not None]


def _write_tsv(file: IO[bytes], counts: WordCounts) -> None:
    file.write("\t".join(_header(counts)).encode() + b"\n")
    escaped = escape_ngram if holds_ngrams(counts) else escape
    for token, *numbers in counts.rows():
        file.write("\t".join([escaped(token), *_cells(numbers)]).encode() + b"\n")


def _parse_tsv(content: str, name: str) -> Iterator[Row]:
    # Lines end at \n alone, so that no other separator in a token could end one.
    lines = content.removesuffix("\n").split("\n")
    width, unescaped = _check_header(lines[0].split("\t"), name, unescape)
    for number, line in enumerate(lines[1:], 2):
        token, *numbers = line.split("\t")
        try:
            yield _row(unescaped(token), numbers, width)
        except ValueError as error:
            raise CorpusError(name, f"not a row of a table: {error}", line=number) from None


def _write_csv(file: IO[bytes], counts: WordCounts) -> None:
    file.write(",".join(_header(counts)).encode() + b"\n")
    ngrams = holds_ngrams(counts)
    for token, *numbers in counts.rows():
        name = escape_ngram(token) if ngrams else token
        line = ",".join([_quoted(name), *_cells(numbers)])
        file.write(line.encode("utf-8", "surrogatepass") + b"\n")


def _quoted(token: str) -> str:
    if token and not _NEEDS_QUOTES.search(token):
        return token
    return '"' + token.replace('"', '""') + '"'


_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$')
# Not the csv module: before Python 3.11 it cannot read a NUL.
_CSV_ROW = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*)),([^"\r\n]*)\r?(?:\n|\Z)')


def _parse_csv(content: str, name: str) -> Iterator[Row]:
    header, _, _ = content.partition("\n")
    width, unescaped = _check_header(header.rstrip("\r").split(","), name, str)
    position = len(header) + 1
    while position < len(content):
        match = _CSV_ROW.match(content, position)
        try:
            if match is None:
                raise ValueError("expected a token and its count")
            quoted, plain, numbers = match.groups()
            token = plain if quoted is None else quoted.replace('""', '"')
            yield _row(unescaped(token), numbers.split(","), width)
        except ValueError as error:
            line = content.count("\n", 0, position) + 1
            raise CorpusError(name, f"not a row of a table: {error}", line=line) from None
        position = match.end()


def _write_json(file: IO[bytes], counts: WordCounts) -> None:
    if holds_ngrams(counts):
        _write_json_rows(file, counts)
        return
    separator = b"{\n"
    for token, *numbers in counts.rows():
        value = str(numbers[0])
        if numbers[1] is not None:
            value = json.dumps(dict(zip(_COLUMNS[1:], numbers, strict=True)))
        pair = f"{json.dumps(token, ensure_ascii=False)}: {value}"
        # "backslashreplace" writes a lone surrogate as \udXXX, which is JSON's own escape for it.
        file.write(separator + pair.encode("utf-8", "backslashreplace"))
        separator = b",\n"
    file.write(b"{}\n" if separator == b"{\n" else b"\n}\n")


def _write_json_rows(file: IO[bytes], counts: WordCounts) -> None:
    separator = b"[\n"
    for token, *numbers in counts.rows():
        values = [number for number in numbers if number is not None]
        line = json.dumps([token, *values], ensure_ascii=False)
        file.write(separator + line.encode("utf-8", "backslashreplace"))
        separator = b",\n"
    file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def _parse_json_rows(table: list[Any], name: str) -> Iterator[Row]:
    for number, row in enumerate(table, 1):
        match row:
            case [[*tokens], int(), *more] if (
                all(isinstance(token, str) for token in tokens)
                and len(more) <= 1
                and all(isinstance(value, int) for value in more)
            ):
                yield Row(tuple(tokens), *row[1:])
            case _:
                raise CorpusError(
                    name,
                    "not a table: expected one object, token -> count; or rows of an n-gram "
                    f"and its count, but row {number} is {row!r}",
                )


def _parse_json(content: str, name: str) -> Iterator[Row]:
    try:
        table = json.loads(content, object_pairs_hook=_object)
        if isinstance(table, list):
            yield from _parse_json_rows(table, name)
            return
        if not isinstance(table, dict):
            raise ValueError("expected one object, token -> count")
    except (ValueError, RecursionError) as error:
        raise CorpusError(name, f"not a table: {error}") from None
    for token, value in table.items():
        numbers = [value]
        if isinstance(value, dict) and value.keys() == set(_COLUMNS[1:]):
            numbers = [value[column] for column in _COLUMNS[1:]]
        if any(type(number) is not int for number in numbers):
            raise CorpusError(name, f"not a table: the count of {token!r} is {value!r}")
        yield Row(token, *numbers)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of a key that comes twice Python's reader forgets the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _check_header(
    columns: list[str], name: str, unescaped: Callable[[str], str]
) -> tuple[int, Callable[[str], Any]]:
    """Return the number of columns, and what turns the first one into a token or an n-gram."""
    if tuple(columns[1:]) in (_COLUMNS[1:2], _COLUMNS[1:]):
        if columns[0] == _COLUMNS[0]:
            return len(columns), unescaped
        if columns[0] == _NGRAM:
            return len(columns), unescape_ngram
    expected = ", ".join(_COLUMNS[:2])
    raise CorpusError(name, f"not a table: expected a header with {expected}", line=1)


def _row(token: Any, numbers: list[str], width: int) -> Row:
    if len(numbers) != width - 1:
        raise ValueError(f"expected {width} columns, found {len(numbers) + 1}")
    for number in numbers:
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"{number!r} is no count")
    return Row(token, *map(int, numbers))


class _Format(NamedTuple):
    write: Callable[[IO[bytes], WordCounts], None]
    parse: Callable[[str, str], Iterator[Row]]


_FORMATS: Mapping[str, _Format] = {
    ".tsv": _Format(_write_tsv, _parse_tsv),
    ".csv": _Format(_write_csv, _parse_csv),
    ".json": _Format(_write_json, _parse_json),
}


def _extension(name: str, format: TableFormat | None = None) -> str:
    if format is not None:
        if f".{format}" not in _FORMATS:
            raise OptionError(f"the format of a table must be tsv, csv or json, not {format!r}")
        return f".{format}"
    extension = os.path.splitext(name)[1].lower()
    if extension not in _FORMATS:
        found = f"unknown extension {extension!r}" if extension else "no extension"
        raise OptionError(f"output {name!r}: {found}; expected .tsv, .csv or .json")
    return extension
