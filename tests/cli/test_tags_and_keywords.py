"""``perftricks wordcount --pos`` and ``--tfidf``."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from perftricks.wordcount import count_files, keywords, read_table
from perftricks.wordcount.tagging import import_posseg

TEXT = "我们在北京喝茶，喝茶。\n南京市长江大桥在南京\n他来到了网易杭研大厦 the Tea tea\n"


@pytest.fixture
def corpus(tmp_path):
    """A file of three documents."""
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "options", [(), ("--method", "parallel", "-w", 2), ("--doc-freq",)], ids=str
)
@pytest.mark.parametrize("extension", ["tsv", "csv", "json"])
def test_tags_in_a_file(run, corpus, tmp_path, extension, options):
    """The file holds what a loop over jieba.posseg gives; the screen has a column of tags."""
    table = tmp_path / f"table.{extension}"
    result = run(corpus, "--pos", "ns,v*", "-o", table, *options)
    assert result.status == 0
    expected = Counter(
        (word, flag)
        for line in TEXT.splitlines()
        for word, flag in import_posseg().lcut(line)
        if flag == "ns" or flag.startswith("v")
    )
    assert read_table(table) == expected
    assert result.out.split("\n")[0].split()[:4] == ["token", "tag", "count", "share"]
    assert "left out   what is not tagged ns, v*" in result.out
    assert "jieba.posseg" in result.out


def test_tags_for_machines(run, corpus):
    """Rows have a tag; the options are there."""
    record = run(corpus, "--pos", "all", "--words-only", "--json", "-n", 1).json
    assert record["pos"] == ["all"]
    assert record["top"] == [
        {"token": "喝茶", "tag": "v", "count": 2, "share": 2 / record["tokens"]}
    ]
    assert run(corpus, "--json").json["pos"] is None


def test_sums_of_tables_with_tags(run, corpus, tmp_path):
    """They add up, and a sum keeps some tags."""
    for name in ("a.tsv", "b.json"):
        assert run(corpus, "--pos", "all", "-q", "-o", tmp_path / name).status == 0
    total = tmp_path / "total.csv"
    assert (
        run(
            "--merge", tmp_path / "a.tsv", tmp_path / "b.json", "--pos", "v", "-q", "-o", total
        ).status
        == 0
    )
    assert read_table(total)["喝茶", "v"] == 4
    assert {key.tag for key in read_table(total)} == {"v"}
    assert run(corpus, "-q", "-o", tmp_path / "plain.tsv").status == 0
    result = run("--merge", tmp_path / "plain.tsv", "--pos", "v")
    assert result.status == 2
    assert "has no part-of-speech tags" in result.err
    result = run("--merge", tmp_path / "plain.tsv", tmp_path / "a.tsv")
    assert result.status == 2
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--pos", "noun"), "noun"),
        (("--pos", "n,,v"), "pos"),
        (("--pos", "n", "--ngrams", 2), "--ngrams"),
        (("--pos", "n", "--mode", "search"), "--pos"),
        (("--pos", "n", "--engine", "dask", "--checkpoint", "state"), "--engine"),
        (("--pos", "n", "--tokenizer", "chars"), "--pos"),
        (("--pos", "n", "--doc-freq", "--method", "compiled"), "documents"),
        (("--idf", "corpus"), "--idf"),
        (("--tfidf", 3, "--ngrams", 2), "--tfidf"),
        (("--tfidf", 3, "--min-count", 2), "--min-count"),
        (("--tfidf", 3, "--compare"), "--tfidf"),
        (("--tfidf", 3, "--report", "a.html"), "--report"),
        (("--tfidf", 3, "--idf", "missing.txt"), "missing.txt"),
        (("--tfidf", -1), "--tfidf"),
    ],
    ids=str,
)
def test_what_does_not_go_together(run, corpus, options, word):
    """One line that names the option."""
    result = run(corpus, *options)
    assert result.status == 2
    assert word in result.err
    assert result.err.count("\n") == 1


def test_all_methods_agree_on_tags(run, corpus):
    """--compare runs them, and --verify counts again."""
    record = run(corpus, "--pos", "all", "--compare", "--json").json
    assert record["equal"]
    assert {row["method"] for row in record["methods"]} >= {"naive", "batched", "parallel"}
    result = run(corpus, "--pos", "n", "--method", "compiled", "--verify", 3)
    assert "3 documents counted again by jieba: equal" in result.out


@pytest.mark.parametrize("options", [(), ("--idf", "corpus"), ("--pos", "ns,v,eng")], ids=str)
def test_keywords(run, corpus, tmp_path, options):
    """Screen, summary and file have the keywords in place of the most frequent tokens."""
    given = dict(zip(options[::2], options[1::2], strict=True))
    counts = count_files(corpus, pos=given.get("--pos", False), document_frequency="--idf" in given)
    expected = keywords(counts, 3, idf=given.get("--idf", "jieba"))
    record = run(corpus, "--tfidf", 3, "--json", *options).json
    assert [row["tfidf"] for row in record["keywords"]] == [word.weight for word in expected]
    assert "top" not in record
    result = run(corpus, "--tfidf", 3, "-o", tmp_path / "words.json", *options)
    assert result.status == 0
    assert "tf-idf" in result.out.split("\n")[0]
    rows = json.loads((tmp_path / "words.json").read_text(encoding="utf-8"))
    assert rows == record["keywords"]


def test_stop_words_of_keywords_are_compared_in_lower_case(run, corpus, tmp_path):
    """As jieba.analyse does."""
    (tmp_path / "stop.txt").write_text("tea\n", encoding="utf-8")
    record = run(corpus, "--tfidf", 0, "--json", "--stop-words", tmp_path / "stop.txt").json
    words = [row["token"] for row in record["keywords"]]
    assert "喝茶" in words
    assert not {"tea", "Tea", "the"} & set(words)


def test_keywords_of_a_sum(run, corpus, tmp_path):
    """A table that was written has the same keywords as the text."""
    assert run(corpus, "-q", "-o", tmp_path / "a.tsv").status == 0
    there = run("--merge", tmp_path / "a.tsv", "--tfidf", 4, "--json").json
    assert there["keywords"] == run(corpus, "--tfidf", 4, "--json").json["keywords"]
    refused = run("--merge", tmp_path / "a.tsv", "--tfidf", 4, "--idf", "corpus")
    assert refused.status == 2
    assert "number of documents" in refused.err
