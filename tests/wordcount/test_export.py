from __future__ import annotations

import csv
import json
import os
import re
import stat
import sys

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import feather
from pyarrow import parquet as pq

from perftricks.wordcount import (
    CorpusError,
    OptionError,
    WordCounts,
    count_words,
    read_table,
    write_table,
)
from perftricks.wordcount.reading.sources import find_sources
from perftricks.wordcount.table import columns
from perftricks.wordcount.writing import bulk, delimited
from perftricks.wordcount.writing.escapes import escape, unescape
from perftricks.wordcount.writing.export import check_output

TEXT = ["tsv", "csv", "json"]
ARROW = ["parquet", "arrow", "feather"]
EXTENSIONS = TEXT + ARROW
NASTY = [
    "",
    " ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    '"',
    '""',
    '"a"',
    ",",
    "\\",
    "\\t",
    "\\\\",
    "\x00",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ud800",
    "=1+1",
    "a\tb",
    "a,b",
    " a ",
    "茶",
    "😀",
    "token",
    "null",
    "'",
]
any_token = st.text(st.characters() | st.characters(categories=["Cs", "Cc"]), max_size=6)


def table(tokens):
    counts = {token: 1 + i % 3 for i, token in enumerate(tokens)}
    return WordCounts(counts, documents=1)


def json_can_hold(token):
    """A high and a low surrogate in a row mean one character in JSON."""
    return not re.search("[\ud800-\udbff][\udc00-\udfff]", token)


def arrow_can_hold(token):
    """There are no surrogates in Arrow."""
    return not re.search("[\ud800-\udfff]", token)


def can_hold(extension):
    """Return what says which tokens a format holds."""
    return {"json": json_can_hold, "tsv": bool, "csv": bool}.get(extension, arrow_can_hold)


@pytest.mark.parametrize("extension", EXTENSIONS)
@settings(deadline=None)
@given(tokens=st.lists(any_token, unique=True, max_size=8))
@example(tokens=NASTY)
def test_round_trip(tmp_path_factory, extension, tokens):
    """Every token comes back as it was, in the order of the table."""
    counts = table(filter(can_hold(extension), tokens))
    path = tmp_path_factory.getbasetemp() / f"table.{extension}"
    write_table(path, counts)
    assert list(read_table(path).items()) == counts.most_common()


@pytest.mark.parametrize("extension", EXTENSIONS)
@settings(deadline=None)
@given(
    grams=st.lists(st.tuples(any_token, any_token, any_token), unique=True, max_size=8),
    documents=st.booleans(),
)
@example(grams=list(zip(NASTY, NASTY[1:], NASTY[2:], strict=False)), documents=True)
def test_round_trip_of_ngrams(tmp_path_factory, extension, grams, documents):
    """So does every n-gram."""
    grams = [gram for gram in grams if all(map(can_hold(extension), gram))]
    counts = {gram: 1 + i % 3 for i, gram in enumerate(grams)}
    frequency = {gram: i for i, gram in enumerate(grams)} if documents else None
    written = WordCounts(counts, documents=7, document_frequency=frequency)
    path = tmp_path_factory.getbasetemp() / f"ngrams.{extension}"
    write_table(path, written)
    assert list(read_table(path).rows()) == list(written.rows())


@settings(deadline=None)
@given(
    tokens=st.lists(any_token, unique=True, min_size=1, max_size=8),
    numbers=st.lists(st.integers(1, 10**18 - 1), min_size=8, max_size=8),
)
@example(tokens=NASTY[:8], numbers=[10**n for n in range(8)])
@example(tokens=NASTY[8:16], numbers=[10**n - 1 for n in range(1, 9)])
def test_files_are_what_python_writes(tmp_path_factory, tokens, numbers):
    """What is written many rows at a time is what is written one at a time."""
    counts = WordCounts(dict(zip(tokens, numbers, strict=False)), documents=1)
    rows = counts.most_common()
    path = tmp_path_factory.getbasetemp() / "rows.tsv"
    write_table(path, counts)
    lines = [f"{escape(token)}\t{count}\n" for token, count in rows]
    assert path.read_bytes().decode() == "token\tcount\n" + "".join(lines)
    path = path.with_suffix(".json")
    write_table(path, counts)
    lines = [f"{json.dumps(token, ensure_ascii=False)}: {count}" for token, count in rows]
    expected = "{\n" + ",\n".join(lines) + "\n}\n"
    assert path.read_bytes() == expected.encode("utf-8", "backslashreplace")


BLANKS = [c for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]) if re.match(r"\s", c)]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(st.sampled_from([*BLANKS, *'a",茶あ😀\ud800']), max_size=5),
        st.integers(1, 3),
        min_size=1,
    )
)
@example({blank + "茶": 1 for blank in BLANKS} | {"茶" + blank: 1 for blank in BLANKS})
@example({"茶" + blank + "a": 1 for blank in BLANKS})
def test_what_is_quoted(tmp_path_factory, table):
    """A token is quoted in .csv for quotes, commas and line ends, and for blanks at its ends."""
    path = tmp_path_factory.getbasetemp() / "quoted.csv"
    counts = WordCounts(table, documents=1)
    write_table(path, counts)
    lines = [f"{delimited.quoted(token)},{count}\n" for token, count in counts.most_common()]
    expected = "token,count\n" + "".join(lines)
    assert path.read_bytes() == expected.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 9])
def test_tables_in_parts(tmp_path, monkeypatch, extension, rows):
    """It makes no difference where parts end; progress tells the rows as they are written."""
    monkeypatch.setattr(columns, "PART_ROWS", 4)
    monkeypatch.setattr(delimited, "_PART_BYTES", 20)
    counts = table([f"茶{i}" for i in range(rows)])
    seen = []
    write_table(tmp_path / f"a.{extension}", counts, progress=lambda *rows: seen.append(rows))
    assert list(read_table(tmp_path / f"a.{extension}").items()) == counts.most_common()
    assert seen == [(min(4 * n, rows), rows) for n in range(1, -(-rows // 4) + 1)]


@pytest.mark.parametrize("extension", ARROW)
def test_arrow_knows_what_was_counted(tmp_path, extension):
    """Arrow's formats keep what belongs to a table beside its rows; the others say they do not."""
    counts = WordCounts({"茶": 5, "水": 1}, documents=4, tokens=9).filtered(min_count=2)
    write_table(tmp_path / f"a.{extension}", counts)
    found = read_table(tmp_path / f"a.{extension}")
    assert (found.documents, found.tokens, dict(found)) == (4, 9, {"茶": 5})
    with pytest.raises(ValueError, match="fewer than 2 times cannot be added"):
        found + found
    write_table(tmp_path / "a.tsv", counts)
    found = read_table(tmp_path / "a.tsv")
    assert found.tokens == 5
    with pytest.raises(ValueError, match="does not say how many documents"):
        _ = found.documents
    assert repr(found) == "WordCounts({'茶': 5}, 1 distinct of 5 tokens)"
    assert repr(found + found) == "WordCounts({'茶': 10}, 1 distinct of 10 tokens)"


@pytest.mark.parametrize("extension", ARROW)
def test_what_arrow_cannot_hold(tmp_path, extension):
    """A token that Arrow's strings cannot hold is refused, and nothing is written."""
    with pytest.raises(OptionError, match=r"token 'a\\ud800' holds a lone surrogate"):
        write_table(tmp_path / f"a.{extension}", table(["茶", "a\ud800"]))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("extension", ARROW)
def test_arrow_from_elsewhere(tmp_path, extension):
    """Other programs read the files, and theirs are read."""
    counts = WordCounts({"茶": 3, "a": 7}, documents=4, document_frequency={"a": 1, "茶": 3})
    path = tmp_path / f"a.{extension}"
    write_table(path, counts)
    reader = {"parquet": pq.read_table}.get(extension, feather.read_table)
    assert reader(path).to_pydict() == {
        "token": ["a", "茶"],
        "count": [7, 3],
        "document_frequency": [1, 3],
    }
    other = pa.table(
        {"token": pa.array(["茶", "水"], pa.large_string()), "count": pa.array([1, 2], pa.uint8())}
    )
    writer = {"parquet": pq.write_table}.get(extension, feather.write_feather)
    writer(other, path)
    assert list(read_table(path).items()) == [("水", 2), ("茶", 1)]


def test_arrow_streams_and_folders(tmp_path):
    """A stream of Arrow is read, and a folder of .parquet is one table."""
    one, two = pa.table({"token": ["茶"], "count": [5]}), pa.table({"token": ["水"], "count": [9]})
    with pa.ipc.new_stream(tmp_path / "a.arrow", one.schema) as writer:
        writer.write_table(one)
        writer.write_table(two)
    assert list(read_table(tmp_path / "a.arrow").items()) == [("水", 9), ("茶", 5)]
    folder = tmp_path / "folder"
    folder.mkdir()
    pq.write_table(one, folder / "1.parquet")
    pq.write_table(two, folder / "2.parquet")
    assert list(read_table(folder).items()) == [("水", 9), ("茶", 5)]
    pq.write_table(one, folder / "3.parquet")
    with pytest.raises(CorpusError, match="'茶' is there twice"):
        read_table(folder)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"word": ["茶"], "n": [1]}, "expected columns token, count, found word, n"),
        ({"token": [1], "count": [1]}, "column 'token' is int64, not of strings"),
        ({"token": ["茶"], "count": [1.5]}, "column 'count' is double, not of whole numbers"),
        ({"token": ["茶", None], "count": [1, 2]}, "a value is missing"),
        ({"token": ["茶"], "count": [-1]}, "a count is negative"),
        ({"ngram": [["茶", "水"], ["茶"]], "count": [1, 2]}, "n-grams of different lengths"),
        ({"ngram": [["茶", None]], "count": [1]}, "a value is missing"),
    ],
)
def test_no_tables_of_arrow(tmp_path, columns, problem):
    """What is no table is refused, and the file named."""
    for extension, write in (("parquet", pq.write_table), ("arrow", feather.write_feather)):
        path = tmp_path / f"a.{extension}"
        write(pa.table(columns), path)
        with pytest.raises(CorpusError, match=f"a.{extension}.*: not a table: {problem}"):
            read_table(path)


@pytest.mark.parametrize("extension", ARROW)
def test_damaged_arrow(tmp_path, extension):
    """A file that is cut off, or is something else, is refused."""
    path = tmp_path / f"a.{extension}"
    write_table(path, table(list("abc")))
    whole = path.read_bytes()
    for data in (b"", b"token\tcount\n", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match="not a table"):
            read_table(path)


def test_without_pyarrow(tmp_path, monkeypatch):
    """Where pyarrow is missing, that is said before the work."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for function in (check_output, read_table, lambda path: write_table(path, table("a"))):
        with pytest.raises(OptionError, match=r"needs pyarrow: pip install 'perftricks\[arrow\]'"):
            function(path)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'perftricks\[arrow\]'"):
        table("a").to_arrow()


def test_data_frames():
    """A table becomes one of Arrow, pandas and polars, and is taken as it is by its interface."""
    pytest.importorskip("polars")
    pytest.importorskip("pandas")
    counts = WordCounts({"茶": 3, "a": 7}, documents=4, document_frequency={"a": 1, "茶": 3})
    columns = {"token": ["a", "茶"], "count": [7, 3], "document_frequency": [1, 3]}
    assert counts.to_arrow().to_pydict() == columns
    assert counts.to_pandas().to_dict("list") == columns
    assert counts.to_polars().to_dict(as_series=False) == columns
    assert pa.RecordBatchReader.from_stream(counts).read_all().to_pydict() == columns
    grams = WordCounts({("a", "茶"): 2, ("茶", "a"): 1}, documents=1)
    columns = {"ngram": [["a", "茶"], ["茶", "a"]], "count": [2, 1]}
    assert grams.to_arrow().to_pydict() == columns
    assert grams.to_polars().to_dict(as_series=False) == columns
    assert grams.to_pandas().to_dict("list") == {**columns, "ngram": list(grams)}
    empty = WordCounts({}, documents=0)
    assert empty.to_arrow().to_pydict() == {"token": [], "count": []}
    assert len(empty.to_pandas()) == len(empty.to_polars()) == 0


@pytest.mark.parametrize(
    "options", [{}, {"ngrams": 2}, {"pos": True}, {"document_frequency": True}]
)
def test_data_frames_of_nothing(options):
    """The columns are of the types that they have otherwise: frames of many corpora are joined."""
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    empty, full = (count_words(texts, **options) for texts in ([], ["我们喝茶"]))
    assert empty.to_pandas().dtypes.to_dict() == full.to_pandas().dtypes.to_dict()
    keys = list(full.key_names)
    joined = full.to_pandas().merge(empty.to_pandas(), on=keys, how="left")
    assert joined[keys].equals(full.to_pandas()[keys])
    assert len(pandas.concat([empty.to_pandas(), full.to_pandas()])) == len(full)
    assert empty.to_polars().schema == full.to_polars().schema
    assert polars.concat([empty.to_polars(), full.to_polars()]).equals(full.to_polars())


def test_data_frames_of_lone_surrogates():
    """Pandas can hold them; polars cannot, and that is said."""
    pytest.importorskip("polars")
    pytest.importorskip("pandas")
    counts = WordCounts({"茶": 2, "\ud800": 1}, documents=1)
    assert counts.to_pandas()["token"].tolist() == ["茶", "\ud800"]
    with pytest.raises(ValueError, match="lone surrogate"):
        counts.to_polars()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_round_trip_of_document_frequencies(tmp_path, extension):
    """Document frequencies come back too."""
    counts = WordCounts({"a": 3, "茶": 5}, documents=4, document_frequency={"a": 1, "茶": 4})
    path = tmp_path / f"table.{extension}"
    write_table(path, counts)
    assert list(read_table(path).rows()) == [("茶", 5, 4), ("a", 3, 1)]


def test_what_the_files_look_like(tmp_path):
    """The formats are those that are documented."""
    counts = WordCounts({"茶": 2, 'a"\t,': 1}, documents=1)
    with_frequency = WordCounts({"茶": 2}, documents=1, document_frequency={"茶": 1})
    shapes = {
        "a.tsv": (counts, 'token\tcount\n茶\t2\na"\\t,\t1\n'),
        "a.csv": (counts, 'token,count\n茶,2\n"a""\t,",1\n'),
        "a.json": (counts, '{\n"茶": 2,\n"a\\"\\t,": 1\n}\n'),
        "b.tsv": (with_frequency, "token\tcount\tdocument_frequency\n茶\t2\t1\n"),
        "b.csv": (with_frequency, "token,count,document_frequency\n茶,2,1\n"),
        "b.json": (with_frequency, '{\n"茶": {"count": 2, "document_frequency": 1}\n}\n'),
        "c.json": (WordCounts({}, documents=0), "{}\n"),
        "c.tsv": (WordCounts({}, documents=0), "token\tcount\n"),
    }
    for name, (content, expected) in shapes.items():
        write_table(tmp_path / name, content)
        assert (tmp_path / name).read_bytes().decode() == expected


def test_other_readers(tmp_path):
    """The csv and json modules read the files as well."""
    tokens = [token for token in NASTY if token not in ("\x00", "\ud800")]
    counts = table(tokens)
    write_table(tmp_path / "a.csv", counts)
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [(token, int(count)) for token, count in rows[1:]] == counts.most_common()
    write_table(tmp_path / "a.json", counts)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == counts


def test_csv_from_elsewhere(tmp_path):
    """A table whose lines end in CRLF, or that quotes all tokens, is read."""
    path = tmp_path / "a.csv"
    path.write_bytes('token,count\r\n"茶",2\r\nb,1'.encode())
    assert read_table(path) == {"茶": 2, "b": 1}


@settings(deadline=None)
@given(any_token)
def test_escape(token):
    """Escaping leaves nothing that breaks a line or a column, and can be undone."""
    escaped = escape(token)
    assert unescape(escaped) == token
    assert len(escaped.splitlines()) <= 1
    assert "\t" not in escaped
    escaped.encode()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.tsv", "", "line 1: not a table: expected a header with token, count"),
        ("a.tsv", "word\tn\n", "line 1: not a table: expected a header"),
        (
            "a.tsv",
            "token\tcount\na\t1\nb\n",
            "line 3: not a row of a table: expected 2 columns, found 1",
        ),
        ("a.tsv", "token\tcount\na\tone\n", "line 2: not a row of a table: 'one' is no count"),
        ("a.tsv", "token\tcount\na\\q\t1\n", r"line 2: not a row of a table: unknown escape '\\q'"),
        ("a.tsv", "token\tcount\na\\", "line 2: not a row of a table: "),
        ("a.tsv", "token\tcount\na\t-1\n", "line 2: not a row of a table: '-1' is no count"),
        ("a.tsv", "token\tcount\na\t1\na\t2\n", ": not a table: 'a' is there twice"),
        ("a.json", '{"b": 3, "a": 1, "a": 2}', ": not a table: 'a' is there twice"),
        ("a.json", "[" * 100_000, ": not a table: maximum recursion depth"),
        ("a.csv", "count,token\n", "line 1: not a table"),
        ("a.csv", 'token,count\n"a\nb",1\n"c', "line 4: not a row of a table: expected a token"),
        (
            "a.csv",
            "token,count\na,1,2\n",
            "line 2: not a row of a table: expected 2 columns, found 3",
        ),
        ("a.json", "[1]", ": not a table: expected one object, token -> count"),
        ("a.json", "{", ": not a table: Expecting property name"),
        ("a.json", '{"a": "b"}', ": not a table: the count of 'a' is 'b'"),
    ],
)
def test_bad_table(tmp_path, name, content, problem):
    """A file that is no table is an error with the line."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError) as caught:
        read_table(path)
    assert str(caught.value).removeprefix(str(path)).removeprefix(", ").startswith(problem)


def test_table_that_is_not_utf8(tmp_path):
    """Another encoding is an error with the byte."""
    (tmp_path / "a.tsv").write_bytes("token\tcount\n茶\t1\n".encode("gbk"))
    with pytest.raises(CorpusError, match=r"byte 12: not a table: 0xb2 is not UTF-8"):
        read_table(tmp_path / "a.tsv")


def test_bad_outputs(tmp_path):
    """What cannot be written to is found before the work."""
    (tmp_path / "folder.tsv").mkdir()
    (tmp_path / "in.tsv").write_text("x")
    cases = {
        "a.xlsx": r"unknown extension '.xlsx'; expected .tsv, .csv, .json, .parquet, .arrow or",
        "a": r"no extension; expected .tsv, .csv",
        "a.tsv.gz": r"unknown extension '.gz'",
        "no/a.tsv": r"folder '.*/no' does not exist; create it first",
        "folder.tsv": r"exists and is no regular file; choose another name",
        "in.tsv": r"would overwrite an input; choose another name",
    }
    sources = find_sources(["-", tmp_path / "in.tsv"]).sources
    for name, problem in cases.items():
        with pytest.raises(OptionError, match=problem):
            check_output(tmp_path / name, sources)
    check_output(tmp_path / "OUT.TSV", sources)


def test_input_under_another_name(tmp_path):
    """An input is recognised through a link."""
    (tmp_path / "in.tsv").write_text("x")
    (tmp_path / "out.tsv").symlink_to("in.tsv")
    with pytest.raises(OptionError, match="would overwrite an input"):
        check_output(tmp_path / "out.tsv", find_sources(tmp_path / "in.tsv").sources)


def test_read_only_folder(tmp_path, monkeypatch):
    """A folder that may not be written to is found before the work."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OptionError, match="may not be written to"):
        check_output(tmp_path / "a.tsv")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_all_or_nothing(tmp_path, monkeypatch, failure):
    """If writing ends half-way, the old file is untouched and nothing lies beside it."""
    path = tmp_path / "a.tsv"
    path.write_text("old")

    def fail(columns):
        raise failure

    monkeypatch.setattr(bulk, "numbers_of", fail)
    with pytest.raises(type(failure)):
        write_table(path, table(["a"]))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.tsv"]


def test_permissions(tmp_path):
    """A new file gets the usual permissions, one that is replaced keeps its own."""
    path = tmp_path / "a.tsv"
    before = os.umask(0o027)
    try:
        write_table(path, table(["a"]))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_table(path, table(["a", "b"]))
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_link_stays_a_link(tmp_path):
    """Writing through a link replaces what it points to."""
    (tmp_path / "real").mkdir()
    (tmp_path / "a.tsv").symlink_to("real/b.tsv")
    write_table(tmp_path / "a.tsv", table(["a"]))
    assert (tmp_path / "a.tsv").is_symlink()
    assert read_table(tmp_path / "real" / "b.tsv") == {"a": 1}


def test_relative_output(tmp_path, monkeypatch):
    """A bare name is written to the current folder."""
    monkeypatch.chdir(tmp_path)
    write_table("a.csv", table(["a"]))
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("extension", ["tsv", "csv", "json"])
@pytest.mark.parametrize("tagged", [False, True])
def test_tables_that_other_programs_have_saved(tmp_path, extension, tagged):
    """They begin with a byte order mark, or their lines end as on Windows."""
    counts = count_words(['我们喝茶，a\\b\r,"\t\ufeff'], pos=tagged, document_frequency=not tagged)
    path = tmp_path / f"a.{extension}"
    write_table(path, counts)
    data = path.read_bytes()
    for changed in (data.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + data):
        path.write_bytes(changed)
        assert read_table(path) == counts


def test_output_that_is_a_pipe():
    """Such as ``>(gzip > a.gz)`` in a shell; it has no name of its own."""
    reading, writing = os.pipe()
    try:
        with pytest.raises(OptionError, match="is no regular file"):
            check_output(f"/dev/fd/{writing}", format="tsv")
    finally:
        os.close(reading)
        os.close(writing)
