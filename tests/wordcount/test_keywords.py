"""Keywords by TF-IDF: ``jieba.analyse.extract_tags`` says what is exact."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import warnings

import jieba
import pytest

from perftricks.wordcount import (
    OptionError,
    count_files,
    count_words,
    keywords,
    read_table,
    write_keywords,
    write_table,
)
from perftricks.wordcount.writing.keyword_tables import records

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jieba's own, about a file that it leaves open
    import jieba.analyse

# jieba leaves files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MORE = [
    "The quick Fox THE fox of a or That and words: TensorFlow tensorflow",
    "　全角　空格 a b c 12 3.14 100%",
    "自然语言处理与人工智能，人工智能的应用；自然语言",
]


@pytest.fixture(scope="module")
def corpus_texts(texts):
    """Documents with words of every kind."""
    return [*texts, *MORE]


@pytest.fixture
def extractor():
    """What jieba extracts with, as it is when nobody has changed it."""
    return jieba.analyse.TFIDF()


def pairs(words):
    """Keys and weights."""
    return [(word.key, word.weight) for word in words]


def same(found, expected):
    """Whether two lists are the same but for the order of equal weights."""
    assert [weight for _, weight in found] == [weight for _, weight in expected]
    for (_, some), (_, others) in zip(
        itertools.groupby(found, lambda pair: pair[1]),
        itertools.groupby(expected, lambda pair: pair[1]),
        strict=True,
    ):
        assert sorted(key for key, _ in some) == sorted(
            tuple(key) if not isinstance(key, str) else key for key, _ in others
        )


@pytest.mark.parametrize("method", ["naive", "compiled"])
def test_a_corpus_has_the_weights_of_all_its_text_together(corpus_texts, extractor, method):
    """To the last bit, and no word more or less."""
    if method == "compiled":
        pytest.importorskip("numba")
    found = keywords(count_words(corpus_texts, method=method), None)
    same(pairs(found), extractor.extract_tags("\n".join(corpus_texts), topK=None, withWeight=True))
    counts = count_words(corpus_texts)
    assert all(word.count == counts[word.key] for word in found)


def test_each_text_has_the_weights_that_jieba_gives_it(corpus_texts, extractor):
    """A text is a corpus of one document."""
    for text in corpus_texts:
        found = keywords(count_words([text], method="naive"), None)
        same(pairs(found), extractor.extract_tags(text, topK=None, withWeight=True))


def test_the_first_ones_are_those_of_the_whole_list(corpus_texts):
    """Equal weights are in the order of code points."""
    counts = count_words(corpus_texts)
    whole = keywords(counts, None)
    assert whole == sorted(whole, key=lambda word: (-word.weight, word.key))
    assert keywords(counts, 7) == whole[:7]
    assert len(keywords(counts)) == 20
    assert keywords(counts, 0) == []
    assert keywords(count_words([]), 5) == []


@pytest.mark.parametrize("tags", [("n",), ("n", "v", "ns", "eng")])
def test_words_with_tags(corpus_texts, extractor, tags):
    """As with allowPOS, with and without the flags."""
    counts = count_words(corpus_texts, pos=tags)
    options = {"topK": None, "withWeight": True, "allowPOS": tags}
    text = "\n".join(corpus_texts)
    same(pairs(keywords(counts, None)), extractor.extract_tags(text, withFlag=True, **options))
    same(pairs(keywords(counts, None, with_tags=False)), extractor.extract_tags(text, **options))


def test_a_file_of_idf(corpus_texts, extractor, tmp_path):
    """As ``set_idf_path`` takes it; so is a mapping."""
    path = tmp_path / "idf.txt"
    path.write_text("人工智能 3.5\n应用 0.25\n语言 1e-3\n中国科学院 9\n", encoding="utf-8")
    extractor.set_idf_path(str(path))
    expected = extractor.extract_tags("\n".join(corpus_texts), topK=None, withWeight=True)
    counts = count_words(corpus_texts)
    same(pairs(keywords(counts, None, idf=path)), expected)
    table = {"人工智能": 3.5, "应用": 0.25, "语言": 1e-3, "中国科学院": 9.0}
    assert keywords(counts, None, idf=table) == keywords(counts, None, idf=path)


def test_stop_words(corpus_texts, extractor, tmp_path):
    """As ``set_stop_words`` takes them: a token is compared in lower case."""
    path = tmp_path / "stop.txt"
    path.write_text("人工智能\ntensorflow\nQuick\n", encoding="utf-8")
    extractor.set_stop_words(str(path))
    expected = extractor.extract_tags("\n".join(corpus_texts), topK=None, withWeight=True)
    words = path.read_text(encoding="utf-8").split()
    found = pairs(keywords(count_words(corpus_texts), None, stop_words=words))
    same(found, expected)
    assert "TensorFlow" not in dict(found)
    assert pairs(keywords(count_words(corpus_texts), None, stop_words=path)) == found


def test_a_str_of_stop_words_names_a_list_or_a_file():
    """It is not taken for its letters."""
    counts = count_words(["我们在北京喝茶，我们喝茶"])
    assert [word.key for word in keywords(counts, stop_words="zh")] == ["喝茶", "北京"]
    with pytest.raises(FileNotFoundError, match="stop words '北京'"):
        keywords(counts, stop_words="北京")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", None])
def test_a_mapping_that_is_no_idf(value):
    """What is no number is refused, as in a file."""
    with pytest.raises(OptionError, match="the idf of '茶馆' is"):
        keywords(count_words(["茶馆"]), idf={"喝茶": 2.0, "茶馆": value})


def test_what_the_program_has_set_in_jieba_analyse_holds(corpus_texts, tmp_path):
    """Idf and stop words of ``jieba.analyse``; in a process of its own, since they stay."""
    (tmp_path / "idf.txt").write_text("人工智能 3.5\n应用 0.25\n", encoding="utf-8")
    (tmp_path / "stop.txt").write_text("自然语言\n", encoding="utf-8")
    program = f"""
import warnings; warnings.simplefilter("ignore")
import jieba, jieba.analyse
from perftricks.wordcount import count_words, keywords
jieba.setLogLevel(60)
jieba.analyse.set_idf_path({str(tmp_path / "idf.txt")!r})
jieba.analyse.set_stop_words({str(tmp_path / "stop.txt")!r})
text = {MORE[2]!r}
expected = dict(jieba.analyse.extract_tags(text, withWeight=True))
assert expected and "自然语言" not in expected
assert {{w.key: w.weight for w in keywords(count_words([text]), None)}} == expected
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_jieba_analyse_need_not_be_imported(corpus_texts):
    """Its file and its stop words are found without it, and are the same."""
    program = f"""
import sys, json, warnings; warnings.simplefilter("ignore")
from perftricks.wordcount import count_words, keywords
words = keywords(count_words({MORE!r}), None)
assert "jieba.analyse" not in sys.modules
print(json.dumps([(w.key, w.weight) for w in words]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    expected = jieba.analyse.TFIDF().extract_tags("\n".join(MORE), topK=None, withWeight=True)
    same([tuple(pair) for pair in json.loads(ran.stdout)], expected)


def test_the_list_of_stop_words_is_that_of_jieba():
    """It is written out here, since importing jieba.analyse takes a second."""
    import importlib

    module = importlib.import_module("perftricks.wordcount.tfidf")
    assert module._STOP_WORDS == jieba.analyse.TFIDF.STOP_WORDS


@pytest.mark.parametrize("pos", [False, True])
def test_the_idf_of_the_corpus(corpus_texts, pos):
    """It is ln((1 + N) / (1 + df)) + 1."""
    counts = count_words(corpus_texts, document_frequency=True, pos=pos)
    found = keywords(counts, None, idf="corpus")
    total = sum(word.count for word in found)
    for word in found:
        frequency = counts.document_frequency[word.key]
        idf = math.log((1 + counts.documents) / (1 + frequency)) + 1
        assert word.weight == word.count * (idf / total)
        assert word.document_frequency == frequency
    assert {word.key for word in found} == {word.key for word in keywords(counts, None)}


def test_a_table_on_the_disk(corpus_texts):
    """It is read part by part."""
    counts = count_words(corpus_texts, memory_limit=20_000, method="naive")
    assert counts.run.spilled
    assert keywords(counts, 9) == keywords(count_words(corpus_texts), 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no word"),
        ("茶\n".encode(), "line 1"),
        ("茶 1\n\n".encode(), "line 2"),
        ("茶 many\n".encode(), "line 1"),
        ("茶 nan\n".encode(), "line 1"),
        ("茶  1\n".encode(), "line 1"),
        ("茶 1\n".encode("gb18030"), "not UTF-8"),
    ],
)
def test_a_file_that_is_no_idf(tmp_path, content, message):
    """The error says which line."""
    path = tmp_path / "idf.txt"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        keywords(count_words(["茶馆"]), idf=path)


def test_what_is_not_known_is_refused(texts, tmp_path):
    """N-grams, tables without document frequencies, and files without a number of documents."""
    with pytest.raises(OptionError, match="n-grams"):
        keywords(count_words(texts, ngrams=2))
    with pytest.raises(OptionError, match="document frequencies"):
        keywords(count_words(texts), idf="corpus")
    write_table(tmp_path / "a.tsv", count_words(texts, document_frequency=True))
    with pytest.raises(OptionError, match="number of documents"):
        keywords(read_table(tmp_path / "a.tsv"), idf="corpus")
    with pytest.raises(OptionError, match="without pos"):
        keywords(
            count_words(texts, pos=True, document_frequency=True), idf="corpus", with_tags=False
        )


@pytest.mark.parametrize("options", [{}, {"pos": True}, {"document_frequency": True}])
@pytest.mark.parametrize("extension", ["tsv", "csv", "json", "parquet", "arrow", "feather"])
def test_files_of_keywords(corpus, tmp_path, extension, options):
    """Every format holds the same rows, and a weight is the same number."""
    words = keywords(count_files(corpus, **options), None)
    path = tmp_path / f"words.{extension}"
    write_keywords(path, words)
    rows = list(records(words))
    if extension == "json":
        found = json.loads(path.read_text(encoding="utf-8"))
    elif extension in ("tsv", "csv"):
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        separator = "\t" if extension == "tsv" else ","
        columns = header.split(separator)
        found = [dict(zip(columns, line.split(separator), strict=True)) for line in lines]
        found = [
            {name: type(row[name])(cell) for name, cell in cells.items()}
            for cells, row in zip(found, rows, strict=True)
        ]
    else:
        pyarrow = pytest.importorskip("pyarrow")
        table = (
            pytest.importorskip("pyarrow.parquet").read_table(path)
            if extension == "parquet"
            else pyarrow.ipc.open_file(path).read_all()
        )
        found = table.to_pylist()
    assert found == rows
    assert list(found[0]) == list(rows[0])


def test_words_of_a_user_dictionary_have_the_median(corpus_texts):
    """So does every word that the idf does not have."""
    counts = count_words(["云计算方面的专家"], user_dict=["云计算方面 1000 n"])
    word = next(word for word in keywords(counts) if word.key == "云计算方面")
    assert word.weight == 1 * (jieba.analyse.default_tfidf.median_idf / 2)
