"""--report and --plot, as the user gives them."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.cli.conftest import command
from tests.wordcount.test_cloud import font, texts


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
        (
            "--compare --report a.html",
            "--compare draws nothing; leave --report, --plot, --cloud and --font out",
        ),
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


def test_cloud(run, corpus):
    """--cloud draws the words in the font that is named; a word it lacks is said on stderr."""
    path, file = corpus.parent / "cloud.svg", corpus.parent / "font.ttf"
    font(file, "喝茶")
    result = run(corpus, "--cloud", path, "--font", file, "--stop-words", "zh")
    assert result.status == 0
    assert f"cloud      {path}" in result.out
    assert "words are left out, whose characters" in result.err
    assert result.err.count("\n") == 1
    assert texts(path) == ["喝茶"]
    record = run(corpus, "-q", "--json", "-", "--cloud", path, "--font", file).json
    assert record["cloud"] == str(path)


def test_font_alone(run, corpus):
    """A font for nothing is wrong usage; for a .png plot it is looked at first."""
    file = font(corpus.parent / "font.ttf", "喝茶")
    result = run(corpus, "--font", file)
    assert (result.status, result.err) == (
        2,
        "perftricks wordcount: --font is for --cloud, and for --plot FILE.png or .pdf\n",
    )
    plot = corpus.parent / "zipf.png"
    assert run(corpus, "-q", "--plot", plot, "--font", file).status == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    result = run(corpus, "-q", "--plot", plot, "--font", corpus)
    assert (result.status, "cannot be drawn with" in result.err) == (2, True)


def test_no_chinese_font(run, corpus, monkeypatch):
    """Where no font has Chinese characters, one line says what to install, before counting."""
    monkeypatch.setattr("perftricks.wordcount.writing.fonts._font_files", lambda: ())
    result = run(corpus, "--cloud", corpus.parent / "cloud.svg")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "no font with Chinese characters is installed: install one (Debian" in result.err
