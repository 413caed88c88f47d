"""Tables in columns: .tsv with backslash escapes, .csv as in RFC 4180."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from perftricks.wordcount.errors import CorpusError
from perftricks.wordcount.table.rows import (
    COUNT,
    DOCUMENT_FREQUENCY,
    NGRAM,
    TAG,
    TOKEN,
    Row,
    Tagged,
)
from perftricks.wordcount.writing.escapes import (
    escape,
    escape_in_ngram,
    unescape,
    unescape_ngram,
)
from perftricks.wordcount.writing.formats import Found, Written, column_names

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns, Strings
    from perftricks.wordcount.table.counts import WordCounts

_PART_BYTES = 1 << 20  # of a file, that are looked at together


class Tsv:
    """A token, a tab, its count; its tag before and its documents after that, if there are any."""

    def why_not(self) -> str | None:
        """Say why the format cannot be used here."""
        return None

    def write(self, file: IO[bytes], counts: WordCounts, written: Written) -> None:
        """Write a table."""
        _write(file, counts, written, b"\t", _tsv_keys)

    def read(self, name: str) -> Found:
        """Read a table."""
        # Lines end at \n alone, so that no other separator in a token could end one; at \r\n where
        # another program has saved the file: in tokens both are escaped.
        header, _, body = read_text(name).replace("\r\n", "\n").partition("\n")
        form = _check_header(header.split("\t"), name, unescape)
        parts = None
        if form.key is unescape and not form.tagged:
            parts = _tsv_columns(body.encode("utf-8", "surrogatepass"), 1 + form.numbers)
        if parts is not None:
            return Found(iter(parts), None, form.numbers == 2)
        return found(_tsv_rows(body, name, form), document_frequency=form.numbers == 2)


class Csv:
    """As .tsv, with commas."""

    def why_not(self) -> str | None:
        """Say why the format cannot be used here."""
        return None

    def write(self, file: IO[bytes], counts: WordCounts, written: Written) -> None:
        """Write a table."""
        _write(file, counts, written, b",", _csv_keys)

    def read(self, name: str) -> Found:
        """Read a table."""
        content = read_text(name)
        header, _, _ = content.partition("\n")
        form = _check_header(header.rstrip("\r").split(","), name, str)
        rows = _csv_rows(content, name, len(header) + 1, form)
        return found(rows, document_frequency=form.numbers == 2)


def read_text(name: str) -> str:
    """Read a file; a lone surrogate may be in it as three bytes.

    A byte order mark at its start, as other programs write one, is left out.

    Raises:
        CorpusError: If it is not UTF-8.
    """
    with open(name, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        problem = f"not a table: 0x{data[error.start]:02x} is not UTF-8"
        raise CorpusError(name, problem, offset=error.start) from None


def found(rows: Iterator[Row], *, document_frequency: bool) -> Found:
    """Return what a file holds that says nothing of its table but the rows."""
    from perftricks.wordcount.table.columns import columns_of

    return Found(columns_of(rows, document_frequency=document_frequency), None, document_frequency)


def _write(
    file: IO[bytes],
    counts: WordCounts,
    written: Written,
    separator: bytes,
    keys: Callable[[Columns], Strings],
) -> None:
    from perftricks.wordcount.table.columns import Columns, interleaved
    from perftricks.wordcount.writing.bulk import numbers_of

    def lines(part: Columns) -> Strings:
        pieces: list[bytes | Strings] = []
        if part.tagged:
            pieces = [keys(Columns(part.strings_at(0), part.count)), separator]
            pieces.append(keys(Columns(part.strings_at(1), part.count)))
        else:
            pieces.append(keys(part))
        for number in numbers_of(part):
            pieces += [separator, number]
        return interleaved([*pieces, b"\n"], len(part))

    file.write(separator.join(name.encode() for name in column_names(counts)) + b"\n")
    for part in map(lines, counts.columns()):
        file.write(part.text.data)
        written(len(part))


def _tsv_keys(part: Columns) -> Strings:
    """Return what a column of keys holds: tokens that are escaped, and a space between them."""
    from perftricks.wordcount.table.columns import Columns, interleaved
    from perftricks.wordcount.writing.bulk import (
        Suspects,
        rewritten,
        separated_ngrams,
    )

    # Control characters (of which some are two bytes from 0xc2 on), the backslash, line separators
    # (three bytes from 0xe2 on) and surrogates (from 0xed on); in an n-gram the space too.
    bytes_of = (range(0x20), range(0x5C, 0x5D), range(0x7F, 0x80), range(0xC2, 0xC3))
    more = (range(0xE2, 0xE3), range(0xED, 0xEE))
    if not part.ngram:
        return rewritten(part.tokens, Suspects.of(*bytes_of, *more), _encoded(escape))
    suspects = Suspects.of(*bytes_of, *more, range(0x20, 0x21))
    tokens = rewritten(part.tokens, suspects, _encoded(escape_in_ngram))
    escaped = Columns(tokens, part.count, part.documents, part.ngram)
    return interleaved(separated_ngrams(escaped, b" "), len(part))


def _csv_keys(part: Columns) -> Strings:
    """Return what a column of keys holds: quotes around those that need them."""
    from perftricks.wordcount.writing.bulk import Suspects, rewritten

    # Quotes, commas and ends of lines; and white space at an end, of which some is bytes from 0xc2,
    # 0xe1, 0xe2 and 0xe3 on.
    bytes_of = (range(0x22, 0x23), range(0x2C, 0x2D), range(0x0A, 0x0E))
    blanks = (range(0x21), range(0xC2, 0xC3), range(0xE1, 0xE4))
    keys = _tsv_keys(part) if part.ngram else part.tokens
    return rewritten(keys, Suspects.of(*bytes_of, at_ends=blanks), _encoded(quoted))


def _encoded(write: Callable[[str], str]) -> Callable[[str], bytes]:
    return lambda token: write(token).encode("utf-8", "surrogatepass")


def quoted(token: str) -> str:
    """Write a cell of .csv."""
    if token and not _NEEDS_QUOTES.search(token):
        return token
    return '"' + token.replace('"', '""') + '"'


_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$')
# Not the csv module: before Python 3.11 it cannot read a NUL.
_CSV_CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*)),')
_CSV_ROW = re.compile(_CSV_CELL.pattern + r'([^"\r\n]*)\r?(?:\n|\Z)')


def _tsv_rows(body: str, name: str, form: _Form) -> Iterator[Row]:
    if not body:
        return
    for number, line in enumerate(body.removesuffix("\n").split("\n"), 2):
        keys, numbers = (cells := line.split("\t"))[: 1 + form.tagged], cells[1 + form.tagged :]
        try:
            yield _row(list(map(form.key, keys)), numbers, form)
        except ValueError as error:
            raise CorpusError(name, f"not a row of a table: {error}", line=number) from None


def _tsv_columns(body: bytes, width: int) -> list[Columns] | None:
    """Return the rows of a table of tokens; None if there is something wrong with one of them."""
    parts = []
    position = 0
    while position < len(body):
        end = position + _PART_BYTES
        end = len(body) if end >= len(body) else body.rfind(b"\n", position, end) + 1
        if end <= position:
            return None  # a line that long
        part = _tsv_part(body[position:end].removesuffix(b"\n") + b"\n", width)
        if part is None:
            return None
        parts.append(part)
        position = end
    return parts


def _tsv_part(lines: bytes, width: int) -> Columns | None:
    import numpy as np

    from perftricks.wordcount.table.columns import Columns, Strings
    from perftricks.wordcount.writing.bulk import Suspects, numbers_in, rewritten

    text = np.frombuffer(lines, np.uint8)
    end = np.flatnonzero(text == ord("\n"))
    begin = np.concatenate(([0], end[:-1] + 1))
    tabs = np.flatnonzero(text == ord("\t"))
    if tabs.size != end.size * (width - 1):
        return None
    borders = np.column_stack((begin, tabs.reshape(end.size, width - 1), end))
    if (borders[:, 1:] < borders[:, :-1]).any():
        return None
    numbers = [
        numbers_in(text, borders[:, column] + 1, borders[:, column + 1])
        for column in range(1, width)
    ]
    tokens = Strings.cut(text, begin, borders[:, 1])
    try:
        tokens = rewritten(tokens, Suspects.of(range(0x5C, 0x5D)), _encoded(unescape))
    except ValueError:
        return None
    if numbers[0] is None or numbers[-1] is None:
        return None
    return Columns(tokens, numbers[0], numbers[1] if width == 3 else None)


def _csv_rows(content: str, name: str, position: int, form: _Form) -> Iterator[Row]:
    while position < len(content):
        keys = []
        match = _CSV_CELL.match(content, position) if form.tagged else None
        if match is not None:
            keys.append(form.key(_unquoted(*match.groups())))
        match = _CSV_ROW.match(content, position if match is None else match.end())
        try:
            if match is None:
                raise ValueError("expected a token and its count")
            quoted, plain, numbers = match.groups()
            keys.append(form.key(_unquoted(quoted, plain)))
            yield _row(keys, numbers.split(","), form)
        except ValueError as error:
            line = content.count("\n", 0, position) + 1
            raise CorpusError(name, f"not a row of a table: {error}", line=line) from None
        position = match.end()


def _unquoted(quoted: str | None, plain: str) -> str:
    return plain if quoted is None else quoted.replace('""', '"')


class _Form(NamedTuple):
    """What the columns of a file are.

    Attributes:
        key: Turns a cell of the first ones into a token, an n-gram or a tag.
        tagged: Whether a tag follows a token.
        numbers: How many columns of numbers follow.
    """

    key: Callable[[str], Any]
    tagged: bool
    numbers: int


def _check_header(columns: list[str], name: str, unescaped: Callable[[str], str]) -> _Form:
    tagged = columns[:2] == [TOKEN, TAG]
    numbers = columns[2:] if tagged else columns[1:]
    if numbers in ([COUNT], [COUNT, DOCUMENT_FREQUENCY]):
        if columns[0] == TOKEN:
            return _Form(unescaped, tagged, len(numbers))
        if columns[0] == NGRAM:
            return _Form(unescape_ngram, False, len(numbers))
    expected = f"{TOKEN}, {COUNT}"
    raise CorpusError(name, f"not a table: expected a header with {expected}", line=1)


def _row(keys: list[Any], numbers: list[str], form: _Form) -> Row:
    expected = 1 + form.tagged
    if len(keys) != expected or len(numbers) != form.numbers:
        raise ValueError(
            f"expected {expected + form.numbers} columns, found {len(keys) + len(numbers)}"
        )
    for number in numbers:
        # More digits than that are no number of a column.
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise ValueError(f"{number!r} is no count")
    key = Tagged(*keys) if form.tagged else keys[0]
    return key, int(numbers[0]), int(numbers[1]) if form.numbers == 2 else 0
