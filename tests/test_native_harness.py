"""The comparison with native programs: shares, differences, and what is said of what is missing."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from dataclasses import replace

import pytest

from bench.wordcount import native
from perftricks.wordcount import count_files

TEXT = "我们在北京喝茶\r\n\n健身房\t abc\n最后\r一行\r"

CARGO = """#!{python}
import pathlib, sys
given = sys.argv[1:]
assert pathlib.Path("Cargo.toml").is_file(), given
folder = pathlib.Path(given[given.index("--target-dir") + 1], "release")
folder.mkdir(parents=True)
built = folder / "count-jieba-rs"
built.write_text({program!r})
built.chmod(0o755)
"""
# Stands in for what cargo builds: writes what it was given as a table, and a token that is a tab.
PROGRAM = f"""#!{sys.executable}
import sys
threads, dictionary, output, *files = sys.argv[1:]
with open(output, "wb") as file:
    for token in (dictionary, *files, chr(9)):
        file.write(token.encode() + b"\\t" + threads.encode() + b"\\n")
print("0.25")
"""
OFFLINE = """    Updating crates.io index
warning: spurious network error (3 tries remaining): [6] Could not resolve hostname
error: failed to get `jieba-rs` as a dependency of package `count-jieba-rs`

Caused by:
  download of config.json failed
Caused by:
  [6] Could not resolve hostname (Could not resolve host: crates.example)
"""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return path


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Make a folder the whole PATH, and put programs there."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)

    def put(name, content):
        path = folder / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755)
        return path

    return put


def given(**options):
    names = ("only", "vendor", "cargo_config", "cppjieba")
    return argparse.Namespace(**{**dict.fromkeys(names), **options})


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_shares(text, every):
    """Each line is in one share, without its end and with all else."""
    shares = [list(native.lines_of([text, text], number, every)) for number in range(every)]
    lines = ["我们在北京喝茶", "", "健身房\t abc", "最后\r一行\r"]
    assert Counter(line for share in shares for line in share) == Counter(lines * 2)
    assert shares[0] == lines[::every] * 2


@pytest.mark.parametrize("processes", [1, 2])
def test_processes(text, processes):
    """The shares of all processes are one table: with jieba as the segmenter, perftricks' own."""
    seconds, table = native.in_processes("jieba")(processes, [text])
    assert table == dict(count_files(text, method="naive"))
    assert seconds > 0


@pytest.mark.parametrize(
    ("table", "share"),
    [
        ({"a": 3, "b": 1}, 0),
        ({"a": 2, "b": 2}, 1 / 4),
        ({"a": 3, "c": 1}, 1 / 4),
        ({"ab": 1, "a": 2}, 3 / 8),
        ({"c": 4}, 1),
        ({}, 1 / 2),
    ],
)
def test_differences(table, share):
    """Half the sum of the differences of all counts, over the number of tokens."""
    assert native.share_that_differs(table, {"a": 3, "b": 1}) == share


def test_differences_from_nothing():
    """Without a token, another table is another one altogether."""
    assert native.share_that_differs({}, {}) == 0
    assert native.share_that_differs({"a": 1}, {}) == 1


def test_rows_of_a_program(tmp_path):
    """Tokens are read as they are, whitespace among them."""
    path = tmp_path / "table.tsv"
    path.write_bytes("茶\t12\n\t\t3\n\r\t4\n \t5\n\u2028\t6\n".encode())
    assert native.read_rows(path) == {"茶": 12, "\t": 3, "\r": 4, " ": 5, "\u2028": 6}


def test_no_compilers(tmp_path, tools, monkeypatch):
    """What is missing is named; a compiler of another name, too."""
    ways, missing = native.find_ways(tmp_path, given(only=["jieba-rs", "cppjieba"]))
    assert [way.name for way in ways] == ["perftricks", "perftricks, to_counter()"]
    assert missing == {
        "jieba-rs": "there is no cargo on the PATH",
        "cppjieba": "there is no g++ on the PATH",
    }
    monkeypatch.setenv("CXX", "another -m64")
    _, missing = native.find_ways(tmp_path, given(only=["cppjieba"]))
    assert missing == {"cppjieba": "there is no another on the PATH"}


def test_no_network(tmp_path, tools):
    """The error of cargo or git, with its cause, is the reason that is given."""
    script = "#!/bin/sh\nprintf '%s' '{}' >&2\nexit 101\n"
    tools("cargo", script.format(OFFLINE))
    tools("g++", "#!/bin/sh\n")
    tools("git", script.format("fatal: unable to access: Could not resolve host: git.example\n"))
    _, missing = native.find_ways(tmp_path, given(only=["jieba-rs", "cppjieba"]))
    assert missing == {
        "jieba-rs": "cargo failed: error: failed to get `jieba-rs` as a dependency of package "
        "`count-jieba-rs`; [6] Could not resolve hostname (Could not resolve host: crates.example)",
        "cppjieba": "git failed: fatal: unable to access: Could not resolve host: git.example",
    }


def test_a_checkout_without_its_submodule(tmp_path, tools):
    """A folder that is no whole checkout is named before anything is compiled."""
    tools("g++", "#!/bin/sh\n")
    (tmp_path / "include" / "cppjieba").mkdir(parents=True)
    with pytest.raises(native.UnavailableError, match=re.escape("deps/limonp/include/limonp")):
        native.build_cppjieba(tmp_path, tmp_path)


def test_no_package():
    """A package that is not installed is named."""
    with pytest.raises(native.UnavailableError, match="import no_such_segmenter: No module"):
        native.load("no_such_segmenter")


def test_a_program(tmp_path, tools, text):
    """A program is given threads, jieba's dictionary, a path and the files; its table is read."""
    tools("cargo", CARGO.format(python=sys.executable, program=PROGRAM))
    ways, missing = native.find_ways(tmp_path, given(only=["jieba-rs"]))
    assert not missing
    seconds, table = ways[-1].run(3, [text])
    (dictionary,) = table.keys() - {str(text), "\t"}
    assert (seconds, set(table.values())) == (0.25, {3})
    with open(dictionary, encoding="utf-8") as file:
        assert sum(1 for _ in file) > 300_000


def test_the_version_is_the_pinned_one():
    """The version that the table names is that of the crate's manifest."""
    manifest = (native.PROGRAMS / "jieba_rs" / "Cargo.toml").read_text(encoding="utf-8")
    assert f'jieba-rs = {{ version = "={native.JIEBA_RS}"' in manifest


def test_turns():
    """Ways run in turn, the best time counts, and what fails is left out with its reason."""
    ran = []

    def way(name, times, table):
        times = iter(times)

        def run(threads, paths):
            ran.append((name, threads))
            seconds = next(times, None)
            if seconds is None:
                raise native.UnavailableError("it has died")
            return seconds, table

        return native.Way(name, "1", run)

    ours = way("ours", (2.0, 1.0, 3.0, 4.0), {"a": 4})
    theirs = way("theirs", (5.0, 6.0, 2.5, 8.0), {"a": 3})
    third = way("third", (1.0, 1.0), {"a": 4})
    figures, failed = native.measure([ours, theirs, third], [1, 2], [], rounds=2)
    assert ran[:6] == [(name, many) for many in (1, 2) for name in ("ours", "theirs", "third")]
    assert failed == {"third": "it has died"}
    best = native.Figure(ours, 1, 2.0, 0.0)
    assert figures == [
        best,
        replace(best, threads=2, seconds=1.0),
        native.Figure(theirs, 1, 2.5, 0.125),
        native.Figure(theirs, 2, 6.0, 0.125),
    ]
    assert native.rows(figures, 5_000_000)[1:3] == [
        ["ours", "1", "2", "5.0", "none"],
        ["theirs", "1", "1", "2.0", "12.5000%"],
    ]


def test_the_command(tools, text, capsys):
    """It prints a table of what there is, and names what there is not."""
    status = native.main([str(text), "--threads", "1", "--rounds", "1", "--only", "cppjieba"])
    said = capsys.readouterr().out
    assert status == 0
    assert re.search(r"^\| perftricks \| \S+ \| 1 \| [\d.]+ \| none \|$", said, re.MULTILINE)
    assert "\nnot measured: cppjieba: there is no g++ on the PATH\n" in said


def test_bad_text(tmp_path, tools, capsys):
    """Text that is not UTF-8 ends it with one line."""
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xff\n")
    with pytest.raises(SystemExit, match="1"):
        native.main([str(path), "--only", "cppjieba"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "text.txt" in line
