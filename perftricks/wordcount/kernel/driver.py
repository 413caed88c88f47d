"""Counting a text with several threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .layout import (
    CAPACITY,
    DOC_FREQ,
    DOCUMENT,
    DONE,
    DTYPES,
    FILLED,
    GROW_BUFFER,
    GROW_NGRAMS,
    GROW_TABLE,
    INVALID_UTF8,
    MAX_DEPTH,
    MODE,
    MODE_ALL,
    MODE_HMM,
    MODE_NO_HMM,
    NEWLINE,
    NEWLINE_BYTE,
    NEWLINE_CRLF,
    NEWLINE_LF,
    NEWLINE_NONE,
    NEWLINE_UNIVERSAL,
    NGRAM,
    POSITION,
    SEARCH,
    SEPARATOR_BYTE,
    STATE_SIZE,
    STOP,
    TOKENS_FROM,
    TOKENS_TO,
    WINDOW_FILLED,
    Buffer,
    Job,
    Lexicon,
)
from .native import Kernel
from .token_table import TokenTable

Mode = Literal["default", "search", "all"]
Newline = Literal["lf", "crlf", "universal", "none", "byte"]

NEWLINES = {
    "lf": NEWLINE_LF,
    "crlf": NEWLINE_CRLF,
    "universal": NEWLINE_UNIVERSAL,
    "none": NEWLINE_NONE,
    "byte": NEWLINE_BYTE,
}
BUFFER_CHARACTERS = 1024
PADDING = 8
_LEAST_BUFFER = 32 << 20  # bytes that a thread may take in any case
LARGEST_CHUNK = 1 << 20
SMALLEST_CHUNK = 1 << 16


class InvalidUTF8(ValueError):
    """The text is not valid UTF-8; ``offset`` is the first byte of the first invalid sequence."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the text is not valid UTF-8 at byte {offset}")
        self.offset = offset


class StretchTooLongError(ValueError):
    """A stretch that jieba cuts as one needs more memory than there may be.

    ``characters``: so many, or more. ``need``: bytes that they take. ``most``: bytes that a thread
    may take.
    """

    def __init__(self, characters: int, need: int, most: float) -> None:
        super().__init__(f"a stretch of {characters:,} characters needs {need:,} bytes")
        self.characters = characters
        self.need = need
        self.most = most


def _tokens_per_character(lexicon: Lexicon, mode: Mode) -> int:
    """The largest number of tokens that one character of a buffer can give rise to."""
    if mode == "all":
        return max(2, int(lexicon.shape[MAX_DEPTH])) + 2
    return 3 if mode == "search" else 1


class Worker:
    """What one thread counts with: a buffer, a table and the state of its job."""

    def __init__(
        self,
        kernel: Kernel,
        lexicon: Lexicon,
        *,
        mode: Mode,
        hmm: bool,
        newline: Newline,
        ngram: int,
        doc_freq: bool,
        most: float = math.inf,
    ) -> None:
        self.kernel = kernel
        self.lexicon = lexicon
        self.most = most
        self.table = TokenTable(kernel, lexicon, ngram=ngram, doc_freq=doc_freq)
        self.tokens_per_character = _tokens_per_character(lexicon, mode)
        self.buffer = self._new_buffer(BUFFER_CHARACTERS)
        self.state = np.zeros(STATE_SIZE, np.int64)
        self.state[CAPACITY] = BUFFER_CHARACTERS
        self.state[MODE] = MODE_ALL if mode == "all" else MODE_HMM if hmm else MODE_NO_HMM
        self.state[SEARCH] = mode == "search"
        self.state[NEWLINE] = NEWLINES[newline]
        self.state[DOC_FREQ] = doc_freq
        self.state[NGRAM] = ngram

    def _new_buffer(self, characters: int) -> Buffer:
        size = characters + PADDING
        sizes = [size] * len(DTYPES[Buffer])
        sizes[Buffer._fields.index("token")] = size * self.tokens_per_character
        for name, each in (("found", 4), ("score", 4), ("run", 2)):
            sizes[Buffer._fields.index(name)] = size * each
        return Buffer(*(np.zeros(n, t) for n, t in zip(sizes, DTYPES[Buffer], strict=True)))

    def _grow_buffer(self) -> None:
        """Double the buffer: a block is longer than it."""
        old = self.buffer
        characters = int(self.state[CAPACITY])
        need = 3 * sum(array.nbytes for array in old)  # the old one, and one of twice the size
        if need > self.most:
            raise StretchTooLongError(characters, need, self.most)
        self.state[CAPACITY] *= 2
        self.buffer = self._new_buffer(int(self.state[CAPACITY]))
        self.buffer.code[: old.code.size] = old.code
        self.buffer.symbol[: old.symbol.size] = old.symbol

    def count(self, text: np.ndarray, start: int, stop: int) -> None:
        """Count text[start:stop], which must start and end where the text may be cut."""
        state = self.state
        state[POSITION], state[STOP], state[FILLED] = start, stop, 0
        state[TOKENS_FROM] = state[TOKENS_TO] = state[WINDOW_FILLED] = 0
        state[DOCUMENT] += 1
        job = Job(text, state)
        while True:
            table = self.table
            arrays = (*self.lexicon, *self.buffer, *table.tokens, *table.ngrams, *job)
            status = self.kernel.call("count", arrays)
            if status == DONE:
                return
            if status == GROW_BUFFER:
                self._grow_buffer()
            elif status == GROW_TABLE:
                capacity = int(state[CAPACITY])
                table.reserve(capacity, 2 * capacity)
            elif status == GROW_NGRAMS:
                table.reserve_ngrams(int(state[TOKENS_TO] - state[TOKENS_FROM]))
            elif status == INVALID_UTF8:
                raise InvalidUTF8(int(state[POSITION]))
            else:
                raise RuntimeError(f"unknown status {status} of the kernel")


class Chunks:
    """The pieces of a text, handed out one by one to the threads that ask.

    There is no static split to wait for.
    """

    def __init__(
        self,
        kernel: Kernel,
        lexicon: Lexicon,
        text: np.ndarray,
        *,
        size: int,
        newline: Newline,
        whole: bool,
    ) -> None:
        self._kernel = kernel
        self._lexicon = lexicon
        self._text = text
        self._size = size
        self._state = np.zeros(STATE_SIZE, np.int64)
        self._state[STOP] = text.size
        self._state[NEWLINE] = NEWLINES[newline]
        self._whole = whole  # documents must not be divided
        self._position = 0
        self._lock = threading.Lock()

    def take(self) -> tuple[int, int] | None:
        """The next (start, stop), or None when there is nothing left."""
        with self._lock:
            start = self._position
            if start >= self._text.size:
                return None
            stop = self._cut(start + self._size)
            self._position = stop
            return start, stop

    def cancel(self) -> None:
        """Hand out nothing more."""
        with self._lock:
            self._position = self._text.size

    def _cut(self, position: int) -> int:
        if position >= self._text.size:
            return int(self._text.size)
        self._state[POSITION] = position
        self._state[DOC_FREQ] = self._whole
        return self._kernel.call("find_cut", (*self._lexicon, self._text, self._state))


class TextCounter:
    r"""Counts texts given as UTF-8 bytes, exactly as :mod:`jieba` segments them.

    mode: ``"default"`` (``lcut``), ``"search"`` (``lcut_for_search``) or ``"all"``
    (``lcut(cut_all=True)``). hmm: jieba's ``HMM`` argument.
    newline: what ends a document. ``"lf"``: ``\n`` and nothing else, so that a ``\r`` before it
        is a token. ``"crlf"``: ``\n``, with one ``\r`` before it. ``"universal"``: ``\n``,
        ``\r`` and ``\r\n``. ``"none"``: each text that is fed is one document, and its line
        ends are tokens. ``"byte"``: the byte 0xFF, which no UTF-8 has; line ends are tokens.
    ngram: also count sequences of so many tokens of a document.
    doc_freq: also count in how many documents each token (and n-gram) occurs.
    threads: how many threads count.
    share: bytes that the tables may take beyond those of the dictionary; None for any number.
    most: bytes that all threads together may take for the text they look at, which is some 100
        for each character of the longest stretch that jieba cuts as one; None for any number.
    spill: is given, by any of the threads, a table that has outgrown its part of the share, and
        keeps what :meth:`TokenTable.emptied` forgets.
    """

    def __init__(
        self,
        kernel: Kernel,
        lexicon: Lexicon,
        *,
        mode: Mode = "default",
        hmm: bool = True,
        newline: Newline = "lf",
        ngram: int = 1,
        doc_freq: bool = False,
        threads: int = 1,
        share: int | None = None,
        most: int | None = None,
        spill: Callable[[TokenTable], None] | None = None,
    ) -> None:
        if ngram < 1:
            raise ValueError(f"ngram must be at least 1, got {ngram}")
        self._kernel = kernel
        self._lexicon = lexicon
        self._newline: Newline = newline
        self._whole = ngram > 1 or doc_freq
        self._options: dict[str, Any] = {
            "mode": mode,
            "hmm": hmm,
            "newline": newline,
            "ngram": ngram,
            "doc_freq": doc_freq,
        }
        self._threads = threads = max(1, threads)
        self._most = math.inf if most is None else max(most // threads, _LEAST_BUFFER)
        self._workers = [self._new_worker()]  # the others when there is a text for them
        self._share = share
        self._spill = spill
        self.documents = 0

    def resume(self, table: TokenTable, documents: int) -> None:
        """Go on from the counts of a run before, which this counter owns from now on."""
        self._workers[0].table = table
        self.documents = documents

    def find_cut(self, data: bytes, position: int) -> int:
        """The first position from this one on where any text may be cut; its length if none is.

        Segmenting the two parts gives what segmenting the whole gives.
        """
        state = np.zeros(STATE_SIZE, np.int64)
        state[POSITION], state[STOP], state[NEWLINE] = position, len(data), NEWLINE_NONE
        text = np.frombuffer(data, np.uint8)
        return self._kernel.call("find_cut", (*self._lexicon, text, state))

    def _new_worker(self) -> Worker:
        return Worker(self._kernel, self._lexicon, most=self._most, **self._options)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tables take."""
        return sum(worker.table.nbytes for worker in self._workers)

    def feed(self, data: Any) -> None:
        """Count one text: any contiguous bytes-like object, a memory map for instance.

        Its end is the end of its last document.

        Raises InvalidUTF8 or StretchTooLongError; the counts are of no use after that.
        """
        text = np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)
        threads = self._threads
        size = min(LARGEST_CHUNK, max(SMALLEST_CHUNK, text.size // (8 * threads)))
        chunks = Chunks(
            self._kernel, self._lexicon, text, size=size, newline=self._newline, whole=self._whole
        )
        before = self._separators()
        errors: list[BaseException] = []

        def work(worker: Worker) -> None:
            try:
                while (piece := chunks.take()) is not None:
                    worker.count(text, *piece)
                    self._relieve(worker)
            except BaseException as error:
                errors.append(error)
                chunks.cancel()

        number = max(1, min(threads, -(-text.size // size)))
        while len(self._workers) < number:
            self._workers.append(self._new_worker())
        active = self._workers[:number]
        others = [threading.Thread(target=work, args=(worker,)) for worker in active[1:]]
        for thread in others:
            thread.start()
        try:
            work(active[0])
            for thread in others:
                thread.join()
        except BaseException:  # Ctrl-C: nobody goes on in the background
            chunks.cancel()
            for thread in others:
                thread.join()
            raise
        if errors:
            # Chunks are handed out in order, so the smallest offset is the first one of the text.
            raise min(errors, key=lambda e: e.offset if isinstance(e, InvalidUTF8) else -1)
        self.documents += self._separators() - before + self._last_is_open(text)

    def _relieve(self, worker: Worker) -> None:
        """Empty a table that has outgrown its share; between chunks, which end documents."""
        if self._spill is None or self._share is None:
            return
        if worker.table.outgrown <= self._share // len(self._workers):
            return
        self._spill(worker.table)
        worker.table = worker.table.emptied()

    def _separators(self) -> int:
        return sum(worker.table.separators for worker in self._workers)

    def _last_is_open(self, text: np.ndarray) -> bool:
        """Whether the text ends in a document without a separator behind it."""
        if self._newline == "none":
            return True
        ends = {"universal": (10, 13), "byte": (SEPARATOR_BYTE,)}.get(self._newline, (10,))
        return text.size > 0 and int(text[-1]) not in ends

    def tables(self) -> list[TokenTable]:
        """The tables of the threads."""
        return [worker.table for worker in self._workers]

    def table(self) -> TokenTable:
        """The counts of everything fed so far, in one table; the counter can be fed on."""
        first, *others = self._workers
        for worker in others:
            first.table.merge(worker.table)
            worker.table = TokenTable(
                self._kernel,
                self._lexicon,
                ngram=self._options["ngram"],
                doc_freq=self._options["doc_freq"],
            )
        return first.table

    def take_table(self) -> TokenTable:
        """Like :meth:`table`, but start anew: for tables that are written to disk."""
        table = self.table()
        self._workers[0].table = TokenTable(
            self._kernel,
            self._lexicon,
            ngram=self._options["ngram"],
            doc_freq=self._options["doc_freq"],
        )
        return table


def count(kernel: Kernel, lexicon: Lexicon, data: Any, **options: Any) -> TokenTable:
    """Count one text; see :class:`TextCounter` for the options."""
    counter = TextCounter(kernel, lexicon, **options)
    counter.feed(data)
    return counter.table()
