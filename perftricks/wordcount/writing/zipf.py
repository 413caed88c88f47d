"""What is drawn: how often the tokens occur against their rank, and what Zipf's law expects.

Zipf's law says that the count is proportional to 1 / rank: a straight line where both axes are
logarithmic (G. K. Zipf, Human Behavior and the Principle of Least Effort, 1949).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perftricks.wordcount.table.counts import WordCounts
from perftricks.wordcount.table.printable import printable

_DENSE = 30  # the first ranks are all drawn; later ones lie too close together
_PER_DECADE = 40
_LONGEST_LABEL = 12  # characters


@dataclass(frozen=True)
class Point:
    """A token in the plot.

    Attributes:
        rank: Its place in the table, from 1.
        count: How often it occurs.
        token: The token as it can be shown.
    """

    rank: int
    count: int
    token: str


@dataclass(frozen=True)
class Zipf:
    """A plot, without a word about how it is drawn.

    Attributes:
        points: The points, by rank; evenly spread where the ranks are logarithmic.
        labelled: The points to write the token at.
        distinct: How many tokens the table has.
        scale: Zipf's law expects a token of rank r to occur scale / r times.
    """

    points: tuple[Point, ...]
    labelled: tuple[Point, ...]
    distinct: int
    scale: float

    @property
    def rank_decades(self) -> tuple[int, int]:
        """The powers of ten between which the ranks lie."""
        return 0, max(1, math.ceil(math.log10(max(self.distinct, 1))))

    @property
    def count_decades(self) -> tuple[int, int]:
        """The powers of ten between which the counts lie."""
        counts = [point.count for point in self.points] or [1]
        lowest = math.floor(math.log10(min(counts)))
        return lowest, max(lowest + 1, math.ceil(math.log10(max(counts))))


def zipf(counts: WordCounts) -> Zipf:
    """Return what is to be drawn of a table; a few hundred points, however large it is.

    >>> drawn = zipf(WordCounts({"茶": 8, "水": 4, "碗": 2}, documents=1))
    >>> [(point.rank, point.count, point.token) for point in drawn.points]
    [(1, 8, '茶'), (2, 4, '水'), (3, 2, '碗')]
    >>> drawn.rank_decades, drawn.count_decades
    ((0, 1), (0, 1))
    """
    distinct = len(counts)
    labelled = _labelled_ranks(distinct)
    wanted = {*_drawn_ranks(distinct), *labelled}
    points: dict[int, Point] = {}
    total, harmonic = 0, 0.0
    for rank, (token, count, _) in enumerate(counts.rows(), 1):
        total += count
        harmonic += 1 / rank
        if rank in wanted:
            points[rank] = Point(rank, count, _shortened(printable(token)))
    return Zipf(
        points=tuple(points.values()),
        labelled=tuple(points[rank] for rank in labelled),
        distinct=distinct,
        # So that the counts that the law expects add up to the table's.
        scale=total / harmonic if distinct else 0.0,
    )


def _drawn_ranks(distinct: int) -> Iterator[int]:
    yield from range(1, min(distinct, _DENSE) + 1)
    if distinct > _DENSE:
        steps = math.ceil(math.log10(distinct / _DENSE) * _PER_DECADE)
        ratio = distinct / _DENSE
        yield from (round(_DENSE * ratio ** (step / steps)) for step in range(1, steps + 1))


def _labelled_ranks(distinct: int) -> Sequence[int]:
    """1, 3, 10, 30, 100, ... as far as the table goes."""
    ranks = (base * 10**decade for decade in range(10) for base in (1, 3))
    return [rank for rank in ranks if rank <= distinct]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
