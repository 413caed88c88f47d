"""A corpus in partitions: each document once, wherever ranges of bytes begin and end."""

from __future__ import annotations

import json
import pickle
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perftricks.wordcount import CorpusError, OptionError, count_files
from perftricks.wordcount.job import FileJob
from perftricks.wordcount.reading.documents import read_documents
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.partitions import divided
from perftricks.wordcount.reading.sources import find_sources
from perftricks.wordcount.reading.streams import Meter, with_whole_lines
from perftricks.wordcount.settings import Settings, TableFilter
from perftricks.wordcount.table.rows import Filter
from perftricks.wordcount.tokenizers import make_spec


def documents(source, options, meter=None):
    """Return the documents of a source."""
    return list(read_documents(with_whole_lines(source), options, meter or Meter()))


def job(path, *, filters=None, options=None, **settings):
    """Make a job."""
    return FileJob(
        find_sources(path),
        options or ReadOptions(),
        Settings(make_spec(), **settings),
        filters or TableFilter(),
    )


LINES = st.lists(st.sampled_from(["", "茶", "喝茶水火" * 3, "a", "\ufeff茶", "\r", "x" * 50]))


@given(
    lines=LINES, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), size=st.integers(1, 60)
)
def test_each_line_once(tmp_path_factory, lines, end, last, size):
    """Partitions of any size hold the documents of the file, and their bytes."""
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    data = end.join([*lines, ""] if last else lines).encode()
    path.write_bytes(data)
    corpus = find_sources(str(path))
    meter = Meter()
    found = []
    for source in divided(corpus, ReadOptions(), size):
        found += documents(source, ReadOptions(), meter)
    assert found == documents(corpus.sources[0], ReadOptions())
    assert meter.text == meter.stored == len(data)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "gbk", "big5", "latin-1"])
def test_encodings(tmp_path, encoding):
    """Encodings whose line ends can be told anywhere are divided."""
    generator = random.Random(1)
    letters = "茶水火木金" if encoding != "latin-1" else "äöüß\x85"
    lines = ["".join(generator.choices(letters, k=generator.randrange(40))) for _ in range(99)]
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(lines).encode(encoding))
    options = ReadOptions(encoding=encoding)
    parts = list(divided(find_sources(str(path)), options, 100))
    assert len(parts) > 10
    assert [text for part in parts for text in documents(part, options)] == lines


def test_what_is_not_divided(tmp_path):
    """Files of which nobody knows where a line begins are whole."""
    path = tmp_path / "a.txt"
    path.write_bytes("茶\n".encode() * 99)
    for options in ({"document": "file"}, {"encoding": "auto"}, {"encoding": "utf-16"}):
        assert len(list(divided(find_sources(path), ReadOptions(**options), 10))) == 1
    assert len(list(divided(find_sources(path, skip_bad=True), ReadOptions(), 10))) == 1
    table = tmp_path / "a.csv"
    table.write_text("text\n" + '"a\nb"\n' * 99)
    assert len(list(divided(find_sources(table), ReadOptions(field="text"), 10))) == 1


def test_a_line_longer_than_partitions(tmp_path, monkeypatch):
    """A line that spans many partitions is in the first, and is not read by each of the others."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" + b"x" * 100_000 + b"\nlast")
    looked = Meter()
    monkeypatch.setattr("perftricks.wordcount.reading.streams._LOOK_BYTES", 100)
    parts = list(divided(find_sources(path), ReadOptions(), 1000))
    assert len(parts) == 101
    with monkeypatch.context() as patch:
        patch.setattr("perftricks.wordcount.reading.streams.Meter", lambda: looked)
        parts = [with_whole_lines(part) for part in parts]
    found = [read_documents(part, ReadOptions(), Meter()) for part in parts]
    assert [text for part in found for text in part] == ["one", "x" * 100_000, "last"]
    # To its end by the first, and within its own range by each of the others, both ends once.
    assert looked.stored < 2 * 100_000 + 2 * 100 * len(parts)


@pytest.mark.parametrize("method", ["naive", "compiled", None])
@pytest.mark.parametrize("more", [{}, {"document_frequency": True}, {"ngrams": 2}])
def test_tables_add_up(corpus, method, more):
    """Jobs that were pickled give tables whose sum, in any order, is that of the whole job."""
    whole = job(corpus, method=method, filters=TableFilter(Filter(min_count=3)), **more)
    parts = [pickle.loads(pickle.dumps(part)).run() for part in whole.divided(700)]
    assert len(parts) > 5
    random.Random(1).shuffle(parts)
    total = sum(pickle.loads(pickle.dumps(part)) for part in parts)
    expected = replace(whole, table_filter=TableFilter()).run()
    assert list(total.rows()) == list(expected.rows())
    assert (total.documents, total.tokens) == (expected.documents, expected.tokens)
    assert sum(part.run.text_bytes for part in parts) == expected.run.text_bytes
    assert list(whole.table_filter.apply(total).rows()) == list(whole.run().rows())


def test_many_files(tmp_path, texts):
    """Files are divided one after the other, also such of JSON lines; empty ones have no part."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"t": t}) + "\n" for t in texts))
    (tmp_path / "b.txt").write_text("喝茶\n" * 99)
    (tmp_path / "c.txt").write_text("")
    options = ReadOptions(field="t")
    parts = [part.run() for part in job(tmp_path, options=options).divided(500)]
    assert sum(parts) == count_files(tmp_path, field="t")


@pytest.mark.parametrize("method", ["naive", "compiled"])
def test_bad_bytes_are_named_by_their_place_in_the_file(tmp_path, method):
    """An error in a partition names the byte of the file."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n" * 100 + b"bad \xff\n" + b"good\n" * 100)
    with pytest.raises(CorpusError, match="byte 504: 0xff is not utf-8"):
        sum(part.run() for part in job(path, method=method).divided(100))


def test_what_cannot_be_divided():
    """The standard input cannot be read elsewhere, and nothing has partitions of no size."""
    with pytest.raises(OptionError, match="'<stdin>' is no file"):
        list(job("-").divided())
    with pytest.raises(OptionError, match="at least a byte"):
        list(job("docs/samples").divided(0))
