"""Method "compiled": the documents of a feed go through the compiled kernel, exactly.

Text files in UTF-8 go to it as bytes. All other documents are read as for any method, encoded and
fed in large buffers. A document with a lone surrogate, which no UTF-8 can hold, is counted by jieba
itself and added to the table.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from perftricks.signals import held_back, is_pending, raise_pending
from perftricks.wordcount.checkpoint import State
from perftricks.wordcount.errors import CorpusError, OptionError, too_long
from perftricks.wordcount.jieba_state import (
    is_untouched,
    replaced_functions,
    state_digest,
    tokenizer_behind,
)
from perftricks.wordcount.methods import tagged_runs
from perftricks.wordcount.methods.keys import TokenKeys
from perftricks.wordcount.methods.method import (
    JIEBA_BYTES_PER_SECOND,
    JIEBA_SECONDS,
    Counted,
    Work,
)
from perftricks.wordcount.methods.tagged_runs import RunTags
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.pieces import PIECE_BYTES, read_pieces
from perftricks.wordcount.reading.sources import Source
from perftricks.wordcount.reading.streams import AUTO, not_the_encoding, seeming
from perftricks.wordcount.settings import Settings
from perftricks.wordcount.storage.cachefolder import open_cache
from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.table.rows import table_bytes
from perftricks.wordcount.table.spill import Spill, separated
from perftricks.wordcount.table.spilled import SpilledTable
from perftricks.wordcount.table.sums import added
from perftricks.wordcount.table.table import Table
from perftricks.wordcount.tokenizers import (
    TokenizerSpec,
    default_tokenizer,
    is_jieba_ready,
    tokenizer_with,
)
from perftricks.wordcount.verify import Sampler, verify

if TYPE_CHECKING:
    from perftricks.wordcount.kernel import Engine, StretchTooLongError, TextCounter, TokenTable
    from perftricks.wordcount.kernel.driver import Newline

# Rough seconds of the parts of a run, which say from which size on the kernel is worth its start.
_LOAD = 0.35  # load the kernel and tables that are cached
_LOOK = 0.5  # look at every word of a dictionary that may have been changed
_BUILD_TABLES = 3.0
_COMPILE = 13.0
_BYTES_PER_SECOND = 25e6
_TAGGED_BYTES_PER_SECOND = 2e6

TOO_SHORT_TO_COMPILE = "the text is too short to be worth compiling"
TOO_SHORT = "the text is too short to be worth it"

# So many documents make a buffer, however short they are.
_MOST_DOCUMENTS = 200_000


class Compiled:
    """Counts with jieba's own algorithm as machine code, on threads.

    Args:
        engine: The kernel, if it is loaded already.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine
        self._is_compiled = True

    def why_not(self, settings: Settings) -> str | None:
        """Say why the kernel cannot count with this tokenizer."""
        if settings.spec.pos and settings.document_frequency:
            return "documents of tokens with tags are counted by jieba.posseg"
        return why_not(settings.spec)

    def why_not_now(self, settings: Settings, size: float, workers: int) -> str | None:
        """Say whether nothing is compiled yet and jieba is done sooner; without numpy."""
        if not settings.spec.uses_jieba or size / (JIEBA_BYTES_PER_SECOND * workers) > _COMPILE:
            return None
        with open_cache() as folder:
            return None if folder.holds_kernel() else TOO_SHORT_TO_COMPILE

    def estimate(self, settings: Settings, size: float, workers: int) -> float:
        """Return about how many seconds it takes, by what is in the cache."""
        from perftricks.wordcount.kernel import readiness

        spec = settings.spec
        if spec.pos:
            self._is_compiled = readiness().kernel
            start = _LOAD + (0 if self._is_compiled else _COMPILE)
            return start + size / _TAGGED_BYTES_PER_SECOND
        ready = is_jieba_ready() and not spec.has_dictionaries
        cached = readiness(_dictionary_key(spec))
        start = _LOAD
        if not cached.lexicon:
            start += _LOOK + (0 if ready else JIEBA_SECONDS + _BUILD_TABLES)
        self._is_compiled = cached.kernel
        if not cached.kernel:
            start += _COMPILE
        return start + size / (_BYTES_PER_SECOND * workers)

    @property
    def too_short(self) -> str:
        """What to say if that is longer than another method takes."""
        return TOO_SHORT if self._is_compiled else TOO_SHORT_TO_COMPILE

    def load(self, settings: Settings) -> Engine:
        """Load the kernel.

        Raises:
            OptionError: If that is not possible.
        """
        if self._engine is None:
            self._engine = load_engine(settings.spec)
        return self._engine

    def count(self, work: Work) -> Counted:
        """Count all documents."""
        settings, feed, spec = work.settings, work.feed, work.settings.spec
        try:
            engine = self.load(settings)
        except OptionError as error:
            raise OptionError(f"method 'compiled' cannot be used: {error}") from error
        sampler = Sampler(settings.verify, settings.verify_seed) if settings.verify else None
        if work.state is not None:
            feed.meter.text, feed.meter.stored = work.state.text, work.state.stored
        tags = RunTags(spec.posseg_tokenizer()) if spec.pos else None
        counting = KernelRun(engine, work, sampler, tags)
        # With a checkpoint a signal that ends the run waits for the end of a piece, and for a
        # snapshot.
        with held_back() if work.checkpoint is not None else contextlib.nullcontext():
            counting.count()
        table = counting.table()
        verified = 0
        if sampler is not None:
            verified = verify(
                sampler.samples,
                engine,
                TokenKeys(spec, False, settings.ngrams, plain=True),
                {"mode": spec.mode, "hmm": spec.hmm, "ngram": settings.ngrams},
                functools.partial(check_cache, spec, engine),
                None if tags is None else tags.counted,
            )
        return Counted("compiled", work.workers, table, counting.documents, verified)


def why_not(spec: TokenizerSpec) -> str | None:
    """Say why the kernel cannot count with a tokenizer; None if it can."""
    if not spec.uses_jieba:
        return f"the tokenizer is {spec.name}, not jieba"
    try:
        from perftricks.wordcount.kernel import why_unsupported
    except ImportError as error:
        return f"{error.name or 'a module'} is not installed"
    except OSError as error:  # a library that cannot be loaded
        return str(error)
    names = replaced_functions()
    if names:
        return f"this program has replaced {', '.join(names)}"
    if spec.pos:
        reason = tagged_runs.why_not(hmm=spec.hmm)
        if reason is not None:
            return reason
    return why_unsupported(None if is_untouched() else tokenizer_behind())


def load_engine(spec: TokenizerSpec) -> Engine:
    """Load the kernel with the tables of a tokenizer, as it is at this moment.

    Raises:
        OptionError: If that is not possible; the message says why.
    """
    from perftricks.wordcount import kernel

    try:
        if spec.pos:
            return kernel.load(tagged_runs.tokenizer_of_runs(spec.posseg_tokenizer()))
        key = _dictionary_key(spec)
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

    if spec.pos:
        own = tagged_runs.tokenizer_of_runs(spec.posseg_tokenizer())
    else:
        own = tokenizer_with(spec) if spec.has_dictionaries else default_tokenizer()
    return kernel.check_tables(engine, own)


class KernelRun:
    """Counts the documents of a feed with the kernel.

    Args:
        engine: The kernel and its tables.
        work: What there is to count.
        sampler: Takes documents to count once more.
        tags: Tags what the kernel has counted, if that is wanted.
    """

    def __init__(
        self, engine: Engine, work: Work, sampler: Sampler | None, tags: RunTags | None = None
    ) -> None:
        settings = work.settings
        self._engine = engine
        self._work = work
        self._spill = work.spill
        self._keys = TokenKeys(settings.spec, settings.document_frequency, settings.ngrams)
        self._options: dict[str, Any] = {
            "mode": settings.spec.mode,
            "hmm": settings.spec.hmm,
            "ngram": settings.ngrams,
            "doc_freq": settings.document_frequency,
            "threads": work.workers,
            "most": work.spill.limit,
        }
        self._whole = settings.ngrams > 1 or settings.document_frequency or sampler is not None
        self._sampler = sampler
        self._tags = tags
        # Documents that the kernel does not take are tagged at once, and so are not among runs. A
        # snapshot holds them all.
        self._odd_spill = work.spill if tags is None else Spill(work.spill.limit)
        self._counters: dict[Newline, TextCounter] = {}
        # In it are counted the pieces that end inside a document, which counters take for its end.
        self._state = State() if work.state is None else work.state
        self._odd: Counter[Any] = Counter({as_key(key): n for key, n in self._state.odd})
        if work.checkpoint is not None:
            for newline, table in work.checkpoint.tables(self._state, engine).items():
                counter = self._counter(cast("Newline", newline))
                counter.resume(table, self._state.documents[newline])

    @property
    def documents(self) -> int:
        """How many documents have been counted."""
        fed = sum(counter.documents for counter in self._counters.values())
        return fed - self._state.continued + self._state.odd_documents

    def count(self) -> None:
        """Count what was not counted before."""
        meter, state = self._work.feed.meter, self._state
        before = state.source
        with contextlib.closing(self._work.feed.portions(done=before)) as portions:
            for portion in portions:
                state.text, state.stored = meter.text, meter.stored
                if portion.text is not None:
                    self._count_text(portion.text, portion.options)
                elif portion.encoded is not None and self._takes_buffers:
                    self._count_buffers(portion.encoded(), portion.name)
                else:
                    self._count_documents(portion.documents, portion.name)
                state.source += 1
                state.offset = 0
                state.text, state.stored = meter.text, meter.stored
        if state.source > before:
            state.complete = True
            self._save()
        self._delivered()

    def _delivered(self) -> None:
        if self._work.progress is not None:
            self._work.progress(self._work.feed.meter.stored, self._work.feed.total)

    def _count_text(self, source: Source, options: ReadOptions) -> None:
        """Count a text file in UTF-8."""
        from perftricks.wordcount.kernel import InvalidUTF8, StretchTooLongError

        newline: Newline = "crlf" if options.document == "line" else "none"
        counter = self._counter(newline)
        find_cut = None if self._whole else counter.find_cut
        offset = self._state.offset
        limit = self._spill.limit
        meter = self._work.feed.meter
        pieces = read_pieces(source, options.document, meter, find_cut, offset=offset, limit=limit)
        with contextlib.closing(pieces):
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

    def _count_documents(self, documents: Iterable[str], name: str) -> None:
        """Count documents that are strings.

        Args:
            documents: The documents.
            name: Where they come from.
        """
        documents = itertools.islice(documents, self._state.offset, None)
        self._count_buffers(_buffers(self._encoded(documents, name)), name)

    @property
    def _takes_buffers(self) -> bool:
        """Whether documents need not be seen one by one."""
        return self._sampler is None and self._work.checkpoint is None

    def _count_buffers(self, buffers: Generator[Any], name: str) -> None:
        """Count documents that are UTF-8, each with the byte behind it that ends a document."""
        from perftricks.wordcount.kernel import StretchTooLongError

        counter = self._counter("byte")
        with contextlib.closing(buffers):
            for buffer in buffers:
                try:
                    counter.feed(buffer)
                except StretchTooLongError as error:
                    raise self._too_long(error, name) from None
                if table_bytes(len(self._odd)) > self._spill.share and self._may_spill_odd:
                    self._spill_odd()
                self._save_if_due()
                self._delivered()

    def _too_long(self, error: StretchTooLongError, name: str) -> CorpusError:
        what = f"a stretch of more than {error.characters:,} characters that jieba cuts as one"
        need = f"{error.need:,} bytes"
        return CorpusError(name, too_long(what, need, self._spill.limit, error.most))

    def _save_if_due(self) -> None:
        checkpoint = self._work.checkpoint
        if checkpoint is None:
            return
        ending = is_pending()
        if ending or checkpoint.is_due():
            self._save()
        if ending:
            raise_pending()

    def _save(self) -> None:
        if self._work.checkpoint is None:
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
        self._work.checkpoint.save(self._state, tables)

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

    @property
    def _may_spill_odd(self) -> bool:
        return self._tags is None or self._work.checkpoint is None

    def _spill_odd(self) -> None:
        self._odd_spill.add_counter(self._odd)
        self._odd.clear()

    def table(self) -> Table:
        """Return the table; it is on the disk if it outgrew the memory limit, or would now."""
        if self._tags is None:
            return self._table()
        odd, limit = self._odd, self._spill.limit
        self._odd = Counter()
        tagged = self._tags.table(self._table(), odd, limit)
        if not self._odd_spill.runs:
            return tagged
        return added([tagged, SpilledTable(self._odd_spill, document_frequency=False)], limit)

    def _table(self) -> Table:
        if not self._counters:
            self._counter("byte")
        from perftricks.wordcount.methods.kernel_tables import ngram_table, token_table

        doc_freq = self._options["doc_freq"]
        tables = [table for counter in self._counters.values() for table in counter.tables()]
        if not self._spill.runs:
            table, *others = tables
            for other in others:
                table.merge(other)
            rows = table.n_ngrams if self._options["ngram"] > 1 else len(table)
            if table_bytes(rows, document_frequency=doc_freq) <= self._spill.limit:
                make = ngram_table if self._options["ngram"] > 1 else token_table
                found = make(table)
                if not self._odd:
                    return found
                counts, documents = separated(self._odd)
                odd = MemoryTable(counts, documents if doc_freq else None)
                return added([found, odd], self._spill.limit)
            tables = [table]
        self._spill.forget()
        for table in tables:
            _spill_table(self._spill, table, rest=True)
        self._spill_odd()
        return SpilledTable(self._spill, document_frequency=doc_freq)


def _spill_table(spill: Spill, table: TokenTable, *, rest: bool = False) -> None:
    spill.add(table.sorted_blocks(spill.block_rows, rest=rest))


def as_key(value: Any) -> Any:
    """Return a key that JSON made a list of."""
    return tuple(map(as_key, value)) if isinstance(value, list) else value


def _buffers(documents: Iterator[bytes]) -> Generator[bytes]:
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
