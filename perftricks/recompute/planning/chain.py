"""Where to cut a graph of layers, so that little is kept and little is recomputed at a time.

::

    nodes in the order they run     a ── b ── c ── d ── e ── f        each with bytes it keeps
    tensors that cross each place        1    2    1    1    1        one: a cut point
    segments                       [a    b    c    d]  [e    f]       inputs kept, inside forgotten

Plain arithmetic on numbers and names; no framework. Peak memory of the backward pass is what is
kept for all segments plus what the largest one holds while it is recomputed. For a chain of n
equal layers the best number of segments is about sqrt(n).

Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

# What crosses a place beside the one tensor that everything flows through: a mask, for example.
_SIDE_SHARE = 0.1
# A cut across several tensors must promise at least this much over one across a single tensor.
_WORTH_IT = 0.8
_MOST_SEGMENTS = 128


class Tensor(NamedTuple):
    """A tensor of a graph.

    Attributes:
        key: What identifies it.
        bytes: Its size for one sample.
        is_float: Whether gradients flow through it.
    """

    key: int
    bytes: int
    is_float: bool


class Step(NamedTuple):
    """A node of a graph: one call of one layer.

    Attributes:
        name: The name of the layer.
        takes: The keys of the tensors it is called with.
        gives: The tensors it returns.
        bytes: What it keeps for the backward pass in a plain run, for one sample.
        inner: What it keeps and what it holds at most for a while, if it is a model that has
            segments of its own; such a step is never part of a segment.
    """

    name: str
    takes: Tuple[int, ...]
    gives: Tuple[Tensor, ...]
    bytes: int
    inner: Optional[Tuple[int, int]] = None


class Part(NamedTuple):
    """Some steps that follow each other.

    Attributes:
        start: The number of the first step.
        stop: The number after the last.
        bytes: What they keep in a plain run.
        kept: The bytes of the tensors they take, those counted for an earlier part left out.
        takes: The keys of the tensors they take from outside.
        gives: The keys of the tensors that are used after them.
        frees: How much less is kept if they are recomputed.
    """

    start: int
    stop: int
    bytes: int
    kept: int
    takes: Tuple[int, ...]
    gives: Tuple[int, ...]
    frees: int


class Chain:
    """The steps of a graph in the order they run, and what crosses each place between them.

    Args:
        inputs: The tensors the graph is called with; the caller keeps them anyway.
        steps: The steps.
        outputs: The keys of the tensors it returns.
    """

    def __init__(
        self, inputs: Sequence[Tensor], steps: Sequence[Step], outputs: Sequence[int]
    ) -> None:
        self.steps = list(steps)
        self.outputs = set(outputs)
        self._inputs = {tensor.key for tensor in inputs}
        self._tensors: Dict[int, Tensor] = {tensor.key: tensor for tensor in inputs}
        self._last_use: Dict[int, int] = {}
        for number, step in enumerate(self.steps):
            self._tensors.update((tensor.key, tensor) for tensor in step.gives)
            self._last_use.update((key, number) for key in step.takes)
        self._crossing = self._cross()

    def _cross(self) -> List[FrozenSet[int]]:
        """List, for the place after each step, the tensors made before it and used after it."""
        alive: Set[int] = {key for key in self._inputs if key in self._last_use}
        crossing = []
        for number, step in enumerate(self.steps):
            alive.update(t.key for t in step.gives if t.key in self._last_use)
            alive.difference_update([k for k in step.takes if self._last_use[k] == number])
            crossing.append(frozenset(alive))
        return crossing

    @property
    def bytes(self) -> int:
        """What all steps keep in a plain run, for one sample."""
        return sum(step.bytes for step in self.steps)

    def cut_points(self) -> List[int]:
        """List the steps after which everything flows through a single tensor.

        The inputs of the graph, tensors without gradients and small ones (masks) are not counted.
        """
        return [number for number in range(len(self.steps) - 1) if len(self._main(number)) == 1]

    def crossing_bytes(self, number: int) -> int:
        """Return the bytes of what is made up to a step and used after it."""
        return sum(self._tensors[key].bytes for key in self._crossing[number])

    def _main(self, number: int) -> List[int]:
        tensors = [self._tensors[key] for key in self._crossing[number] if key not in self._inputs]
        tensors = [tensor for tensor in tensors if tensor.is_float]
        largest = max((tensor.bytes for tensor in tensors), default=0)
        return [tensor.key for tensor in tensors if tensor.bytes >= _SIDE_SHARE * largest]

    def best_cuts(self) -> List[int]:
        """Return the steps after which to cut, for the lowest peak by the bytes of the steps.

        Cut points come first; a graph that has none in the right places (a U-Net) is cut across
        several tensors.
        """
        cuts, peak = self._search(self.cut_points())
        wide, wide_peak = self._search(range(len(self.steps) - 1))
        return wide if wide_peak < _WORTH_IT * peak else cuts

    def _search(self, candidates: Sequence[int]) -> Tuple[List[int], int]:
        best: List[int] = []
        lowest = self.peak(self.parts(best))
        seen = set()
        for count in range(2, min(len(candidates) + 1, _MOST_SEGMENTS) + 1):
            cuts = self._balanced(candidates, self.bytes // count)
            if tuple(cuts) in seen:
                continue
            seen.add(tuple(cuts))
            peak = self.peak(self.parts(cuts))
            if peak < lowest:
                best, lowest = cuts, peak
        return best, lowest

    def _balanced(self, candidates: Sequence[int], limit: int) -> List[int]:
        """Choose cuts so that no part keeps more than ``limit`` bytes, where that can be."""
        cuts: List[int] = []
        held = since = start = 0
        for number in candidates:
            more = sum(step.bytes for step in self.steps[start : number + 1])
            if held and held + more > limit:
                cuts.append(since)
                held = 0
            held += more
            since, start = number, number + 1
        rest = sum(step.bytes for step in self.steps[start:])
        if held and held + rest > limit:
            cuts.append(since)
        return cuts

    def parts(self, cuts: Sequence[int]) -> List[Part]:
        """Return the parts between cuts; a step with an inner plan is a part of its own."""
        ends = set(cuts) | {len(self.steps) - 1}
        for number, step in enumerate(self.steps):
            if step.inner is not None:
                ends.update((number - 1, number))
        parts = []
        counted: Set[int] = set()
        start = 0
        for end in sorted(end for end in ends if end >= 0):
            part = self._part(start, end + 1, counted)
            counted.update(part.takes)
            parts.append(part)
            start = end + 1
        return parts

    def _part(self, start: int, stop: int, counted: Set[int]) -> Part:
        steps = self.steps[start:stop]
        made = {tensor.key for step in steps for tensor in step.gives}
        takes = dict.fromkeys(key for step in steps for key in step.takes if key not in made)
        gives = [
            tensor
            for step in steps
            for tensor in step.gives
            if tensor.key in self.outputs or self._last_use.get(tensor.key, -1) >= stop
        ]
        kept = [key for key in takes if key not in self._inputs and key not in counted]
        size = sum(step.bytes for step in steps)
        return Part(
            start,
            stop,
            size,
            sum(self._tensors[key].bytes for key in kept),
            tuple(takes),
            tuple(dict.fromkeys(tensor.key for tensor in gives)),
            size - sum(tensor.bytes for tensor in gives),
        )

    def peak(self, parts: Sequence[Part]) -> int:
        """Estimate the most bytes that a backward pass over recomputed parts holds at once."""
        kept = sum(part.kept for part in parts)
        largest = 0
        for part in parts:
            inner = self.steps[part.start].inner
            if inner is not None:
                kept += inner[0]
            largest = max(largest, part.bytes if inner is None else inner[1])
        return kept + largest
