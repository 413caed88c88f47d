"""--report and --plot, as the user gives them."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.cli.conftest import command


def test_both(run, corpus):
    """Both files are written beside the table, and the screen says where."""
    report, plot = corpus.parent / "counts.html", corpus.parent / "zipf.svg"
    result = run(corpus, "--report", report, "--plot", plot, "--no-hmm")
    assert (result.status, result.err) == (0, "")
    assert f"report     {report}" in result.out
    assert f"plot       {plot}" in result.out
    page = report.read_text(encoding="utf-8")
    assert f"<h1>{corpus}</h1>" in page
    assert "<dt>HMM</dt><dd>off</dd>" in page
    assert "喝茶" in page
    assert "喝茶" in plot.read_text(encoding="utf-8")


def test_quietly(run, corpus):
    """A report is reason enough for --quiet; --json says where it is."""
    report = corpus.parent / "counts.html"
    result = run(corpus, "--quiet", "--report", report)
    assert (result.status, result.out) == (0, "")
    assert report.exists()
    record = run(corpus, "--json", "-", "--report", report).json
    assert (record["report"], record["plot"]) == (str(report), None)


def test_filters(run, corpus):
    """What is left out of the table is left out of the report."""
    report = corpus.parent / "counts.html"
    assert run(corpus, "--min-length", 2, "--report", report).status == 0
    page = report.read_text(encoding="utf-8")
    assert '"tokens":["喝茶"' in page
    assert '"，"' not in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--report a.pdf", "report 'a.pdf': unknown extension '.pdf'; expected .html"),
        ("--plot a", "plot 'a': no extension; expected .svg, .png or .pdf"),
        ("--plot no/a.svg", "output 'no/a.svg': folder"),
        ("--compare --report a.html", "--compare writes neither report nor plot; leave them out"),
        ("--format text --report corpus.html", "output 'corpus.html' would overwrite an input"),
    ],
)
def test_wrong_usage(run, tmp_path, monkeypatch, options, message):
    """A file that cannot be written is wrong usage, found before counting."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.html").write_text("<p>茶")
    result = run("corpus.html", *options.split())
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"perftricks wordcount: {message}")
    assert result.err.count("\n") == 1
    assert os.listdir() == ["corpus.html"]


def test_missing_matplotlib(run, corpus, monkeypatch):
    """Without matplotlib --plot FILE.png names the extra in one line."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    result = run(corpus, "--plot", corpus.parent / "zipf.png")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "pip install 'perftricks[plot]'; or write .svg, which needs nothing" in result.err


def test_real_command(corpus):
    """The installed package has the page's parts with it."""
    report = corpus.parent / "counts.html"
    done = command("wordcount", corpus, "--report", report, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert report.read_text(encoding="utf-8").rstrip().endswith("</html>")
