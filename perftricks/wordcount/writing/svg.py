"""The plot as SVG: text that every browser has a font for, light or dark as the reader likes it."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from html import escape

from perftricks.wordcount.writing.zipf import Zipf

STYLE = """
.zipf { --paper: #ffffff; --ink: #1f2328; --muted: #59636e; --grid: #d9dee3;
  --curve: #0b62c4; --law: #b35900;
  font: 13px system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei",
    "WenQuanYi Zen Hei", sans-serif; }
@media (prefers-color-scheme: dark) {
  .zipf { --paper: #14181d; --ink: #e6eaee; --muted: #9aa5b1; --grid: #2d343c;
    --curve: #6cb2ff; --law: #f2a65a; }
}
.zipf text { fill: var(--muted); }
.zipf .token { fill: var(--ink); font-size: 14px; paint-order: stroke; stroke: var(--paper);
  stroke-width: 3px; stroke-linejoin: round; }
.zipf .name { fill: var(--law); }
.zipf .grid { stroke: var(--grid); fill: none; }
.zipf .law { stroke: var(--law); stroke-width: 1.5; stroke-dasharray: 6 5; fill: none; }
.zipf .curve { stroke: var(--curve); stroke-width: 2; fill: none; stroke-linejoin: round; }
.zipf circle { fill: var(--curve); }
.zipf circle.dense { fill-opacity: 0; }
.zipf circle:hover { fill-opacity: 1; r: 5px; }
"""

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 18, 50
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LABEL_SIZE = 14  # pixels, as in STYLE
_DRAWN_APART = 5  # pixels from one point to the next from which on both get a dot


def document(plot: Zipf, *, width: int = 840, height: int = 520) -> str:
    """Return a whole SVG file."""
    paper = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    body = f"<style>{STYLE}</style>{paper}{_body(plot, width, height)}"
    size = f'width="{width}" height="{height}"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_opened(width, height, size)}{body}</svg>\n'


def fragment(plot: Zipf, *, width: int, height: int) -> str:
    """Return an SVG element for a page that has :data:`STYLE`."""
    return f"{_opened(width, height, '')}{_body(plot, width, height)}</svg>"


def _opened(width: int, height: int, size: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="zipf" viewBox="0 0 {width} {height}" '
        f'{size} role="img" aria-label="Counts of the tokens against their rank, both logarithmic">'
    )


def _body(plot: Zipf, width: int, height: int) -> str:
    return "\n".join(_Drawing(plot, width, height).elements())


class _Drawing:
    """A plot on a sheet of a size."""

    def __init__(self, plot: Zipf, width: int, height: int) -> None:
        self.plot = plot
        self.width, self.height = width, height
        self.ranks, self.counts = plot.rank_decades, plot.count_decades

    def x(self, rank: float) -> float:
        first, last = self.ranks
        share = (math.log10(rank) - first) / (last - first)
        return _LEFT + share * (self.width - _LEFT - _RIGHT)

    def y(self, count: float) -> float:
        first, last = self.counts
        share = (math.log10(count) - first) / (last - first)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)

    def elements(self) -> Iterator[str]:
        yield from self._axes()
        if not self.plot.points:
            yield _text(self.width / 2, self.height / 2, "middle", "no tokens")
            return
        yield from self._law()
        yield self._curve()
        yield from self._dots()
        yield from self._labels()

    def _axes(self) -> Iterator[str]:
        left, right = self.x(10 ** self.ranks[0]), self.x(10 ** self.ranks[1])
        bottom, top = self.y(10 ** self.counts[0]), self.y(10 ** self.counts[1])
        for decade in range(self.ranks[0], self.ranks[1] + 1):
            x = self.x(10**decade)
            yield f'<path class="grid" d="M{x:.1f} {bottom:.1f}V{top:.1f}"/>'
            yield _text(x, bottom + 19, "middle", _power(decade))
        for decade in range(self.counts[0], self.counts[1] + 1):
            y = self.y(10**decade)
            yield f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>'
            yield _text(left - 8, y + 4, "end", _power(decade))
        yield _text((left + right) / 2, self.height - 10, "middle", "rank")
        middle = (top + bottom) / 2
        yield _text(14, middle, "middle", "count", f' transform="rotate(-90 14 {middle:.1f})"')

    def _law(self) -> Iterator[str]:
        """The straight line, as far as it is on the sheet, and its name at the lower end."""
        scale = self.plot.scale
        begin = max(1.0, scale / 10 ** self.counts[1])
        end = min(10.0 ** self.ranks[1], scale / 10 ** self.counts[0])
        if begin >= end:
            return
        yield (
            f'<path class="law" d="M{self.x(begin):.1f} {self.y(scale / begin):.1f}'
            f'L{self.x(end):.1f} {self.y(scale / end):.1f}"/>'
        )
        name = "dashed: Zipf’s law, count ∝ 1 / rank"
        yield _text(_LEFT + 10, self.height - _BOTTOM - 12, "start", name, ' class="name"')

    def _curve(self) -> str:
        places = " ".join(
            f"{self.x(point.rank):.1f},{self.y(point.count):.1f}" for point in self.plot.points
        )
        return f'<polyline class="curve" points="{places}"/>'

    def _dots(self) -> Iterator[str]:
        """A dot for each point, unseen where they would be a line, that says what it is."""
        last = -math.inf
        for point in self.plot.points:
            x = self.x(point.rank)
            dense = x - last < _DRAWN_APART
            last = last if dense else x
            kind = ' class="dense"' if dense else ""
            what = escape(f"{point.rank:,}. {point.token}: {point.count:,}")
            yield (
                f'<circle{kind} cx="{x:.1f}" cy="{self.y(point.count):.1f}" r="3">'
                f"<title>{what}</title></circle>"
            )

    def _labels(self) -> Iterator[str]:
        for point in self.plot.labelled:
            x, y = self.x(point.rank), max(self.y(point.count) - 7, 14)
            x = min(x + 7, self.width - 4 - LABEL_SIZE * cell_width(point.token) / 2)
            yield _text(x, y, "start", point.token, ' class="token"')


def cell_width(text: str) -> int:
    """Return how wide a text is, in halves of a Chinese character.

    >>> cell_width("茶"), cell_width("tea")
    (2, 3)
    """
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _text(x: float, y: float, anchor: str, text: str, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {place}{more}>{escape(text)}</text>"


def _power(decade: int) -> str:
    """Return a power of ten as it is written: 1, 10, 10².

    >>> _power(0), _power(1), _power(5)
    ('1', '10', '10⁵')
    """
    return f"{10**decade}" if decade in (0, 1) else "10" + str(decade).translate(_SUPERSCRIPTS)
