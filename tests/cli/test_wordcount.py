from __future__ import annotations

import bz2
import json
import os
import re
import subprocess
import sys

import pytest

from perftricks.wordcount import count_files, read_table
from perftricks.wordcount.methods.batched import Batched
from perftricks.wordcount.methods.method import Counted
from perftricks.wordcount.table.in_memory import MemoryTable
from tests.cli.conftest import LINES, command, environment


def test_screen(run, corpus):
    """The screen has the tokens with count and share, then what was counted and how."""
    result = run(corpus, "-n", 3)
    assert result.status == 0
    assert result.err == ""
    table, _, facts = result.out.partition("\n\n")
    assert (
        table
        == "token  count   share\n喝茶       3  25.00%\n。         2  16.67%\n\\t         1   8.33%"
    )
    facts = dict(line.split(maxsplit=1) for line in facts.splitlines())
    assert list(facts) == [
        "documents",
        "tokens",
        "distinct",
        "files",
        "speed",
        "workers",
        "method",
        "tokenizer",
    ]
    assert (facts["documents"], facts["tokens"], facts["distinct"]) == ("4", "12", "9")
    assert facts["files"] == facts["workers"] == "1"
    assert facts["method"] == "batched (not compiled: the text is too short to be worth it)"
    assert "MB/s (54 bytes of text, in " in facts["speed"]
    assert facts["tokenizer"].startswith("jieba 0.")
    assert facts["tokenizer"].endswith(", mode default, HMM on")


def test_real_command(corpus):
    """The real command counts, writes the table and leaves stderr alone."""
    output = corpus.parent / "counts.tsv"
    done = command("wordcount", corpus, "-o", output, "--method", "parallel", "-w", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "喝茶       3  25.00%" in done.stdout
    assert f"table      {output}" in done.stdout
    assert read_table(output) == count_files(corpus)


def test_no_line_ends_in_blanks(run, corpus):
    """What is piped on has no padding at the end of lines."""
    for arguments in ([], ["--compare"], ["--doc-freq"]):
        assert not [x for x in run(corpus, *arguments).out.splitlines() if x != x.rstrip()]


def test_summary_for_machines(run, corpus):
    """--json prints an object with the totals, the settings and the first tokens."""
    result = run(corpus, "--json", "-", "-n", 1, "--doc-freq", "-w", 2, "--method", "parallel")
    summary = result.json
    assert summary.pop("seconds") > 0
    assert summary.pop("writing_seconds") >= 0
    assert summary.pop("megabytes_per_second") >= 0
    assert summary.pop("tokenizer").startswith("jieba 0.")
    assert summary == {
        "documents": 4,
        "tokens": 12,
        "distinct": 9,
        "files": 1,
        "files_passed_over": 0,
        "not_read": [],
        "bad": [],
        "encodings": None,
        "text_bytes": 54,
        "stored_bytes": 54,
        "method": "parallel",
        "method_note": None,
        "workers": 2,
        "batch_size": 1000,
        "mode": "default",
        "hmm": True,
        "user_dict": False,
        "dictionary": False,
        "ngrams": 1,
        "pos": None,
        "left_out": None,
        "verified": None,
        "resumed": None,
        "spilled": 0,
        "output": None,
        "report": None,
        "plot": None,
        "cloud": None,
        "top": [{"token": "喝茶", "count": 3, "share": 0.25, "document_frequency": 2}],
    }


def test_quiet(run, corpus):
    """--quiet with an output prints nothing; with --json only the summary."""
    output = corpus.parent / "counts.csv"
    result = run(corpus, "--quiet", "-o", output)
    assert (result.status, result.out, result.err) == (0, "", "")
    assert read_table(output)["喝茶"] == 3
    assert run(corpus, "-q", "--json", "-", "-o", output).json["output"] == str(output)


def test_stdin(run):
    """A dash reads the standard input, in any format."""
    assert run("-", "--json", "-", stdin="\n".join(LINES).encode()).json["documents"] == 4
    records = b'{"a": {"b": "x y"}}\n'
    summary = run(
        "-",
        "--format",
        "jsonl",
        "--field",
        "a.b",
        "--tokenizer",
        "whitespace",
        "--json",
        "-",
        stdin=records,
    ).json
    assert (summary["tokens"], summary["tokenizer"], summary["mode"]) == (2, "whitespace", None)


def test_folder(run, corpus):
    """A folder is searched; files that were passed over are counted on the screen."""
    (corpus.parent / "more.txt.bz2").write_bytes(bz2.compress("喝茶\n".encode()))
    (corpus.parent / "photo.png").write_bytes(b"\xff")
    result = run(corpus.parent, "-n", 1)
    assert "喝茶       4" in result.out
    assert "files      2, 1 passed over" in result.out
    assert " stored, in " in result.out


def test_table_options(run, corpus, tmp_path):
    """Stop words, minimal counts and lengths apply to screen and file alike."""
    stop = tmp_path / "stop"
    stop.write_text("。\n", encoding="utf-8")
    output = tmp_path / "counts.json"
    run(corpus, "--stop-words", stop, "--min-count", 2, "--min-length", 2, "-o", output)
    assert json.loads(output.read_text(encoding="utf-8")) == {"喝茶": 3}


def test_reading_options(run, tmp_path):
    """Encoding, errors and what a document is are passed on."""
    path = tmp_path / "a.txt"
    path.write_bytes("喝茶\r\n水".encode("gbk") + b"\xff")
    summary = run(
        path, "--encoding", "gbk", "--errors", "ignore", "--document", "file", "--json", "-"
    ).json
    assert summary["documents"] == 1
    assert {row["token"] for row in summary["top"]} == {"喝茶", "\r\n", "水"}
    result = run(
        path, "--encoding", "gbk", "--errors", "replace", "--tokenizer", "chars", "--json", "-"
    )
    assert "\ufffd" in {row["token"] for row in result.json["top"]}


def test_jieba_options(run, tmp_path):
    """Mode, HMM and user dictionary are passed on, and shown."""
    path = tmp_path / "a.txt"
    path.write_text("他来到了网易杭研大厦\n", encoding="utf-8")
    words = tmp_path / "words.txt"
    words.write_text("网易杭研大厦 9 n\n", encoding="utf-8")
    assert "杭研" in run(path).out
    no_hmm = run(path, "--no-hmm").out
    assert "杭研" not in no_hmm
    assert "mode default, HMM off" in no_hmm
    own = run(path, "--user-dict", words).out
    assert "网易杭研大厦" in own
    assert "HMM on, with user dictionary" in own
    small = tmp_path / "small.txt"
    small.write_text("他 9\n来到了 5 v\n", encoding="utf-8")
    other = run(path, "--dict", small, "--no-hmm", "--user-dict", words).out
    assert "来到了" in other
    assert "网易杭研大厦" in other
    assert "HMM off, with another dictionary than its own, with user dictionary" in other
    assert run(path, "--mode", "search", "--hmm").out.rstrip().endswith("mode search, HMM on")
    assert run(path, "--mode", "all").out.rstrip().endswith("mode all")


def test_doubtful_dictionary(run, corpus):
    """What is surely not meant in a dictionary is a line on stderr, and counting goes on."""
    words = corpus.parent / "words.dict"
    words.write_text("# 我的词\n喝茶去\t9\nNew York 300 ns\n", encoding="utf-8")
    result = run(corpus, "--user-dict", words)
    assert result.status == 0
    assert "with user dictionary" in result.out
    first, second, third = result.err.splitlines()
    start = f"perftricks wordcount: warning: user dictionary '{words}', line"
    assert first == f"{start} 1: jieba knows no comments: it takes '# 我的词' for a word"
    assert second.startswith(f"{start} 2: jieba takes '喝茶去\\t9' for a word, tab and all")
    assert third.endswith("looks for words, and so never finds 'New York'")


def test_table_on_standard_output(run, corpus):
    """With -o - the table is on the standard output, and everything else on stderr."""
    output = corpus.parent / "counts.tsv"
    run(corpus, "-q", "-o", output)
    result = run(corpus, "-o", "-")
    assert result.status == 0
    assert result.out == output.read_text(encoding="utf-8")
    assert result.err.startswith("documents  4\n")
    assert result.err.endswith("table      standard output\n")
    for form in ("csv", "json"):
        output = corpus.parent / f"counts.{form}"
        run(corpus, "-q", "-o", output)
        result = run(corpus, "-q", "-o", "-", "--output-format", form)
        assert (result.out, result.err) == (output.read_text(encoding="utf-8"), "")
    summary = corpus.parent / "summary.json"
    result = run(corpus, "-q", "-o", "-", "--json", summary)
    assert json.loads(summary.read_bytes())["output"] == "-"
    assert result.out.startswith("token\tcount\n")
    result = run(corpus, "-o", "-", "--json", "-")
    assert (result.status, result.out) == (2, "")
    assert "--output - and --json - are both the standard output" in result.err


def test_output_format(run, corpus):
    """A format that is given holds whatever the name of the file."""
    output = corpus.parent / "counts.txt"
    run(corpus, "-q", "-o", output, "--output-format", "csv")
    assert output.read_text(encoding="utf-8").startswith("token,count\n")


def test_reader_of_the_table_leaves(corpus):
    """A reader that has seen enough of the table, such as head, is no failure."""
    text = "".join(chr(0x4E00 + number) + "\n" for number in range(20_000))
    corpus.write_text(text, encoding="utf-8")
    for form in ("tsv", "csv", "json"):
        arguments = ["wordcount", corpus, "-q", "--tokenizer", "chars", "-o", "-"]
        process = subprocess.Popen(
            [sys.executable, "-m", "perftricks", *arguments, "--output-format", form],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() == 0


def test_skip_bad(run, tmp_path):
    """--skip-bad leaves out what is bad, names it at the end, writes the rest; the status is 1."""
    good = "喝茶\n".encode()
    (tmp_path / "a.txt").write_bytes(good)
    (tmp_path / "b.txt").write_bytes(good * 3 + b"\xff")
    (tmp_path / "c.txt.bz2").write_bytes(bz2.compress(good * 99)[:-5])
    (tmp_path / "d.txt").symlink_to("nowhere")
    output = tmp_path / "counts.json"
    result = run(tmp_path, "--skip-bad", "-q", "-o", output)
    assert (result.status, result.out) == (1, "")
    assert read_table(output) == {"喝茶": 1}
    skipped = [line.partition("skipped: ")[2] for line in result.err.splitlines()]
    assert skipped[0] == f"{tmp_path / 'd.txt'}: a link that leads nowhere"
    assert skipped[1].startswith(f"{tmp_path / 'b.txt'}: byte 21: 0xff is not utf-8;")
    assert skipped[2].startswith(f"{tmp_path / 'c.txt.bz2'}: byte ")
    output.unlink()
    summary = run(tmp_path, "--skip-bad", "--json", "-").json
    assert [os.path.basename(row["path"]) for row in summary["bad"]] == [
        "d.txt",
        "b.txt",
        "c.txt.bz2",
    ]
    assert (summary["files"], summary["tokens"]) == (1, 1)
    assert "1, 1 passed over, 3 SKIPPED, which could not be read" in run(tmp_path, "--skip-bad").out
    (tmp_path / "d.txt").unlink()
    assert run(tmp_path / "a.txt", "--skip-bad").status == 0
    assert run(tmp_path).status == 1


def test_verbose(run, tmp_path):
    """-v names on stderr what in folders was not read, and why."""
    for name in ("a.txt", ".hidden", "photo.png", "meta.json", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("喝茶\n", encoding="utf-8")
    (tmp_path / "program").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "empty.txt").touch()
    result = run(tmp_path, "-v")
    assert result.status == 0
    lines = [line.partition("not read: ")[2] for line in result.err.splitlines()]
    assert {
        os.path.relpath(line.partition(": ")[0], tmp_path): line.partition(": ")[2]
        for line in lines
    } == {
        ".git": "hidden folder",
        ".hidden": "hidden",
        "empty.txt": "empty",
        "meta.json": ".json is read where it is named, or with format json",
        "photo.png": "unknown extension .png",
        "program": "binary: it holds NUL bytes; name it if it is text",
    }
    assert "files      2, 4 passed over\n" in result.out


def test_encodings_that_are_found_out(run, tmp_path):
    """--encoding auto says what it has found, in the summary and for machines."""
    for name in ("utf-8", "utf-16", "gbk"):
        (tmp_path / f"{name}.txt").write_bytes("喝茶\n".encode(name))
    result = run(tmp_path, "--encoding", "auto")
    assert "encoding   gb18030 (1), utf-16-le (1), utf-8 (1), found out\n" in result.out
    assert "喝茶       3  100.00%" in result.out
    summary = run(tmp_path, "--encoding", "auto", "--json", "-").json
    assert summary["encodings"] == {"gb18030": 1, "utf-16-le": 1, "utf-8": 1}


def test_pipe_without_a_writer(tmp_path):
    """A pipe that nobody writes to is waited for, and that is said on stderr."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with subprocess.Popen(
        [sys.executable, "-m", "perftricks", "wordcount", path, "-q", "-o", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        line = process.stderr.readline().decode()
        assert line == f"{path}: waiting for somebody to write to this pipe\n"
        path.write_text("喝茶\n", encoding="utf-8")
        assert process.stdout.read().decode() == "token\tcount\n喝茶\t1\n"
    assert process.returncode == 0


def test_own_tokenizer_in_current_folder(run, corpus, monkeypatch):
    """module:function is found in the folder where the user is."""
    (corpus.parent / "my_cutter.py").write_text("def cut(text):\n    return text.split('茶')\n")
    monkeypatch.chdir(corpus.parent)
    result = run("corpus.txt", "--tokenizer", "my_cutter:cut", "--method", "parallel")
    assert "tea\\ttime         1" in result.out
    assert "tokenizer  my_cutter:cut" in result.out


def test_document_frequency(run, corpus):
    """--doc-freq adds a column."""
    assert (
        "token  count   share  documents\n喝茶       3  25.00%          2\n"
        in run(corpus, "--doc-freq").out
    )


def test_empty_corpus(run, tmp_path):
    """An empty corpus is an empty table and a success."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    output = tmp_path / "counts.tsv"
    result = run(path, "-o", output)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("documents  0\ntokens     0\n")
    assert output.read_text() == "token\tcount\n"
    assert run(path, "--compare").status == 0


def test_no_tokens_shown(run, corpus):
    """--top 0 shows the facts only."""
    assert run(corpus, "--top", 0).out.startswith("documents  4\n")


def test_tokens_are_shown_escaped(run, tmp_path, monkeypatch):
    """Tokens that cannot be seen, or would move the cursor, are shown escaped."""
    path = tmp_path / "a.jsonl"
    tokens = ["\t", "\x1b[31m", " ", "\u3000", "\u202e", "\\", "[bold]", "\ud800", "a b", " c "]
    path.write_text(json.dumps({"t": "|".join(tokens)}), encoding="utf-8")
    (tmp_path / "bar.py").write_text("def cut(text):\n    return [*text.split('|'), '']\n")
    monkeypatch.chdir(tmp_path)
    lines = run(path, "--field", "t", "--tokenizer", "bar:cut").out.splitlines()[1:12]
    assert {line.rsplit(maxsplit=2)[0].rstrip() for line in lines} == {
        r"\t",
        r"\x1b[31m",
        r"\x20",
        r"\u3000",
        r"\u202e",
        r"\\",
        "[bold]",
        r"\ud800",
        "a b",
        r"\x20c\x20",
        "(empty)",
    }


def test_wide_tokens_are_aligned(run, tmp_path):
    """Columns line up below each other although Chinese characters are twice as wide."""
    path = tmp_path / "a.txt"
    path.write_text("一二三四五 a a\n", encoding="utf-8")
    out = run(path, "--tokenizer", "whitespace").out.splitlines()
    assert out[:3] == [
        "token       count   share",
        "a               2  66.67%",
        "一二三四五      1  33.33%",
    ]


def test_compare(run, corpus):
    """--compare shows every method, on which input, and that the tables are equal."""
    out = run(corpus, "--compare", "-w", 2).out
    assert out.startswith("all 50 bytes of text, 4 documents\n\n")
    rows = [line.split() for line in out.splitlines()]
    assert [row[:2] for row in rows if row[-1:] == ["yes"]] == [
        ["naive", "1"],
        ["batched", "1"],
        ["parallel", "2"],
        ["compiled", "2"],
    ]
    assert out.endswith("all tables are equal: 12 tokens, 9 distinct\n")
    summary = run(corpus, "--compare", "--json", "-").json
    assert summary["equal"]
    assert [method["method"] for method in summary["methods"]] == [
        "naive",
        "batched",
        "parallel",
        "compiled",
    ]


def test_compare_finds_a_difference(run, corpus, monkeypatch):
    """Unequal tables are shown, complained of, and status 1."""
    wrong = Counted("batched", 1, MemoryTable({"喝茶": 1}, None), 1)
    monkeypatch.setattr(Batched, "count", lambda self, work: wrong)
    result = run(corpus, "--compare", "--doc-freq")
    assert result.status == 1
    assert "喝茶: batched counts 1, naive 3" in result.out
    assert result.err.startswith("perftricks wordcount: THE TABLES DIFFER: batched against naive")


@pytest.mark.parametrize("extension", ["tsv", "csv", "json"])
def test_nothing_is_written_when_data_is_bad(run, corpus, extension):
    """Bad data on the way leaves the old table as it was."""
    output = corpus.parent / f"counts.{extension}"
    output.write_text("old")
    with open(corpus, "ab") as file:
        file.write(b"\xff")
    result = run(corpus, "-o", output)
    assert (result.status, result.out) == (1, "")
    assert output.read_text() == "old"
    assert sorted(os.listdir(corpus.parent)) == ["corpus.txt", f"counts.{extension}"]


def test_memory_limit(run, corpus, tmp_path):
    """A table that outgrows --memory-limit goes to the disk; screen and file stay the same."""
    whole, spilled = tmp_path / "whole.csv", tmp_path / "spilled.csv"
    for options in (["--doc-freq"], ["--ngrams", "2", "--min-count", "2"]):
        first = run(corpus, "-o", whole, *options)
        second = run(corpus, "-o", spilled, "--memory-limit", "1kB", "--method", "naive", *options)
        assert second.status == 0
        assert spilled.read_bytes() == whole.read_bytes()
        assert second.out.partition("\n\n")[0] == first.out.partition("\n\n")[0]
        assert "memory     1 part of the table went to the disk\n" in second.out
        assert "memory " not in first.out
    assert (
        run(corpus, "--memory-limit", "1kB", "--json", "-", "--method", "naive").json["spilled"]
        == 1
    )


def test_memory_limit_and_a_full_disk(run, corpus, monkeypatch):
    """A disk that is full is one line, and nothing is written."""

    def full(*given, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perftricks.wordcount.table.runs.encoded_block", full)
    output = corpus.parent / "counts.tsv"
    result = run(corpus, "--memory-limit", "1kB", "--method", "naive", "-o", output)
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert "outgrown the memory limit of 1,000 bytes" in result.err
    assert "no space left on device; set TMPDIR to a folder with more room" in result.err
    assert os.listdir(corpus.parent) == [corpus.name]


def test_words_and_stop_words(run, corpus):
    """--words-only and the list that ships leave out what says little, and that is said."""
    result = run(corpus, "--words-only", "--stop-words", "zh", "--min-count", 1)
    table, _, facts = result.out.partition("\n\n")
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["喝茶", "tea", "time", "北京"]
    assert re.search(r"^left out   what is no word, the stop words zh \(\d+\)$", facts, re.M)
    summary = run(corpus, "--words-only", "--json", "-").json
    assert summary["left_out"] == "what is no word"
    page = corpus.parent / "page.html"
    run(corpus, "--stop-words", "zh", "--report", page, "--title", "茶 & Tee")
    content = page.read_text(encoding="utf-8")
    assert "<title>茶 &amp; Tee</title>" in content
    assert "<dt>left out</dt><dd>the stop words zh" in content


def test_json_is_readable(corpus):
    """Chinese stands as it is in --json, escaped where the standard output cannot hold it."""
    for encoding, shown in (("utf-8", "喝茶"), ("ascii", r"\u559d\u8336")):
        done = subprocess.run(
            [sys.executable, "-m", "perftricks", "wordcount", corpus, "--json", "-"],
            stdout=subprocess.PIPE,
            env=environment(PYTHONIOENCODING=encoding),
            check=True,
        )
        assert f'"token": "{shown}"' in done.stdout.decode(encoding)
        assert json.loads(done.stdout)["top"][0]["token"] == "喝茶"
