"""The word cloud: drawn by wordcloud, in a font that has the words' characters."""

from __future__ import annotations

import base64
import importlib.util
import io
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

from perftricks.files import PathLike, replacing
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.sources import Source
from perftricks.wordcount.table.counts import WordCounts, check_counts
from perftricks.wordcount.table.printable import printable
from perftricks.wordcount.writing.export import check_apart, check_place
from perftricks.wordcount.writing.fonts import (
    HAN,
    HOW_TO_INSTALL,
    best_font,
    can_write,
    check_font,
    font_for,
)

WORDS = 200
_SIZE = (1200, 800)
_COLORS = ("#0b62c4", "#b35900", "#1f7a4d", "#7a3fb0", "#a3244d", "#3d5a73")
_FAMILY = "perftricks cloud"
_NEEDS = ("wordcloud", "fontTools")
_NAMED = 5  # of the words that are left out


def check_cloud(
    path: PathLike,
    sources: Sequence[Source] = (),
    *,
    font: PathLike | None = None,
    chinese: bool = False,
) -> None:
    """Check that a word cloud can be drawn, before the work of counting.

    Args:
        path: Where to.
        sources: The files that are read, none of which may be overwritten.
        font: The file of the font; None to look for one.
        chinese: Whether the words will be Chinese, so that some font must have such characters.

    Raises:
        OptionError: If the extension is unknown, wordcloud is not installed, the font is none,
            no font has Chinese characters, or the place will not do; see
            :func:`perftricks.wordcount.writing.export.check_output`.

    >>> check_cloud("cloud.gif")
    Traceback (most recent call last):
    perftricks.wordcount.errors.OptionError: cloud 'cloud.gif': unknown extension '.gif'; expected \
.svg or .png
    """
    name = os.fspath(path)
    extension = os.path.splitext(name)[1].lower()
    if extension not in (".svg", ".png"):
        found = f"unknown extension {extension!r}" if extension else "no extension"
        raise OptionError(f"cloud {name!r}: {found}; expected .svg or .png")
    for module in _NEEDS:
        if importlib.util.find_spec(module) is None:
            raise OptionError(
                f"cloud {name!r} needs {module.lower()}, which is not installed: "
                "pip install 'perftricks[plot]'"
            )
    check_place(path, sources)
    if font is not None:
        check_font(font)
        check_apart([path], [font])
    elif chinese and font_for(HAN) is None:
        raise OptionError(
            f"cloud {name!r}: no font with Chinese characters is installed: {HOW_TO_INSTALL}"
        )


def write_cloud(
    path: PathLike, counts: WordCounts, *, font: PathLike | None = None, words: int = WORDS
) -> None:
    """Draw the most frequent words, the more frequent the larger: a word cloud.

    Tokens without a letter are no words, and are left out. The same table gives the same picture.
    An .svg has the characters it needs of the font in it.

    Args:
        path: Where to: ``.svg`` or ``.png``. The file appears complete or not at all. Needs
            wordcloud (extra ``plot``).
        counts: The table.
        font: The file of the font, ``.ttf``, ``.otf`` or ``.ttc``; None for the installed one that
            has the characters of most of the words.
        words: How many words are drawn at most.

    Raises:
        OptionError: As :func:`check_cloud` does; also if no font has the characters of any word,
            or ``counts`` is no WordCounts.
        OSError: If writing fails.

    Warns:
        UserWarning: Where words are left out because the font lacks a character of theirs.
    """
    check_cloud(path, font=font)
    check_counts(counts)
    chosen: dict[str, int] = {}
    for token, count, _ in counts.rows():
        if any(map(str.isalpha, token)):
            chosen[printable(token)] = count
            if len(chosen) == words:
                break
    file = os.fspath(font) if font is not None else best_font(chosen or ["no words"])
    lacking = [word for word in chosen if file is None or not can_write(file, word)]
    if lacking and len(lacking) == len(chosen):
        which = "no installed font" if font is None else f"font {file!r}"
        verb = "has" if font is None else "does not have"
        raise OptionError(
            f"cloud {os.fspath(path)!r}: {which} {verb} the characters of {_some(lacking)}: "
            f"{HOW_TO_INSTALL}"
        )
    assert file is not None  # else every word would lack
    if lacking:
        warnings.warn(
            f"cloud {os.fspath(path)!r}: {len(lacking)} of {len(chosen)} words are left out, whose "
            f"characters {file!r} does not have: {_some(lacking)}; name another font",
            UserWarning,
            stacklevel=2,
        )
    drawn = {word: count for word, count in chosen.items() if word not in set(lacking)}
    content = _draw(drawn or {"no words": 1}, file, os.path.splitext(os.fspath(path))[1].lower())
    with replacing(os.fspath(path)) as target:
        target.write(content)


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_NAMED]) + (", ..." if len(words) > _NAMED else "")


def _draw(words: dict[str, int], font: str, extension: str) -> bytes:
    """Return the picture as a file has it."""
    from wordcloud import WordCloud

    with tempfile.TemporaryDirectory(prefix="perftricks-cloud-") as folder:
        small = os.path.join(folder, "font")
        _reduce(font, "".join(words), small)
        cloud = WordCloud(
            font_path=small,
            width=_SIZE[0],
            height=_SIZE[1],
            background_color="white",
            max_words=len(words),
            max_font_size=200,
            random_state=0,
            color_func=_color,
        ).generate_from_frequencies(words)
        if extension == ".svg":
            with open(small, "rb") as file:
                return _with_font(cloud.to_svg(), file.read())
        buffer = io.BytesIO()
        cloud.to_image().save(buffer, format="PNG")
        return buffer.getvalue()


def _with_font(svg: str, font: bytes) -> bytes:
    """Return a picture with its font in it, so that it looks the same to everybody."""
    data = base64.b64encode(font).decode()
    source = f'url("data:font/woff;base64,{data}") format("woff")'
    style = f'<style>@font-face {{ font-family: "{_FAMILY}"; src: {source}; }}</style>'
    opened = svg.index(">") + 1
    return f"{svg[:opened]}\n{style}{svg[opened:]}".encode()


def _color(word: str, random_state: random.Random, **others: object) -> str:
    return random_state.choice(_COLORS)


def _reduce(font: str, text: str, path: str) -> None:
    """Write a font of these characters only, which opens at once and fits into a picture."""
    from fontTools import subset

    options = subset.Options(font_number=_simplified(font), notdef_outline=True)
    # It tells of tables that it does not know, which nobody here can do anything about.
    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)
    reduced: Any = subset.load_font(font, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=text)
    subsetter.subset(reduced)
    for record in reduced["name"].names:  # else a viewer may know the name, and take its own
        if record.nameID in (1, 4, 16):
            record.string = _FAMILY
    reduced.flavor = "woff"
    reduced.save(path)
    reduced.close()


def _simplified(path: str) -> int:
    """Return which font of a collection has characters as the mainland writes them, or the first.

    A collection of Noto or Source Han has one for each country, with the same characters.
    """
    from fontTools.ttLib import TTCollection

    with open(path, "rb") as file:
        if file.read(4) != b"ttcf":
            return -1
    with TTCollection(path, lazy=True) as collection:
        names = [one["name"].getDebugName(1) or "" for one in collection.fonts]
    return next((n for n, name in enumerate(names) if name.endswith((" SC", " CN"))), 0)
