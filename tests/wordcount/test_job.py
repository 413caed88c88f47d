from __future__ import annotations

import collections
import gzip
import os
import signal
import subprocess
import sys
import threading
import warnings

import pytest

from perftricks.parallel import WorkerCrashedError
from perftricks.wordcount import CorpusError, OptionError, count_files, count_words, job
from tests.conftest import PATIENCE
from tests.wordcount.conftest import naive

METHODS = ["naive", "batched", "parallel"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_methods_give_the_same_table(texts, expected, method, batch_size):
    """Every method gives the naive table, whatever the size of batches."""
    if method == "naive" and batch_size == 1:
        batch_size = 3
    counts = count_words(texts, method=method, batch_size=batch_size)
    assert counts == expected
    assert counts.run.method == method


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers(corpus, expected, workers):
    """The number of workers changes nothing but itself."""
    counts = count_files(corpus, method="parallel", workers=workers, batch_size=10)
    assert counts == expected
    assert counts.run.workers == workers


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_start_methods(texts, expected, start_method):
    """Workers that are no forks give the same table."""
    assert count_words(texts, method="parallel", workers=2, start_method=start_method) == expected


@pytest.mark.parametrize("method", METHODS)
def test_document_frequency(texts, expected, method):
    """The document frequency is the number of documents that hold a token."""
    counts = count_words(texts, document_frequency=True, method=method)
    assert counts == expected
    assert counts.tokens == sum(expected.values())
    frequency = collections.Counter()
    for text in texts:
        frequency.update(set(naive([text])))
    assert counts.document_frequency == frequency


def test_without_document_frequency(texts):
    """It is None unless asked for."""
    assert count_words(texts).document_frequency is None


def test_files_in_every_way(tmp_path, texts, expected):
    """Files, folders and compressed files are counted together."""
    lines = [text + "\n" for text in texts]
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_bytes("".join(lines[:50]).encode())
    (tmp_path / "sub" / "b.txt.gz").write_bytes(gzip.compress("".join(lines[50:]).encode()))
    (tmp_path / "sub" / "c.png").write_bytes(b"\xff")
    counts = count_files(tmp_path, workers=2, batch_size=20)
    assert counts == expected
    assert counts.documents == len(texts)
    assert (counts.run.files, counts.run.passed_over) == (2, 1)
    assert counts.run.text_bytes == len("".join(lines).encode())
    assert counts.run.stored_bytes < counts.run.text_bytes


def test_document_file(tmp_path):
    """A whole file as a document gives jieba its line ends too."""
    path = tmp_path / "a.txt"
    path.write_bytes("喝茶\r\n喝茶\n\r".encode())
    counts = count_files(path, document="file")
    assert counts == naive(["喝茶\r\n喝茶\n\r"])
    assert counts["\r\n"] == counts["\n"] == counts["\r"] == 1


def test_choice_of_method(texts, monkeypatch):
    """Left to choose, a short text is counted here, in however many documents, a long one not."""
    options = {"tokenizer": "chars", "workers": 2}
    assert count_words(texts, **options).run.method == "batched"
    assert count_words(["茶"] * 9000, batch_size=10, **options).run.method == "batched"
    assert count_words(["茶"] * 200_000, **options).run.method == "parallel"
    assert count_words(["茶 " * 100_000], **options).run.method == "parallel"
    assert count_words(["茶"] * 200_000, tokenizer="chars", workers=1).run.method == "batched"
    monkeypatch.setattr(job, "available_cores", lambda: 1)
    assert count_words(["茶"] * 200_000, tokenizer="chars").run.workers == 1


@pytest.mark.parametrize("method", [None, *METHODS])
def test_empty_corpus(tmp_path, method):
    """An empty corpus is an empty table."""
    (tmp_path / "a.txt").write_bytes(b"")
    counts = count_files(tmp_path, method=method, document_frequency=True)
    assert counts == {}
    assert (counts.documents, counts.tokens, counts.document_frequency) == (0, 0, {})


def test_filters(tmp_path):
    """Words are left out of the table at the end; the totals say what was counted."""
    texts = ["茶 茶 tea the the the \u3000"]
    stop = tmp_path / "stop.txt"
    stop.write_bytes("\ufeff  the \r\n\n\u3000\n \n".encode())
    counts = count_words(texts, stop_words=stop, min_length=1, min_count=1)
    assert counts == {"茶": 2, "tea": 1}
    assert counts.tokens == naive(texts)[" "] + 7
    assert count_words(texts, stop_words=["the", " "], min_count=2, min_length=1) == {"茶": 2}
    assert count_words(texts, min_length=3) == {"the": 3, "tea": 1}


@pytest.mark.parametrize("method", METHODS)
def test_progress(corpus, method):
    """Progress goes from 0 to the size of the files, never back."""
    seen = []
    count_files(corpus, method=method, batch_size=25, progress=lambda *state: seen.append(state))
    size = corpus.stat().st_size
    done = [state[0] for state in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, size)
    assert {state[1] for state in seen} == {size}


def test_progress_over_compressed_bytes(tmp_path, texts):
    """For compressed files progress counts the bytes as stored."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress("\n".join(texts).encode()))
    seen = []
    count_files(path, progress=lambda *state: seen.append(state))
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_progress_of_a_generator(texts):
    """For documents from a generator nobody knows the total."""
    seen = []
    count_words(iter(texts), progress=lambda *state: seen.append(state))
    assert seen[-1] == (len("".join(texts).encode()), None)


@pytest.mark.parametrize("method", METHODS)
def test_bad_data_on_the_way(tmp_path, texts, method):
    """Bad data ends every method with the same error."""
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(texts).encode() + b"\xff")
    with pytest.raises(CorpusError, match="0xff is not utf-8"):
        count_files(path, method=method, batch_size=10)


@pytest.mark.parametrize("method", METHODS)
def test_generator_that_raises(method):
    """What the documents raise reaches the caller."""

    def documents():
        yield "茶"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        count_words(documents(), method=method)


def test_worker_that_dies():
    """A document that kills its worker ends the count with its number."""

    def cut(text):
        if text == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return text.split()

    with pytest.raises(WorkerCrashedError, match=r"item 3 .*SIGKILL"):
        count_words(["a", "b", "c", "kill", "d"], tokenizer=cut, method="parallel", workers=2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"method": "fast"},
            "method must be naive, batched, parallel, compiled or None, not 'fast'",
        ),
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"workers": 1.5}, "workers must be a whole number, not 1.5"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": True}, "batch_size must be a whole number, not True"),
        ({"method": "naive", "workers": 2}, "'naive' cannot be used: it works in one process"),
        ({"method": "batched", "workers": 2}, "'batched' cannot be used: it works in one process"),
        ({"min_count": -1}, "min_count must not be negative, got -1"),
        ({"min_length": -1}, "min_length must not be negative, got -1"),
    ],
)
def test_bad_options(options, problem):
    """An option that cannot be used is an error before a document is read."""

    def documents():
        raise AssertionError("a document was read")
        yield

    with pytest.raises(OptionError, match=problem):
        count_words(documents(), **options)


def test_stop_words_that_cannot_be_read(tmp_path):
    """Stop words must be there and UTF-8."""
    with pytest.raises(FileNotFoundError, match=r"stop words '.*' does not exist"):
        count_words([], stop_words=tmp_path / "no.txt")
    path = tmp_path / "stop.txt"
    path.write_bytes(b"\xff")
    with pytest.raises(OptionError, match=r"stop words '.*stop\.txt': not UTF-8 \(byte 0\)"):
        count_words([], stop_words=path)


def test_what_is_no_document():
    """One string instead of many is an error, and so is a document that is no string."""
    with pytest.raises(TypeError, match="texts is one string; expected an iterable of them"):
        count_words("喝茶")
    with pytest.raises(TypeError, match="document 1 is of type bytes, not str"):
        count_words(["a", b"b"])


def test_lone_surrogates():
    """A lone surrogate, which a jsonl file can hold, is counted as jieba cuts it."""
    texts = ["a\ud800茶"]
    assert count_words(texts, method="parallel") == naive(texts)


def test_options_of_the_wrong_kind(tmp_path):
    """What an option cannot be is said before anything is counted."""
    for options, problem in (
        ({"stop_words": [b"a"]}, "stop words are strings; one is b'a'"),
        ({"start_method": "foo"}, "start_method must be fork, forkserver, fresh, spawn or None"),
        ({"batch_size": None}, "batch_size must be a whole number, not None"),
        ({"min_count": None}, "min_count must be a whole number, not None"),
    ):
        with pytest.raises(OptionError, match=problem):
            count_words(["a"], **options)
    (tmp_path / "a.csv").write_text("x,茶\n", encoding="utf-8")
    assert count_files(os.fsencode(tmp_path / "a.csv"), field=2) == {"茶": 1}


def test_very_many_workers():
    """Threads are made when there is a text for them."""
    counts = count_words(["我们喝茶"], method="compiled", workers=1_000_000)
    assert counts == naive(["我们喝茶"])


def test_warnings_and_threads():
    """Counting in threads leaves the program's warnings as they are."""
    before = list(warnings.filters)

    def count():
        for _ in range(30):
            count_words(["我们喝茶"], method="batched")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_tokenizer_whose_module_has_changed():
    """Where workers would import its module anew, the calling process counts; with a note."""
    code = """
import sys, threading, types
from perftricks.wordcount import count_words
from tests.wordcount.stateful import LEFT_OUT, cut
LEFT_OUT.add("a")
texts = ["a b c " * 100] * 9000
run = count_words(texts, tokenizer=cut, workers=2)
assert (run, run.run.method) == ({"b": 900_000, "c": 900_000}, "parallel"), run.run
waiting = threading.Event()
threading.Thread(target=waiting.wait, daemon=True).start()
run = count_words(texts, tokenizer=cut, workers=2)
assert (run, run.run.method) == ({"b": 900_000, "c": 900_000}, "batched"), run.run
assert "not parallel: workers start afresh" in run.run.note
lock = threading.Lock()
assert count_words(texts, tokenizer=lambda text: lock and text.split(), workers=2)["a"] == 900_000
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=PATIENCE)
