"""Keywords of a corpus by TF-IDF, from its table of counts.

The weight of a word is its count, divided by the sum of the counts of all words that are weighed,
times its inverse document frequency (idf). That is what ``jieba.analyse.extract_tags`` computes,
with numbers in the same order, so that the weights are equal to the last bit.
"""

from __future__ import annotations

import heapq
import importlib.util
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perftricks.files import PathLike
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.sources import read_small_file
from perftricks.wordcount.reading.stop_words import StopWords, read_stop_words
from perftricks.wordcount.table.counts import WordCounts, check_counts
from perftricks.wordcount.table.rows import Tagged

Idf = PathLike | Mapping[str, float]

JIEBA, CORPUS = "jieba", "corpus"

# What jieba.analyse leaves out, if nobody has told it more.
_STOP_WORDS = frozenset(
    [
        "the",
        "of",
        "is",
        "and",
        "to",
        "in",
        "that",
        "we",
        "for",
        "an",
        "are",
        "by",
        "be",
        "as",
        "on",
        "with",
        "can",
        "if",
        "from",
        "which",
        "you",
        "it",
        "this",
        "then",
        "at",
        "have",
        "all",
        "not",
        "one",
        "has",
        "or",
    ]
)


@dataclass(frozen=True)
class Keyword:
    """A word with its weight.

    Attributes:
        key: The word; with its tag where these were counted.
        weight: Its TF-IDF.
        count: How often it occurs.
        document_frequency: In how many documents; None if that was not counted.
    """

    key: Any
    weight: float
    count: int
    document_frequency: int | None


def keywords(
    counts: WordCounts,
    n: int | None = 20,
    *,
    idf: Idf = JIEBA,
    stop_words: StopWords | None = None,
    with_tags: bool = True,
) -> list[Keyword]:
    """Return the words of a table with the largest TF-IDF.

    As for ``jieba.analyse.extract_tags``, a word has two characters or more, blanks at its ends not
    counted, and is no stop word in lower case. Of the table of one text, or of a whole corpus, the
    weights equal those that ``extract_tags`` gives for all of the text together. Rows that have
    been left out of the table (``min_count``) do not count for the sum, so count without.

    Args:
        counts: The table, of tokens or of tokens with tags.
        n: How many; None for all of them.
        idf: "jieba" for the idf of jieba (what ``jieba.analyse.set_idf_path`` has set in this
            process, else the file that comes with jieba); the path of a file as jieba takes it,
            ``word idf`` on each line; or a mapping. Words that are not in it have the median. Or
            "corpus" for that of the corpus itself, which needs document frequencies: ``ln((1 + N)
            / (1 + df)) + 1`` for N documents, df of which hold the word. That is the smooth idf of
            scikit-learn: https://scikit-learn.org/stable/modules/feature_extraction.html
        stop_words: Words to leave out beside those of jieba, in lower case: the path of a file with
            a word on each line, the words, or "zh" for the list of Chinese words that ships.
        with_tags: Whether a word with two tags is two words, as with jieba's ``withFlag``. If not,
            their counts are added up.

    Returns:
        The words, the largest weight first. Equal weights are in the order of the keys' code
        points; jieba has them in the order in which the text has them, which a table does not know.

    Raises:
        OptionError: If it is no table, or one of n-grams, or has no document frequencies that are
            asked for; or if the idf or the stop words are none.
        OSError: If the file of the idf or of the stop words cannot be read.

    >>> from perftricks.wordcount import count_words
    >>> counts = count_words(["小明在中国科学院计算所", "计算所很大"], document_frequency=True)
    >>> [word.key for word in keywords(counts, 2)]
    ['计算所', '小明']
    >>> keywords(counts, 1, idf="corpus")
    [Keyword(key='计算所', weight=0.4, count=2, document_frequency=2)]
    """
    check_counts(counts)
    check(counts, idf=idf, with_tags=with_tags)
    stopped = {*_jieba_stop_words(), *read_stop_words(stop_words)[0]}
    of_corpus = idf == CORPUS
    weigh = _smooth_idf(counts) if of_corpus else _given_idf(load_idf(idf))

    def kept() -> Iterator[tuple[Any, int, int | None]]:
        for key, count, documents in _rows(counts, with_tags=with_tags):
            word = key.token if isinstance(key, Tagged) else key
            if len(word.strip()) >= 2 and word.lower() not in stopped:
                yield key, count, documents

    total = float(sum(count for _, count, _ in kept()))
    found = (
        Keyword(
            key,
            count * (weigh(key.token if isinstance(key, Tagged) else key, documents) / total),
            count,
            documents,
        )
        for key, count, documents in kept()
    )
    if n is None:
        return sorted(found, key=_order)
    return heapq.nsmallest(n, found, key=_order)


def check(counts: WordCounts, *, idf: Idf, with_tags: bool = True) -> None:
    """Check that keywords can be found in a table.

    Raises:
        OptionError: If not.
    """
    if counts.are_ngrams:
        raise OptionError("keywords are words; the table counts n-grams")
    if idf != CORPUS:
        return
    if counts.facts.documents is None:
        raise OptionError(
            "idf 'corpus' needs the number of documents, which the table does not say; .parquet "
            "and .arrow do"
        )
    if len(counts) and not counts.has_document_frequency:
        raise OptionError(
            "idf 'corpus' needs document frequencies; count with document_frequency (--doc-freq)"
        )
    if not with_tags and counts.are_tagged:
        raise OptionError(
            "idf 'corpus': in how many documents a word is with one tag or another is not known; "
            "count without pos"
        )


def load_idf(idf: Idf) -> tuple[Mapping[str, float], float]:
    """Return word -> idf, and the median for other words.

    Args:
        idf: "jieba", a path, or a mapping.

    Raises:
        OptionError: If a line of the file is not ``word idf``, a value of the mapping is no finite
            number, or there is nothing in it.
        OSError: If it cannot be read.
    """
    if isinstance(idf, Mapping):
        found = {word: _finite(word, value) for word, value in idf.items()}
        return found, _median(found.values(), "the mapping")
    if idf == JIEBA:
        analyse = sys.modules.get("jieba.analyse")
        if analyse is not None:
            table, median = analyse.default_tfidf.idf_freq, analyse.default_tfidf.median_idf
            return table, float(median)
        idf = _jieba_file()
    name = f"idf {os.fspath(idf)!r}"
    try:
        text = read_small_file(idf, "idf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(f"{name}: not UTF-8 (byte {error.start})") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            word, value = line.strip().split(" ")
            found[word] = float(value)
            if not math.isfinite(found[word]):
                raise ValueError
        except ValueError:
            raise OptionError(
                f"{name}, line {number}: {line[:50]!r}; expected 'word idf', with one space"
            ) from None
    return found, _median(found.values(), name)


def _finite(word: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"the mapping: the idf of {word!r} is {value!r}; expected a number")
    return number


def _jieba_file() -> str:
    spec = importlib.util.find_spec("jieba")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return os.path.join(spec.submodule_search_locations[0], "analyse", "idf.txt")


def _median(values: Iterable[float], name: str) -> float:
    """Return the middle one, of an even number the greater, as jieba does."""
    ordered = sorted(values)
    if not ordered:
        raise OptionError(f"{name}: no word is in it")
    return ordered[len(ordered) // 2]


def _jieba_stop_words() -> Iterable[str]:
    """Return what ``jieba.analyse.set_stop_words`` has set in this process, else jieba's own."""
    analyse = sys.modules.get("jieba.analyse")
    words: Iterable[str] = _STOP_WORDS if analyse is None else analyse.default_tfidf.stop_words
    return words


def _given_idf(given: tuple[Mapping[str, float], float]) -> Callable[[str, int | None], float]:
    table, median = given
    return lambda word, _: table.get(word, median)


def _smooth_idf(counts: WordCounts) -> Callable[[str, int | None], float]:
    documents = 1 + counts.documents
    return lambda _, frequency: math.log(documents / (1 + (frequency or 0))) + 1


def _rows(counts: WordCounts, *, with_tags: bool) -> Iterator[tuple[Any, int, int | None]]:
    if with_tags or not counts.are_tagged:
        for part in counts.columns(ordered=False):
            for key, count, documents in part.rows():
                yield key, count, documents if counts.has_document_frequency else None
        return
    sums: Counter[str] = Counter()
    for part in counts.columns(ordered=False):
        for key, count, _ in part.rows():
            sums[key.token] += count
    yield from ((word, count, None) for word, count in sums.items())


def _order(word: Keyword) -> tuple[float, Any]:
    return -word.weight, word.key
