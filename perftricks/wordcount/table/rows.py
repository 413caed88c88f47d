"""What a row of a table is, what its columns are called, and which rows are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from perftricks.wordcount.errors import OptionError

# (key, count, documents that hold the key or 0), where runs are sorted by key, and
# (-count, key, documents) where they are in the order of a table. All rows of a run have keys of
# one form: a str, a tuple of so many, or a token with its tag.
Row = tuple[Any, Any, int]
Block = list[Row]

# What the columns of a table are called in files.
TOKEN, NGRAM, TAG = "token", "ngram", "tag"
COUNT, DOCUMENT_FREQUENCY = "count", "document_frequency"

# What the parts of a table are called that workers of a cluster write to a folder.
PART_NAME = re.compile(r"part-(\d+)-of-(\d+)\.parquet")


class Tagged(NamedTuple):
    """A token with its part-of-speech tag; equal to the plain tuple of both.

    >>> Tagged("茶", "n") == ("茶", "n")
    True
    """

    token: str
    tag: str


@dataclass(frozen=True)
class Filter:
    """Which rows are kept.

    Attributes:
        min_count: Those with at least this count.
        min_length: Those whose tokens have at least so many characters.
        stop_words: Those none of whose tokens is among these.
        words_only: Those all of whose tokens are words: they hold a letter, as Unicode has it, of
            which Chinese characters are some. Punctuation, blanks and numbers are no words.
        tags: Those with one of these part-of-speech tags, or of the families ``n*``; empty for
            all. In a table of tokens with tags the others look at the token alone.

    Raises:
        OptionError: If a number is none, or negative.
    """

    min_count: int = 1
    min_length: int = 0
    stop_words: frozenset[str] = frozenset()
    words_only: bool = False
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, value in (("min_count", self.min_count), ("min_length", self.min_length)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise OptionError(f"{name} must be a whole number, not {value!r}")
            if value < 0:
                raise OptionError(f"{name} must not be negative, got {value}")

    @property
    def keeps_all(self) -> bool:
        """Whether there is no row that is not kept."""
        return (
            self.min_count <= 1
            and self.min_length <= 0
            and not self.stop_words
            and not self.words_only
            and not self.tags
        )

    def keeps(self, key: Any, count: int) -> bool:
        """Say whether a row is kept."""
        if isinstance(key, Tagged):
            if not self.keeps_tag(key.tag):
                return False
            key = key.token
        tokens = key if isinstance(key, tuple) else (key,)
        return count >= self.min_count and all(
            len(token) >= self.min_length
            and token not in self.stop_words
            and (not self.words_only or any(map(str.isalpha, token)))
            for token in tokens
        )

    def keeps_tag(self, tag: str) -> bool:
        """Say whether tokens with a tag are kept.

        >>> chosen = Filter(tags=frozenset({"v", "n*"}))
        >>> [tag for tag in ("n", "nr", "v", "vn") if chosen.keeps_tag(tag)]
        ['n', 'nr', 'v']
        """
        return (
            not self.tags
            or tag in self.tags
            or any(f"{tag[:end]}*" in self.tags for end in range(len(tag) + 1))
        )


# Bytes that a row takes as Python objects, about: its key, its count, and its place in a dict or
# a list; and the same with the number of documents.
ROW_BYTES = 300
_DOCUMENT_BYTES = 150


def table_bytes(rows: int, *, document_frequency: bool = False) -> int:
    """Return about how many bytes a table of so many rows takes as Python objects."""
    return rows * (ROW_BYTES + (_DOCUMENT_BYTES if document_frequency else 0))
