"""The kernel's tables of token ids as tables of tokens: put in order as numbers and bytes.

No Python object is made for a row before somebody asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from perftricks.wordcount.table.columnar import ColumnTable
from perftricks.wordcount.table.columns import PART_ROWS, Columns, Strings, largest

if TYPE_CHECKING:
    from perftricks.wordcount.kernel import TokenTable


def token_table(table: TokenTable) -> ColumnTable:
    """Return the tokens that a table of the kernel counts."""
    ids = table.used_ids()

    def rows(n: int | None = None) -> Columns:
        used = ids[largest(table.tokens.count[ids], n)]
        documents = table.tokens.doc_freq[used] if table.has_doc_freq else None
        return Columns(Strings(*table.encoded(used)), table.tokens.count[used], documents)

    return ColumnTable(
        ids.size,
        table.total,
        table.has_doc_freq,
        lambda n: rows(n).ordered_parts(),
        table.to_dict,
        lambda: iter([rows()]),
    )


def ngram_table(table: TokenTable) -> ColumnTable:
    """Return the n-grams that a table of the kernel counts."""
    n_tokens, size = table.ngram, table.n_ngrams
    count = table.ngrams.count[:size]

    def parts(n: int | None) -> Iterator[Columns]:
        chosen = largest(count, n)
        grams = table.ngrams.gram[: n_tokens * size].reshape(size, n_tokens)[chosen]
        ids, place = np.unique(grams, return_inverse=True)
        tokens = Strings(*table.encoded(ids))
        by_token, _ = tokens.order()
        rank = np.empty(by_token.size, np.int32)
        rank[by_token] = np.arange(by_token.size)
        tokens = tokens.taken(by_token)
        ranks = rank[place.reshape(-1)].reshape(grams.shape)
        order = np.lexsort((*ranks.T[::-1], -count[chosen]))
        for first in range(0, order.size, PART_ROWS):
            rows = order[first : first + PART_ROWS]
            yield Columns(
                tokens.taken(ranks[rows].reshape(-1)),
                count[chosen[rows]],
                table.ngrams.doc_freq[chosen[rows]] if table.has_doc_freq else None,
                n_tokens,
            )

    return ColumnTable(size, int(count.sum()), table.has_doc_freq, parts)
