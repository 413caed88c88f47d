"""Method "compiled" gives the table of the pure methods, whatever is counted and however."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import sys
from collections import Counter

import jieba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perftricks.wordcount import CorpusError, OptionError, count_files, count_words
from perftricks.wordcount.methods import compiled
from perftricks.wordcount.reading import pieces
from tests.wordcount.conftest import PIECES, in_chunks, naive

MODES = [("default", True), ("default", False), ("search", True), ("search", False), ("all", True)]
DICTIONARY = "云计算办 5 n\n小明硕 1000\n石墨烯\n喝 0\n"


@pytest.fixture
def lines():
    """Documents with line ends of all kinds in them, to be written as they are."""
    generator = random.Random(3)
    ends = ["\n", "\r\n", "\n\n", "\r", "\r\r\n", "\n\r"]
    return "".join(generator.choice([*PIECES, *ends]) for _ in range(1500))


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of a few hundred bytes, so that a small text has many."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 300)
    monkeypatch.setattr(compiled, "PIECE_BYTES", 300)
    monkeypatch.setattr(pieces, "read_bytes", in_chunks)


def same(first, second):
    """Compare all there is to compare."""
    assert first == second
    assert first.documents == second.documents
    assert first.tokens == second.tokens
    assert first.document_frequency == second.document_frequency
    assert first.most_common(30) == second.most_common(30)
    assert list(first) == list(second)


def both(count, *arguments, **options):
    """Count with the kernel and with one loop; return the kernel's table, which must equal it."""
    compiled = count(*arguments, method="compiled", **options)
    options.pop("workers", None)
    same(compiled, count(*arguments, method="naive", **options))
    assert compiled.run.method == "compiled"
    return compiled


@pytest.mark.parametrize(("mode", "hmm"), MODES)
@pytest.mark.parametrize("document", ["line", "file"])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("more", [{}, {"ngrams": 2}, {"document_frequency": True}])
def test_text_files(tmp_path, lines, small_pieces, mode, hmm, document, dictionary, workers, more):
    """Text files give the naive table in every mode, with every dictionary, on every thread."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("\ufeff茶\r\n最后一行".encode()))
    options = {"mode": mode, "hmm": hmm, "document": document, "workers": workers, **more}
    if dictionary:
        (tmp_path / "words.dict").write_text(DICTIONARY, encoding="utf-8")
        options["user_dict"] = tmp_path / "words.dict"
    both(count_files, tmp_path, **options)


@pytest.mark.parametrize("ngrams", [1, 3])
@pytest.mark.parametrize("frequency", [False, True])
def test_records_and_encodings(tmp_path, texts, small_pieces, ngrams, frequency):
    """Records and other encodings give the naive table, documents with line ends included."""
    texts = [*texts, "两\n行\r\n", "\r", "\n", "\ud800 茶\ud800"]
    records = "".join(json.dumps({"t": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(records, encoding="ascii")
    more = {"ngrams": ngrams, "document_frequency": frequency}
    both(count_files, tmp_path / "a.jsonl", field="t", **more)
    (tmp_path / "b.csv").write_bytes('id,t\r\n1,"茶\n水"\r\n2,茶\r\n'.encode())
    both(count_files, tmp_path / "b.csv", field="t", **more)
    (tmp_path / "c.txt").write_bytes("喝茶\r\n喝水".encode("gb18030"))
    both(count_files, tmp_path / "c.txt", encoding="gb18030", **more)
    (tmp_path / "d.txt").write_bytes("喝茶\xff\n水".encode("latin-1", "ignore") + b"\xe8\x8c")
    for errors in ("replace", "ignore"):
        both(count_files, tmp_path / "d.txt", errors=errors, **more)
    both(count_files, [tmp_path / "a.jsonl", tmp_path / "b.csv"], field="t", **more)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.one_of(st.sampled_from([*PIECES, "\n", "\r\n"]), st.characters()), max_size=8)
        .map("".join),
        max_size=8,
    ),
    case=st.sampled_from(MODES),
    ngrams=st.integers(1, 3),
    frequency=st.booleans(),
)  # fmt: skip
def test_any_documents(texts, case, ngrams, frequency):
    """Documents of any characters, lone surrogates and line ends included, give the naive table."""
    mode, hmm = case
    options = {"mode": mode, "hmm": hmm, "ngrams": ngrams, "document_frequency": frequency}
    both(count_words, texts, **options)


@settings(max_examples=30, deadline=None)
@given(
    content=st.lists(
        st.sampled_from(["茶", "中国", "，", "a", "\n", "\r", "\r\n", "😀", "é", "\ufeff"]),
        max_size=300,
    ).map("".join),
    document=st.sampled_from(["line", "file"]),
    size=st.integers(1, 60),
)
def test_pieces_cut_anywhere(tmp_path_factory, content, document, size):
    """Where a text is cut into pieces changes neither the table nor the number of documents."""
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", size)
        patch.setattr(pieces, "read_bytes", in_chunks)
        both(count_files, path, document=document)


def test_live_dictionary(texts, restored_jieba):
    """Words that were added to jieba, deleted or forced apart before the call count as jieba's."""
    texts = [*texts, "石墨烯电池很快", "中国科学院", "如果放到post中将出错"]
    jieba.add_word("石墨烯电池")
    assert both(count_words, texts)["石墨烯电池"] == 1
    jieba.del_word("中国科学院")
    assert "中国科学院" not in both(count_words, texts)
    jieba.suggest_freq(("中", "将"), True)
    assert both(count_words, texts) == naive(texts)


def test_replaced_expression(texts, monkeypatch):
    """A program that replaces jieba's regular expression gets the words it then cuts."""
    import re

    monkeypatch.setattr(jieba, "re_han_default", re.compile("([\u4e00-\u9fd5a-zA-Z0-9+# ]+)"))
    both(count_words, texts)


@pytest.mark.parametrize("before", ["", "茶\n" * 300, "茶" * 500 + "\n"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe4\xb8", b"\xed\xa0\x80", b"\xe4\xb8a"])
@pytest.mark.parametrize("after", ["", "\n茶\n", "，茶" * 400])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_bytes_that_are_not_utf8(tmp_path, small_pieces, before, bad, after, name):
    """Bytes that are not UTF-8 are reported with the same words and position by all methods."""
    content = b"\xef\xbb\xbf" + before.encode() + bad + after.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    problems = []
    for method in ("naive", "compiled"):
        with pytest.raises(CorpusError) as raised:
            count_files(path, method=method)
        problems.append((str(raised.value), raised.value.offset))
    assert problems[0] == problems[1]


def test_bad_bytes_come_before_a_broken_end(tmp_path):
    """Of two faults in a file all methods report the same one."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"tea\xff" + random.Random(1).randbytes(3_000_000))[:-2000])
    problems = []
    for method in ("naive", "compiled"):
        with pytest.raises(CorpusError) as raised:
            count_files(path, method=method)
        problems.append(str(raised.value))
    assert problems[0] == problems[1]


def test_one_long_line(tmp_path):
    """A line of many pieces is one document, and is not held in memory as a whole."""
    path = tmp_path / "a.txt"
    path.write_bytes(("我们在北京喝茶，" * 1000).encode() * 500)
    counts = count_files(path, method="compiled", workers=2)
    assert counts == {token: n * 500_000 for token, n in naive(["我们在北京喝茶，"]).items()}
    assert counts.documents == 1


def test_a_file_without_line_ends_that_is_no_text(tmp_path, small_pieces):
    """Bytes that are no text are found before all of the file is in memory."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 200 + b"\xff" * 1_000_000)
    with pytest.raises(CorpusError) as raised:
        count_files(path, method="compiled")
    assert raised.value.offset == 200


def test_standard_input(monkeypatch, texts, expected):
    """The standard input is counted whole, whether it is short or long."""
    data = "\n".join(texts).encode()
    for repeats, method in ((1, "batched"), (100, "compiled")):
        text = (data + b"\n") * repeats
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        counts = count_files("-", workers=1)
        assert counts == {token: n * repeats for token, n in expected.items()}
        assert (counts.run.method, counts.documents) == (method, len(texts) * repeats)
        assert counts.run.text_bytes == len(text)


def test_filters(texts):
    """Words are left out of the kernel's table as of any other."""
    options = {"stop_words": ["，", "的"], "min_count": 2, "min_length": 1}
    both(count_words, texts, **options)
    both(count_words, texts, ngrams=2, document_frequency=True, **options)


@pytest.mark.parametrize("method", ["naive", "batched", "parallel", "compiled"])
def test_ngrams(texts, method):
    """N-grams are the tuples of tokens that follow each other in a document."""
    counts = count_words(texts, ngrams=2, method=method, document_frequency=True)
    expected = Counter()
    documents = Counter()
    for text in texts:
        tokens = jieba.lcut(text)
        pairs = list(itertools.pairwise(tokens))
        expected.update(pairs)
        documents.update(set(pairs))
    assert counts == expected
    assert counts.document_frequency == documents
    assert counts.tokens == sum(expected.values())
    assert counts.run.ngrams == 2


def test_ngrams_without_words_that_are_left_out():
    """An n-gram is left out if one of its tokens is."""
    texts = ["我们 在 北京 喝茶"]
    options = {"tokenizer": "whitespace", "ngrams": 2}
    assert count_words(texts, min_length=2, **options) == {("北京", "喝茶"): 1}
    assert count_words(texts, stop_words=["在"], **options) == {("北京", "喝茶"): 1}


def test_choice(monkeypatch, texts):
    """The kernel is chosen where it is done sooner, and else the table says why it is not."""
    from perftricks.wordcount import kernel

    run = count_words(texts).run
    assert (run.method, run.note) == ("batched", "the text is too short to be worth it")
    run = count_words(["喝茶"] * 10_000, tokenizer="chars", workers=1).run
    assert (run.method, run.note) == ("batched", "the tokenizer is chars, not jieba")
    long = "\n".join(texts) * 30
    assert count_words([long] * 2, workers=1).run.method == "compiled"
    assert count_words([long] * 2, workers=1).run.note == ""
    monkeypatch.setattr(kernel, "readiness", lambda dictionary: kernel.Readiness(False, True))
    run = count_words([long], workers=2).run
    assert (run.method, run.note) == ("parallel", "the text is too short to be worth compiling")


def test_kernel_that_cannot_be_had(monkeypatch, tmp_path, texts, expected):
    """Without the kernel jieba counts, and asking for it is an error; both say why."""
    from perftricks.wordcount import kernel

    def fail(*given, **options):
        raise kernel.UnsupportedDictionary("too many different frequencies")

    monkeypatch.setattr(compiled.Compiled, "estimate", lambda *given: 0.0)
    monkeypatch.setattr(kernel, "load", fail)
    counts = count_words(texts)
    assert counts == expected
    assert counts.run.note == "too many different frequencies"
    with pytest.raises(OptionError, match="'compiled' cannot be used: too many different"):
        count_words(texts, method="compiled")
    monkeypatch.setattr(jieba, "__version__", "0.43")
    assert count_words(texts).run.note.startswith("jieba 0.43: the kernel mirrors jieba 0.42")
    with pytest.raises(OptionError, match=r"'compiled' cannot be used: jieba 0\.43"):
        count_words(texts, method="compiled")


def test_without_numba(monkeypatch, texts, expected):
    """Where numba is not installed jieba counts."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "numba" else find(name)
    )
    assert count_words(texts) == expected
    assert count_words(texts).run.note == "numba is not installed"


def test_progress(tmp_path, texts, small_pieces):
    """Progress goes from 0 to the size of the files, never back, by bytes as stored."""
    content = "\n".join(texts).encode()
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content))
    seen = []
    count_files(tmp_path, method="compiled", progress=lambda *state: seen.append(state))
    done = [state[0] for state in seen]
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert done == sorted(done)
    assert len(set(done)) >= 3
    assert (done[0], done[-1]) == (0, size)
    assert {state[1] for state in seen} == {size}


def test_generator_that_raises():
    """What the documents raise reaches the caller."""

    def documents():
        yield "茶"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        count_words(documents(), method="compiled")
    with pytest.raises(TypeError, match="document 1 is of type bytes, not str"):
        count_words(["a", b"b"], method="compiled")


def test_short_text_without_a_cache(monkeypatch, tmp_path, texts, expected):
    """Where nothing is compiled a short text is counted by jieba, without a look at the kernel."""
    monkeypatch.setenv("PERFTRICKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "why_not", None)
    counts = count_words(texts)
    assert counts == expected
    assert counts.run.note == "the text is too short to be worth compiling"
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("encoding", ["auto", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("document", ["line", "file"])
def test_wide_encodings(tmp_path, lines, encoding, document):
    """UTF-16 and UTF-32 give the table of the same text in UTF-8, plain and compressed."""
    plain, data = tmp_path / "plain", lines.encode("utf-16" if encoding == "auto" else encoding)
    (tmp_path / "wide").mkdir()
    plain.mkdir()
    for name in ("a.txt", "b.txt"):
        (plain / name).write_bytes(lines.encode())
    (tmp_path / "wide" / "a.txt").write_bytes(data)
    (tmp_path / "wide" / "b.txt.gz").write_bytes(gzip.compress(data))
    expected = count_files(plain, document=document, method="naive")
    same(both(count_files, tmp_path / "wide", encoding=encoding, document=document), expected)


def test_skip_bad(tmp_path):
    """Bad files count for nothing, by any method."""
    (tmp_path / "a.txt").write_text("喝茶\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes("好茶\n".encode() * 9 + b"\xff")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("水\n".encode() * 99)[:-3])
    counts = both(count_files, tmp_path, skip_bad=True)
    assert counts == {"喝茶": 1}
    assert [bad.path for bad in counts.run.bad] == [
        str(tmp_path / "b.txt"),
        str(tmp_path / "c.txt.gz"),
    ]
    assert counts.run.files == 1
