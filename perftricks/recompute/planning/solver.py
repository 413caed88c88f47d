"""The cheapest choice of segments and policies whose peak fits a budget: exact, on numbers.

::

    units          u0   u1   u2   u3   u4   u5      between places where a graph may be cut
    choice        [u0] [u1   u2] [u3   u4] [u5]     plain, full, save_matmuls, plain

Forward, each segment adds what it keeps. Backward, from the last to the first, a segment that is
recomputed holds all that is inside of it, beside what those before it keep and the gradients of
weights that are there already. The peak is the highest of these sums, and must fit the budget.

Solved by dynamic programming over the places, from left to right. What a choice up to a place
means for the rest is two numbers only: what it keeps, and what it costs. One that is not better in
either than another one up to the same place is dropped, which loses nothing.
"""

from __future__ import annotations

import copy
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

_SAME = 1e-12  # seconds
_FINER = 8  # budgets that are tried between two choices

PLAIN, FULL = "plain", "full"
SAVING = ("save_masks", "save_matmuls")  # policies that keep something inside of a segment


class Unit(NamedTuple):
    """What is between two places where a graph may be cut.

    Attributes:
        inner: Bytes that a plain run keeps of it, beside what it takes and what it gives.
        full: Seconds to compute it again.
        kept: Bytes of these that each policy of ``SAVING`` keeps.
        rest: Seconds to compute it again under each.
        gradients: Bytes of the gradients of its weights.
        joins: Whether a segment may go on from it to the next unit.
        alone: Whether it may be recomputed as a segment of its own.
    """

    inner: int
    full: float
    kept: Tuple[int, ...] = (0,) * len(SAVING)
    rest: Tuple[float, ...] = (0.0,) * len(SAVING)
    gradients: int = 0
    joins: bool = True
    alone: bool = True


class Between(NamedTuple):
    """A tensor that one unit makes and a later one takes.

    Attributes:
        made: The number of the unit that makes it.
        last: The number of the last one that takes it.
        bytes: Its size.
    """

    made: int
    last: int
    bytes: int


class Piece(NamedTuple):
    """A segment of a choice.

    Attributes:
        start: The number of its first unit.
        stop: The number after its last.
        policy: "plain", "full" or one of ``SAVING``.
    """

    start: int
    stop: int
    policy: str


class Choice(NamedTuple):
    """A choice for all units.

    Attributes:
        pieces: The segments, in order.
        peak: Bytes at its peak.
        time: Seconds that it computes again.
    """

    pieces: Tuple[Piece, ...]
    peak: int
    time: float


class Problem:
    """Units and what they cost.

    Args:
        units: The units, in the order they run.
        tensors: What goes from one to another.
        call: Seconds that a recomputed segment takes beside what it computes.
        at_end: Bytes that are there at the end of the forward pass, beside what is kept.
        spans: Units that may be a segment although they do not join: the first, and the one after
            the last.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        tensors: Sequence[Between],
        call: float = 0.0,
        at_end: int = 0,
        spans: Iterable[Tuple[int, int]] = (),
    ) -> None:
        self.units = list(units)
        self._spans = frozenset(spans)
        self._call = call
        self._at_end = at_end
        count = len(self.units)
        # Bytes between units, by where they are made and where they are taken last.
        self._made: List[Dict[int, int]] = [{} for _ in range(count)]
        for tensor in tensors:
            made = self._made[tensor.made]
            made[tensor.last] = made.get(tensor.last, 0) + tensor.bytes
        self._gradients = [sum(u.gradients for u in self.units[i:]) for i in range(count)]
        self._all_moves = self._moves = self._list_moves()

    def restricted(self, allowed: Callable[[Piece], bool]) -> Problem:
        """Return the same with fewer segments to choose from.

        Args:
            allowed: Tells whether a segment may be chosen.
        """
        found = copy.copy(self)
        found._moves = [[move for move in moves if allowed(move[0])] for moves in self._all_moves]
        return found

    def _list_moves(self) -> List[List[Tuple[Piece, int, int, float]]]:
        """List, for each place, the segments that end there, with bytes kept and held, and time."""
        count = len(self.units)
        moves: List[List[Tuple[Piece, int, int, float]]] = [[] for _ in range(count + 1)]
        for start in range(count):
            farthest = max((b for a, b in self._spans if a == start), default=0)
            joined = True
            inner = 0
            full = self._call
            kept = [0] * len(SAVING)
            rest = [self._call] * len(SAVING)
            for stop in range(start + 1, count + 1):
                unit = self.units[stop - 1]
                inner += unit.inner
                full += unit.full
                kept = [some + min(more, unit.inner) for some, more in zip(kept, unit.kept)]
                rest = [some + more for some, more in zip(rest, unit.rest)]
                gives, inside = self._between(start, stop)
                held = self._gradients[start]
                if stop == start + 1:
                    moves[stop].append((Piece(start, stop, PLAIN), gives + inner, held, 0.0))
                    joined = unit.alone
                if joined or (start, stop) in self._spans:
                    most = held + inner + inside
                    moves[stop].append((Piece(start, stop, FULL), gives, most, full))
                    moves[stop] += [
                        (Piece(start, stop, policy), gives + size, most - size, seconds)
                        for policy, size, seconds in zip(SAVING, kept, rest)
                        if 0 < size < inner + inside
                    ]
                joined = joined and unit.joins
                if not joined and stop >= farthest:
                    break
        return moves

    def _between(self, start: int, stop: int) -> Tuple[int, int]:
        """Return the bytes that some units make and give to others, and to each other."""
        gives = inside = 0
        for made in self._made[start:stop]:
            for last, size in made.items():
                if last >= stop:
                    gives += size
                else:
                    inside += size
        return gives, inside

    @property
    def plain(self) -> Choice:
        """The choice that recomputes nothing."""
        pieces = tuple(Piece(i, i + 1, PLAIN) for i in range(len(self.units)))
        return Choice(pieces, self.peak(pieces), 0.0)

    def peak(self, pieces: Sequence[Piece]) -> int:
        """Return the bytes at the peak of a choice."""
        kept = highest = 0
        for piece in pieces:
            keeps, holds, _ = self._costs(piece)
            kept += keeps
            highest = max(highest, kept + holds)
        return max(highest, kept + self._at_end)

    def time(self, pieces: Sequence[Piece]) -> float:
        """Return the seconds that a choice computes again."""
        return sum(self._costs(piece)[2] for piece in pieces)

    def bytes_of(self, piece: Piece) -> Tuple[int, int]:
        """Return what a segment keeps, and what it holds beside that while it runs backward."""
        keeps, holds, _ = self._costs(piece)
        return keeps, holds

    def plain_bytes(self, piece: Piece) -> int:
        """Return what the units of a segment keep in a plain run."""
        singles = [Piece(i, i + 1, PLAIN) for i in range(piece.start, piece.stop)]
        return sum(self._costs(single)[0] for single in singles)

    def activations(self, pieces: Sequence[Piece]) -> int:
        """Return the most bytes that segments keep and hold at once, gradients left out."""
        kept = highest = 0
        for piece in pieces:
            keeps, holds, _ = self._costs(piece)
            kept += keeps
            highest = max(highest, kept + holds - self._gradients[piece.start])
        return highest

    def _costs(self, piece: Piece) -> Tuple[int, int, float]:
        """Return what a segment keeps, what it holds, and the seconds it takes."""
        return next(costs for found, *costs in self._all_moves[piece.stop] if found == piece)  # type: ignore[return-value]

    def least(self) -> int:
        """Return the lowest peak that there is."""
        low, high = 0, self.plain.peak
        while low < high:
            middle = (low + high) // 2
            if self._fits(middle):
                high = middle
            else:
                low = middle + 1
        return low

    def _fits(self, budget: int) -> bool:
        """Tell whether a choice fits: the one that keeps least up to each place is enough."""
        least: List[Optional[int]] = [0] + [None] * len(self.units)
        for stop, moves in enumerate(self._moves):
            for piece, keeps, holds, _ in moves:
                before = least[piece.start]
                if before is not None and before + keeps + holds <= budget:
                    kept = before + keeps
                    now = least[stop]
                    least[stop] = kept if now is None else min(now, kept)
        last = least[-1]
        return last is not None and last + self._at_end <= budget

    def solve(self, budget: int) -> Optional[Choice]:
        """Return the choice with the least time whose peak fits; of several, the lowest peak.

        Args:
            budget: Bytes.

        Returns:
            The choice; None if there is none.
        """
        import numpy as np

        kept: List[Any] = [np.zeros(1, np.int64)]
        time: List[Any] = [np.zeros(1)]
        came: List[Any] = [np.zeros((1, 2), np.int64)]  # the move, and the choice it went on from
        for stop in range(1, len(self._moves)):
            found = [], [], []  # type: Tuple[List[Any], List[Any], List[Any]]
            for number, (piece, keeps, holds, seconds) in enumerate(self._moves[stop]):
                before = kept[piece.start]
                fits = np.flatnonzero(before + (keeps + holds) <= budget)
                if len(fits):
                    found[0].append(before[fits] + keeps)
                    found[1].append(time[piece.start][fits] + seconds)
                    found[2].append(np.stack([np.full(len(fits), number), fits], axis=1))
            if not found[0]:
                kept.append(np.zeros(0, np.int64))
                time.append(np.zeros(0))
                came.append(np.zeros((0, 2), np.int64))
                continue
            sizes, seconds_, origins = (np.concatenate(some) for some in found)
            order = np.lexsort((seconds_, sizes))
            # Only those that are faster than all that keep less.
            fastest = np.minimum.accumulate(np.append(np.inf, seconds_[order][:-1]))
            order = order[seconds_[order] < fastest - _SAME]
            kept.append(sizes[order])
            time.append(seconds_[order])
            came.append(origins[order])
        fits = np.flatnonzero(kept[-1] + self._at_end <= budget)
        if not len(fits):
            return None
        best = int(fits[np.argmin(time[-1][fits])])
        pieces: List[Piece] = []
        stop = len(self.units)
        while stop:
            number, best = map(int, came[stop][best])
            pieces.append(self._moves[stop][number][0])
            stop = pieces[-1].start
        pieces.reverse()
        return Choice(tuple(pieces), self.peak(pieces), self.time(pieces))

    def curve(
        self, points: int = 24, allowed: Sequence[Callable[[Piece], bool]] = ()
    ) -> List[Choice]:
        """Return choices from the lowest peak to the plain run, each faster than the one before.

        Args:
            points: Budgets that are tried.
            allowed: What may be chosen together, each as a test of segments; none if all may.
        """
        low = min(problem.least() for problem in self._problems(allowed))
        return self._choices(low, self.plain.peak, points, allowed)

    def finer(
        self, curve: List[Choice], number: int, allowed: Sequence[Callable[[Piece], bool]] = ()
    ) -> List[Choice]:
        """Return a curve with more choices after one of it, up to the next.

        Args:
            curve: What ``curve`` has returned.
            number: The number of the choice.
            allowed: As for ``curve``.
        """
        one, after = curve[number], curve[number + 1]
        more = [
            choice
            for choice in self._choices(one.peak, after.peak, _FINER, allowed)
            if after.time + _SAME < choice.time < one.time - _SAME
        ]
        return [*curve[: number + 1], *more, *curve[number + 1 :]]

    def _choices(
        self, low: int, high: int, points: int, allowed: Sequence[Callable[[Piece], bool]]
    ) -> List[Choice]:
        problems = self._problems(allowed)
        found: List[Choice] = []
        for number in range(points):
            budget = low + (high - low) * number // (points - 1)
            choices = [choice for p in problems for choice in [p.solve(budget)] if choice]
            best = min(choices, key=lambda choice: (choice.time, choice.peak), default=None)
            if best is not None and (not found or best.time < found[-1].time - _SAME):
                found.append(best)
        return found

    def _problems(self, allowed: Sequence[Callable[[Piece], bool]]) -> List[Problem]:
        return [self.restricted(one) for one in allowed] or [self]
