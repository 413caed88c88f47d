from __future__ import annotations

from perftricks.wordcount import count_words
from perftricks.wordcount.methods import compare
from perftricks.wordcount.methods.batched import Batched
from perftricks.wordcount.methods.compare import compare_methods
from perftricks.wordcount.reading.feeds import TextFeed
from perftricks.wordcount.settings import Settings
from perftricks.wordcount.table.in_memory import MemoryTable
from perftricks.wordcount.tokenizers import TokenizerSpec

SETTINGS = Settings(TokenizerSpec(), workers=2, document_frequency=True)


def test_all_methods_are_equal(texts, expected):
    """Each method is run on all documents, and the tables are found equal."""
    announced = []
    comparison = compare_methods(TextFeed(texts), SETTINGS, progress=announced.append)
    assert announced == ["naive", "batched", "parallel", "compiled"]
    assert [(t.method, t.workers) for t in comparison.timings] == [
        ("naive", 1),
        ("batched", 1),
        ("parallel", 2),
        ("compiled", 2),
    ]
    assert comparison.timings[0].ratio == 1
    assert comparison.equal
    assert comparison.complete
    assert comparison.counts == expected
    assert comparison.documents == len(texts)


def test_sample(texts):
    """A large corpus is cut off after so many bytes, and that is said."""
    comparison = compare_methods(TextFeed(texts), SETTINGS, text_bytes=1000)
    assert not comparison.complete
    assert 0 < comparison.documents < len(texts)
    assert comparison.counts == count_words(texts[: comparison.documents])
    assert comparison.text_bytes >= 1000


def test_difference_is_found(texts, monkeypatch):
    """A method that miscounts is named with what it got wrong."""
    right = Batched.count

    def miscounting(self, work):
        counted = right(self, work)
        found = counted.table.counts()
        return counted._replace(table=MemoryTable({**found, "，": found["，"] + 1}, None))

    monkeypatch.setattr(Batched, "count", miscounting)
    comparison = compare_methods(TextFeed(texts), SETTINGS)
    assert not comparison.equal
    count = comparison.counts["，"]
    assert comparison.differences == {"batched": [("，", count + 1, count)]}


def test_difference_of_document_frequencies(texts):
    """Tables whose counts agree but whose document frequencies do not are unequal."""
    one = count_words(texts, document_frequency=True)
    other = count_words(texts)
    assert compare._differences(one, other) == [("(document frequency)", 0, 0)]
    assert compare._differences(one, one) == []
