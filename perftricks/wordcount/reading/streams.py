"""From a file to its text, piece by piece: opening, decompressing, decoding.

No more than a chunk is in memory at a time.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import logging
import lzma
import math
import os
import stat
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import IO, Any, Protocol, cast

from perftricks.wordcount.errors import CorpusError, OptionError
from perftricks.wordcount.reading.sources import STDIN, Compression, Source
from perftricks.wordcount.reading.urls import FileSystem, is_url

CHUNK_BYTES = 1 << 20
_LOOK_BYTES = 1 << 16  # are read at once where a line end is looked for

# Python shows warnings on stderr unless the program has set up logging.
_log = logging.getLogger("perftricks.wordcount")

# Seconds after which it is said that something is waited for.
_MOMENT = 1.0

# A byte order mark as text; what these codecs make of a file begins behind it.
_BOM = "\ufeff"
_WITHOUT_BOM = ("utf-8-sig", "utf-16", "utf-32")

AUTO = "auto"

# The marks of --encoding auto, each before those that it begins with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# So much text behind the first character that is not ASCII decides between UTF-8 and GB18030.
_TELLING_BYTES = 1 << 14

_ASCII = bytes(range(128))


class Meter:
    """Counts the bytes that were read.

    Attributes:
        stored: Bytes as stored.
        text: Bytes after decompression.
        encodings: Encodings that were found out -> the number of files that have them.
    """

    def __init__(self) -> None:
        self.stored = 0
        self.text = 0
        self.encodings: Counter[str] = Counter()


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""


class _Resumed:
    """A stream with bytes in front that were taken from it before."""

    def __init__(self, head: bytes, raw: _Readable) -> None:
        self._head = head
        self._read = getattr(raw, "read1", raw.read)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        if not self._head:
            data: bytes = self._read(size)
            return data
        taken, self._head = self._head[:size], self._head[size:]
        return taken


def take_head(source: Source, size: int) -> tuple[Source, bool]:
    """Take some bytes of the standard input, so that it is known whether it has more.

    Args:
        source: The standard input.
        size: How many bytes to take.

    Returns:
        The source that reads them once more, and whether they are all there are.
    """
    if sys.stdin is None:
        return source, True
    try:
        head = sys.stdin.buffer.read(size)
    except OSError:
        return source, True  # reading it again says what is wrong
    return replace(source, head=head), len(head) < size


class _MeteredFile:
    """The bytes of a file as stored, counted; all that the decompressors ask of a file."""

    def __init__(self, raw: _Readable, name: str, meter: Meter) -> None:
        self.position = 0
        self._raw = raw
        # A pipe gives what it has, instead of waiting until it can fill the chunk.
        self._read = getattr(raw, "read1", raw.read)
        self._name = name
        self._meter = meter

    def seek(self, position: int) -> None:
        """Go to a position of a file that is stored as it is."""
        cast(IO[bytes], self._raw).seek(position)
        self.position = position

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        try:
            data: bytes = self._read(size)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CorpusError(
                self._name, f"reading failed: {reason}", offset=self.position
            ) from error
        self.position += len(data)
        self._meter.stored += len(data)
        return data


def read_text(source: Source, encoding: str, errors: str, meter: Meter) -> Generator[str]:
    """Yield the text of a source in pieces of about a megabyte.

    A byte order mark at the start is dropped. Line ends are left as they are.

    Args:
        source: What to read.
        encoding: The name of the encoding, or "auto"; see :func:`find_encoding`.
        errors: What to do with bytes that are not that encoding, as for ``bytes.decode``.
        meter: Counts the bytes.

    Raises:
        CorpusError: If the file cannot be read or decompressed, or ``errors`` is "strict" and bytes
            are not the encoding.
    """
    auto = _AutoDecoder(errors) if encoding == AUTO else None
    decoder = auto or codecs.getincrementaldecoder(encoding)(errors)
    end = source.start  # position, in the decompressed bytes, of the end of the current chunk
    told = False
    begun = source.start > 0 or (auto is None and codecs.lookup(encoding).name in _WITHOUT_BOM)
    for chunk in _and_empty_last(read_bytes(source, meter)):
        end += len(chunk)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # The decoder may have kept bytes of earlier chunks; what it failed on ends where the
            # chunk does.
            offset = end - len(error.object) + error.start
            name = encoding if auto is None else seeming(auto.encoding)
            raise not_the_encoding(source, name, error.object[error.start], offset) from None
        except UnicodeError as error:
            raise CorpusError(source.name, f"not {encoding}: {error}", offset=0) from None
        if auto is not None and auto.encoding is not None and not told:
            told = True
            meter.encodings[auto.encoding] += 1
        if text and not begun:
            begun = True
            text = text.removeprefix(_BOM)
        yield text


def find_encoding(chunks: Iterable[bytes]) -> str:
    """Tell the encoding of a text: by its byte order mark; else UTF-8 if it is that, else GB18030.

    What is ASCII to the end is UTF-8. Otherwise 16 kB from the first other character on decide. A
    text that is UTF-8 but for a few bytes is taken for UTF-8, in which it is an error, and not for
    GB18030, in which it might be gibberish.

    Args:
        chunks: The bytes; as many are taken as are needed.

    >>> find_encoding([b"tea ", "喝茶".encode("gbk")])
    'gb18030'
    """
    decoder = _AutoDecoder("ignore")
    for chunk in _and_empty_last(chunks):
        decoder.decode(chunk, not chunk)
        if decoder.encoding is not None:
            return decoder.encoding
    return "utf-8"


class _AutoDecoder:
    """Decodes a text in pieces once it knows the encoding, and ASCII before."""

    def __init__(self, errors: str) -> None:
        self.encoding: str | None = None
        self._errors = errors
        self._decoder: codecs.IncrementalDecoder | None = None
        self._held = b""
        self._begun = False

    def decode(self, data: bytes, final: bool = False) -> str:
        """Return the text so far as it is known."""
        if self._decoder is None:
            data = self._held = self._held + data
            self.encoding = self._tell(data, final)
            if self.encoding is None:
                if len(data) < 4 or not data.isascii():
                    return ""
                self._held, self._begun = b"", True
                return data.decode("ascii")
            self._decoder = codecs.getincrementaldecoder(self.encoding)(self._errors)
        return self._decoder.decode(data, final)

    def _tell(self, data: bytes, final: bool) -> str | None:
        if not self._begun:
            if len(data) < 4 and not final:
                return None
            for mark, name in _MARKS:
                if data.startswith(mark):
                    return name
        tail = data.lstrip(_ASCII)
        if len(tail) < _TELLING_BYTES and not final:
            return None
        try:
            codecs.utf_8_decode(tail, "strict", final)
        except UnicodeDecodeError:
            # A NUL means UTF-16 without a mark: an error in UTF-8, and gibberish in GB18030.
            return "utf-8" if b"\0" in data or _is_nearly_utf8(tail) else "gb18030"
        return "utf-8"


def _is_nearly_utf8(data: bytes) -> bool:
    others = sum(byte > 127 for byte in data)
    lost = len(data) - len(data.decode("utf-8", "ignore").encode())
    return lost * 10 < others


def check_encoding(encoding: str, errors: str) -> None:
    """Check that the encoding and the error handler exist.

    Raises:
        OptionError: If they do not.
    """
    if not isinstance(encoding, str):
        raise OptionError(f"encoding must be a name such as utf-8, or auto, not {encoding!r}")
    if encoding == AUTO:
        encoding = "utf-8"
    try:
        b" ".decode(encoding, "replace")  # turns away codecs from bytes to bytes, such as "hex"
        codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError):
        raise OptionError(
            f"{encoding!r} is not the name of a text encoding; expected one that Python knows, "
            "such as utf-8, gb18030, utf-16 or big5; or auto"
        ) from None
    try:
        codecs.lookup_error(errors)
    except LookupError:
        raise OptionError(f"errors must be strict, replace or ignore, not {errors!r}") from None


def check_compression(compression: Compression) -> None:
    """Check that the decompressor is installed.

    Raises:
        OptionError: If it is not.
    """
    if compression == "zst":
        _import_zstd()


def _and_empty_last(chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield from chunks
    yield b""


def seeming(encoding: str | None) -> str:
    """Name an encoding that was found out, in what is said of a byte that is not it."""
    return f"{encoding}, which it seemed to be"


def not_the_encoding(source: Source, encoding: str, byte: int, offset: int) -> CorpusError:
    """Return what to raise for a byte that is not the encoding."""
    where = " (counted after decompression)" if source.compression else ""
    return CorpusError(
        source.name,
        f"0x{byte:02x}{where} is not {encoding}; name the encoding that the file has, or replace "
        'or ignore such bytes (errors "replace" or "ignore")',
        offset=offset,
    )


def read_bytes(source: Source, meter: Meter, offset: int = 0) -> Generator[bytes]:
    """Yield the bytes of a source, decompressed, in chunks that are not empty.

    Args:
        source: What to read.
        meter: Counts the bytes, the ones that are left out included.
        offset: A position in the file; leave out what is before it.
    """
    if offset or source.start or source.stop is not None:
        yield from _read_from(source, meter, max(offset, source.start))
        return
    with contextlib.ExitStack() as opened:
        stored = _MeteredFile(_open(source, opened), source.name, meter)
        if not source.compression:
            while chunk := stored.read():
                meter.text += len(chunk)
                yield chunk
            return
        stream, broken = _decompressor(source.compression, stored)
        try:
            while chunk := stream.read(CHUNK_BYTES):
                meter.text += len(chunk)
                yield chunk
            if not stored.position:
                raise EOFError
        except EOFError:
            problem = f"the .{source.compression} data ends too early; the file looks truncated"
            raise CorpusError(source.name, problem, offset=stored.position) from None
        except broken as error:
            problem = (
                f"the .{source.compression} data is broken, here or shortly before: "
                f"{str(error) or type(error).__name__}"
            )
            raise CorpusError(source.name, problem, offset=stored.position) from None


def _read_from(source: Source, meter: Meter, offset: int) -> Iterator[bytes]:
    """Yield the bytes of a source from a position on."""
    if not source.compression:
        with contextlib.ExitStack() as opened:
            stored = _MeteredFile(_open(source, opened), source.name, meter)
            stored.seek(offset)
            meter.text += offset - source.start
            meter.stored += offset - source.start
            stop = math.inf if source.stop is None else source.stop
            while chunk := stored.read(int(min(CHUNK_BYTES, max(stop - stored.position, 0)))):
                meter.text += len(chunk)
                yield chunk
        return
    for chunk in read_bytes(source, meter):
        skipped = min(offset, len(chunk))
        offset -= skipped
        if skipped < len(chunk):
            yield chunk[skipped:]


def with_whole_lines(source: Source) -> Source:
    r"""Return a source whose range holds the lines that begin within it, and nothing else.

    So ranges that follow each other hold each line once. A line ends at ``\n``. No more is read
    than the line that begins before the range, up to the end of the range, and the last one.

    Raises:
        CorpusError: If the file cannot be opened or read.
    """
    if not source.start and source.stop is None:
        return source
    with contextlib.ExitStack() as opened:
        file = _MeteredFile(_open(source, opened), source.name, Meter())
        start, stop = source.start, source.stop
        if start:
            start = _next_line(file, start, stop)
        if stop is not None:
            stop = start if start >= stop else _next_line(file, stop, None)
    return replace(source, start=start, stop=stop)


def _next_line(file: _MeteredFile, position: int, stop: int | None) -> int:
    """Return where the first line begins that does at a position or behind it."""
    file.seek(position - 1)
    while chunk := file.read(_LOOK_BYTES):
        end = chunk.find(b"\n")
        if end >= 0:
            return position + end
        position += len(chunk)
        if stop is not None and position >= stop:
            break
    return position


def _open(source: Source, opened: contextlib.ExitStack) -> _Readable:
    if source.path == STDIN:
        if sys.stdin is None:
            raise CorpusError(source.name, "the standard input is closed")
        return _Resumed(source.head, sys.stdin.buffer) if source.head else sys.stdin.buffer
    if is_url(source.path):
        try:
            return opened.enter_context(FileSystem(source.path, source.storage).open())
        except OSError as error:
            raise CorpusError(source.name, f"cannot be opened any more: {error}") from None
    try:
        with _waiting_for_a_writer(source):
            return opened.enter_context(open(source.path, "rb", buffering=0))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CorpusError(source.name, f"cannot be opened any more: {reason}") from None


@contextlib.contextmanager
def _waiting_for_a_writer(source: Source) -> Iterator[None]:
    """Say after a moment that a pipe is waited for: opening one waits until somebody writes."""
    if source.size is not None or not stat.S_ISFIFO(os.stat(source.path).st_mode):
        yield
        return
    timer = threading.Timer(
        _MOMENT, _log.warning, ["%s: waiting for somebody to write to this pipe", source.name]
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _decompressor(
    compression: Compression, stored: _MeteredFile
) -> tuple[_Readable, tuple[type[Exception], ...]]:
    """Return the decompressed stream and what it raises when the data is broken."""
    file = cast(IO[bytes], stored)
    if compression == "gz":
        return gzip.GzipFile(fileobj=file, mode="rb"), (gzip.BadGzipFile, zlib.error)
    if compression == "bz2":
        return _Streams(stored, bz2.BZ2Decompressor), (OSError, ValueError)
    if compression == "xz":
        return _Streams(stored, lzma.LZMADecompressor), (lzma.LZMAError, ValueError)
    zstd = _import_zstd()
    return zstd.ZstdFile(file), (zstd.ZstdError,)


class _Streams:
    """Compressed streams one after the other, with nothing but NUL bytes between and behind them.

    ``bz2.BZ2File`` and ``lzma.LZMAFile`` end in silence at a later stream that is damaged.

    Args:
        stored: The compressed bytes.
        make: Makes what decompresses one stream.
    """

    def __init__(self, stored: _MeteredFile, make: Callable[[], Any]) -> None:
        self._stored = stored
        self._make = make
        self._decompressor: Any = None
        self._waiting = b""
        self._first = True

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, none at the end.

        Raises:
            EOFError: If a stream has no end.
            OSError, ValueError, lzma.LZMAError: If bytes are no stream.
        """
        while True:
            if self._decompressor is None and not self._begin():
                return b""
            data: bytes = self._decompressor.decompress(self._waiting, size)
            self._waiting = b""
            if self._decompressor.eof:
                self._waiting, self._decompressor = self._decompressor.unused_data, None
            elif not data and self._decompressor.needs_input:
                self._waiting = self._stored.read()
                if not self._waiting:
                    raise EOFError("the last stream has no end")
            if data:
                return data

    def _begin(self) -> bool:
        """Begin the next stream; return False if there is none."""
        while True:
            if not self._first:
                self._waiting = self._waiting.lstrip(b"\0")
            if self._waiting:
                break
            self._waiting = self._stored.read()
            if not self._waiting:
                return False
        self._first = False
        self._decompressor = self._make()
        return True


def _import_zstd() -> Any:
    """Import the standard library's zstd, or its backport."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise OptionError(
            ".zst files need the package backports.zstd on Python before 3.14: "
            "pip install backports.zstd"
        ) from None
    return zstd
