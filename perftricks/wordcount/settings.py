"""How to count, and what is left out of the table: checked before a document is read."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.stop_words import StopWords, read_stop_words
from perftricks.wordcount.table.counts import WordCounts
from perftricks.wordcount.table.limits import default_limit, parse_limit
from perftricks.wordcount.table.rows import Filter
from perftricks.wordcount.tagging import check_tags, known_tags
from perftricks.wordcount.tokenizers import TokenizerSpec

if TYPE_CHECKING:
    from perftricks.parallel.launch import StartMethod

MethodName = Literal["naive", "batched", "parallel", "compiled"]

METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)

# Longer n-grams are all different.
_LONGEST_NGRAM = 20


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
        memory_limit: Bytes that tables may take, as a number or a size; None for half of what
            there is.
    """

    spec: TokenizerSpec
    _: KW_ONLY
    method: MethodName | None = None
    workers: int | None = None
    batch_size: int = 1000
    document_frequency: bool = False
    start_method: StartMethod | None = None
    ngrams: int = 1
    verify: int = 0
    verify_seed: int | None = None
    memory_limit: int | float | str | None = None

    @property
    def strings(self) -> int:
        """How many strings make up a key."""
        return 2 if self.spec.pos else self.ngrams

    @property
    def limit(self) -> int:
        """Bytes that tables may take.

        Raises:
            OptionError: If the limit that was given is none.
        """
        return default_limit() if self.memory_limit is None else parse_limit(self.memory_limit)

    def check(self) -> None:
        """Check what can be checked without reading a document; imports the tokenizer's module.

        Raises:
            OptionError: If something cannot be used.
        """
        if self.method is not None and self.method not in METHOD_NAMES:
            names = ", ".join(METHOD_NAMES)
            raise OptionError(f"method must be {names} or None, not {self.method!r}")
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
            if value is None and name != "workers":
                raise OptionError(f"{name} must be a whole number, not None")
        if self.start_method is not None:
            from perftricks.parallel.launch import StartMethod

            if self.start_method not in get_args(StartMethod):
                known = ", ".join(get_args(StartMethod))
                raise OptionError(
                    f"start_method must be {known} or None, not {self.start_method!r}"
                )
        if self.ngrams > _LONGEST_NGRAM:
            raise OptionError(f"ngrams must be at most {_LONGEST_NGRAM}, not {self.ngrams}")
        if self.spec.pos and self.ngrams > 1:
            raise OptionError("ngrams counts tokens without tags; leave pos or ngrams out")
        if self.verify and (not self.spec.uses_jieba or self.method not in ("compiled", None)):
            raise OptionError(
                "verify compares method 'compiled' with jieba, which is not used here"
            )
        if self.memory_limit is not None:
            parse_limit(self.memory_limit)
        if not self.spec.uses_jieba:
            self.spec.load()


@dataclass(frozen=True)
class TableFilter:
    """What is left out of the finished table.

    Attributes:
        chosen: Which rows are kept.
        list_name: What to call the stop words; "" for those that were given as words.
    """

    chosen: Filter = field(default_factory=Filter)
    list_name: str = ""

    @classmethod
    def make(
        cls,
        stop_words: StopWords | None,
        min_count: int,
        min_length: int,
        words_only: bool = False,
        tags: frozenset[str] | None = None,
    ) -> TableFilter:
        """Read the stop words and check the numbers.

        Args:
            stop_words: The path of a file, "zh" for the list that ships, or words; None for none.
            min_count: See :class:`Filter`, as for what follows.
            min_length: See there.
            words_only: See there.
            tags: See there.

        Raises:
            OptionError: If the file of stop words is not UTF-8, or a number is negative.
            OSError: If the file cannot be read.
        """
        found, name = read_stop_words(stop_words)
        return cls(Filter(min_count, min_length, found, words_only, tags or frozenset()), name)

    def check(self, spec: TokenizerSpec) -> None:
        """Check that tokens may have the tags that are kept; loads jieba.posseg for it.

        Raises:
            OptionError: If no token has one of them.
        """
        if self.chosen.tags:
            known = known_tags(spec.posseg_tokenizer())
            if known is not None:
                check_tags(self.chosen.tags, known)

    def apply(self, counts: WordCounts) -> WordCounts:
        """Return the table without what is to be left out."""
        return counts.kept(self.chosen)

    def describe(self) -> str:
        """Say what is left out; "" if nothing is.

        >>> TableFilter.make("zh", 2, 0, words_only=True).describe()
        'what is no word, the stop words zh (671), what occurs fewer than 2 times'
        """
        named = f" {self.list_name}" if self.list_name else ""
        chosen = self.chosen
        parts = [
            f"what is not tagged {', '.join(sorted(chosen.tags))}" if chosen.tags else "",
            "what is no word" if chosen.words_only else "",
            f"the stop words{named} ({len(chosen.stop_words):,})" if chosen.stop_words else "",
            f"what occurs fewer than {chosen.min_count:,} times" if chosen.min_count > 1 else "",
            f"what is shorter than {chosen.min_length} characters" if chosen.min_length > 1 else "",
        ]
        return ", ".join(filter(None, parts))
