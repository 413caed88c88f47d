from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perftricks.wordcount import CorpusError, OptionError
from perftricks.wordcount.reading import streams
from perftricks.wordcount.reading.documents import check_options, read_documents, split_lines
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.sources import find_sources
from perftricks.wordcount.reading.streams import Meter


def read(path, **options):
    (source,) = find_sources(path, format=options.pop("format", None)).sources
    read_options = ReadOptions(**options)
    check_options(read_options, [source])
    return list(read_documents(source, read_options, Meter()))


def reference_lines(text):
    """Split into lines one character at a time."""
    lines, line = [], ""
    for character in text:
        if character == "\n":
            lines.append(line.removesuffix("\r"))
            line = ""
        else:
            line += character
    return [*lines, line] if line else lines


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("a茶\n\r\x0b\x0c\x1c\x85\u2028 "), max_size=8), max_size=6))
def test_lines_equal_the_reference(chunks):
    r"""Lines do not depend on where the text is cut into pieces, and end at \n or \r\n only."""
    assert list(split_lines(chunks)) == reference_lines("".join(chunks))


@pytest.mark.parametrize(
    ("data", "documents"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\n", ["a", ""]),
        (b"a\r\nb\rc\r", ["a", "b\rc\r"]),
        ("a\x0bb\x0cc\x85d\u2028e\n".encode(), ["a\x0bb\x0cc\x85d\u2028e"]),
    ],
)
def test_document_line(tmp_path, data, documents):
    """A line is a document: an empty one too, and the last one without a newline."""
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert read(path) == documents


@pytest.mark.parametrize("data", [b"", b"a\r\nb\n\n"])
def test_document_file(tmp_path, data):
    """A file is a document, line ends and all, also if it is empty."""
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert read(path, document="file") == [data.decode()]


def test_long_line(tmp_path):
    """A line may be longer than many chunks."""
    path = tmp_path / "a.txt"
    line = "茶" * 3_000_000
    path.write_text(f"a\n{line}\nb", encoding="utf-8")
    assert read(path) == ["a", line, "b"]


def test_jsonl(tmp_path):
    """A field of each line is a document; blank lines are none."""
    path = tmp_path / "a.jsonl"
    records = [{"text": "茶"}, {"text": "a\nb", "id": 1}, {"text": ""}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n  \n\n", encoding="utf-8")
    assert read(path, field="text") == ["茶", "a\nb", ""]


def test_jsonl_path(tmp_path):
    """A field may be a path with dots; a key with dots in its name comes first."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": {"b": {"c": "x"}}}\n{"a.b.c": "y", "a": 1}\n')
    assert read(path, field="a.b.c") == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{oops", "not JSON: Expecting property name"),
        ("[" * 100_000, "not JSON: "),
        ('{"title": "x", "n": 1}', "no field 'text'; the fields are: 'title', 'n'"),
        ("{}", "no field 'text'; the fields are: none"),
        ('"text"', "expected a JSON object with field 'text', found a string"),
        ("[1]", "expected a JSON object with field 'text', found an array"),
        ('{"text": null}', "field 'text' is null; expected a string"),
        ('{"text": 3.5}', "field 'text' is a number; expected a string"),
        ('{"text": true}', "field 'text' is a boolean; expected a string"),
        ('{"text": ["x"]}', "field 'text' is an array; expected a string"),
    ],
)
def test_bad_jsonl(tmp_path, line, problem):
    """A line that cannot be used is named with its number and what is wrong."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "ok"}}\n\n{line}\n')
    with pytest.raises(CorpusError) as caught:
        read(path, field="text")
    assert str(caught.value).startswith(f"{path}, line 3: {problem}")
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("content", "field", "documents"),
    [
        ('["茶", "a\\nb", ""]', None, ["茶", "a\nb", ""]),
        ('\ufeff [ {"t": "茶", "n": [1, {"x": null}]} ,\n {"t": "水"} ] \n', "t", ["茶", "水"]),
        ('{"t": "茶"}\n{"t": "水"}\n', "t", ["茶", "水"]),
        ('{\n "a": {"t": "茶"}\n}', "a.t", ["茶"]),
        ('"茶"', None, ["茶"]),
        ("[]", "t", []),
        (" \n", "t", []),
        ('[{"n": -1.5e3, "m": 12345, "t": "\\ud83d\\ude00"}]', "t", ["😀"]),
        ('[{"n": ' + "9" * 5000 + ', "t": "茶"}]', "t", ["茶"]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_json(tmp_path, monkeypatch, content, field, documents, chunk):
    """An array or values one after the other are documents, wherever pieces end."""
    monkeypatch.setattr(streams._MeteredFile.read, "__defaults__", (chunk,))
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    assert read(path, field=field) == documents


def test_numbers_of_many_digits(tmp_path):
    """Numbers that are longer than Python reads are no reason to stop."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": ' + "9" * 5000 + ', "text": "茶"}\n', encoding="utf-8")
    assert read(path, field="text") == ["茶"]
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(CorpusError, match="no column '9999"):
        read(path, field="9" * 5000)


@pytest.mark.parametrize(
    ("content", "field", "line", "problem"),
    [
        ('["a",\n 3]', None, 2, "expected strings or objects, found a number"),
        ("[12", None, 1, "expected strings or objects, found a number"),
        (
            '["a",\n {"t": "x"}]',
            None,
            2,
            "an object: say which field holds the text (--field): 't'",
        ),
        ('[{"u": "x"}]', "t", 1, "no field 't'; the fields are: 'u'"),
        ('["a"]', "t", 1, "expected a JSON object with field 't', found a string"),
        ('["a",\n"b"', None, 2, "not JSON: expected ',' or ']' in the array"),
        ('["a",\n\n"b', None, 3, "not JSON: Unterminated string"),
        ('["a"]\n["b"]', None, 2, "not JSON: there is something behind the array"),
        ('{"t": "a",}', "t", 1, "not JSON: "),
        ('{"t": "a"}\n{"t" "b", ' + '"u": 1, ' * 20, "t", 2, "not JSON: Expecting ':' delimiter"),
        ("[" * 100_000, None, 1, "not JSON: "),
        ("他说：喝茶。", None, 1, "not JSON: Expecting value"),
    ],
)
def test_bad_json(tmp_path, content, field, line, problem):
    """What is no array and no values of the expected kind is named with its line."""
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError) as caught:
        read(path, field=field)
    assert str(caught.value).startswith(f"{path}, line {line}: {problem}")


ROWS = [["id", "text"], ["1", '他说："喝茶"，\n然后\r\n走了'], ["2", "a\tb"], ["3", ""]]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_table(tmp_path, name, delimiter, ending):
    """A column by name or number; quoted fields may hold quotes, delimiters and line ends."""
    path = tmp_path / name
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator=ending).writerows(ROWS)
    path.write_bytes(buffer.getvalue().encode())
    assert read(path, field="text") == [row[1] for row in ROWS[1:]]
    assert read(path, field="2") == [row[1] for row in ROWS]


def test_raw_tsv(tmp_path):
    """In a raw tsv a quote is a character like any other."""
    path = tmp_path / "a.tsv"
    path.write_text('label\ttext\n1\t"茶" 好\n0\t"未完\n', encoding="utf-8")
    assert read(path, field="text", format="tsv-raw") == ['"茶" 好', '"未完']


def test_large_field(tmp_path):
    """A field may be larger than the csv module's limit, blank lines are no rows."""
    path = tmp_path / "a.csv"
    path.write_text("text\n\n" + "茶" * 300_000 + "\n", encoding="utf-8")
    assert read(path, field="text") == ["茶" * 300_000]


def test_header_with_bom(tmp_path):
    """A byte order mark is no part of the first column's name."""
    path = tmp_path / "a.csv"
    path.write_text("\ufefftext\nx\n", encoding="utf-8")
    assert read(path, field="text") == ["x"]
    path.write_bytes(b"")
    assert read(path, field="text") == []


@pytest.mark.parametrize(
    ("content", "field", "line", "problem"),
    [
        ("id,body\n1,x\n", "text", 1, "no column 'text'; the columns are: 'id', 'body'"),
        ("text,text\n1,x\n", "text", 1, "the header has 2 columns named 'text'"),
        ("id,text\n1,x\n2\n", "text", 3, "a row of 1 columns has no column 'text'"),
        ("a,b\n", "3", 1, "a row of 2 columns has no column '3'"),
        ('id,text\n1,"x\ny\nz', "text", 4, "not csv: unexpected end of data"),
        ('id,text\n1,"x"y\n', "text", 2, "not csv: ',' expected after '\"'"),
    ],
)
def test_bad_table(tmp_path, content, field, line, problem):
    """A table that cannot be used is named with the line and what is wrong."""
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(CorpusError) as caught:
        read(path, field=field)
    assert str(caught.value).startswith(f"{path}, line {line}: {problem}")


def test_contradictions(tmp_path):
    """Options that do not go with the files are turned away before anything is read."""
    text, table = tmp_path / "a.txt", tmp_path / "a.csv"
    text.write_text("x\n")
    table.write_text("x\n")
    with pytest.raises(OptionError, match=r"a\.csv' is csv: say which field holds the text"):
        read(table)
    with pytest.raises(
        OptionError,
        match="field 'x' is given, but no file is jsonl, csv, tsv, json, parquet or arrow",
    ):
        read(text, field="x")
    with pytest.raises(OptionError, match="document 'file' is for text files"):
        read(table, field="x", document="file")
    with pytest.raises(OptionError, match="document must be 'line' or 'file', not 'page'"):
        read(text, document="page")
