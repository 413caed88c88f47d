"""Tables merge, grow, survive a trip to the disk; bad input is refused."""

import jieba
import pytest

from perftricks.wordcount.kernel import InvalidUTF8, TextCounter, TokenTable

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
    assert table.doc_freq_dict() == frequencies
    assert {gram: count for gram, count, _ in table.ngram_items()} == grams
    assert {gram: count for gram, _, count in table.ngram_items()} == gram_frequencies
    assert counter.documents == documents
    assert not [p for p in tmp_path.iterdir() if p.name != "first"]


def test_most_common(default_engine, text):
    """The most frequent tokens come in order, equal counts by code point."""
    counter = TextCounter(*default_engine)
    counter.feed(text.encode())
    counts = sorted(expected(jieba.dt, text)[0].items(), key=lambda pair: (-pair[1], pair[0]))
    for n in (0, 1, 10, 10**9):
        assert counter.table().most_common(n) == counts[:n]


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
