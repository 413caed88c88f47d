"""Tables as JSON: an object of tokens, or an array of n-grams or of tokens with tags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from perftricks.wordcount.errors import CorpusError
from perftricks.wordcount.table.rows import COUNT, DOCUMENT_FREQUENCY, TAG, TOKEN, Tagged
from perftricks.wordcount.writing.delimited import found, read_text
from perftricks.wordcount.writing.formats import Found, Written

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns, Strings
    from perftricks.wordcount.table.counts import WordCounts

_MOST = 1 << 63  # what a column of numbers holds is less


class Json:
    """One object, token -> count, or -> an object with document frequency; the others in arrays."""

    def why_not(self) -> str | None:
        """Say why the format cannot be used here."""
        return None

    def write(self, file: IO[bytes], counts: WordCounts, written: Written) -> None:
        """Write a table."""
        opened, closed = (b"[", b"]") if counts.key_names != (TOKEN,) else (b"{", b"}")
        file.write(opened)
        empty = True
        for part in map(_rendered, counts.columns()):
            file.write(part.text.data[1:] if empty else part.text.data)  # no comma before a first
            empty = False
            written(len(part))
        file.write(closed + b"\n" if empty else b"\n" + closed + b"\n")

    def read(self, name: str) -> Found:
        """Read a table."""
        rows = list(_rows(read_text(name), name))
        documents = bool(rows) and len(rows[0]) > 2
        if any((len(row) > 2) is not documents for row in rows):
            raise CorpusError(name, "not a table: some rows have a document frequency, some none")
        return found(((*row, 0)[:3] for row in rows), document_frequency=documents)


def _rendered(part: Columns) -> Strings:
    """Return the rows, each with the comma that separates it from the one before."""
    from perftricks.wordcount.table.columns import Columns, interleaved
    from perftricks.wordcount.writing.bulk import (
        Suspects,
        numbers_of,
        rewritten,
        separated_ngrams,
    )

    # What JSON escapes: control characters, quote and backslash; and surrogates, from 0xed on.
    suspects = Suspects.of(range(0x20), range(0x22, 0x23), range(0x5C, 0x5D), range(0xED, 0xEE))
    tokens = rewritten(part.tokens, suspects, _inside_quotes)
    numbers = numbers_of(part)
    pieces: list[bytes | Strings]
    if part.tagged:
        both = Columns(tokens, part.count, None, part.ngram)
        pieces = [f',\n{{"{TOKEN}": "'.encode(), both.strings_at(0)]
        pieces += [f'", "{TAG}": "'.encode(), both.strings_at(1), b'"']
        for title, number in zip((COUNT, DOCUMENT_FREQUENCY), numbers, strict=False):
            pieces += [f', "{title}": '.encode(), number]
        pieces.append(b"}")
    elif part.ngram:
        grams = separated_ngrams(Columns(tokens, part.count, None, part.ngram), b'", "')
        pieces = [b',\n[["', *grams, b'"]']
        for number in numbers:
            pieces += [b", ", number]
        pieces.append(b"]")
    elif part.documents is None:
        pieces = [b',\n"', tokens, b'": ', *numbers]
    else:
        names = (f'": {{"{COUNT}": '.encode(), f', "{DOCUMENT_FREQUENCY}": '.encode())
        pieces = [b',\n"', tokens, names[0], numbers[0], names[1], numbers[1], b"}"]
    return interleaved(pieces, len(part))


def _inside_quotes(token: str) -> bytes:
    # "backslashreplace" writes a lone surrogate as \udXXX, which is JSON's own escape for it.
    return json.dumps(token, ensure_ascii=False)[1:-1].encode("utf-8", "backslashreplace")


def _rows(content: str, name: str) -> Iterator[Any]:
    """Yield the rows: key, count, and document frequency if there is one."""
    try:
        table = json.loads(content, object_pairs_hook=_object)
        if not isinstance(table, (dict, list)):
            raise ValueError("expected one object, token -> count")
    except (ValueError, RecursionError) as error:
        raise CorpusError(name, f"not a table: {error}") from None
    if isinstance(table, list):
        yield from _array_rows(table, name)
        return
    for token, value in table.items():
        numbers = [value]
        if isinstance(value, dict) and value.keys() == {COUNT, DOCUMENT_FREQUENCY}:
            numbers = [value[COUNT], value[DOCUMENT_FREQUENCY]]
        if not all(map(_is_number, numbers)):
            raise CorpusError(name, f"not a table: the count of {token!r} is {value!r}")
        yield token, *numbers


def _array_rows(table: list[Any], name: str) -> Iterator[Any]:
    for number, row in enumerate(table, 1):
        match row:
            case [[*tokens], *numbers] if (
                all(isinstance(token, str) for token in tokens)
                and 1 <= len(numbers) <= 2
                and all(map(_is_number, numbers))
            ):
                yield tuple(tokens), *numbers
            case {"token": str(token), "tag": str(tag), "count": count, **more} if more.keys() <= {
                DOCUMENT_FREQUENCY
            } and all(map(_is_number, (count, *more.values()))):
                yield Tagged(token, tag), count, *more.values()
            case _:
                raise CorpusError(
                    name,
                    "not a table: expected one object, token -> count; or rows of an n-gram "
                    f"or a token with its tag, and its count, but row {number} is {row!r}",
                )


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of a key that comes twice Python's reader forgets the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} is there twice")
    return found
