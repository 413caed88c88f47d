"""Fonts that are installed, and which characters they have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache

from perftricks.files import PathLike
from perftricks.wordcount.errors import OptionError

# Fonts with Chinese characters that systems come with; others are looked for after these.
_CHINESE = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)

# What a font for Chinese has.
HAN = "的"

HOW_TO_INSTALL = (
    "install one (Debian, Ubuntu: apt install fonts-noto-cjk; Fedora: dnf install "
    "google-noto-sans-cjk-fonts), or name the file of one with --font"
)


def check_font(path: PathLike) -> None:
    """Check that a file is a font.

    Raises:
        OptionError: If not.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise OptionError(f"font {name!r}: no such file")
    if not characters_of(name):
        raise OptionError(f"font {name!r} cannot be drawn with: name a .ttf, .otf or .ttc")


def font_for(text: str, first: PathLike | None = None) -> str | None:
    """Return the file of a font that has all characters of a text; None without one.

    Args:
        text: The text.
        first: A font to look at before those that are installed.
    """
    needed = frozenset(map(ord, text))
    for path, characters in _fonts(first):
        if needed <= characters:
            return path
    return None


def best_font(texts: Iterable[str]) -> str | None:
    """Return the installed font that has all characters of the most of some texts.

    None if there is none that has those of any.
    """
    needed = [frozenset(map(ord, text)) for text in texts]
    best, most = None, 0
    for path, characters in _fonts():
        has = sum(one <= characters for one in needed)
        if has > most:
            best, most = path, has
        if most == len(needed):
            break
    return best


def can_write(path: PathLike, text: str) -> bool:
    """Whether a font has all characters of a text."""
    return frozenset(map(ord, text)) <= characters_of(os.fspath(path))


def _fonts(first: PathLike | None = None) -> Iterator[tuple[str, frozenset[int]]]:
    """Fonts and their characters, those that suit best first."""
    for path in (*([] if first is None else [os.fspath(first)]), *_font_files()):
        yield path, characters_of(path)


@cache
def _font_files() -> tuple[str, ...]:
    from matplotlib import font_manager

    order = {name: number for number, name in enumerate(("DejaVu Sans", *_CHINESE))}
    known = sorted(
        font_manager.fontManager.ttflist,
        key=lambda font: (order.get(font.name, len(order)), font.style != "normal", font.name),
    )
    # matplotlib remembers its list for years, so fonts that came later are looked for as well.
    files = dict.fromkeys([*(font.fname for font in known), *font_manager.findSystemFonts()])
    return tuple(file for file in files if not _is_last_resort(file))


def _is_last_resort(path: str) -> bool:
    """Whether a font has a box for every character there is, which says nothing."""
    return "lastresort" in os.path.basename(path).lower()


@cache
def characters_of(path: str) -> frozenset[int]:
    """Return what a font has: code points; none if it cannot be drawn with at any size."""
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):  # damaged, gone since the list was made, or of another kind
        return frozenset()
