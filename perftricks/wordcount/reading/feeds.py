"""Where documents come from: files, or an iterable of the caller's."""

from __future__ import annotations

import codecs
import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from perftricks.wordcount.errors import CorpusError
from perftricks.wordcount.reading.arrow_documents import (
    ARROW_FORMATS,
    ArrowDocuments,
    checked_parts,
    ended,
    holds_strings,
)
from perftricks.wordcount.reading.documents import read_documents
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.sources import STDIN, Corpus, NotRead, Source
from perftricks.wordcount.reading.streams import (
    AUTO,
    Meter,
    find_encoding,
    read_bytes,
    take_head,
    with_whole_lines,
)

# As much of a text of unknown length is read ahead to see whether it is a short one.
_PEEK_BYTES = 1_000_000

# How many times larger compressed text usually is than it looks.
_COMPRESSION = 3


class Portion(NamedTuple):
    """What one source of a feed holds.

    Attributes:
        name: Where it comes from.
        documents: Its documents; none where ``text`` is not None.
        text: A text file in UTF-8, which may be read as bytes.
        options: How that is read.
        encoded: Gives the documents as UTF-8, each with a byte 0xff behind it, if they are at hand
            like that.
    """

    name: str
    documents: Iterable[str] = ()
    text: Source | None = None
    options: ReadOptions = ReadOptions()
    encoded: Callable[[], Generator[Any]] | None = None


class Feed(Protocol):
    """Documents, and how much of them has been read."""

    meter: Meter
    files: int
    passed_over: int
    total: int | None

    @property
    def not_read(self) -> Sequence[NotRead]:
        """What in folders is not read."""

    @property
    def bad(self) -> Sequence[NotRead]:
        """What turned out to be bad and counts for nothing."""

    def __iter__(self) -> Iterator[str]:
        """Yield the documents."""

    def estimate(self) -> float:
        """Return roughly how many bytes of text there are; infinity if that cannot be known."""

    def portions(self, done: int = 0) -> Generator[Portion]:
        """Yield all documents by where they come from; bytes of UTF-8 are not decoded.

        Args:
            done: Leave out so many portions at the start.
        """


class TextFeed:
    """Documents that are in memory or come from a generator; a byte is one of their UTF-8."""

    files = 0
    passed_over = 0
    total: int | None = None
    not_read: Sequence[NotRead] = ()
    bad: Sequence[NotRead] = ()

    def __init__(self, texts: Iterable[str]) -> None:
        self.meter = Meter()
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        for index, text in enumerate(self._texts):
            if not isinstance(text, str):
                raise TypeError(f"document {index} is of type {type(text).__name__}, not str")
            self.meter.text += len(text.encode("utf-8", "surrogatepass"))
            self.meter.stored = self.meter.text
            yield text

    def estimate(self) -> float:
        """Return the size of the first documents if they are all, else infinity."""
        first: list[Any] = []
        texts = iter(self._texts)
        size = 0
        ended = False
        while size <= _PEEK_BYTES and not ended:
            text = next(texts, _NONE)
            ended = text is _NONE
            if not ended:
                first.append(text)
                size += 3 * len(text) + 1 if isinstance(text, str) else 1
        self._texts = itertools.chain(first, texts)
        return size if ended else math.inf

    def portions(self, done: int = 0) -> Generator[Portion]:
        """Yield all documents, which come from one place."""
        if not done:
            yield Portion("texts", self)


class ColumnFeed:
    """Documents that are a column of Arrow, in memory.

    Args:
        column: A ``pyarrow.ChunkedArray``.

    Raises:
        TypeError: If it does not hold strings.
    """

    files = 0
    passed_over = 0
    not_read: Sequence[NotRead] = ()
    bad: Sequence[NotRead] = ()

    def __init__(self, column: Any) -> None:
        import pyarrow as pa

        self.meter = Meter()
        # Of no values, or of missing ones, no kind is known.
        self._column = column.cast(pa.string()) if pa.types.is_null(column.type) else column
        kind = self._column.type
        if pa.types.is_struct(kind):
            raise TypeError("texts is a table; expected one of its columns, such as table['text']")
        if not holds_strings(kind):
            raise TypeError(f"texts is a column of {kind}; expected strings")
        if self._column.null_count:
            row = self._column.is_null().index(True).as_py()
            raise TypeError(f"document {row} is null, not a string")
        self.total: int | None = self._column.nbytes

    def __iter__(self) -> Iterator[str]:
        for part in self._parts():
            yield from part.to_pylist()

    def _parts(self) -> Iterator[Any]:
        row = 0
        for chunk in self._column.chunks:
            first = functools.partial(int, row)
            for part in checked_parts(chunk, "texts", "texts", first, None):
                self.meter.text += part.nbytes
                self.meter.stored = self.meter.text
                yield part
            row += len(chunk)

    def estimate(self) -> float:
        """Return how many bytes the column has."""
        return float(self._column.nbytes)

    def portions(self, done: int = 0) -> Generator[Portion]:
        """Yield all documents, which come from one place."""
        if not done:
            yield Portion("texts", self, encoded=lambda: (ended(part) for part in self._parts()))


def arrow_column(texts: Any) -> Any:
    """Return documents as a ``pyarrow.ChunkedArray`` if they are a column of Arrow, else None.

    So they are if they have its interface of arrays or of streams, and pyarrow can be used. A
    column of Python objects, as pandas has, may hold what Arrow cannot.
    """
    streamed = hasattr(texts, "__arrow_c_stream__")
    if not streamed and not hasattr(texts, "__arrow_c_array__"):
        return None
    try:
        import pyarrow as pa

        return pa.chunked_array(texts if streamed else [pa.array(texts)])
    except (ImportError, TypeError, ValueError):  # what pyarrow raises is among these
        return None


_NONE: Any = object()


class FileFeed:
    """Documents from files."""

    def __init__(self, corpus: Corpus, options: ReadOptions) -> None:
        self.meter = Meter()
        self.files = len(corpus.sources)
        self.passed_over = corpus.passed_over
        self.total = corpus.size
        self.not_read = corpus.not_read
        self.bad = list(corpus.bad)
        self._skip_bad = corpus.skip_bad
        self._sources = list(corpus.sources)
        self._options = options

    def __iter__(self) -> Iterator[str]:
        for source in map(with_whole_lines, self._sources):
            if not self._is_bad(source):
                yield from read_documents(source, self._options, self.meter)

    def _is_bad(self, source: Source) -> bool:
        """Whether a file is to be left out, which is found out by reading it once before.

        So nothing of it is counted. A stream cannot be read twice; in that a bad byte is an error.
        """
        if not self._skip_bad or source.size is None:
            return False
        try:
            for _ in read_documents(source, self._options, Meter()):
                pass
        except CorpusError as error:
            self.bad.append(NotRead(source.name, error.reason))
            self.files -= 1
            self.meter.stored += source.size
            return True
        return False

    def estimate(self) -> float:
        """Return roughly how many bytes of text the files hold.

        So much of the standard input is read that it is known whether it is short.
        """
        size = 0.0
        for index, source in enumerate(self._sources):
            stored: float = math.inf if source.size is None else source.size
            if source.path == STDIN:
                source, ended = take_head(source, _PEEK_BYTES)
                self._sources[index] = source
                stored = len(source.head) if ended else math.inf
            size += stored * (_COMPRESSION if source.compression else 1)
        return size

    def portions(self, done: int = 0) -> Generator[Portion]:
        """Yield all documents by where they come from; a bad file has none."""
        options = self._options
        for index, source in enumerate(self._sources):
            bad = self._is_bad(source)
            if index < done:
                continue
            source = with_whole_lines(source)
            if bad:
                yield Portion(source.name)
            elif source.format in ARROW_FORMATS:
                arrow = ArrowDocuments(source, options, self.meter)
                yield Portion(source.name, arrow, encoded=arrow.encoded)
            elif source.format == "text" and options.errors == "strict" and self._is_utf8(source):
                yield Portion(source.name, (), source, options)
            else:
                with contextlib.closing(read_documents(source, options, self.meter)) as documents:
                    yield Portion(source.name, documents)

    def _is_utf8(self, source: Source) -> bool:
        """Whether a file is to be read as UTF-8; it is looked into where that is to be found out.

        A stream cannot be read twice and is left to whoever reads it.
        """
        if self._options.encoding != AUTO:
            return codecs.lookup(self._options.encoding).name == "utf-8"
        if source.size is None:
            return False
        found = find_encoding(read_bytes(source, Meter())) == "utf-8"
        self.meter.encodings["utf-8"] += found
        return found


def sample(feed: Feed, text_bytes: int) -> tuple[Sequence[str], bool]:
    """Read documents until they make up so many bytes of text.

    Returns:
        The documents, and whether they are all there are.
    """
    documents = []
    size = 0
    for text in feed:
        documents.append(text)
        size += len(text.encode("utf-8", "surrogatepass"))
        if size >= text_bytes:
            return documents, False
    return documents, True
