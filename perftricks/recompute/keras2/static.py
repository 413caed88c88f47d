"""Keras 2 models whose graph exists already: parts of it are recomputed, and nothing is rebuilt.

::

    part 1 ──▶ t ──▶ part 2 ──▶ loss              what a session runs, as it was
               └──▶ IdentityN ──▶ (part 2)        what tf.gradients walks back through

Each part gets the operation of ``attachment`` behind it, whose gradient is a copy of the part.
What follows is told that its inputs come from there, but only in Python, where gradients are built:
a session may have run the graph, with pretrained weights in its variables, and goes on.

What is built later upon the outputs of a part differentiates them directly: the gradients are the
same, and nothing is saved on that way. The last part of a model is therefore left alone; forgetting
what is needed next saves nothing anyway.
"""

from __future__ import annotations

import functools
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

from perftricks.recompute.keras2 import private
from perftricks.recompute.keras2.attachment import SWITCHED_GRADIENT, attach, is_differentiable
from perftricks.recompute.keras2.slice import Slice
from perftricks.recompute.policies import Policy
from perftricks.recompute.tensorflow_graphs.kept import names_on


class Between(NamedTuple):
    """A part of a graph.

    Attributes:
        takes: The tensors it starts from.
        gives: The tensors that are used after it.
        policy: What is kept of it; None for a part that stays as it is.
    """

    takes: List[Any]
    gives: List[Any]
    policy: Optional[Policy]


class StandIns:
    """Parts of a graph that are recomputed, from ``install`` to ``undo``.

    Args:
        parts: The parts, in the order they run.
    """

    def __init__(self, parts: Sequence[Between]) -> None:
        self._parts = list(parts)
        self._changed: Set[Any] = set()

    def install(self) -> None:
        """Have gradients that are built from now on recompute the parts."""
        graph = self._parts[0].gives[0].graph
        with graph.as_default(), private.quiet_ids(graph):
            slices = self._slices(graph)
            stand_ins: Dict[int, Any] = {}
            changes: Dict[Any, Dict[int, Any]] = {}
            for found, inside in slices:
                starts = [stand_ins.get(id(x), x) for x in found.starts]
                new = attach(graph, found, starts, SWITCHED_GRADIENT)
                stand_ins.update(new)
                _note_consumers(changes, found, inside, new)
        self._changed = set(changes)
        for op, inputs in changes.items():
            private.differentiate_through(op, inputs)

    def undo(self) -> None:
        """Have gradients that are built from now on recompute nothing."""
        for op in self._changed:
            private.differentiate_through(op, {})
        self._changed = set()

    def _slices(self, graph: Any) -> List[Any]:
        order = {op: number for number, op in enumerate(graph.get_operations())}
        loops = _loops_of(graph)
        before: Set[Any] = set()
        found = []
        for part in self._parts:
            inside = _operations_between(part, before, loops)
            before |= inside
            if part.policy is not None:
                wanted = [x for x in part.gives if is_differentiable(x)]
                operations = sorted(inside, key=order.__getitem__)
                if part.policy.traced is not None:
                    part.policy.traced(names_on(operations), frozenset)
                piece = Slice.leading_to(
                    wanted,
                    operations,
                    may_add_outputs=graph.building_function,
                    policy=part.policy,
                )
                if piece is not None:
                    found.append((piece, inside))
        return found


_BLOCKS = "_perftricks_blocks"


def block(graph: Any, found: Slice, operations: Sequence[Any]) -> None:
    """Recompute what a decorated function has made of symbols of Keras, in models built of it.

    The symbols stay what they are, for Keras knows them. Gradients are led another way as soon as
    a model is built; what is made of its outputs later differentiates them directly.
    """
    blocks: List[Any] = getattr(graph, _BLOCKS, [])
    setattr(graph, _BLOCKS, blocks)  # a graph of TensorFlow 2.21 has attributes, and no __dict__
    earlier = {key: x for _, _, stand_ins in blocks for key, x in stand_ins.items()}
    starts = [earlier.get(id(x), x) for x in found.starts]
    blocks.append((found, set(operations), attach(graph, found, starts, SWITCHED_GRADIENT)))
    for kind in private.graph_classes("_init_graph_network"):
        _lead_when_built(kind)


@functools.lru_cache(maxsize=None)  # each once
def _lead_when_built(kind: Any) -> None:
    plain = kind._init_graph_network

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = plain(self, *args, **kwargs)
        for graph in {getattr(x, "graph", None) for x in self.outputs}:
            _lead(getattr(graph, _BLOCKS, ()))
        return result

    kind._init_graph_network = init


def _lead(blocks: Sequence[Any]) -> None:
    """Lead the gradients of what follows each block through what stands for its outputs."""
    changes: Dict[Any, Dict[int, Any]] = {}
    for found, inside, stand_ins in blocks:
        _note_consumers(changes, found, inside, stand_ins)
    for op, inputs in changes.items():
        private.differentiate_through(op, inputs)


def _note_consumers(
    changes: Dict[Any, Dict[int, Any]], found: Slice, inside: Set[Any], stand_ins: Dict[int, Any]
) -> None:
    """Note what the operations after a slice are to take for its outputs."""
    for tensor in found.outputs:
        stand_in = stand_ins[id(tensor)]
        for op in tensor.consumers():
            if op not in inside and op is not stand_in.op:
                changes.setdefault(op, {})[id(tensor)] = stand_in


def _loops_of(graph: Any) -> Dict[Any, List[Any]]:
    """List the operations of each loop."""
    found: Dict[Any, List[Any]] = {}
    for op in graph.get_operations():
        for context in _contexts_of(op):
            if private.is_loop(context):
                found.setdefault(context, []).append(op)
    return found


def _contexts_of(op: Any) -> Iterator[Any]:
    context = private.control_flow_of(op)
    while private.is_known(context):
        yield context
        context = context.outer_context


def _operations_between(part: Between, before: Set[Any], loops: Dict[Any, List[Any]]) -> Set[Any]:
    """Walk back from what a part gives to what it takes, and to what belongs to earlier parts."""
    stops = before | {x.op for x in part.takes}
    found: Set[Any] = set()
    waiting = [x.op for x in part.gives]
    while waiting:
        op = waiting.pop()
        if op not in found and op not in stops:
            found.add(op)
            waiting.extend(x.op for x in op.inputs)
            waiting.extend(op.control_inputs)
            for context in _contexts_of(op):
                waiting.append(context.pivot.op)
                waiting.extend(loops.get(context, ()))
    return found
