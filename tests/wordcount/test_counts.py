from __future__ import annotations

import pickle
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from perftricks.wordcount import (
    OptionError,
    WordCounts,
    count_words,
    keywords,
    settings,
    write_cloud,
    write_plot,
    write_report,
    write_table,
)
from perftricks.wordcount.settings import TableFilter


@pytest.fixture
def counts():
    return WordCounts(
        {"b": 2, "a": 2, "茶": 5, "z": 1},
        documents=3,
        document_frequency={"b": 1, "a": 2, "茶": 3, "z": 1},
    )


def test_order(counts):
    """Tokens come by count, then by code point, and so does iteration."""
    assert counts.most_common() == [("茶", 5), ("a", 2), ("b", 2), ("z", 1)]
    assert list(counts) == ["茶", "a", "b", "z"]
    assert list(counts.items()) == counts.most_common()


def test_words_only():
    """A word holds a letter, as Unicode has it."""
    words = ["茶", "tea", "é", "ß", "4K", "C++", "Ω", "ж", "ー", "ª"]
    others = ["，", "。", " ", "\t", "2024", "3.5%", "", "①", "½", "…", "😀", "_", "\ud800"]
    counts = WordCounts(dict.fromkeys([*words, *others], 1), documents=1)
    assert set(counts.filtered(words_only=True)) == set(words)
    texts = ["我爱喝茶，3杯。 tea"]
    assert set(count_words(texts, words_only=True)) == {"我", "爱", "喝茶", "杯", "tea"}
    pairs = count_words(texts, words_only=True, ngrams=2)
    assert pairs == {("我", "爱"): 1, ("爱", "喝茶"): 1}


def test_stop_words_that_ship():
    """The list of Chinese words holds words only, each once, that jieba knows."""
    chosen = TableFilter.make("zh", 1, 0).chosen
    assert 500 < len(chosen.stop_words) < 1000
    assert all(word.strip() == word and any(map(str.isalpha, word)) for word in chosen.stop_words)
    lines = (Path(settings.__file__).parent / "stop_words" / "zh.txt").read_text().splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    assert len(words) == len(set(words)) == len(chosen.stop_words)
    counts = count_words(["我们在北京喝茶了"], stop_words="zh")
    assert counts == {"北京": 1, "喝茶": 1}
    assert counts.tokens == 5


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 9, -1])
def test_most_common_is_the_start_of_the_order(counts, n):
    """The first n are the same whether the table has been sorted before or not."""
    before = counts.most_common(n)
    assert before == counts.most_common()[: max(n, 0)]
    assert before == counts.most_common(n)


def test_mapping(counts):
    """It behaves as a mapping."""
    assert counts["茶"] == 5
    assert counts.get("x", 0) == 0
    assert "a" in counts
    assert "x" not in counts
    assert len(counts) == 4
    with pytest.raises(KeyError):
        counts["x"]


def test_equality(counts):
    """It equals any mapping with the same counts, and nothing else."""
    assert counts == {"z": 1, "a": 2, "b": 2, "茶": 5}
    assert counts == Counter({"z": 1, "a": 2, "b": 2, "茶": 5})
    assert counts == WordCounts(dict(counts), documents=99)
    assert counts != {"a": 2}
    assert counts != [("a", 2)]


def test_frozen(counts):
    """It can be changed neither by its own names nor through its parts."""
    with pytest.raises(AttributeError):
        counts.documents = 4
    with pytest.raises(TypeError):
        counts["a"] = 3
    with pytest.raises(TypeError):
        counts.document_frequency["a"] = 3
    with pytest.raises(TypeError):
        hash(counts)
    counts.to_counter()["a"] = 99
    assert counts["a"] == 2


def test_totals(counts):
    """Tokens are the sum of the counts unless it is said how many there were."""
    assert counts.tokens == 10
    assert WordCounts({"a": 1}, documents=1, tokens=7).tokens == 7


def test_filtered(counts):
    """Filters drop rows of both columns and leave the totals alone."""
    kept = counts.filtered(min_count=2, min_length=1, stop_words=["a"])
    assert kept == {"茶": 5, "b": 2}
    assert kept.document_frequency == {"茶": 3, "b": 1}
    assert (kept.documents, kept.tokens) == (3, 10)
    assert counts.filtered(min_length=2) == {}
    assert counts.filtered() is counts


def test_filtered_takes_what_counting_takes(tmp_path):
    """A str is the name of a list or a file, not its letters; what is none is refused."""
    texts = ["我们在北京喝茶了，z h"]
    whole = count_words(texts)
    (tmp_path / "stop.txt").write_text("北京\n，\n", encoding="utf-8")
    for words in ("zh", tmp_path / "stop.txt", str(tmp_path / "stop.txt"), ("喝茶", " "), None):
        assert whole.filtered(stop_words=words) == count_words(texts, stop_words=words)
    with pytest.raises(FileNotFoundError, match="stop words '北京'"):
        whole.filtered(stop_words="北京")
    for wrong in ({"stop_words": [1]}, {"min_count": "3"}, {"min_count": 2.5}, {"min_length": -1}):
        with pytest.raises(OptionError):
            whole.filtered(**wrong)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"茶": 1.5}, "'茶' has 1.5; expected a whole number"),
        ({"茶": "3"}, "'茶' has '3'"),
        ({"茶": -1}, "'茶' has -1; expected 0"),
        ({"茶": 2**63}, r"expected 0 to 2\*\*63 - 1"),
        ({3: 1}, "3 is a key"),
        ({None: 1}, "None is a key"),
        (["茶"], "counts is a list"),
    ],
)
def test_what_no_table_can_hold_is_refused(counts, message):
    """It would be written as something else."""
    with pytest.raises((TypeError, ValueError), match=message):
        WordCounts(counts, documents=1)


def test_numbers_of_numpy_are_counts():
    """They are whole numbers too, and add up and are written like others."""
    counts = WordCounts({"茶": np.int64(3)}, documents=1, document_frequency={"茶": np.int8(2)})
    assert type(counts["茶"]) is int
    assert counts == {"茶": 3}
    assert counts.document_frequency == {"茶": 2}


def test_pickle(counts):
    """It survives a pickle."""
    copy = pickle.loads(pickle.dumps(counts))
    assert copy == counts
    assert copy.document_frequency == counts.document_frequency
    assert (copy.documents, copy.tokens) == (3, 10)


def test_repr():
    """The repr shows the first few and the totals."""
    assert (
        repr(WordCounts({}, documents=0)) == "WordCounts({}, 0 distinct of 0 tokens in 0 documents)"
    )
    many = WordCounts({chr(97 + i): 1 for i in range(9)}, documents=1)
    assert repr(many).endswith("'f': 1, ...}, 9 distinct of 9 tokens in 1 document)")


class Stressed(WordCounts):
    """Looks words up in a way of its own."""

    __slots__ = ()

    def __getitem__(self, token):
        return 10 * super().__getitem__(token)


def test_lookups():
    """A lookup is a dict's; a subclass may look up otherwise; nothing is kept alive."""
    counts = WordCounts({"茶": 2, "水": 1}, documents=1)
    assert counts["茶"] == WordCounts({"茶": 2}, documents=1)["茶"] == 2
    assert counts.__getitem__.__self__ == {"茶": 2, "水": 1}
    assert dict(Stressed({"茶": 2}, documents=1)) == {"茶": 20}
    with pytest.raises(KeyError, match="奶"):
        counts["奶"]
    unused = weakref.ref(WordCounts({"茶": 2}, documents=1))
    assert unused() is None


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("a.tsv", write_table),
        ("a.html", write_report),
        ("a.svg", write_plot),
        ("a.svg", write_cloud),
        ("", lambda _, counts: keywords(counts)),
    ],
)
def test_what_is_no_table(tmp_path, name, call):
    """A Counter says nothing of documents: it is refused, and nothing is written."""
    with pytest.raises(OptionError, match=r"got Counter; WordCounts\(counts, documents=\.\.\.\)"):
        call(tmp_path / name, Counter("茶水"))
    with pytest.raises(OptionError, match="counts must be WordCounts, got list"):
        call(tmp_path / name, ["茶"])
    assert not list(tmp_path.iterdir())
