"""Tables merge, grow, survive a trip to the disk; bad input is refused."""

import jieba
import pytest

from perftricks.wordcount.kernel import InvalidUTF8, TextCounter, TokenTable
from perftricks.wordcount.methods.kernel_tables import ngram_table, token_table

from .reference import expected
from .texts import TextMaker


@pytest.fixture(scope="module")
def text():
    return TextMaker(11).text(25_000)


def test_saved_and_merged_tables(default_engine, text, tmp_path):
    """A table that was saved, loaded and merged is that of the whole text."""
    half = text.index("\n", len(text) // 2) + 1
    counter = TextCounter(*default_engine, ngram=2, doc_freq=True)
    counter.feed(text[:half].encode())
    counter.take_table().save(tmp_path / "first")
    counter.feed(text[half:].encode())
    table = counter.take_table()
    table.merge(TokenTable.load(tmp_path / "first", *default_engine))
    counts, frequencies, grams, gram_frequencies, documents = expected(jieba.dt, text, ngram=2)
    assert table.to_dict() == counts
    assert token_table(table).frequency() == frequencies
    assert {gram: count for gram, count, _ in table.ngram_items()} == grams
    assert {gram: count for gram, _, count in table.ngram_items()} == gram_frequencies
    assert counter.documents == documents
    assert not [p for p in tmp_path.iterdir() if p.name != "first"]


def in_order(counts, documents):
    """Return the rows of a table in its order."""
    keys = sorted(counts, key=lambda key: (-counts[key], key))
    return [(key, counts[key], documents.get(key, 0)) for key in keys]


@pytest.mark.parametrize("doc_freq", [True, False])
def test_tables_of_tokens_and_ngrams(default_engine, text, doc_freq):
    """They give their rows in order, all or the first ones, as Python objects and as columns."""
    counter = TextCounter(*default_engine, ngram=2, doc_freq=doc_freq)
    counter.feed((text + "\n\r\n😀茶😀 \n").encode())
    counts, frequencies, grams, gram_frequencies, _ = expected(
        jieba.dt, text + "\n\r\n😀茶😀 \n", ngram=2
    )
    kernel_table = counter.table()
    for table, rows in (
        (token_table(kernel_table), in_order(counts, frequencies if doc_freq else {})),
        (ngram_table(kernel_table), in_order(grams, gram_frequencies if doc_freq else {})),
    ):
        assert (len(table), table.total) == (len(rows), sum(count for _, count, _ in rows))
        assert [row for part in table.columns() for row in part.rows()] == rows
        for n in (None, 0, 1, 10, 10**9):
            assert list(table.rows(n)) == rows[:n]


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff", b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe4\xb8", b"\xe4", b"\xe0\x80\x80",
        b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80",
        b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf0\x9f\x98",
        b"\xe4\xb8a", b"\xc3a", b"\xf0\x9f\x98a", b"\xe4a\xad",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "中国\n", "x" * 300_000 + "\n"])
@pytest.mark.parametrize("after", ["", "\n中国", "中"])
def test_invalid_utf8_is_reported_where_python_reports_it(default_engine, bad, before, after):
    """Bytes that are not UTF-8 are found where Python finds them."""
    data = before.encode() + bad + after.encode()
    with pytest.raises(UnicodeDecodeError) as python:
        data.decode()
    with pytest.raises(InvalidUTF8) as ours:
        TextCounter(*default_engine, threads=2).feed(data)
    assert ours.value.offset == python.value.start


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_like(default_engine, kind):
    """Every kind of bytes-like object can be fed."""
    counter = TextCounter(*default_engine)
    counter.feed(kind("中国人民".encode()))
    assert sum(counter.table().to_dict().values()) == len(jieba.lcut("中国人民"))
