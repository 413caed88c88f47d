"""The page and the plot: all there is to see, nothing that runs or is fetched."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from perftricks.wordcount import OptionError, WordCounts, count_words
from perftricks.wordcount.writing import check_plot, fonts, svg, write_plot, write_report
from perftricks.wordcount.writing.zipf import zipf

NASTY = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--",
    "&lt;",
    '"quoted"',
    "'",
    "a\tb\n",
    "\u2028",
    "\ud800",
    "\x00",
    "${title}",
    "茶",
    "",
]


class Page(HTMLParser):
    """What a browser makes of a page: its elements, and the text of each kind of element."""

    def __init__(self, source):
        super().__init__()
        self.elements = []
        self.texts = {}
        self._open = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):  # noqa: D102
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        self._open.append(tag)

    def handle_endtag(self, tag):  # noqa: D102
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):  # noqa: D102
        if self._open:
            self.texts[self._open[-1]][-1] += data


def table(size):
    """Return a table of a size that follows Zipf's law."""
    return WordCounts({f"word{n}": size // n for n in range(1, size + 1)}, documents=1)


@pytest.fixture
def written(tmp_path):
    """Write a report and return what a browser makes of it, and its data."""

    def written(counts, **options):
        path = tmp_path / "report.html"
        write_report(path, counts, **options)
        page = Page(path.read_text(encoding="utf-8"))
        return page, json.loads(page.texts["script"][0])

    return written


def test_data(written):
    """The page holds the table, the most frequent token first, with document frequencies."""
    counts = count_words(["喝茶 喝茶", "我们喝茶"], document_frequency=True)
    page, data = written(counts, title="两杯茶", details={"mode": "default"})
    assert data["tokens"] == ["喝茶", "\\x20", "我们"]
    assert (data["counts"], data["documents"], data["total"]) == ([3, 1, 1], [2, 1, 1], 5)
    assert page.texts["h1"] == ["两杯茶"]
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts["documents"] == "2"
    assert facts["tokens"] == "5"
    assert facts["distinct"] == "3"
    assert facts["mode"] == "default"
    assert facts["tokenizer"].startswith("jieba 0.")
    assert "perftricks" in facts["versions"]
    assert "documents" in page.texts["button"]
    assert "All 3 tokens." in page.texts["p"]


@pytest.mark.parametrize("token", NASTY)
def test_nothing_in_a_token_is_markup(written, token):
    """Whatever tokens and title hold, the page has the elements of a harmless one."""
    harmless = WordCounts({"茶": 2}, documents=1)
    plain, _ = written(harmless, title="tea", details={"a": "b"})
    page, data = written(WordCounts({token: 2}, documents=1), title=token, details={token: token})
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert len(data["tokens"]) == 1
    if token.isprintable() and token:
        assert data["tokens"] == [token]
        assert page.texts["h1"] == [token]


def test_nothing_is_fetched(written):
    """The page refers to nothing outside, and may run its own script only."""
    page, _ = written(table(100))
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page.texts["script"][1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_large_tables(written):
    """A page holds the most frequent tokens only, and says so; without a script it shows some."""
    page, data = written(table(500), rows=200)
    assert len(data["tokens"]) == len(data["counts"]) == 200
    assert data["tokens"][:2] == ["word1", "word2"]
    assert any(
        "The 200 most frequent of 500 tokens, so that the page stays quick" in text
        for text in page.texts["p"]
    )
    assert sum(tag == "tr" for tag, _ in page.elements) == 51


def test_all_rows_of_a_large_table(written):
    """A page holds each of 400,000 rows for the search, and few of them as elements."""
    counts = table(400_000)
    page, data = written(counts)
    assert data["tokens"] == list(counts)
    assert data["counts"] == list(counts.values())
    assert "All 400,000 tokens." in page.texts["p"]
    assert sum(tag == "tr" for tag, _ in page.elements) == 51


def test_how_comes_before_the_table(written):
    """How it was counted stands where one finds it, above the table."""
    page, _ = written(table(9), details={"mode": "default"})
    assert [text.strip() for text in page.texts["h2"]] == [
        "Frequency and rank",
        "How it was counted",
        "Table",
    ]
    tags = [tag for tag, _ in page.elements]
    assert max(n for n, tag in enumerate(tags) if tag == "dl") < tags.index("table")


def test_ngrams_and_nothing(written):
    """N-grams are joined by spaces; an empty table is said to be empty."""
    page, data = written(count_words(["我们 喝茶"], ngrams=2))
    assert data["tokens"] == ["\\x20 喝茶", "我们 \\x20"]
    assert "All 2 n-grams." in page.texts["p"]
    page, data = written(WordCounts({}, documents=0))
    assert data["tokens"] == []
    assert "No tokens." in page.texts["p"]
    assert "no tokens" in page.texts["text"]


def test_report_is_whole_or_not_there(tmp_path, monkeypatch):
    """If making the page fails, the older one stays, and nothing else is left."""
    path = tmp_path / "report.html"
    path.write_text("older")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(path, table(9))
    assert path.read_text() == "older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("size", [0, 1, 2, 30, 31, 1000, 50_000])
def test_what_is_drawn(size):
    """A few hundred points from the first rank to the last; the law adds up to the tokens."""
    counts = table(size)
    drawn = zipf(counts)
    ranks = [point.rank for point in drawn.points]
    assert ranks == sorted(set(ranks))
    assert ranks[:1] + ranks[-1:] == ([1, size] if size else [])
    assert len(ranks) <= 300
    assert set(drawn.labelled) <= set(drawn.points)
    expected = sum(drawn.scale / rank for rank in range(1, size + 1))
    assert expected == pytest.approx(counts.tokens)
    first, last = drawn.count_decades
    assert all(10**first <= point.count <= 10**last for point in drawn.points)


@pytest.mark.parametrize("tokens", [[], ["茶"], NASTY, [f"词{n}" for n in range(2000)]])
def test_svg(tmp_path, tokens):
    """An SVG is well-formed, all of it is on the sheet, and tokens are text."""
    counts = WordCounts({token: n + 1 for n, token in enumerate(tokens)}, documents=1)
    path = tmp_path / "zipf.svg"
    write_plot(path, counts)
    root = ElementTree.fromstring(path.read_bytes())
    texts = ["".join(element.itertext()) for element in root.findall(".//{*}text")]
    assert {"rank", "count"} <= set(texts)
    if tokens:
        assert zipf(counts).labelled[0].token in texts
    else:
        assert "no tokens" in texts
    _, _, width, height = map(int, root.get("viewBox").split())
    for circle in root.findall(".//{*}circle"):
        assert 0 <= float(circle.get("cx")) <= width
        assert 0 <= float(circle.get("cy")) <= height
    assert {element.tag.partition("}")[2] for element in root.iter()} <= {
        *("svg", "style", "rect", "path", "text", "polyline", "circle", "title")
    }


def test_narrow_labels_stay_on_the_sheet():
    """A label at the right edge is moved to where there is room."""
    drawn = zipf(table(1000))
    last = drawn.labelled[-1].token
    label = re.search(
        rf'<text x="([\d.]+)"[^>]*>{last}<', svg.fragment(drawn, width=300, height=300)
    )
    assert float(label[1]) + len(last) * svg.LABEL_SIZE / 2 <= 300


@pytest.mark.parametrize("extension", [".png", ".pdf"])
@pytest.mark.parametrize("tokens", [[], ["茶", "$x", "a_b^{", "\ud800", "😀"]])
def test_drawn_by_matplotlib(tmp_path, extension, tokens):
    """PNG and PDF are drawn whatever the tokens; a character without a glyph would warn."""
    path = tmp_path / f"zipf{extension}"
    write_plot(path, WordCounts(dict.fromkeys(tokens, 3), documents=1))
    assert path.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[extension])


def test_fonts():
    """A font has all characters of a text, and is never one that has a box for each."""
    assert fonts.font_for("tea") is not None
    assert fonts.font_for("tea \U0010fffd") is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("zipf", "plot 'zipf': no extension; expected .svg, .png or .pdf"),
        ("zipf.jpeg", "plot 'zipf.jpeg': unknown extension '.jpeg'"),
        ("no/zipf.svg", "folder '.*' does not exist; create it first"),
    ],
)
def test_places_that_will_not_do(name, problem, tmp_path, monkeypatch):
    """A plot that cannot be written is refused before anything is counted."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=problem):
        check_plot(name)


def test_without_matplotlib(tmp_path, monkeypatch):
    """PNG says which extra it needs, and what needs none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"install 'perftricks\[plot\]'; or write \.svg"):
        check_plot(tmp_path / "zipf.png")
    check_plot(tmp_path / "zipf.svg")
