r"""UTF-8 text files as pieces of bytes for the compiled kernel: a few megabytes each, never more.

A piece ends behind a ``\n``, or inside a line that is longer than a piece where jieba would cut it
in any case. Where documents must stay whole (n-grams, document frequencies) a piece is as long as
its longest document.
"""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Callable, Generator
from typing import NamedTuple

from perftricks.wordcount.errors import CorpusError, too_long
from perftricks.wordcount.reading.options import Document
from perftricks.wordcount.reading.sources import Source
from perftricks.wordcount.reading.streams import Meter, not_the_encoding, read_bytes

PIECE_BYTES = 8 << 20

# A document that is not divided is held twice while its end is looked for, and twice again while it
# is counted; so many bytes may be held in any case.
_COPIES = 4
_LEAST_HELD = 32 << 20

FindCut = Callable[[bytes, int], int]


class Piece(NamedTuple):
    """Some of the text of a file.

    Attributes:
        data: The bytes.
        ends: Whether its last document ends with it.
        offset: Where it starts in the text.
    """

    data: bytes | memoryview
    ends: bool
    offset: int


def read_pieces(
    source: Source,
    document: Document,
    meter: Meter,
    find_cut: FindCut | None,
    *,
    offset: int = 0,
    size: int | None = None,
    limit: int | None = None,
) -> Generator[Piece]:
    """Yield the text of a file in pieces; a byte order mark is left out.

    Args:
        source: What to read.
        document: What a document is in it.
        meter: Counts the bytes.
        find_cut: Gives the first position from one on where any text may be cut, the length if
            there is none; None if documents must stay whole.
        offset: A position in the text where a piece ended; leave out what is before it.
        size: Bytes in a piece; None for PIECE_BYTES.
        limit: Bytes of memory that a document may need which cannot be divided; None for any.

    Raises:
        CorpusError: If the file cannot be read or decompressed, or a document needs more memory.
            What comes before is yielded first.
    """
    offset = max(offset, source.start)
    cutter = _Cutter(source, document, find_cut, size or PIECE_BYTES, offset, limit)
    with contextlib.closing(read_bytes(source, meter, offset)) as chunks:
        while True:
            try:
                chunk = next(chunks, None)
            except CorpusError:
                # What came before has errors of its own, perhaps, which come first.
                yield cutter.rest()
                raise
            if chunk is None:
                break
            piece = cutter.add(chunk)
            if piece is not None:
                yield piece
    yield cutter.rest()


class _Cutter:
    """Joins chunks and cuts them into pieces."""

    def __init__(
        self,
        source: Source,
        document: Document,
        find_cut: FindCut | None,
        size: int,
        offset: int,
        limit: int | None,
    ) -> None:
        self._source = source
        self._lines = document == "line"
        self._find_cut = find_cut
        self._size = size
        self._limit = limit
        self._most = sys.maxsize - 1 if limit is None else max(limit // _COPIES, _LEAST_HELD)
        self._wanted = size
        self._waiting: list[bytes] = []
        self._held = 0
        self._offset = offset  # where the waiting bytes start
        self._begun = offset > 0

    def add(self, chunk: bytes) -> Piece | None:
        """Take a chunk; return a piece if there is enough for one."""
        self._waiting.append(chunk)
        self._held += len(chunk)
        if self._held < self._wanted:
            return None
        data = self._join()
        end, ends = self._end(data)
        self._waiting, self._held = [data[end:]], len(data) - end
        if not end:
            self._check_memory()
            # The longest document is copied a few times only, and not read far beyond the limit.
            self._wanted = min(2 * self._held, self._most + 1)
            return None
        self._wanted = self._held + self._size
        return self._piece(memoryview(data)[:end], ends)

    def rest(self) -> Piece:
        """Return what is left, which ends the last document."""
        return self._piece(self._join(), True)

    def _join(self) -> bytes:
        data = b"".join(self._waiting)
        if not self._begun:
            self._begun = True
            if data.startswith(codecs.BOM_UTF8):
                data = data[len(codecs.BOM_UTF8) :]
                self._offset += len(codecs.BOM_UTF8)
        return data

    def _piece(self, data: bytes | memoryview, ends: bool) -> Piece:
        piece = Piece(data, ends, self._offset)
        self._offset += len(data)
        return piece

    def _end(self, data: bytes) -> tuple[int, bool]:
        """Return where to cut, 0 for nowhere yet, and whether a document ends there."""
        if self._lines:
            end = data.rfind(b"\n") + 1
            if end:
                return end, True
        if self._find_cut is not None:
            end = self._find_cut(data, len(data) // 2)
            if end < len(data):
                return end, False
        self._check(data)
        return 0, False

    def _check_memory(self) -> None:
        if self._held > self._most:
            what = f"a document, or a stretch of one, of more than {self._held:,} bytes"
            need = f"{_COPIES * self._held:,} bytes"
            problem = too_long(what, need, self._limit or 0)
            raise CorpusError(self._source.name, problem, offset=self._offset)

    def _check(self, data: bytes) -> None:
        """Look for bytes that are not UTF-8, lest all of a file that is no text be waited for."""
        try:
            codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            offset = self._offset + error.start
            raise not_the_encoding(self._source, "utf-8", data[error.start], offset) from None
