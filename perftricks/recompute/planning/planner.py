"""An outline of a model becomes a plan."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

from perftricks.recompute.planning.chain import Chain, Part
from perftricks.recompute.planning.cutters import Cutter
from perftricks.recompute.planning.outline import Graph, Layers, Outline
from perftricks.recompute.planning.plans import Plan, Segment


class NothingToSegmentError(ValueError):
    """A model has no place to cut, or nothing would be saved between them."""


def plan_segments(outline: Outline, cut: Cutter) -> Plan:
    """Plan a model and the models inside it.

    Args:
        outline: The model. Its last segment runs plainly: what it computes is needed next.
        cut: Says after which steps to cut.

    Raises:
        ValueError: If there is nothing to segment.
    """
    return _finished(outline, _Planner(outline.root, cut).draft(outline.root))


def plan_layers(outline: Outline, chosen: Dict[int, str]) -> Plan:
    """Plan to recompute some layers, each on its own.

    Args:
        outline: The model.
        chosen: The names of the layers by their numbers.

    Raises:
        ValueError: If there is nothing to segment, or the operations of the model exist already and
            a layer that is chosen is not in its graph.
    """
    root = outline.root
    is_worth_it = True
    if root.is_static:
        calls = root.calls if isinstance(root, Graph) else ()
        numbers = {call.number for call in calls}
        for number, name in chosen.items():
            if number not in numbers:
                raise ValueError(
                    "the calls of %s are hidden in a layer or a nested model of %s: in a graph "
                    "with sessions only the layers in model.layers can be chosen; choose the one "
                    "around it, or put @recompute_grad above its call" % (name, root.model)
                )
        outputs = set(root.outputs)
        is_worth_it = any(
            call.number in chosen and not outputs.issuperset(t.key for t in call.step.gives)
            for call in calls
        )
    segments = [
        Segment(root.model, (name,), None, None, is_worth_it, number)
        for number, name in chosen.items()
    ]
    return _finished(outline, _Draft(segments, None, None, None))


class _Draft(NamedTuple):
    """What is to be done to a model, and what it costs."""

    segments: List[Segment]
    plain: Optional[int]
    kept: Optional[int]
    largest: Optional[int]

    @property
    def is_useful(self) -> bool:
        return any(segment.recomputed for segment in self.segments)


def _finished(outline: Outline, draft: _Draft) -> Plan:
    if not draft.is_useful:
        raise NothingToSegmentError(
            "there is nothing to segment in %s: %s; try every=1, boundaries=[names of layers] or "
            "layers=[names or classes of layers]"
            % (outline.root.model, "no place to cut, or nothing to save between them")
        )
    peak = None if draft.kept is None or draft.largest is None else draft.kept + draft.largest
    return Plan(outline.root.model, tuple(draft.segments), draft.plain, peak, outline.digest())


class _Planner:
    def __init__(self, root: object, cut: Cutter) -> None:
        self._root = root
        self._cut = cut
        self._done: Dict[int, _Draft] = {}

    def draft(self, model: object) -> _Draft:
        """Plan a model; one that is used in several places is planned once."""
        if id(model) not in self._done:
            if isinstance(model, Graph):
                self._done[id(model)] = self._of_graph(model)
            elif isinstance(model, Layers) and not self._cut.only_graphs and not model.is_static:
                self._done[id(model)] = self._of_layers(model)
            else:
                self._done[id(model)] = _Draft([], None, None, None)
        return self._done[id(model)]

    def _of_graph(self, graph: Graph) -> _Draft:
        steps = [call.step for call in graph.calls]
        chain = Chain(graph.inputs, steps, graph.outputs)
        cuts, asked = self._cut(chain)
        peak = chain.peak(chain.parts(cuts))
        inner = self._inner(graph, peak)
        if inner:
            for number, draft in inner.items():
                steps[number] = steps[number]._replace(inner=(draft.kept or 0, draft.largest or 0))
            with_inner = Chain(graph.inputs, steps, graph.outputs)
            inner_cuts, asked = self._cut(with_inner)
            wanted = asked or any(self._cut.wants(graph.calls[number].nested) for number in inner)
            if wanted or with_inner.peak(with_inner.parts(inner_cuts)) < peak:
                chain, cuts = with_inner, inner_cuts
            else:
                inner = {}
        parts = chain.parts(cuts)
        if len(parts) < 2 and not asked and not inner:
            return _Draft([], chain.bytes, 0, chain.bytes)
        segments: List[Segment] = []
        for part in parts:
            if part.start in inner:
                segments.extend(s for s in inner[part.start].segments if s not in segments)
                continue
            is_last = graph is self._root and chain.outputs.issuperset(part.gives)
            segments.append(
                Segment(
                    graph.model,
                    _names(chain, part),
                    part.bytes,
                    part.kept,
                    (asked or part.frees > 0) and not is_last,
                    graph.number,
                    (part.start, part.stop),
                )
            )
        peak = chain.peak(parts)
        kept = sum(part.kept for part in parts)
        kept += sum(step.inner[0] for step in chain.steps if step.inner is not None)
        return _Draft(segments, chain.bytes, kept, peak - kept)

    def _inner(self, graph: Graph, peak: int) -> Dict[int, _Draft]:
        """Plan the nested models that a plan around them cannot help, by their step."""
        found: Dict[int, _Draft] = {}
        for number, call in enumerate(() if graph.is_static else graph.calls):
            if call.nested is None:
                continue
            if self._cut.wants(call.nested) or 2 * call.step.bytes > peak:
                draft = self.draft(call.nested)
                if draft.is_useful:
                    found[number] = draft
        return found

    def _of_layers(self, model: Layers) -> _Draft:
        segments: List[Segment] = []
        for below in model.below:
            if below.is_empty:
                continue
            if below.nested is not None and 2 * below.leaves > model.leaves:
                draft = self.draft(below.nested)
                if draft.is_useful:
                    segments.extend(draft.segments)
                    continue
            segments.append(Segment(model.model, (below.name,), None, None, True, below.number))
        return _Draft(segments, None, None, None)


def _names(chain: Chain, part: Part) -> Tuple[str, ...]:
    return tuple(dict.fromkeys(step.name for step in chain.steps[part.start : part.stop]))
