"""The job: documents in, a table out, by one of four methods.

Three methods are those of https://kexue.fm/archives/7031, and all give the same table:

* naive: one process, one loop over all tokens, one growing dict;
* batched: one process, a table for each batch of documents, the tables added up;
* parallel: the batches go to worker processes;
* compiled: jieba's own algorithm as machine code, on threads (:mod:`perftricks.wordcount.kernel`).
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from perftricks.parallel import available_cores, parallel_count
from perftricks.parallel.launch import StartMethod
from perftricks.wordcount.checkpoint import SECONDS, Checkpoint, State, identity_of
from perftricks.wordcount.counts import RunInfo, WordCounts
from perftricks.wordcount.documents import Document, ReadOptions, read_documents
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.kernel import (
    TOO_SHORT_TO_COMPILE,
    KernelRun,
    is_document_key,
    is_too_short_to_compile,
    load_engine,
    why_not,
    why_not_worth_it,
)
from perftricks.wordcount.sources import (
    STDIN,
    Corpus,
    Format,
    PathLike,
    find_sources,
    read_small_file,
)
from perftricks.wordcount.streams import Meter, take_head
from perftricks.wordcount.tokenizers import Cut, Mode, TokenizerSpec, WorkerSetup, make_spec
from perftricks.wordcount.verify import Sampler
from perftricks.wordcount.verify import verify as verify_samples

if TYPE_CHECKING:
    from perftricks.wordcount.compiled import Engine

Method = Literal["naive", "batched", "parallel", "compiled"]
Progress = Callable[[int, int | None], object]

METHODS: tuple[Method, ...] = get_args(Method)

# Characters that a process counts with jieba in about a third of a second, which is what starting
# workers is worth at least.
_SMALL_TEXT = 100_000

# Longer n-grams are all different.
_LONGEST_NGRAM = 20

# As much of a text of unknown length is read ahead to see whether it is a short one.
_PEEK_BYTES = 1_000_000

# A batch of long documents is closed early, which bounds memory and keeps progress moving.
_BATCH_CHARACTERS = 500_000


def count_words(
    texts: Iterable[str],
    *,
    tokenizer: str | Cut = "jieba",
    workers: int | None = None,
    mode: Mode = "default",
    hmm: bool = True,
    user_dict: PathLike | None = None,
    stop_words: PathLike | Iterable[str] | None = None,
    min_count: int = 1,
    min_length: int = 0,
    document_frequency: bool = False,
    method: Method | None = None,
    batch_size: int = 1000,
    start_method: StartMethod | None = None,
    progress: Progress | None = None,
    ngrams: int = 1,
    verify: int = 0,
    verify_seed: int | None = None,
) -> WordCounts:
    """Count the words of documents that are in memory or come from a generator.

    With the default options the table equals that of
    ``for text in texts: for token in jieba.lcut(text): tokens[token] = tokens.get(token, 0) + 1``.

    Args:
        texts: The documents, read once, in the calling thread, a bounded number ahead.
        tokenizer: "jieba", "chars" (every character is a token), "whitespace" (``str.split``),
            "module:function", or a function from a str to an iterable of str.
        workers: Worker processes, or threads of method "compiled"; None for the number of cores
            this process may use.
        mode: jieba's mode: "default", "all" or "search".
        hmm: Whether jieba looks for words that are not in its dictionary.
        user_dict: Path of a dictionary that jieba uses beside its own. It has no effect on other
            uses of jieba in this process.
        stop_words: Tokens to leave out of the table: the path of a file with a word on each line,
            or the words. A line of blanks stands for that token of blanks.
        min_count: Leave out tokens that occur less often.
        min_length: Leave out tokens of fewer characters.
        document_frequency: Also count in how many documents each token occurs.
        method: "naive", "batched", "parallel" or "compiled". None chooses "compiled" where it can
            be used and the text is long enough to be worth its start; else "batched" for up to
            ``batch_size`` documents of together 100,000 characters or for one worker, else
            "parallel". ``run.note`` of the result says why it is not "compiled".
        batch_size: Documents in a batch, of methods "batched" and "parallel".
        start_method: How worker processes start: "fork", "forkserver" or "spawn"; None for what
            :func:`perftricks.parallel.parallel_count` chooses.
        progress: Called now and then with the bytes done and the bytes there are; the latter is
            None where that is not known.
        ngrams: Count sequences of so many tokens of a document; the keys are tuples then. With 1
            the tokens are counted.
        verify: Count so many documents, chosen at random, once more with jieba, and fail if
            method "compiled" counts one differently.
        verify_seed: Makes the choice of these documents repeatable.

    Returns:
        The table. ``documents`` and ``tokens`` say what was counted, before words were left out.

    Raises:
        OptionError: If an option cannot be used; nothing has been counted then.
        OSError: If the dictionary or the stop words cannot be read.
        TypeError: If ``texts`` is a single str, or a document is not a str.
        TokenizerError: If a tokenizer of your own fails.
        VerificationError: If a document was counted wrongly.
        Exception: Whatever ``texts`` raises.

    >>> count_words(["我爱喝茶", "茶"])
    WordCounts({'喝茶': 1, '我': 1, '爱': 1, '茶': 1}, 4 distinct of 4 tokens in 2 documents)
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts is one string; expected an iterable of them, such as [text]")
    settings = Settings(
        make_spec(tokenizer, mode=mode, hmm=hmm, user_dict=user_dict),
        method,
        workers,
        batch_size,
        document_frequency,
        start_method,
        ngrams,
        verify,
        verify_seed,
    )
    settings.check()
    table_filter = TableFilter.make(stop_words, min_count, min_length)
    return table_filter.apply(run(TextFeed(texts), settings, progress))


def count_files(
    paths: PathLike | Iterable[PathLike],
    *,
    tokenizer: str | Cut = "jieba",
    workers: int | None = None,
    mode: Mode = "default",
    hmm: bool = True,
    user_dict: PathLike | None = None,
    stop_words: PathLike | Iterable[str] | None = None,
    min_count: int = 1,
    min_length: int = 0,
    document_frequency: bool = False,
    encoding: str = "utf-8",
    errors: str = "strict",
    document: Document = "line",
    field: str | None = None,
    format: Format | None = None,
    method: Method | None = None,
    batch_size: int = 1000,
    start_method: StartMethod | None = None,
    progress: Progress | None = None,
    ngrams: int = 1,
    verify: int = 0,
    verify_seed: int | None = None,
    checkpoint: PathLike | None = None,
    checkpoint_seconds: float = SECONDS,
) -> WordCounts:
    r"""Count the words of files and folders, plain or compressed (.gz, .bz2, .xz, .zst).

    Args:
        paths: Files, folders (searched to the bottom), ``-`` for the standard input; one path or
            several. See :func:`perftricks.wordcount.sources.find_sources`.
        tokenizer: As for :func:`count_words`, and so are the options that are not explained here.
        workers: See there.
        mode: See there.
        hmm: See there.
        user_dict: See there.
        stop_words: See there.
        min_count: See there.
        min_length: See there.
        document_frequency: See there.
        encoding: The encoding of the files.
        errors: What to do with bytes that are not that encoding: "strict" raises, "replace" puts
            U+FFFD in their place, "ignore" leaves them out.
        document: What a document is in text files: "line" (ends at ``\n`` or ``\r\n``, which are
            not part of it) or "file" (everything in it, line ends included).
        field: Where the text is in jsonl, csv and tsv: a key, a path of keys with dots between, the
            name of a column or its number from 1.
        format: Read every file as "text", "jsonl", "csv", "tsv" or "tsv-raw" (no quoting); None
            goes by the extension.
        method: See there.
        batch_size: See there.
        start_method: See there.
        progress: Called now and then with the bytes done, as they are stored, and the bytes there
            are; the latter is None for the standard input and pipes.
        ngrams: See there.
        verify: See there.
        verify_seed: See there.
        checkpoint: A folder for snapshots, with method "compiled": a run that was killed goes on
            where it was when it is started again with the same files and options.
        checkpoint_seconds: Take a snapshot this often.

    Returns:
        The table. ``documents`` and ``tokens`` say what was counted, before words were left out.

    Raises:
        OptionError: If an option or a path cannot be used; nothing has been counted then.
        FileNotFoundError: If a path does not exist.
        PermissionError: If a file may not be read.
        CorpusError: If data is bad: not the encoding, broken compression, a line that is not JSON,
            a field that is missing. It names the file and the line or the byte.
        TokenizerError: If a tokenizer of your own fails.
        VerificationError: If a document was counted wrongly.

    >>> counts = count_files("docs/samples", min_length=2)
    >>> counts.most_common(2)
    [('没有', 8), ('可以', 6)]
    """
    spec = make_spec(tokenizer, mode=mode, hmm=hmm, user_dict=user_dict)
    job = FileJob(
        find_sources(paths, format=format),
        ReadOptions(encoding, errors, document, field),
        Settings(
            spec,
            method,
            workers,
            batch_size,
            document_frequency,
            start_method,
            ngrams,
            verify,
            verify_seed,
        ),
        TableFilter.make(stop_words, min_count, min_length),
        None if checkpoint is None else Checkpoint(checkpoint, checkpoint_seconds),
    )
    job.check()
    return job.run(progress)


@dataclass(frozen=True)
class FileJob:
    """All that counting files needs to know.

    Attributes:
        corpus: The files.
        options: How they are read.
        settings: How they are counted.
        table_filter: What is left out of the table.
        checkpoint: Where snapshots are taken.
    """

    corpus: Corpus
    options: ReadOptions
    settings: Settings
    table_filter: TableFilter
    checkpoint: Checkpoint | None = None

    def check(self) -> None:
        """Check that the parts go together.

        Raises:
            OptionError: If not.
        """
        self.settings.check()
        self.options.check(self.corpus.sources)
        if self.checkpoint is None:
            return
        if self.settings.method not in ("compiled", None):
            raise OptionError(
                f"a checkpoint is for method 'compiled'; method is {self.settings.method!r}"
            )
        if self.settings.verify:
            raise OptionError("verify needs all documents in one run; leave it or checkpoint out")
        reason = why_not(self.settings.spec)
        if reason is not None:
            raise OptionError(
                f"a checkpoint needs method 'compiled', which cannot be used: {reason}"
            )

    def feed(self) -> FileFeed:
        """Return the documents."""
        return FileFeed(self.corpus, self.options)

    def run(self, progress: Progress | None = None) -> WordCounts:
        """Count and return the table; see :func:`count_files`."""
        if self.checkpoint is None:
            return self.table_filter.apply(run(self.feed(), self.settings, progress))
        settings = replace(self.settings, method="compiled")
        counts = run(
            self.feed(), settings, progress, checkpoint=self.checkpoint, identify=self._identity
        )
        return self.table_filter.apply(counts)

    def _identity(self, engine: Engine) -> dict[str, Any]:
        settings = self.settings
        return identity_of(
            self.corpus,
            self.options,
            {
                "mode": settings.spec.mode,
                "hmm": settings.spec.hmm,
                "ngrams": settings.ngrams,
                "document_frequency": settings.document_frequency,
            },
            engine,
        )


@dataclass(frozen=True)
class Settings:
    """How to count.

    Attributes:
        spec: The tokenizer.
        method: "naive", "batched", "parallel", "compiled" or None, which chooses.
        workers: Worker processes or threads; None for the cores there are.
        batch_size: Documents in a batch.
        document_frequency: Whether to count documents for each token too.
        start_method: How worker processes start.
        ngrams: How many tokens make up what is counted.
        verify: How many documents to count once more with jieba.
        verify_seed: Makes the choice of these documents repeatable.
    """

    spec: TokenizerSpec
    method: Method | None = None
    workers: int | None = None
    batch_size: int = 1000
    document_frequency: bool = False
    start_method: StartMethod | None = None
    ngrams: int = 1
    verify: int = 0
    verify_seed: int | None = None

    def check(self) -> None:
        """Check what can be checked without reading a document; imports the tokenizer's module.

        Raises:
            OptionError: If something cannot be used.
        """
        if self.method is not None and self.method not in METHODS:
            raise OptionError(f"method must be {', '.join(METHODS)} or None, not {self.method!r}")
        for name, value, lowest in (
            ("workers", self.workers, 1),
            ("batch_size", self.batch_size, 1),
            ("ngrams", self.ngrams, 1),
            ("verify", self.verify, 0),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise OptionError(f"{name} must be a whole number, not {value!r}")
            if value is not None and value < lowest:
                raise OptionError(f"{name} must be at least {lowest}, not {value}")
        if self.ngrams > _LONGEST_NGRAM:
            raise OptionError(f"ngrams must be at most {_LONGEST_NGRAM}, not {self.ngrams}")
        if self.method in ("naive", "batched") and self.workers not in (None, 1):
            raise OptionError(
                f"method {self.method!r} works in one process; leave workers={self.workers} out, "
                "or use method 'parallel'"
            )
        if self.verify and (not self.spec.uses_jieba or self.method not in ("compiled", None)):
            raise OptionError(
                "verify compares method 'compiled' with jieba, which is not used here"
            )
        if not self.spec.uses_jieba:
            self.spec.load()
        if self.method == "compiled":
            reason = why_not(self.spec)
            if reason is not None:
                raise OptionError(f"method 'compiled' cannot be used: {reason}")


@dataclass(frozen=True)
class TableFilter:
    """What is left out of the finished table."""

    stop_words: frozenset[str] = frozenset()
    min_count: int = 1
    min_length: int = 0

    @classmethod
    def make(
        cls, stop_words: PathLike | Iterable[str] | None, min_count: int, min_length: int
    ) -> TableFilter:
        """Read the stop words and check the numbers.

        Raises:
            OptionError: If the file of stop words is not UTF-8, or a number is negative.
            OSError: If the file cannot be read.
        """
        for name, value in (("min_count", min_count), ("min_length", min_length)):
            if value < 0:
                raise OptionError(f"{name} must not be negative, got {value}")
        if stop_words is None:
            words: Iterable[str] = ()
        elif isinstance(stop_words, (str, os.PathLike)):
            words = _read_stop_words(os.fspath(stop_words))
        else:
            words = stop_words
        return cls(frozenset(words), min_count, min_length)

    def apply(self, counts: WordCounts) -> WordCounts:
        """Return the table without what is to be left out."""
        return counts.filtered(
            min_count=self.min_count, min_length=self.min_length, stop_words=self.stop_words
        )


def _read_stop_words(path: str) -> Iterator[str]:
    content = read_small_file(path, "stop words")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"stop words {path!r}: not UTF-8 (byte {error.start})") from None
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if line:
            yield line.strip() or line


class Feed(Protocol):
    """Documents, and how much of them has been read."""

    meter: Meter
    files: int
    passed_over: int
    total: int | None

    def __iter__(self) -> Iterator[str]:
        """Yield the documents."""

    def estimate(self) -> float:
        """Return roughly how many bytes of text there are; infinity if that cannot be known."""

    def give(self, run: KernelRun) -> None:
        """Let the kernel count all documents."""


class TextFeed:
    """Documents that are in memory or come from a generator; a byte is one of their UTF-8."""

    files = 0
    passed_over = 0
    total: int | None = None

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
                size += 3 * len(text) if isinstance(text, str) else 0
        self._texts = itertools.chain(first, texts)
        return size if ended else math.inf

    def give(self, run: KernelRun) -> None:
        """Let the kernel count all documents."""
        run.count_documents(self, "texts")


_NONE: Any = object()


class FileFeed:
    """Documents from files."""

    def __init__(self, corpus: Corpus, options: ReadOptions) -> None:
        self.meter = Meter()
        self.files = len(corpus.sources)
        self.passed_over = corpus.passed_over
        self.total = corpus.size
        self._sources = list(corpus.sources)
        self._options = options

    def __iter__(self) -> Iterator[str]:
        for source in self._sources:
            yield from read_documents(source, self._options, self.meter)

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

    def give(self, run: KernelRun) -> None:
        """Let the kernel count all documents; it reads text in UTF-8 itself."""
        options = self._options
        is_utf8 = codecs.lookup(options.encoding).name == "utf-8" and options.errors == "strict"
        for index, source in enumerate(self._sources):
            if not run.begin(index, self.meter):
                continue
            if source.format == "text" and is_utf8:
                run.count_source(source, options, self.meter)
            else:
                run.count_documents(read_documents(source, options, self.meter), source.name)
            run.end(self.meter, last=index == len(self._sources) - 1)


# How many times larger compressed text usually is than it looks.
_COMPRESSION = 3


def run(
    feed: Feed,
    settings: Settings,
    progress: Progress | None = None,
    *,
    engine: Engine | None = None,
    checkpoint: Checkpoint | None = None,
    identify: Callable[[Engine], dict[str, Any]] = lambda engine: {},
) -> WordCounts:
    """Count the documents of a feed.

    Args:
        feed: The documents.
        settings: How to count; checked already.
        progress: Called with the bytes done and the bytes there are.
        engine: The kernel for method "compiled", if it is loaded already.
        checkpoint: Where method "compiled" takes snapshots.
        identify: Says what must not change between the parts of a run.

    Returns:
        The whole table, with a :class:`RunInfo` that says how it was made.
    """
    began = time.perf_counter()
    if progress is not None:
        progress(0, feed.total)
    workers = settings.workers or available_cores()
    note = resumed = ""
    if engine is None:
        engine, note = _find_engine(feed, settings, workers)
    if engine is None:
        counted = _run_pure(feed, settings, workers, progress)
    else:
        with contextlib.ExitStack() as stack:
            state = State()
            if checkpoint is not None:
                state = stack.enter_context(checkpoint.opened(identify(engine)))
            resumed = "complete" if state.complete else "resumed" if state.documents else ""
            counted = _run_compiled(engine, feed, settings, workers, progress, checkpoint, state)
    info = RunInfo(
        method=counted.method,
        workers=counted.workers,
        batch_size=settings.batch_size,
        tokenizer=settings.spec.describe(),
        files=feed.files,
        passed_over=feed.passed_over,
        text_bytes=feed.meter.text,
        stored_bytes=feed.meter.stored,
        seconds=time.perf_counter() - began,
        note=note,
        verified=counted.verified,
        ngrams=settings.ngrams,
        resumed=resumed,
    )
    return WordCounts(
        counted.counts,
        documents=counted.documents,
        document_frequency=counted.frequency,
        run=info,
    )


class _Counted(NamedTuple):
    """What a method gives."""

    method: Method
    workers: int
    counts: Mapping[Any, int]
    frequency: Mapping[Any, int] | None
    documents: int
    verified: int = 0


def _find_engine(feed: Feed, settings: Settings, workers: int) -> tuple[Engine | None, str]:
    """Return the kernel if it is to be used, and else why it is not, where that was left open."""
    if settings.method == "compiled":
        try:
            return load_engine(settings.spec), ""
        except OptionError as error:
            raise OptionError(f"method 'compiled' cannot be used: {error}") from error
    if settings.method is not None:
        return None, ""
    size = feed.estimate() if settings.spec.uses_jieba else 0
    if settings.spec.uses_jieba and is_too_short_to_compile(size, workers):
        return None, TOO_SHORT_TO_COMPILE
    reason = why_not(settings.spec)
    if reason is None:
        reason = why_not_worth_it(settings.spec, size, workers)
    if reason is not None:
        return None, reason
    try:
        return load_engine(settings.spec), ""
    except OptionError as error:
        return None, str(error)


def _run_compiled(
    engine: Engine,
    feed: Feed,
    settings: Settings,
    workers: int,
    progress: Progress | None,
    checkpoint: Checkpoint | None,
    state: State,
) -> _Counted:
    def delivered() -> None:
        if progress is not None:
            progress(feed.meter.stored, feed.total)

    spec, ngrams = settings.spec, settings.ngrams
    sampler = Sampler(settings.verify, settings.verify_seed) if settings.verify else None
    kernel_run = KernelRun(
        engine,
        TokenKeys(spec, settings.document_frequency, ngrams),
        spec,
        ngrams=ngrams,
        document_frequency=settings.document_frequency,
        threads=workers,
        delivered=delivered,
        sampler=sampler,
        checkpoint=checkpoint,
        state=state,
    )
    feed.meter.text, feed.meter.stored = state.text, state.stored
    feed.give(kernel_run)
    delivered()
    counts, frequency = kernel_run.tables()
    verified = 0
    if sampler is not None:
        options = {"mode": spec.mode, "hmm": spec.hmm, "ngram": ngrams}
        verified = verify_samples(sampler.samples, engine, TokenKeys(spec, False, ngrams), options)
    return _Counted("compiled", workers, counts, frequency, kernel_run.documents, verified)


def _run_pure(feed: Feed, settings: Settings, workers: int, progress: Progress | None) -> _Counted:
    tracker = _Tracker(feed, progress)
    documents, method, workers = _choose(iter(tracker), settings, workers)
    keys = TokenKeys(settings.spec, settings.document_frequency, settings.ngrams)
    keys.prepare()
    table: dict[Any, int]
    if method == "parallel":
        table = _parallel(documents, keys, settings, workers, tracker.delivered)
    else:
        count = _naive if method == "naive" else _batched
        table = count(_batches(documents, settings.batch_size, tracker.delivered), keys)
    counts, frequency = _separate(table) if settings.document_frequency else (table, None)
    return _Counted(method, workers, counts, frequency, tracker.read)


def _choose(
    documents: Iterator[str], settings: Settings, workers: int
) -> tuple[Iterator[str], Method, int]:
    """Return the documents, the method, and the number of workers it uses.

    Left the choice, a small corpus is counted in the calling process, before workers would have
    started.
    """
    if settings.method is not None:
        return documents, settings.method, workers if settings.method == "parallel" else 1
    if workers == 1:
        return documents, "batched", 1
    first: list[str] = []
    characters = 0
    for text in documents:
        first.append(text)
        characters += len(text)
        if len(first) > settings.batch_size or characters > _SMALL_TEXT:
            return itertools.chain(first, documents), "parallel", workers
    return iter(first), "batched", 1


def _batches(
    documents: Iterator[str], batch_size: int, delivered: Callable[[int], None]
) -> Iterator[list[str]]:
    """Yield batches of documents, and report each once the next one is asked for."""
    batch: list[str] = []
    characters = done = 0
    for text in documents:
        batch.append(text)
        characters += len(text)
        if len(batch) >= batch_size or characters >= _BATCH_CHARACTERS:
            yield batch
            done += len(batch)
            delivered(done)
            batch, characters = [], 0
    yield batch
    delivered(done + len(batch))


def _naive(batches: Iterable[list[str]], keys: TokenKeys) -> dict[Any, int]:
    """Count as the blog's first program does; the batches are only there to report progress."""
    table: dict[Any, int] = {}
    for batch in batches:
        for text in batch:
            for key in keys(text):
                table[key] = table.get(key, 0) + 1
    return table


def _batched(batches: Iterable[list[str]], keys: TokenKeys) -> dict[Any, int]:
    """Count each batch in a table of its own and add up the tables."""
    table: Counter[Any] = Counter()
    for batch in batches:
        table.update(Counter(itertools.chain.from_iterable(map(keys, batch))))
    return table


def _parallel(
    documents: Iterator[str],
    keys: TokenKeys,
    settings: Settings,
    workers: int,
    delivered: Callable[[int], None],
) -> dict[Any, int]:
    """Count batches in worker processes; each sends a table for each batch."""
    return parallel_count(
        keys,
        documents,
        workers,
        settings.batch_size,
        initializer=WorkerSetup(settings.spec),
        progress=delivered,
        start_method=settings.start_method,
    )


class TokenKeys:
    """Gives what to count for a document: its tokens or n-grams, and each once in a 1-tuple.

    The 1-tuples are there for the document frequency only. They travel in the same table, so that
    a document is either counted in both or in neither.
    """

    def __init__(self, spec: TokenizerSpec, document_frequency: bool, ngrams: int = 1) -> None:
        self.spec = spec
        self.document_frequency = document_frequency
        self.ngrams = ngrams
        self._cut: Cut | None = None

    def prepare(self) -> None:
        """Make the tokenizer; before workers fork, so that they share it."""
        self._cut = self.spec.load()

    def __call__(self, text: str) -> Iterable[Any]:
        """Return what to count for a document."""
        if self._cut is None:
            self.prepare()
            assert self._cut is not None
        tokens: Iterable[Any] = self._cut(text)
        if self.ngrams > 1:
            one = list(tokens)
            tokens = zip(*(one[first:] for first in range(self.ngrams)), strict=False)
        if not self.document_frequency:
            return tokens
        tokens = list(tokens)
        return [*tokens, *((token,) for token in set(tokens))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cut": None}  # made anew where it is needed


def _separate(table: dict[Any, int]) -> tuple[dict[Any, int], dict[Any, int]]:
    """Take the counts of tokens and of documents apart."""
    counts = {}
    frequency = {}
    for key, count in table.items():
        if is_document_key(key):
            frequency[key[0]] = count
        else:
            counts[key] = count
    return counts, frequency


class _Tracker:
    """Passes documents on, and tells how many bytes those that have been counted make up."""

    def __init__(self, feed: Feed, progress: Progress | None) -> None:
        self.read = 0
        self._feed = feed
        self._progress = progress
        self._marks: deque[tuple[int, int]] = deque()  # documents read, bytes read by then

    def __iter__(self) -> Iterator[str]:
        meter = self._feed.meter
        for text in self._feed:
            self.read += 1
            if self._progress is not None and (
                not self._marks or self._marks[-1][1] != meter.stored
            ):
                self._marks.append((self.read, meter.stored))
            yield text

    def delivered(self, documents: int) -> None:
        """Report that so many documents have been counted."""
        if self._progress is None:
            return
        position = None
        while self._marks and self._marks[0][0] <= documents:
            position = self._marks.popleft()[1]
        if documents == self.read:
            position = self._feed.meter.stored
        if position is not None:
            self._progress(position, self._feed.total)


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
