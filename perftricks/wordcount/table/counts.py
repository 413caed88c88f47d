"""The table that counting gives: tokens and how often they occur."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import (
    Callable,
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from perftricks.files import PathLike
from perftricks.wordcount.errors import OptionError, TableTooLargeError
from perftricks.wordcount.reading.sources import NotRead
from perftricks.wordcount.reading.stop_words import StopWords, read_stop_words
from perftricks.wordcount.table.data_frames import pandas_frame, polars_frame
from perftricks.wordcount.table.in_memory import MemoryTable, checked_counts
from perftricks.wordcount.table.limits import default_limit
from perftricks.wordcount.table.rows import NGRAM, TAG, TOKEN, Filter, Tagged
from perftricks.wordcount.table.saved import Facts, load, save
from perftricks.wordcount.table.streamed import StreamedItems, StreamedKeys, StreamedValues
from perftricks.wordcount.table.sums import added
from perftricks.wordcount.table.table import Table

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns


@dataclass(frozen=True)
class RunInfo:
    """How a table came about.

    Attributes:
        method: The method that was used: "naive", "batched", "parallel" or "compiled".
        workers: The number of worker processes, or of threads of method "compiled"; 1 where the
            calling process did the work.
        batch_size: The largest number of documents in a batch.
        tokenizer: The tokenizer and its version, such as "jieba 0.42.1".
        files: How many files were read; the standard input is one.
        passed_over: How many files in folders were not read.
        text_bytes: Bytes of text, after decompression.
        stored_bytes: Bytes as stored; the same unless files are compressed.
        seconds: Wall time from the first document to the finished table.
        note: Why the method is not "compiled", where the choice was left open; else empty.
        verified: How many documents were counted once more by jieba, with the same result.
        ngrams: How many tokens make up what was counted.
        tagged: Whether tokens were counted with their part-of-speech tags.
        spilled: How many parts of the table went to the disk, because it outgrew the memory limit.
            They are merged when the table is first read, which ``seconds`` does not include.
        resumed: "resumed" if a run that was killed went on from its checkpoint, "complete" if the
            checkpoint held all of it; else empty.
        not_read: Files and folders in folders that were not read, each with its reason, and files
            with nothing in them.
        bad: Files that could not be read and count for nothing, each with its reason.
        encodings: Encodings -> files, as encoding "auto" has found out; else empty.
    """

    method: str
    workers: int
    batch_size: int
    tokenizer: str
    files: int
    passed_over: int
    text_bytes: int
    stored_bytes: int
    seconds: float
    note: str = ""
    verified: int = 0
    ngrams: int = 1
    resumed: str = ""
    spilled: int = 0
    not_read: tuple[NotRead, ...] = ()
    bad: tuple[NotRead, ...] = ()
    encodings: Mapping[str, int] = field(default_factory=dict)
    tagged: bool = False

    @property
    def megabytes_per_second(self) -> float:
        """Speed in 10**6 bytes of text a second; 0 if there was nothing to read."""
        return self.text_bytes / 1e6 / self.seconds if self.seconds > 0 else 0.0


class WordCounts(Mapping[Any, int]):
    """A read-only mapping of tokens to counts.

    Iteration follows the order of the table: the largest count first, equal counts by code point.
    So two runs over the same corpus list their tokens in the same order, whatever the number of
    workers. A token is a str; where n-grams were counted, a key is a tuple of tokens; where tokens
    were counted with their tags, a key is a named tuple, ``(token, tag)``.

    A table that outgrew the memory limit is on the disk. Iterating, :meth:`rows`,
    :meth:`most_common`, :meth:`filtered` and ``write_table`` read it from there, a part at a time.
    Looking up a token needs all of it in memory; where the limit does not allow that,
    TableTooLargeError is raised.

    Args:
        counts: Token -> count. A dict is not copied and must not change any more.
        documents: How many documents were counted.
        tokens: How many tokens were counted, the ones that were filtered out included. By default
            the sum of the counts.
        document_frequency: Token -> the number of documents it occurs in, if that was asked for.
        run: How the table came about.

    Raises:
        TypeError: If a key is neither a str nor a tuple, or a count is no whole number.
        ValueError: If a count is negative, or 2**63 or more.

    >>> counts = WordCounts({"茶": 2, "水": 1, "the": 2}, documents=1)
    >>> counts["茶"], len(counts), counts.tokens
    (2, 3, 5)
    >>> counts.most_common(2)
    [('the', 2), ('茶', 2)]
    >>> counts == {"茶": 2, "水": 1, "the": 2}
    True
    """

    # A slot and no method: a lookup is then the dict's own, without a frame of Python, and
    # ``dict(counts)`` makes one for each token.
    __slots__ = {
        "__getitem__": "counts[token]: how often a token occurs; a KeyError if it does not.",
        "__weakref__": "",
        "_documents": "",
        "_run": "",
        "_smallest": "",
        "_table": "",
        "_tokens": "",
    }

    if TYPE_CHECKING:

        def __getitem__(self, token: Any) -> int: ...

    def __init__(
        self,
        counts: Mapping[Any, int],
        *,
        documents: int,
        tokens: int | None = None,
        document_frequency: Mapping[Any, int] | None = None,
        run: RunInfo | None = None,
    ) -> None:
        frequency = document_frequency
        if frequency is not None:
            frequency = checked_counts(frequency, "document_frequency")
        table = MemoryTable(checked_counts(counts, "counts"), frequency)
        self._hold(table, documents, tokens, run)

    @classmethod
    def of(
        cls,
        table: Table,
        *,
        documents: int | None,
        tokens: int | None = None,
        run: RunInfo | None = None,
        smallest: int = 1,
    ) -> WordCounts:
        """Return the counts that a table holds, wherever it is kept.

        Args:
            table: The table.
            documents: See :class:`WordCounts`, as for what follows; None if it is not known.
            tokens: See there.
            run: See there.
            smallest: Rows with a smaller count have been left out.
        """
        counts = cls.__new__(cls)
        counts._hold(table, documents, tokens, run, smallest)
        return counts

    def _hold(
        self,
        table: Table,
        documents: int | None,
        tokens: int | None,
        run: RunInfo | None,
        smallest: int = 1,
    ) -> None:
        self._table = table
        self._look_up_by(_FirstLookup(weakref.ref(self)))
        self._documents = documents
        self._tokens = table.total if tokens is None else tokens
        self._run = run
        self._smallest = smallest

    @property
    def documents(self) -> int:
        """How many documents were counted, empty ones included.

        Raises:
            ValueError: If the table was read from a file that does not say.
        """
        if self._documents is None:
            raise ValueError(
                "the file that the table was read from does not say how many documents were "
                "counted; .parquet, .arrow and WordCounts.save do"
            )
        return self._documents

    @property
    def tokens(self) -> int:
        """How many tokens were counted, the ones that were filtered out included."""
        return self._tokens

    @property
    def document_frequency(self) -> Mapping[Any, int] | None:
        """Token -> the number of documents it occurs in; None if that was not asked for."""
        if not self._table.counts_documents:
            return None
        return MappingProxyType(self._table.frequency())

    @property
    def has_document_frequency(self) -> bool:
        """Whether documents were counted; does not load them from the disk."""
        return self._table.counts_documents

    @property
    def facts(self) -> Facts:
        """What belongs to the table beside its rows; with ``documents`` None if not known."""
        return Facts(
            self._documents,
            self._tokens,
            self._smallest,
            self._table.counts_documents,
            len(self._table),
        )

    @property
    def run(self) -> RunInfo | None:
        """How the table came about: method, workers, bytes, seconds."""
        return self._run

    def most_common(self, n: int | None = None) -> list[tuple[Any, int]]:
        """Return the ``n`` most frequent tokens with their counts, all of them by default.

        Args:
            n: How many; None for all.

        Returns:
            Pairs sorted by count, descending, then by the token's code points.
        """
        return [(token, count) for token, count, _ in self._table.rows(n)]

    def rows(self, n: int | None = None) -> Iterator[tuple[Any, int, int | None]]:
        """Yield the table in its order, from the disk if that is where it is.

        Args:
            n: How many rows; None for all.

        Yields:
            The token, its count, and the number of documents it occurs in; None if documents were
            not counted.

        Raises:
            SpillError: If the disk, where the table is, is full or fails.

        >>> list(WordCounts({"茶": 2, "水": 1}, documents=1).rows())
        [('茶', 2, None), ('水', 1, None)]
        """
        known = self._table.counts_documents
        for token, count, documents in self._table.rows(n):
            yield token, count, documents if known else None

    def columns(self, *, ordered: bool = True) -> Iterator[Columns]:
        """Yield the table as arrays, in parts; see :class:`Columns`.

        Args:
            ordered: Whether they have to be in the order of the table, which takes longer.
        """
        return self._table.columns(ordered=ordered)

    def to_counter(self) -> Counter[Any]:
        """Return the counts as a new ``collections.Counter``."""
        return Counter(self._table.counts())

    def to_arrow(self) -> Any:
        """Return the table as a ``pyarrow.Table``.

        Its columns are ``token`` (string) and ``count`` (int64), and ``document_frequency`` (int64)
        if documents were counted; of n-grams ``ngram`` (list of strings) in place of ``token``; of
        tokens with tags also ``tag`` (string).
        ``WordCounts`` has the interface of Arrow's streams too, for programs that take such.

        Raises:
            ImportError: If pyarrow is not installed.
            ValueError: If a token holds a lone surrogate, which Arrow's strings cannot hold.
        """
        from perftricks.wordcount.table.arrow import batches_of, pyarrow, schema_of

        schema = schema_of(self.facts, self.key_names)
        batches = batches_of(self.columns(), schema)
        return pyarrow("to_arrow").Table.from_batches(batches, schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> Any:
        """Return the table as a ``pandas.DataFrame``, with the columns of :meth:`to_arrow`.

        An n-gram is a tuple of str.

        Raises:
            ImportError: If pandas is not installed.
        """
        documents = self.has_document_frequency
        return pandas_frame(self.columns(), self.key_names, documents=documents)

    def to_polars(self) -> Any:
        """Return the table as a ``polars.DataFrame``, with the columns of :meth:`to_arrow`.

        Raises:
            ImportError: If polars is not installed.
            ValueError: If a token holds a lone surrogate, which strings of polars cannot hold.
        """
        documents = self.has_document_frequency
        return polars_frame(self.columns(), self.key_names, documents=documents)

    @property
    def are_ngrams(self) -> bool:
        """Whether n-grams were counted: a key is a tuple of tokens then."""
        if self._run is not None:
            return self._run.ngrams > 1
        return any(_form(key) > 0 for key, _, _ in self._table.rows(1))

    @property
    def are_tagged(self) -> bool:
        """Whether tokens were counted with their tags: a key is ``(token, tag)`` then."""
        if self._run is not None:
            return self._run.tagged
        return any(_form(key) < 0 for key, _, _ in self._table.rows(1))

    @property
    def key_names(self) -> tuple[str, ...]:
        """What the columns are called that hold the keys."""
        if self.are_tagged:
            return TOKEN, TAG
        return (NGRAM,) if self.are_ngrams else (TOKEN,)

    def filtered(
        self,
        *,
        min_count: int = 1,
        min_length: int = 0,
        stop_words: StopWords | None = None,
        words_only: bool = False,
    ) -> WordCounts:
        """Return the table without some of its tokens; ``documents`` and ``tokens`` stay.

        Args:
            min_count: Keep tokens that occur at least as often.
            min_length: Keep tokens of at least as many characters.
            stop_words: Tokens to leave out: the path of a file with a word on each line, the words,
                or "zh" for the list that ships. An n-gram is left out if one of its tokens is.
            words_only: Leave out tokens without a letter, of which Chinese characters are some:
                punctuation, blanks, numbers.

        Raises:
            OptionError: If an argument cannot be used.
            OSError: If the file of stop words cannot be read.

        >>> WordCounts({"茶": 2, "水": 1}, documents=1).filtered(min_count=2)
        WordCounts({'茶': 2}, 1 distinct of 3 tokens in 1 document)
        """
        words, _ = read_stop_words(stop_words)
        return self.kept(Filter(min_count, min_length, words, words_only))

    def kept(self, chosen: Filter) -> WordCounts:
        """Return the table with the rows that a filter keeps; see :meth:`filtered`."""
        if chosen.keeps_all:
            return self
        if chosen.tags and len(self) and not self.are_tagged:
            raise ValueError("the table has no part-of-speech tags; count with pos")
        return WordCounts.of(
            self._table.filtered(chosen),
            documents=self._documents,
            tokens=self._tokens,
            run=self._run,
            smallest=max(chosen.min_count, self._smallest),
        )

    def save(self, path: PathLike) -> None:
        """Save the table so that :meth:`load` gives it back, in this process or another.

        All of it is kept but :attr:`run`. ``write_table`` writes tables for other programs.

        Args:
            path: The file; what is there stays until the new one is complete.

        Raises:
            OSError: If it cannot be written.
        """
        save(path, self._table, self.facts)

    @classmethod
    def load(cls, path: PathLike) -> WordCounts:
        """Return the table that :meth:`save` wrote.

        Args:
            path: The file, which is not needed any more afterwards. A table that is too large for
                half of the memory there is becomes one on the disk.

        Raises:
            OSError: If the file cannot be read, or is not what was written.
        """
        table, facts = load(path, default_limit())
        return cls.of(
            table, documents=facts.documents, tokens=facts.tokens, smallest=facts.smallest
        )

    def _dict(self, *, ordered: bool = False) -> dict[Any, int]:
        """Return key -> count, which lookups use from now on."""
        found = self._table.counts(ordered=ordered)
        self._look_up_by(found.__getitem__)
        return found

    def _look_up_by(self, lookup: Callable[[Any], int]) -> None:
        vars(WordCounts)["__getitem__"].__set__(self, lookup)  # also where a subclass has its own

    def __contains__(self, token: object) -> bool:
        return token in self._table.counts()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def keys(self) -> KeysView[Any]:
        """Return the tokens in the order of the table."""
        view = self._view()
        return StreamedKeys(self) if view is None else view.keys()

    def values(self) -> ValuesView[int]:
        """Return the counts in the order of the table."""
        view = self._view()
        return StreamedValues(self) if view is None else view.values()

    def items(self) -> ItemsView[Any, int]:
        """Return the tokens and their counts in the order of the table."""
        view = self._view()
        return StreamedItems(self) if view is None else view.items()

    def _view(self) -> Mapping[Any, int] | None:
        """Return the table as a dict in its order; None if that is too large for the memory."""
        try:
            return MappingProxyType(self._dict(ordered=True))
        except TableTooLargeError:
            return None

    def __len__(self) -> int:
        return len(self._table)

    def __add__(self, other: WordCounts) -> WordCounts:
        """Return the table of both corpora together; ``sum`` adds any number of tables.

        It equals the table of one run over all of it. One that is too large for half of the memory
        there is moves to the disk.

        Raises:
            ValueError: If the sum would not be exact: rows have been left out by ``min_count``, one
                table says in how many documents tokens occur and the other does not, or they count
                n-grams of different lengths.

        >>> WordCounts({"茶": 2}, documents=1) + WordCounts({"茶": 1, "水": 1}, documents=3)
        WordCounts({'茶': 3, '水': 1}, 2 distinct of 4 tokens in 4 documents)
        """
        if not isinstance(other, WordCounts):
            return NotImplemented
        return WordCounts.sum_of([self, other])

    @classmethod
    def sum_of(cls, tables: Sequence[WordCounts], *, limit: int | None = None) -> WordCounts:
        """Return the table of all corpora together; see :meth:`__add__`.

        Args:
            tables: One table or more.
            limit: Bytes that the sum may take in memory; None for half of what there is.

        Raises:
            ValueError: If the sum would not be exact.
        """
        filled = cls._checked(tables)
        documents = [counts._documents for counts in tables]
        return cls.of(
            added(
                [counts._table for counts in filled or tables[:1]],
                default_limit() if limit is None else limit,
            ),
            documents=None if None in documents else sum(n for n in documents if n is not None),
            tokens=sum(counts._tokens for counts in tables),
        )

    @staticmethod
    def _checked(tables: Sequence[WordCounts]) -> list[WordCounts]:
        """Return the tables that hold something.

        Raises:
            ValueError: If they do not add up.
        """
        filled = [counts for counts in tables if counts._documents or len(counts)]
        for counts in filled:
            if counts._smallest > 1:
                raise ValueError(
                    f"a table without what occurs fewer than {counts._smallest} times cannot be "
                    "added: what is missing may add up to more; add first, then leave rows out"
                )
        if len({counts.has_document_frequency for counts in filled}) > 1:
            raise ValueError(
                "one table has document frequencies and the other has none; count both with "
                "document_frequency, or neither"
            )
        if len({_form(key) for counts in filled for key, _, _ in counts._table.rows(1)}) > 1:
            raise ValueError(
                "the tables count n-grams of different lengths, or one has part-of-speech tags and "
                "another none; these do not add up"
            )
        return filled

    def __radd__(self, other: object) -> WordCounts:
        """Return this table for ``0 + table``, with which ``sum`` begins."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        frequency = self._table.frequency() if self._table.counts_documents else None
        table = MemoryTable(self._table.counts(), frequency)
        return _restored, (table, self._documents, self._tokens, self._run, self._smallest)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, WordCounts):
            return self._table.counts() == other._table.counts()
        if isinstance(other, Mapping):
            return self._table.counts() == dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to dicts, which have none

    def _repr_html_(self) -> str:
        from perftricks.wordcount.table.notebook import ROWS, fragment

        return fragment("n-gram" if self.are_ngrams else "token", self.facts, self.rows(ROWS))

    def __repr__(self) -> str:
        shown = ", ".join(f"{token!r}: {count}" for token, count in self.most_common(6))
        more = ", ..." if len(self) > 6 else ""
        documents = "1 document" if self._documents == 1 else f"{self._documents} documents"
        where = "" if self._documents is None else f" in {documents}"
        return (
            f"WordCounts({{{shown}{more}}}, {len(self)} distinct of {self._tokens} tokens{where})"
        )


class _FirstLookup:
    """Looks up a token where none has been looked up yet: the table becomes a dict.

    Args:
        counts: What is asked; it holds this, which must not keep it.
    """

    __slots__ = ("_counts",)

    def __init__(self, counts: weakref.ref[WordCounts]) -> None:
        self._counts = counts

    def __call__(self, token: Any) -> int:
        counts = self._counts()
        assert counts is not None, "it is asked through what it refers to"
        return counts._dict()[token]


def check_counts(counts: object) -> None:
    """Refuse what is no table.

    Raises:
        OptionError: If it is something else than WordCounts.
    """
    if not isinstance(counts, WordCounts):
        kind = type(counts).__name__
        hint = "; WordCounts(counts, documents=...) makes a table of a mapping"
        more = hint if isinstance(counts, Mapping) else ""
        raise OptionError(f"counts must be WordCounts, got {kind}{more}")


def _form(key: Any) -> int:
    """Return how many tokens make up a key; 0 for a token, -1 for one with its tag."""
    if isinstance(key, Tagged):
        return -1
    return len(key) if isinstance(key, tuple) else 0


def _restored(
    table: Table, documents: int | None, tokens: int, run: RunInfo | None, smallest: int
) -> WordCounts:
    """Return what was pickled."""
    return WordCounts.of(table, documents=documents, tokens=tokens, run=run, smallest=smallest)
