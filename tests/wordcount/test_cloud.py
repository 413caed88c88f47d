"""The word cloud: which words, in which font, and never boxes in place of characters."""

from __future__ import annotations

import base64
import io
import re
import struct
from xml.etree import ElementTree

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont

from perftricks.wordcount import OptionError, WordCounts
from perftricks.wordcount.writing import check_cloud, cloud, fonts, write_cloud

WORDS = {"茶": 90, "我们": 40, "tea": 20, "，": 500, "123": 300, "北京": 10}


def font(path, characters, name="Test", width=1000):
    """Write a font with a block for each character, of a width that tells fonts apart."""
    characters = dict.fromkeys(characters)
    glyphs = [".notdef", *(f"u{ord(one):04X}" for one in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(one): f"u{ord(one):04X}" for one in characters})
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (width - 100, 800), (width - 100, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (width, 100)))
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=880, usWinAscent=880, usWinDescent=120)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def chinese(tmp_path):
    """A font that has all characters of the words."""
    return font(tmp_path / "chinese.ttf", "茶我们北京teapot的")


@pytest.fixture
def table():
    return WordCounts(WORDS, documents=1)


def texts(path):
    """Return the words of an .svg, the first the largest."""
    found = ElementTree.parse(path).getroot().findall("{*}text")
    found.sort(key=lambda one: -float(one.get("font-size")))
    return [one.text for one in found]


def embedded(path):
    """Return the font in an .svg."""
    data = re.search(r"base64,([^\"]+)", path.read_text(encoding="utf-8"))[1]
    return TTFont(io.BytesIO(base64.b64decode(data)))


def installed(monkeypatch, *paths):
    """Let these be the fonts that are installed."""
    monkeypatch.setattr(fonts, "_font_files", lambda: tuple(map(str, paths)))


def test_words_and_their_font(tmp_path, chinese, table):
    """Words are drawn, the more frequent the larger, and an .svg has their characters in it."""
    path = tmp_path / "cloud.svg"
    write_cloud(path, table, font=chinese)
    assert texts(path) == ["茶", "我们", "tea", "北京"]
    assert set(map(chr, embedded(path).getBestCmap())) == set("茶我们tea北京")


def test_some_words_of_many(tmp_path, chinese):
    """No more words than asked for, the most frequent."""
    path = tmp_path / "cloud.svg"
    counts = WordCounts({"tea" * n: 20 - n for n in range(1, 10)}, documents=1)
    write_cloud(path, counts, font=chinese, words=3)
    assert texts(path) == ["tea", "teatea", "teateatea"]


@pytest.mark.parametrize("extension", [".png", ".svg"])
def test_the_same_picture(tmp_path, chinese, table, extension):
    """The same table gives the same picture."""
    pictures = []
    for number in range(2):
        path = tmp_path / f"{number}{extension}"
        write_cloud(path, table, font=chinese)
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    if extension == ".png":
        assert pictures[0].startswith(b"\x89PNG")
        assert struct.unpack(">II", pictures[0][16:24]) == (1200, 800)


def test_words_that_the_font_lacks(tmp_path, table):
    """What a font lacks is left out and said, not drawn as boxes."""
    path = tmp_path / "cloud.svg"
    latin = font(tmp_path / "latin.ttf", "tea")
    with pytest.warns(UserWarning, match=r"3 of 4 words are left out, .*: 茶, 我们, 北京; name"):
        write_cloud(path, table, font=latin)
    assert texts(path) == ["tea"]
    path.unlink()
    only = WordCounts({"茶": 1}, documents=1)
    with pytest.raises(
        OptionError, match=r"latin.ttf' does not have the characters of 茶: install"
    ):
        write_cloud(path, only, font=latin)
    assert not path.exists()


def test_the_font_that_suits(tmp_path, monkeypatch, chinese, table):
    """Of the fonts that are installed, the one with most of the words is taken."""
    latin = font(tmp_path / "latin.ttf", "tea", width=500)
    installed(monkeypatch, latin, chinese)
    path = tmp_path / "cloud.svg"
    write_cloud(path, table)
    assert texts(path) == ["茶", "我们", "tea", "北京"]
    assert embedded(path)["hmtx"]["uni8336"][0] == 1000
    check_cloud(path, chinese=True)
    installed(monkeypatch, latin)
    check_cloud(path)
    with pytest.raises(OptionError, match="no font with Chinese characters is installed: install"):
        check_cloud(path, chinese=True)
    check_cloud(path, chinese=True, font=latin)
    installed(monkeypatch)
    with pytest.raises(OptionError, match="no installed font has the characters of 茶, 我们"):
        write_cloud(path, table)


def test_a_collection(tmp_path, table):
    """Of a collection with a font for each country, the simplified one is taken."""
    collection = TTCollection()
    for name, width in (("Test JP", 900), ("Test SC", 700), ("Test TC", 800)):
        one = font(tmp_path / f"{width}.ttf", "茶我们北京tea", name=name, width=width)
        collection.fonts.append(TTFont(one))
    path, file = tmp_path / "cloud.svg", tmp_path / "all.ttc"
    collection.save(file)
    write_cloud(path, table, font=file)
    assert {width for width, _ in embedded(path)["hmtx"].metrics.values()} == {700}


def test_nothing_to_draw(tmp_path, chinese):
    """An empty table, or one without words, gives a picture that says so."""
    path = tmp_path / "cloud.svg"
    letters = font(tmp_path / "letters.ttf", "no wrds")
    for counts in ({}, {"，": 3}):
        write_cloud(path, WordCounts(counts, documents=0), font=letters)
        assert texts(path) == ["no words"]


@pytest.mark.parametrize("word", ["<b>&", "]]>茶", "a\ud800", "a\x00"])
def test_nothing_in_a_word_is_markup(tmp_path, word):
    """Whatever a word holds, the picture is well-formed and shows it as text."""
    path = tmp_path / "cloud.svg"
    printed = font(tmp_path / "all.ttf", sorted({*map(chr, range(32, 127)), "茶"}))
    write_cloud(path, WordCounts({word: 2}, documents=1), font=printed)
    assert texts(path) == [cloud.printable(word)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cloud", {}, "cloud 'cloud': no extension; expected .svg or .png"),
        ("cloud.pdf", {}, "cloud 'cloud.pdf': unknown extension '.pdf'"),
        ("no/cloud.svg", {}, "output 'no/cloud.svg': folder"),
        ("cloud.svg", {"font": "gone.ttf"}, "font 'gone.ttf': no such file"),
        ("cloud.svg", {"font": "text.ttf"}, "font 'text.ttf' cannot be drawn with"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, monkeypatch, name, options, message):
    """It is refused before anything is counted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.ttf").write_text("no font")
    with pytest.raises(OptionError) as error:
        check_cloud(name, **options)
    assert str(error.value).startswith(message)


def test_without_wordcloud(tmp_path, monkeypatch):
    """Without the library its extra is named."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"needs wordcloud, .* install 'perftricks\[plot\]'"):
        check_cloud(tmp_path / "cloud.svg")
