"""Rows as columns are the same rows, in the same order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perftricks.wordcount.table import columns as columns_module
from perftricks.wordcount.table.columns import Columns, Strings, columns_of
from perftricks.wordcount.table.rows import Filter

# NUL is what is put behind the end of a token, and eight bytes are compared at once.
CHARACTERS = st.sampled_from(["\0", "a", "é", "茶", "水", "\ud800", "\uffff", "😀", "\n", " "])
TOKENS = st.text(CHARACTERS, max_size=12) | st.text(st.sampled_from("\0茶"), max_size=30)


@settings(deadline=None)
@given(st.lists(TOKENS))
@example(["a" * 8, "a" * 8 + "\0", "a" * 16, "a" * 16 + "\0" * 9, "a" * 7, ""])
def test_strings(tokens):
    """Strings come back, and are sorted as Python sorts them; equal ones are told."""
    strings = Strings.of(tokens)
    assert len(strings) == len(tokens)
    assert strings.decoded() == tokens
    order, repeats = strings.order()
    expected = sorted(tokens)
    assert strings.taken(order).decoded() == expected
    assert repeats.tolist() == [
        row > 0 and expected[row] == expected[row - 1] for row in range(len(expected))
    ]
    half = len(tokens) // 2
    assert strings[:half].decoded() == tokens[:half]
    assert Strings.joined([strings[half:], strings[:half]]).decoded() == (
        tokens[half:] + tokens[:half]
    )


@settings(deadline=None)
@given(st.dictionaries(TOKENS, st.tuples(st.integers(1, 3), st.integers(0, 2**60))), st.booleans())
def test_order(table, document_frequency):
    """Rows are put in the order of tables."""
    rows = [(key, *numbers) for key, numbers in table.items()]
    columns = Columns.of_rows(rows, document_frequency=document_frequency)
    expected = sorted(rows, key=lambda row: (-row[1], row[0]))
    if not document_frequency:
        expected = [(key, count, 0) for key, count, _ in expected]
    assert list(columns.ordered().rows()) == expected


@settings(deadline=None, max_examples=30)
@given(st.lists(TOKENS), st.lists(st.integers(-3, 3), min_size=1))
def test_order_by_numbers_first(tokens, numbers):
    """Strings tell apart what numbers do not; parts come in that order."""
    before = np.resize(np.array(numbers, np.int64), len(tokens))
    strings = Strings.of(tokens)
    rows = list(zip(before.tolist(), tokens, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns_module, "PART_ROWS", 2)
        order, repeats = strings.order(before)
        parts = list(Columns(strings, -before).ordered_parts())
    expected = sorted(rows)
    assert [rows[row] for row in order] == expected
    assert repeats.tolist() == [
        row > 0 and expected[row] == expected[row - 1] for row in range(len(expected))
    ]
    assert [row[:2] for part in parts for row in part.rows()] == [
        (token, -number) for number, token in expected
    ]


@settings(deadline=None)
@given(st.dictionaries(st.tuples(TOKENS, TOKENS, TOKENS), st.integers(1, 3)))
def test_order_of_ngrams(table):
    """N-grams are ordered token by token, as tuples are."""
    rows = [(key, count, 0) for key, count in table.items()]
    columns = Columns.of_rows(rows, document_frequency=False)
    assert list(columns.rows()) == rows
    assert list(columns.ordered().rows()) == sorted(rows, key=lambda row: (-row[1], row[0]))
    assert columns.ngram == (3 if rows else 0)


@settings(deadline=None)
@given(
    st.dictionaries(TOKENS, st.integers(1, 3))
    | st.dictionaries(st.tuples(TOKENS, TOKENS), st.integers(1, 3)),
    st.builds(Filter, st.integers(1, 3), st.integers(0, 3), st.frozensets(TOKENS), st.booleans()),
)
def test_filters(table, chosen):
    """The rows that are kept are those that are kept one by one."""
    rows = [(key, count, 0) for key, count in table.items()]
    columns = Columns.of_rows(rows, document_frequency=False)
    words = frozenset(
        word for key in list(table)[::2] for word in ([key] if isinstance(key, str) else key[:1])
    )
    for one in (chosen, replace(chosen, stop_words=words), Filter()):
        expected = [row for row in rows if one.keeps(row[0], row[1])]
        assert list(columns.filtered(one).rows()) == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(TOKENS, st.integers(1, 2**40), st.integers(0, 9)))
    | st.lists(st.tuples(st.tuples(TOKENS, TOKENS), st.integers(1, 9), st.integers(0, 9))),
    st.booleans(),
)
def test_sums(rows, document_frequency):
    """Rows of the same key add up."""
    counts, documents = Counter(), Counter()
    for key, count, held in rows:
        counts[key] += count
        documents[key] += held if document_frequency else 0
    columns = Columns.of_rows(rows, document_frequency=document_frequency)
    assert list(columns.summed().rows()) == [
        (key, counts[key], documents[key]) for key in sorted(counts)
    ]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8])
def test_parts(monkeypatch, size):
    """Rows come in parts, whatever their number, and parts make up the whole again."""
    monkeypatch.setattr(columns_module, "PART_ROWS", 4)
    rows = [(("茶" * i, "b"), 9 - i, i) for i in range(size)]
    parts = list(columns_of(iter(rows), document_frequency=True))
    assert [len(part) for part in parts] == [4] * (size // 4) + [size % 4] * (size % 4 > 0)
    if size:
        whole = Columns.joined(parts)
        assert list(whole.rows()) == rows
        assert [row for part in whole.parts(3) for row in part.rows()] == rows
        backwards = whole.taken(np.arange(size)[::-1])
        assert list(backwards.rows()) == rows[::-1]
