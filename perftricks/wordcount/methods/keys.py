"""What is counted for a document: its tokens or n-grams, by the tokenizer itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from perftricks.wordcount.errors import TokenizerError, too_long
from perftricks.wordcount.tokenizers import Cut, TokenizerSpec

# Bytes that jieba takes for each character of a stretch that it cuts as one, and how many
# characters such a stretch may have in any case.
_JIEBA_BYTES = 500
_LONG = 1 << 16


class TokenKeys:
    """Gives what to count for a document: its tokens or n-grams, and each once in a 1-tuple.

    The 1-tuples are there for the document frequency only. They travel in the same table, so that
    a document is either counted in both or in neither.
    """

    def __init__(
        self,
        spec: TokenizerSpec,
        document_frequency: bool,
        ngrams: int = 1,
        *,
        limit: int | None = None,
        plain: bool = False,
    ) -> None:
        self.spec = spec
        self.limit = limit
        self.plain = plain
        self.document_frequency = document_frequency
        self.ngrams = ngrams
        self._cut: Cut | None = None

    def prepare(self, texts: Sequence[str] | None = None) -> None:
        """Make the tokenizer; before workers fork, so that they share it.

        Args:
            texts: The only documents there are, if they are few and short.
        """
        load = functools.partial(self.spec.load, plain=self.plain)
        self._cut = load() if texts is None else self.spec.load_for(texts)

    def __call__(self, text: str) -> Iterable[Any]:
        """Return what to count for a document.

        Raises:
            TokenizerError: If jieba would need more memory for it than the limit.
        """
        if self._cut is None:
            self.prepare()
            assert self._cut is not None
        if self.limit is not None and len(text) > _LONG and self.spec.uses_jieba:
            check_stretches(text, self.limit)
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


def check_stretches(text: str, limit: int) -> None:
    """Look whether jieba can cut a text within a memory limit.

    Args:
        text: A document.
        limit: The limit in bytes.

    Raises:
        TokenizerError: If not.
    """
    from jieba import re_han_default

    if not isinstance(re_han_default, re.Pattern):
        return  # a program has replaced it, and only jieba knows what it does
    longest = max((m.end() - m.start() for m in re_han_default.finditer(text)), default=0)
    if longest > max(limit // _JIEBA_BYTES, _LONG):
        what = f"a stretch of {longest:,} characters that jieba cuts as one"
        need = f"about {longest * _JIEBA_BYTES:,} bytes"
        start = f"a document that starts with {text[:20]!r}"
        raise TokenizerError(f"{start}: {too_long(what, need, limit)}")
