from __future__ import annotations

import csv
import json
import os
import re
import stat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perftricks.wordcount import CorpusError, OptionError, WordCounts, read_table, write_table
from perftricks.wordcount.reading.sources import find_sources
from perftricks.wordcount.writing import export
from perftricks.wordcount.writing.export import Row, check_output, escape, read_rows, unescape

EXTENSIONS = ["tsv", "csv", "json"]
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


@pytest.mark.parametrize("extension", EXTENSIONS)
@settings(deadline=None)
@given(tokens=st.lists(any_token, unique=True, max_size=8))
@example(tokens=NASTY)
def test_round_trip(tmp_path_factory, extension, tokens):
    """Every token comes back as it was, in the order of the table."""
    counts = table(filter(json_can_hold, tokens) if extension == "json" else tokens)
    path = tmp_path_factory.getbasetemp() / f"table.{extension}"
    write_table(path, counts)
    assert list(read_table(path).items()) == counts.most_common()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_round_trip_of_document_frequencies(tmp_path, extension):
    """Document frequencies come back too."""
    counts = WordCounts({"a": 3, "茶": 5}, documents=4, document_frequency={"a": 1, "茶": 4})
    path = tmp_path / f"table.{extension}"
    write_table(path, counts)
    assert read_rows(path) == [Row("茶", 5, 4), Row("a", 3, 1)]


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
        "a.parquet": r"unknown extension '.parquet'; expected .tsv, .csv or .json",
        "a": r"no extension; expected .tsv, .csv or .json",
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

    def fail(row):
        raise failure

    monkeypatch.setattr(export, "_cells", fail)
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
