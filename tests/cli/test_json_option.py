"""``--json`` is the same in every command."""

from __future__ import annotations

import json

import pytest

from perftricks.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in a folder of its own; gives its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("喝茶\n", encoding="utf-8")

    def run(*arguments):
        status = main(arguments)
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["wordcount", "corpus.txt", "--json"],
        ["wordcount", "--json", "corpus.txt"],
        ["wordcount", "corpus.txt", "--json", "-"],
        ["wordcount", "corpus.txt", "--json=-", "-n", "1"],
        ["info", "--json"],
        ["info", "--json", "-"],
        ["cache", "--json"],
    ],
)
def test_on_the_standard_output(run, arguments):
    """Alone or before ``-`` the figures are printed, and nothing else."""
    status, out, _ = run(*arguments)
    assert status == 0
    assert json.loads(out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["wordcount", "corpus.txt", "--json=a.json"],
        ["wordcount", "--json", "a.json", "corpus.txt"],
        ["info", "--json", "a.json"],
        ["cache", "--json=a.json"],
    ],
)
def test_to_a_file(run, tmp_path, arguments):
    """The figures go to a file, and what is shown is shown."""
    status, out, _ = run(*arguments)
    assert status == 0
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert not out.startswith("{")


def test_a_file_that_is_there(run, tmp_path):
    """A file that may be meant to be counted is never written over."""
    (tmp_path / "a.json").write_text('["喝茶"]', encoding="utf-8")
    status, out, error = run("wordcount", "--json", "a.json", "corpus.txt")
    assert (status, out) == (2, "")
    assert "'a.json': this file is there: to write it, say --json=a.json; to count it" in error
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '["喝茶"]'


def test_behind_two_dashes(run, tmp_path):
    """A file may have that name."""
    (tmp_path / "--json").write_text("茶\n", encoding="utf-8")
    status, out, _ = run("wordcount", "--json", "--", "--json")
    assert status == 0
    assert json.loads(out)["tokens"] == 1
