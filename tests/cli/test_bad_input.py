"""Every kind of bad input: one line on stderr, the right status, nothing on stdout."""

from __future__ import annotations

import gzip
import os
import re
import sys

import pytest

from perftricks.wordcount.reading import sources
from tests.cli.conftest import command


@pytest.fixture
def refused(run, tmp_path, monkeypatch):
    """Run the command in a folder of its own and return what it complains of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("喝茶\n", encoding="utf-8")

    def files():
        return sorted(name for name in os.listdir() if name != "__pycache__")  # Python's own

    def refused(status, *arguments, **options):
        before = files()
        result = run(*arguments, **options)
        assert result.status == status, result
        assert result.out == ""
        assert result.err.count("\n") == 1
        assert files() == before
        assert result.err.startswith("perftricks wordcount: ")
        return result.err.removeprefix("perftricks wordcount: ").rstrip("\n")

    return refused


def test_paths(refused, tmp_path, monkeypatch):
    """Paths that are missing, empty, named twice or forbidden are wrong usage."""
    assert refused(2, "no.txt") == "'no.txt' does not exist; name a file or a folder"
    os.mkdir("empty")
    assert refused(2, "empty").startswith("folder 'empty' holds no text to count; expected .txt")
    assert refused(2, "a.txt", "./a.txt") == (
        "'./a.txt' is given twice (as 'a.txt' and './a.txt'); its words would count double"
    )

    def guarded(path, *args):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(sources, "open", guarded, raising=False)
    assert refused(2, "a.txt") == "'a.txt' cannot be read: permission denied"


def test_encoding(refused, tmp_path):
    """Bytes that are not the encoding are bad data with file and place; a wrong name is usage."""
    (tmp_path / "b.txt").write_bytes(b"tea\n\xb2\xe8\n")
    assert refused(1, "a.txt", "b.txt") == (
        "b.txt, byte 4: 0xb2 is not utf-8; name the encoding that the file has, or replace or "
        'ignore such bytes (errors "replace" or "ignore")'
    )
    assert refused(1, "-", stdin=b"\xff").startswith("<stdin>, byte 0: 0xff is not utf-8")
    assert refused(2, "a.txt", "--encoding", "utf-9").startswith(
        "'utf-9' is not the name of a text encoding; expected one that Python knows"
    )


def test_compression(refused, tmp_path):
    """Broken and truncated compressed files are bad data, named."""
    data = gzip.compress("喝茶\n".encode() * 99)
    (tmp_path / "cut.gz").write_bytes(data[:-9])
    (tmp_path / "not.gz").write_bytes(b"plain")
    assert refused(1, "cut.gz") == (
        f"cut.gz, byte {len(data) - 9}: the .gz data ends too early; the file looks truncated"
    )
    assert re.match(
        r"not\.gz, byte \d+: the \.gz data is broken, .*: Not a gzipped", refused(1, "not.gz")
    )


def test_jsonl(refused, tmp_path):
    """A line of jsonl that cannot be used is bad data with its number."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\noops\n')
    assert refused(1, "a.jsonl", "--field", "text") == (
        "a.jsonl, line 2: no field 'text'; the fields are: 'txt'"
    )
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\noops\n')
    assert refused(1, "a.jsonl", "--field", "text").startswith(
        "a.jsonl, line 2: not JSON: Expecting"
    )


def test_json(refused, tmp_path):
    """A .json file is never counted as text."""
    (tmp_path / "a.json").write_text('[{"t": "x",\n "u": 1}]')
    assert refused(1, "a.json") == (
        "a.json, line 1: an object: say which field holds the text (--field): 't', 'u'"
    )
    (tmp_path / "a.json").write_text('{"data": [{"t": "x"}]}')
    assert refused(1, "a.json", "--field", "t") == (
        "a.json, line 1: no field 't'; the fields are: 'data'"
    )
    assert refused(2, "a.txt", "--field", "9" * 5000).startswith("field '999")


def test_csv(refused, tmp_path):
    """So is a row of a table."""
    (tmp_path / "a.csv").write_text('id,text\n1,"x\n')
    assert refused(1, "a.csv", "--field", "body") == (
        "a.csv, line 1: no column 'body'; the columns are: 'id', 'text' (or give a number from 1)"
    )
    assert (
        refused(1, "a.csv", "--field", "text") == "a.csv, line 2: not csv: unexpected end of data"
    )


def test_output(refused, tmp_path):
    """An output that cannot be written is found before counting."""
    assert refused(2, "a.txt", "-o", "a.xlsx") == (
        "output 'a.xlsx': unknown extension '.xlsx'; expected .tsv, .csv, .json, .parquet, .arrow "
        "or .feather"
    )
    assert refused(2, "a.txt", "-o", "no/a.tsv") == (
        f"output 'no/a.tsv': folder {str(tmp_path / 'no')!r} does not exist; create it first"
    )
    (tmp_path / "a.tsv").write_text("x\n")
    assert refused(2, ".", "--field", "1", "-o", "a.tsv") == (
        "output 'a.tsv' would overwrite an input; choose another name"
    )


def test_dictionary_and_stop_words(refused, tmp_path):
    """Dictionaries are checked line by line; files that are missing are named."""
    (tmp_path / "words.txt").write_text("好词 3\n坏词\n", encoding="utf-8")
    assert refused(2, "a.txt", "--dict", "words.txt") == (
        "dictionary 'words.txt', line 2: '坏词'; expected 'word frequency' or 'word frequency tag' "
        "on every line, with single spaces, in UTF-8"
    )
    (tmp_path / "words.txt").write_bytes("坏词".encode("gbk"))
    assert refused(2, "a.txt", "--user-dict", "words.txt").startswith(
        "user dictionary 'words.txt', line 1: not UTF-8"
    )
    assert refused(2, "a.txt", "--user-dict", "no") == "user dictionary 'no' does not exist"
    assert refused(2, "a.txt", "--stop-words", "no") == "stop words 'no' does not exist"


def test_tokenizer(refused, tmp_path, monkeypatch):
    """A tokenizer that cannot be imported is usage; one that fails on the way is bad data."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "broken_cutter.py").write_text("def cut(text:\n")
    (tmp_path / "failing_cutter.py").write_text("def cut(text):\n    raise KeyError(text)\n")
    assert refused(2, "a.txt", "--tokenizer", "nosuch:cut") == (
        "tokenizer 'nosuch:cut': module 'nosuch' cannot be imported: ModuleNotFoundError: "
        "No module named 'nosuch'"
    )
    assert "cannot be imported: SyntaxError" in refused(
        2, "a.txt", "--tokenizer", "broken_cutter:cut"
    )
    assert refused(2, "a.txt", "--tokenizer", "jeiba").startswith("tokenizer must be jieba, chars,")
    for method in ("naive", "parallel"):
        failing = ("--tokenizer", "failing_cutter:cut", "--method", method)
        assert refused(1, "a.txt", *failing) == (
            "tokenizer 'failing_cutter:cut' failed on a document that starts with '喝茶': "
            "KeyError: '喝茶'"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--tokenizer chars --hmm", "--hmm/--no-hmm is for jieba; the tokenizer is another"),
        ("--tokenizer chars --mode default", "--mode is for jieba; the tokenizer is another"),
        ("--tokenizer chars --user-dict w", "--user-dict is for jieba; the tokenizer is another"),
        ("--tokenizer chars --dict w", "--dict is for jieba; the tokenizer is another"),
        ("--output-format csv", "--output-format is for --output FILE"),
        ("--mode all --no-hmm", "--hmm/--no-hmm means nothing in mode all, which has no HMM"),
        (
            "--method naive -w 2",
            "method 'naive' cannot be used: it works in one process; leave workers=2 out, or use",
        ),
        ("--method naive --batch-size 9", "--batch-size means nothing to method naive"),
        ("--compare --method naive", "--compare runs all methods; --method says one"),
        ("--compare -o a.tsv", "--compare writes no table; leave --output out"),
        ("--quiet", "--quiet leaves nothing to show; add --output, --report,"),
        (
            "--field text",
            "field 'text' is given, but no file is jsonl, csv, tsv, json, parquet or arrow; leave",
        ),
        ("--format csv", "'a.txt' is csv: say which field holds the text (--field)"),
        ("--format csv --field 1 --document file", "'a.txt' is csv, where a document is a record"),
    ],
)
def test_contradictory_options(refused, options, message):
    """Options that contradict each other are wrong usage."""
    assert refused(2, "a.txt", *options.split()).startswith(message)


def test_full_disk(refused, monkeypatch):
    """A disk that is full when the table is written is reported, and the rest of it removed."""

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refused(1, "a.txt", "-o", "counts.tsv") == (
        "'counts.tsv': no space left on device; make room, or write elsewhere"
    )


@pytest.mark.parametrize("option", ["--stop-words", "--user-dict", "--dict"])
def test_output_that_is_read(refused, option):
    """No table takes the place of a file that the same run reads, under whatever name."""
    with open("words.tsv", "w", encoding="utf-8") as file:
        file.write("茶 3\n")
    os.link("words.tsv", "same.tsv")
    os.symlink("words.tsv", "link.tsv")
    message = refused(2, "a.txt", option, "words.tsv", "-o", "link.tsv")
    assert message.startswith("output 'link.tsv' would overwrite 'words.tsv', which this run reads")


def test_outputs_with_one_name(refused):
    """Nor the report or the plot that of the table."""
    given = ("-o", "x.html", "--output-format", "tsv", "--report", "./x.html")
    assert refused(2, "a.txt", *given).startswith("output './x.html' would overwrite 'x.html'")
    assert not os.path.exists("x.html")


def test_strange_file_names(refused):
    """A name with control characters does not break the line."""
    assert refused(2, "no\nsuch\x1b[31m") == (
        r"'no\nsuch\x1b[31m' does not exist; name a file or a folder"
    )


def test_real_command(tmp_path):
    """The real command shows no traceback either."""
    done = command("wordcount", tmp_path / "no.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("perftricks wordcount: ")
    assert done.stderr.count("\n") == 1
