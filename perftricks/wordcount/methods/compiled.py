"""Method "compiled": the documents of a feed go through the compiled kernel, exactly.

Text files in UTF-8 go to it as bytes. All other documents are read as for any method, encoded and
fed in large buffers. A document with a lone surrogate, which no UTF-8 can hold, is counted by jieba
itself and added to the table.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from perftricks.signals import is_pending, raise_pending
from perftricks.wordcount.checkpoint import Checkpoint, State
from perftricks.wordcount.errors import CorpusError, OptionError, too_long
from perftricks.wordcount.jieba_state import (
    is_untouched,
    replaced_functions,
    state_digest,
    tokenizer_behind,
)
from perftricks.wordcount.reading.documents import ReadOptions
from perftricks.wordcount.reading.pieces import PIECE_BYTES, read_pieces
from perftricks.wordcount.reading.sources import Source
from perftricks.wordcount.reading.streams import AUTO, Meter, not_the_encoding, seeming
from perftricks.wordcount.storage.cachefolder import open_cache
from perftricks.wordcount.table.counts import LazyTable
from perftricks.wordcount.table.spill import Spill, SpilledTable, separated, table_bytes
from perftricks.wordcount.tokenizers import (
    TokenizerSpec,
    default_tokenizer,
    is_jieba_ready,
    tokenizer_with,
)

if TYPE_CHECKING:
    from perftricks.wordcount.kernel import Engine, StretchTooLongError, TextCounter, TokenTable
    from perftricks.wordcount.kernel.driver import Newline
    from perftricks.wordcount.verify import Sampler

Keys = Callable[[str], Iterable[Any]]

# Rough seconds of the parts of a run, which say from which size on the kernel is worth its start.
_LOAD_JIEBA = 0.8  # import it and load its dictionary
_LOAD = 0.35  # load the kernel and tables that are cached
_LOOK = 0.5  # look at every word of a dictionary that may have been changed
_BUILD_TABLES = 3.0
_COMPILE = 13.0
_PURE_BYTES = 0.4e6  # bytes a second that a process counts with jieba
_KERNEL_BYTES = 25e6

TOO_SHORT_TO_COMPILE = "the text is too short to be worth compiling"

# So many documents make a buffer, however short they are.
_MOST_DOCUMENTS = 200_000


def why_not(spec: TokenizerSpec) -> str | None:
    """Say why the kernel cannot count with a tokenizer; None if it can."""
    if not spec.uses_jieba:
        return f"the tokenizer is {spec.name}, not jieba"
    try:
        from perftricks.wordcount.kernel import why_unsupported
    except ImportError as error:
        return f"{error.name or 'a module'} is not installed"
    names = replaced_functions()
    if names:
        return f"this program has replaced {', '.join(names)}"
    return why_unsupported(None if is_untouched() else tokenizer_behind())


def is_too_short_to_compile(size: float, workers: int) -> bool:
    """Whether nothing is compiled yet and jieba is done sooner; looks without importing numpy."""
    if size / (_PURE_BYTES * workers) > _COMPILE:
        return False
    with open_cache() as folder:
        return not folder.holds_kernel()


def why_not_worth_it(spec: TokenizerSpec, size: float, workers: int) -> str | None:
    """Say why jieba itself is done sooner with so many bytes of text; None if it is not."""
    from perftricks.wordcount.kernel import readiness

    ready = is_jieba_ready() and not spec.has_dictionaries
    pure = size / (_PURE_BYTES * workers) + (0 if ready else _LOAD_JIEBA)
    cached = readiness(_dictionary_key(spec))
    start = _LOAD
    if not cached.lexicon:
        start += _LOOK + (0 if ready else _LOAD_JIEBA + _BUILD_TABLES)
    if not cached.kernel:
        start += _COMPILE
    if math.isinf(size) or pure > start + size / (_KERNEL_BYTES * workers):
        return None
    if cached.kernel:
        return "the text is too short to be worth it"
    return TOO_SHORT_TO_COMPILE


def load_engine(spec: TokenizerSpec) -> Engine:
    """Load the kernel with the tables of a tokenizer, as it is at this moment.

    Raises:
        OptionError: If that is not possible; the message says why.
    """
    from perftricks.wordcount import kernel

    key = _dictionary_key(spec)
    try:
        if key is not None:
            return kernel.load(dictionary=key, make=lambda: tokenizer_with(spec))
        if spec.has_dictionaries:
            return kernel.load(tokenizer_with(spec))
        if is_untouched():
            return kernel.load(make=default_tokenizer)
        # The tables go by what is in the tokenizer, which somebody may have changed.
        return kernel.load(default_tokenizer())
    except kernel.UnsupportedDictionary as error:
        raise OptionError(str(error)) from None
    except OptionError:
        raise
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        raise OptionError(f"the kernel cannot be compiled here: {error}") from error


def _dictionary_key(spec: TokenizerSpec) -> bytes | None:
    """Return a key for the dictionaries of a spec and the jieba that they are used with.

    None if there are none, or jieba has been given what cannot be looked at.
    """
    if not spec.has_dictionaries:
        return None
    state = "" if is_untouched() else state_digest()
    if state is None:
        return None
    if spec.main is None and not state:
        return spec.dictionary
    parts = (state.encode(), spec.main or b"", spec.dictionary or b"")
    return b"".join(hashlib.sha256(part).digest() for part in parts)


def check_cache(spec: TokenizerSpec, engine: Engine) -> bool:
    """Say whether the kernel's tables are those of jieba's dictionary, made anew for that.

    If not, they are removed from the cache.
    """
    from perftricks.wordcount import kernel

    own = tokenizer_with(spec) if spec.has_dictionaries else default_tokenizer()
    return kernel.check_tables(engine, own)


class KernelRun:
    """Counts documents with the kernel.

    Args:
        engine: The kernel and its tables.
        keys: Gives what jieba itself counts for a document.
        spec: The tokenizer.
        ngrams: Tokens in what is counted.
        document_frequency: Whether to count documents too.
        threads: How many threads count.
        delivered: Called after each piece.
        sampler: Takes documents to count once more.
        checkpoint: Where to take snapshots.
        state: Where the run before was.
        spill: Where tables go that outgrow the memory limit.
    """

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        spec: TokenizerSpec,
        *,
        ngrams: int,
        document_frequency: bool,
        threads: int,
        delivered: Callable[[], object],
        sampler: Sampler | None,
        checkpoint: Checkpoint | None = None,
        state: State | None = None,
        spill: Spill,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._options: dict[str, Any] = {
            "mode": spec.mode,
            "hmm": spec.hmm,
            "ngram": ngrams,
            "doc_freq": document_frequency,
            "threads": threads,
            "most": spill.limit,
        }
        self._spill = spill
        self._whole = ngrams > 1 or document_frequency or sampler is not None
        self._delivered = delivered
        self._sampler = sampler
        self._counters: dict[Newline, TextCounter] = {}
        self._checkpoint = checkpoint
        # In it are counted the pieces that end inside a document, which counters take for its end.
        self._state = State() if state is None else state
        self._odd: Counter[Any] = Counter({_as_key(key): n for key, n in self._state.odd})
        if checkpoint is not None:
            for newline, table in checkpoint.tables(self._state, engine).items():
                counter = self._counter(cast("Newline", newline))
                counter.resume(table, self._state.documents[newline])

    @property
    def documents(self) -> int:
        """How many documents have been counted."""
        fed = sum(counter.documents for counter in self._counters.values())
        return fed - self._state.continued + self._state.odd_documents

    def begin(self, index: int, meter: Meter) -> bool:
        """Begin a source; return False if it was counted before."""
        if index < self._state.source:
            return False
        self._state.text, self._state.stored = meter.text, meter.stored
        return True

    def end(self, meter: Meter, *, last: bool) -> None:
        """End a source."""
        self._state.source += 1
        self._state.offset = 0
        self._state.text, self._state.stored = meter.text, meter.stored
        if last:
            self._state.complete = True
            self._save()

    def count_source(self, source: Source, options: ReadOptions, meter: Meter) -> None:
        """Count a text file in UTF-8."""
        from perftricks.wordcount.kernel import InvalidUTF8, StretchTooLongError

        newline: Newline = "crlf" if options.document == "line" else "none"
        counter = self._counter(newline)
        find_cut = None if self._whole else counter.find_cut
        offset = self._state.offset
        limit = self._spill.limit
        pieces = read_pieces(source, options.document, meter, find_cut, offset=offset, limit=limit)
        for piece in pieces:
            self._save_if_due()  # not behind the last piece: the file would seem to go on
            try:
                counter.feed(piece.data)
            except InvalidUTF8 as error:
                byte = piece.data[error.offset]
                encoding = seeming("utf-8") if options.encoding == AUTO else options.encoding
                where = piece.offset + error.offset
                raise not_the_encoding(source, encoding, byte, where) from None
            except StretchTooLongError as error:
                raise self._too_long(error, source.name) from None
            self._state.offset = piece.offset + len(piece.data)
            self._state.continued += not piece.ends
            if self._sampler is not None:
                self._sampler.take_piece(source.name, piece.data, newline)
            self._delivered()

    def count_documents(self, documents: Iterable[str], name: str) -> None:
        """Count documents that are strings.

        Args:
            documents: The documents.
            name: Where they come from.
        """
        from perftricks.wordcount.kernel import StretchTooLongError

        counter = self._counter("byte")
        documents = itertools.islice(documents, self._state.offset, None)
        for buffer in _buffers(self._encoded(documents, name)):
            try:
                counter.feed(buffer)
            except StretchTooLongError as error:
                raise self._too_long(error, name) from None
            if table_bytes(len(self._odd)) > self._spill.share:
                self._spill_odd()
            self._save_if_due()
            self._delivered()

    def _too_long(self, error: StretchTooLongError, name: str) -> CorpusError:
        what = f"a stretch of more than {error.characters:,} characters that jieba cuts as one"
        need = f"{error.need:,} bytes"
        return CorpusError(name, too_long(what, need, self._spill.limit, error.most))

    def _save_if_due(self) -> None:
        if self._checkpoint is None:
            return
        ending = is_pending()
        if ending or self._checkpoint.is_due():
            self._save()
        if ending:
            raise_pending()

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._state.odd = list(self._odd.items())
        self._state.documents = {
            newline: counter.documents for newline, counter in self._counters.items()
        }
        self._state.runs = [(run.path.name, run.rows, run.digest) for run in self._spill.runs]
        self._state.runs_total = self._spill.total
        tables: dict[str, Any] = {
            newline: counter.table() for newline, counter in self._counters.items()
        }
        self._checkpoint.save(self._state, tables)

    def _encoded(self, documents: Iterable[str], name: str) -> Iterator[bytes]:
        for text in documents:
            self._state.offset += 1
            if self._sampler is not None:
                self._sampler.take(name, text)
            try:
                data = text.encode()
            except UnicodeEncodeError:  # a lone surrogate
                self._odd.update(self._keys(text))
                self._state.odd_documents += 1
            else:
                yield data

    def _counter(self, newline: Newline) -> TextCounter:
        from perftricks.wordcount.kernel import TextCounter

        if newline not in self._counters:
            self._counters[newline] = TextCounter(
                *self._engine,
                newline=newline,
                share=self._spill.share,
                spill=functools.partial(_spill_table, self._spill),
                **self._options,
            )
        return self._counters[newline]

    def _spill_odd(self) -> None:
        self._spill.add_table(self._odd)
        self._odd.clear()

    def tables(self) -> tuple[LazyTable | SpilledTable, LazyTable | None]:
        """Return the counts, and in how many documents each token occurs if that was counted.

        They are one table on the disk if they outgrew the memory limit, or would now.
        """
        if not self._counters:
            self._counter("byte")
        doc_freq = self._options["doc_freq"]
        tables = [table for counter in self._counters.values() for table in counter.tables()]
        if not self._spill.runs:
            table, *others = tables
            for other in others:
                table.merge(other)
            rows = table.n_ngrams if self._options["ngram"] > 1 else len(table)
            if table_bytes(rows, document_frequency=doc_freq) <= self._spill.limit:
                return self._in_memory(table)
            tables = [table]
        self._spill.forget()
        for table in tables:
            _spill_table(self._spill, table, rest=True)
        self._spill_odd()
        return SpilledTable(self._spill, document_frequency=doc_freq), None

    def _in_memory(self, table: TokenTable) -> tuple[LazyTable, LazyTable | None]:
        odd, odd_documents = separated(self._odd)
        if self._options["ngram"] > 1:
            counts, frequency = _ngram_tables(table)
        else:
            size = len(table)
            counts = LazyTable(table.to_dict, size, table.most_common, table.total)
            frequency = LazyTable(table.doc_freq_dict, size)
        if odd:
            counts = counts.plus(odd)
        if not self._options["doc_freq"]:
            return counts, None
        return counts, frequency.plus(odd_documents) if odd else frequency


def _spill_table(spill: Spill, table: TokenTable, *, rest: bool = False) -> None:
    spill.add(table.sorted_blocks(spill.block_rows, rest=rest))


def _as_key(value: Any) -> Any:
    """Return a key that JSON made a list of."""
    return tuple(map(_as_key, value)) if isinstance(value, list) else value


def _ngram_tables(table: TokenTable) -> tuple[LazyTable, LazyTable]:
    def counts() -> dict[Any, int]:
        return {gram: count for gram, count, _ in table.ngram_items()}

    def documents() -> dict[Any, int]:
        return {gram: documents for gram, _, documents in table.ngram_items()}

    total = int(table.ngrams.count.sum())
    return LazyTable(counts, table.n_ngrams, total=total), LazyTable(documents, table.n_ngrams)


def _buffers(documents: Iterator[bytes]) -> Iterator[bytes]:
    """Join documents, each with the byte behind it that ends a document."""
    waiting: list[bytes] = []
    size = 0
    for data in documents:
        waiting.append(data)
        size += len(data)
        if size >= PIECE_BYTES or len(waiting) >= _MOST_DOCUMENTS:
            yield b"\xff".join(itertools.chain(waiting, [b""]))
            waiting, size = [], 0
    if waiting:
        yield b"\xff".join(itertools.chain(waiting, [b""]))
