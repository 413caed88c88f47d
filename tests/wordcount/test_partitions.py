"""A corpus in partitions: each document once, wherever ranges of bytes begin and end."""

from __future__ import annotations

import json
import pickle
import random
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perftricks.wordcount import CorpusError, OptionError, count_files
from perftricks.wordcount.job import FileJob
from perftricks.wordcount.reading.documents import read_documents
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.partitions import divided, in_words
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


# --------------------------------------------------------------------- row groups, record batches

ARROW = ["a.parquet", "a.arrow"]


@pytest.fixture
def pq():
    """The module of pyarrow for .parquet."""
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


def write_groups(path, groups, *, wrap=None):
    """Write texts, each list of them as a row group, or a record batch; return the path."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    wrap = wrap or (lambda column: {"n": pa.array(range(len(column)), pa.int64()), "text": column})
    make = pq.ParquetWriter if path.suffix == ".parquet" else pa.ipc.new_file
    with make(path, pa.RecordBatch.from_pydict(wrap(pa.array([], pa.string()))).schema) as writer:
        for texts in groups:
            writer.write(pa.RecordBatch.from_pydict(wrap(pa.array(texts, pa.string()))))
    return path


def texts_in(generator, rows):
    """Draw texts."""
    return ["".join(generator.choices("茶水火木金é a\n", k=9)) for _ in range(rows)]


def groups_of(rows, number):
    """Draw texts in groups of a number of rows each."""
    generator = random.Random(3)
    return [texts_in(generator, rows) for _ in range(number)]


TEXT = ReadOptions(field="text")
SOME_ROWS = st.lists(st.sampled_from([0, 1, 2, 70, 300]), max_size=9)


@pytest.mark.parametrize("name", ARROW)
@given(rows=SOME_ROWS, size=st.integers(1, 9000))
def test_each_row_once(tmp_path_factory, name, rows, size):
    """Partitions of any size hold the rows of the file, empty groups or none, and its bytes."""
    groups = [texts_in(random.Random(number), n) for number, n in enumerate(rows)]
    path = write_groups(tmp_path_factory.mktemp("rows") / name, groups)
    corpus = find_sources(path)
    whole, divided_meter = Meter(), Meter()
    expected = documents(corpus.sources[0], TEXT, whole)
    parts = list(divided(corpus, TEXT, size))
    assert expected == [text for group in groups for text in group]
    assert [text for part in parts for text in documents(part, TEXT, divided_meter)] == expected
    assert divided_meter.text == whole.text == sum(len(text.encode()) for text in expected)
    assert divided_meter.stored == whole.stored == path.stat().st_size
    assert sum(part.size for part in parts) == path.stat().st_size
    if name == "a.parquet":
        assert len(parts) <= max(1, sum(map(bool, rows)))


@pytest.mark.parametrize("name", ARROW)
def test_row_groups_are_grouped(tmp_path, name):
    """Groups are partitions of their own where they are large, and share one where they are not."""
    corpus = find_sources(write_groups(tmp_path / name, groups_of(300, 12)))
    assert len(list(divided(corpus, TEXT, 1))) == 12
    parts = list(divided(corpus, TEXT, corpus.size // 4 + 1))
    assert [len(documents(part, TEXT)) for part in parts] == [900] * 4
    assert len({part.size // 100 for part in parts}) <= 2
    assert list(divided(corpus, TEXT, corpus.size)) == list(corpus.sources)


@pytest.mark.parametrize("name", ARROW)
@pytest.mark.parametrize("more", [{}, {"document_frequency": True}, {"ngrams": 2}], ids=str)
@pytest.mark.parametrize("method", ["naive", "compiled"])
def test_tables_of_row_groups_add_up(tmp_path, name, method, more):
    """Jobs of row groups that were pickled add up to the whole job, in any order."""
    path = write_groups(tmp_path / name, groups_of(50, 7))
    whole = job(path, options=TEXT, method=method, **more)
    parts = [pickle.loads(pickle.dumps(part)).run() for part in whole.divided(1)]
    assert len(parts) == 7
    random.Random(1).shuffle(parts)
    total, expected = sum(parts), whole.run()
    assert list(total.rows()) == list(expected.rows())
    assert (total.documents, total.tokens) == (expected.documents, expected.tokens)
    assert sum(part.run.text_bytes for part in parts) == expected.run.text_bytes
    assert sum(part.run.stored_bytes for part in parts) == expected.run.stored_bytes


@pytest.mark.parametrize("name", ARROW)
def test_fields_of_row_groups(tmp_path, name):
    """A field inside another, one with a dot in its name, and one by its number are found."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

    def wrap(column):
        inner = pa.StructArray.from_arrays([column, column], ["b", "c"])
        return {"a": inner, "x.y": column, "n": pa.array(range(len(column)), pa.int64())}

    groups = groups_of(40, 6)
    corpus = find_sources(write_groups(tmp_path / name, groups, wrap=wrap))
    expected = [text for group in groups for text in group]
    for field in ("a.b", "x.y", "2"):
        options = ReadOptions(field=field)
        parts = list(divided(corpus, options, 1))
        assert len(parts) == 6
        assert [text for part in parts for text in documents(part, options)] == expected


@pytest.mark.parametrize("name", ARROW)
def test_row_groups_at_a_url(tmp_path, name, monkeypatch):
    """Row groups are found in a few bytes of a URL's file, and read from there by themselves."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    from perftricks.wordcount.reading.urls import FileSystem

    groups = groups_of(3000, 8)
    path = write_groups(tmp_path / name, groups)
    url = f"memory://{uuid.uuid4().hex}/{name}"
    fsspec.filesystem("memory").pipe({url: path.read_bytes()})
    read = []

    def counted(self, real=FileSystem.open):
        file = real(self)
        take = file.read

        def look(size=-1):
            data = take(size)
            read.append(len(data))
            return data

        file.read = look
        return file

    corpus = find_sources(url)
    with monkeypatch.context() as patch:
        patch.setattr(FileSystem, "open", counted)
        assert list(divided(corpus, TEXT, corpus.size)) == list(corpus.sources)
        assert not read
        parts = list(divided(corpus, TEXT, 1))
        assert 0 < sum(read) < min(corpus.size / 5, 70_000)
        read.clear()
        assert documents(parts[3], TEXT) == groups[3]
        assert sum(read) < corpus.size / 2
    assert len(parts) == 8
    assert [text for part in parts for text in documents(part, TEXT)] == [
        text for group in groups for text in group
    ]
    assert sum(part.run() for part in job(url, options=TEXT).divided(1)) == count_files(
        path, field="text"
    )


@pytest.mark.parametrize("name", ARROW)
@pytest.mark.parametrize("method", ["naive", "compiled"])
def test_rows_are_numbered_from_the_beginning_of_the_file(tmp_path, name, method):
    """Errors are those of one run over the file, with the number of the row in the file."""
    groups = groups_of(100, 6)
    groups[4][23] = None
    path = write_groups(tmp_path / name, groups)
    for field, problem in {
        "text": r"row 424: column 'text' is null; expected a string",
        "n": "column 'n' is int64; expected strings",
        "x": "no column 'x'; the columns are: 'n', 'text'",
    }.items():
        whole = job(path, options=ReadOptions(field=field), method=method)
        with pytest.raises(CorpusError, match=problem) as expected:
            whole.run()
        with pytest.raises(CorpusError) as found:
            sum(part.run() for part in whole.divided(1))
        assert str(found.value) == str(expected.value)


def test_damaged_row_groups(tmp_path, pq):
    """A damaged row group is an error of its own partition; of a damaged file there is but one."""
    path = write_groups(tmp_path / "a.parquet", groups_of(200, 6))
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(3).column(1).data_page_offset
    data[place : place + 30] = b"\xff" * 30
    path.write_bytes(data)
    whole = job(path, options=TEXT)
    with pytest.raises(CorpusError, match=r"a\.parquet.*: not parquet: ") as expected:
        whole.run()
    parts = list(whole.divided(1))
    assert [part.run().documents for part in parts[:3]] == [200] * 3
    with pytest.raises(CorpusError) as found:
        parts[3].run()
    assert str(found.value) == str(expected.value)
    for broken in (data[:-9], data[: len(data) // 2], b"PAR1" + bytes(99) + b"PAR1"):
        path.write_bytes(broken)
        (part,) = divided(find_sources(path), TEXT, 1)
        with pytest.raises(CorpusError, match=r"a\.parquet.*: not parquet: "):
            documents(part, TEXT)


def test_what_has_no_row_groups(tmp_path):
    """A stream of Arrow, a file without rows, and files that may be bad are one partition each."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = pa.table({"text": ["茶", "水"] * 99})
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    write_groups(tmp_path / "none.parquet", [])
    write_groups(tmp_path / "empty.parquet", [[], []])
    write_groups(tmp_path / "none.arrow", [])
    for name, rows in (
        ("stream.arrow", 198),
        ("none.parquet", 0),
        ("empty.parquet", 0),
        ("none.arrow", 0),
    ):
        corpus = find_sources(tmp_path / name)
        assert list(divided(corpus, TEXT, 1)) == list(corpus.sources)
        assert len(documents(corpus.sources[0], TEXT)) == rows
        assert job(tmp_path / name, options=TEXT).run().documents == rows
    write_groups(tmp_path / "many.parquet", groups_of(9, 9))
    corpus = find_sources(tmp_path / "many.parquet", skip_bad=True)
    assert list(divided(corpus, TEXT, 1)) == list(corpus.sources)


ROWS = ["rows 1 to 600", "rows 601 to 1,200"]
BATCHES = ["record batches 1 to 1", "record batches 2 to 2"]


def test_partitions_in_words(tmp_path):
    """What a partition is of a file is said in its own unit."""
    lines = tmp_path / "a.txt"
    lines.write_text("茶\n" * 999)
    for path, size, first, last in (
        (lines, 2000, "bytes 0 to 2,000", "bytes 2,000 to 3,996"),
        (write_groups(tmp_path / "a.parquet", groups_of(600, 2)), 1, *ROWS),
        (write_groups(tmp_path / "a.arrow", groups_of(9, 2)), 1, *BATCHES),
    ):
        options = ReadOptions(field="text")
        parts = list(divided(find_sources(path), options, size))
        assert in_words(parts[0]) == f"{first} of {path}"
        assert in_words(parts[-1]).startswith(last)
        assert in_words(find_sources(path).sources[0]) == str(path)
