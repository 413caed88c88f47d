"""The solver against all choices that there are."""

from __future__ import annotations

import itertools
import random

import pytest

from perftricks.recompute.planning.solver import (
    FULL,
    PLAIN,
    SAVING,
    Between,
    Piece,
    Problem,
    Unit,
)


def problem(seed, count):
    """Return some units that look like nothing in particular."""
    draw = random.Random(seed)
    units = [
        Unit(
            inner=draw.randrange(0, 100),
            full=draw.uniform(0, 2),
            kept=(draw.randrange(0, 20), draw.randrange(0, 60)),
            rest=(draw.uniform(0, 1.5), draw.uniform(0, 1)),
            gradients=draw.choice([0, 5, 20]),
            joins=draw.random() < 0.8,
        )
        for _ in range(count)
    ]
    tensors = [
        Between(made, draw.randrange(made + 1, count), draw.randrange(1, 30))
        for made in range(count - 1)
        for _ in range(draw.choice([1, 1, 2]))
    ]
    return Problem(units, tensors, call=0.1, at_end=draw.choice([0, 40]))


def choices(some):
    """List every choice of segments and policies."""
    count = len(some.units)
    for cuts in itertools.product([False, True], repeat=count - 1):
        ends = [place for place, is_cut in enumerate(cuts, 1) if is_cut] + [count]
        spans = list(zip([0, *ends], ends))
        if any(not u.joins for a, b in spans for u in some.units[a : b - 1]):
            continue
        for policies in itertools.product([PLAIN, FULL, *SAVING], repeat=len(spans)):
            pieces = [Piece(a, b, p) for (a, b), p in zip(spans, policies)]
            if all(p.policy != PLAIN or p.stop == p.start + 1 for p in pieces):
                yield pieces


@pytest.mark.parametrize("seed", range(12))
def test_nothing_fits_better(seed):
    """For budgets from too little to plenty, it is the fastest of all that fit."""
    some = problem(seed, count=6)
    known = []
    for pieces in choices(some):
        try:
            known.append((some.peak(pieces), some.time(pieces)))
        except StopIteration:  # a policy that keeps all or nothing of its products is not offered
            continue
    lowest = min(peak for peak, _ in known)
    assert some.least() == lowest
    assert some.solve(lowest - 1) is None
    for budget in range(lowest, some.plain.peak + 10, 7):
        found = some.solve(budget)
        assert found.peak <= budget
        assert found.time == pytest.approx(min(time for peak, time in known if peak <= budget))
        assert found.peak == some.peak(found.pieces)
        assert [p.start for p in found.pieces[1:]] == [p.stop for p in found.pieces[:-1]]


def test_more_budget_is_never_slower():
    """And less is never larger, on chains of forty units."""
    some = problem(7, count=40)
    curve = some.curve()
    assert len(curve) > 8
    assert [c.peak for c in curve] == sorted(c.peak for c in curve)
    assert [c.time for c in curve] == sorted((c.time for c in curve), reverse=True)
    assert curve[0].peak == some.least()
    assert curve[-1].time == 0


def test_finer():
    """Between two choices of a curve there are more, in order, each the best for its peak."""
    some = problem(7, count=40)
    curve = some.curve(points=5)
    finer = some.finer(curve, 1)
    added = finer[2:-3]
    assert len(added) > 2
    assert [*finer[:2], *finer[-3:]] == curve
    assert [c.peak for c in finer] == sorted(c.peak for c in finer)
    assert [c.time for c in finer] == sorted({c.time for c in finer}, reverse=True)
    assert [some.solve(choice.peak).time for choice in added] == [choice.time for choice in added]
