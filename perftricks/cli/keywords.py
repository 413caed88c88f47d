"""``perftricks wordcount --tfidf``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perftricks.wordcount.table.counts import WordCounts
    from perftricks.wordcount.tfidf import Keyword


@dataclass(frozen=True)
class KeywordOptions:
    """Which keywords are wanted.

    Attributes:
        n: How many; None for all of them.
        idf: What is given with --idf: "jieba", "corpus", or the words of a file.
        name: What to call that.
        stop_words: Words to leave out.
    """

    n: int | None
    idf: str | Mapping[str, float]
    name: str
    stop_words: frozenset[str]

    @classmethod
    def make(cls, n: int, idf: str | None, stop_words: frozenset[str]) -> KeywordOptions:
        """Read the file of the idf, if there is one, before the work.

        Raises:
            OptionError: If it is none.
            OSError: If it cannot be read.
        """
        from perftricks.wordcount.tfidf import CORPUS, JIEBA, load_idf

        given = JIEBA if idf is None else idf
        known = given in (JIEBA, CORPUS)
        return cls(n or None, given if known else load_idf(given)[0], given, stop_words)

    def of(self, counts: WordCounts) -> list[Keyword]:
        """Return the keywords of a table."""
        from perftricks.wordcount.tfidf import keywords

        return keywords(counts, self.n, idf=self.idf, stop_words=self.stop_words)

    def describe(self) -> str:
        """Say what the weights are made with."""
        from perftricks.wordcount.tfidf import CORPUS

        formula = ": ln((1 + documents) / (1 + document frequency)) + 1"
        what = f"idf of the corpus{formula}" if self.name == CORPUS else f"idf of {self.name}"
        more = f" and {len(self.stop_words):,} more" if self.stop_words else ""
        return f"{what}; without the stop words of jieba{more}"
