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

import tensorflow as tf

from perftricks.recompute.keras2 import layers as keras2
from perftricks.recompute.keras2 import private, private_graphs
from perftricks.recompute.keras2.attachment import SWITCHED_GRADIENT, attach, is_differentiable
from perftricks.recompute.keras2.slice import Slice
from perftricks.recompute.policies import Policy
from perftricks.recompute.tensorflow_graphs.kept import names_on
from perftricks.recompute.tracers import keep_autograph_out


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

    def of(self, tensors: Dict[int, Any]) -> Between:
        """Return the same part where other tensors stand for these, by the ids of these."""
        takes, gives = ([tensors[id(x)] for x in xs] for xs in (self.takes, self.gives))
        return Between(takes, gives, self.policy)


class OfModel:
    """Parts of a model that are recomputed, from ``install`` to ``undo``.

    They are recomputed in the graph that is there, and in the operations that Keras adds to it
    where the model is called on other tensors, as a part of another model.

    Args:
        functional: The model, or the graph of layers that it is.
        parts: The parts, in the order they run.
    """

    def __init__(self, functional: Any, parts: Sequence[Between]) -> None:
        self._functional = functional
        self._parts = list(parts)
        self._installed: List[StandIns] = []

    def install(self) -> None:
        """Have gradients that are built from now on recompute the parts."""
        self._add(self._parts)
        functional = self._functional
        plain = type(functional).call.__get__(functional)

        @functools.wraps(plain)
        @keep_autograph_out
        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            with Calls(functional) as calls:
                outputs = plain(inputs, *args, **kwargs)
            new = calls.tensors(inputs)
            if new:
                self._add([part.of(new) for part in self._parts])
            return outputs

        vars(functional)["call"] = call

    def _add(self, parts: Sequence[Between]) -> None:
        self._installed.append(StandIns(parts))
        self._installed[-1].install()

    def undo(self) -> None:
        """Have gradients that are built from now on recompute nothing."""
        vars(self._functional).pop("call", None)
        while self._installed:
            self._installed.pop().undo()


class Calls:
    """What the layers of a model give while it is called; a context manager.

    Args:
        functional: The model.
    """

    def __init__(self, functional: Any) -> None:
        self._functional = functional
        self._nodes = keras2.nodes_of(functional)
        self._made: List[Any] = []
        self._depth = 0
        self._before: List[Any] = []

    def __enter__(self) -> Calls:
        for layer in {id(node.operation): node.operation for node in self._nodes}.values():
            self._before.append((layer, vars(layer).get("call")))
            vars(layer)["call"] = self._noting(layer)
        return self

    def __exit__(self, *error: Any) -> None:
        for layer, call in self._before:
            del vars(layer)["call"]
            if call is not None:
                vars(layer)["call"] = call

    def _noting(self, layer: Any) -> Any:
        plain = layer.call

        @functools.wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._begin()
            outputs = plain(*args, **kwargs)
            self._end(layer, args, outputs)
            return outputs

        return call

    @keep_autograph_out
    def _begin(self) -> None:
        self._depth += 1

    @keep_autograph_out
    def _end(self, layer: Any, args: Any, outputs: Any) -> None:
        self._depth -= 1
        if not self._depth:  # not of a layer that another layer calls
            self._made.append((layer, tf.nest.flatten(args), tf.nest.flatten(outputs)))

    def tensors(self, inputs: Any) -> Dict[int, Any]:
        """Return what stands for the model's symbols, by their ids; nothing if Keras knew it all.

        Args:
            inputs: What the model was called with.
        """
        given = keras2.reference_inputs(self._functional, inputs)
        found = {id(x): y for x, y in zip(self._functional.inputs, given)}
        made = iter([x for x in self._made if not _is_trial(x[1], given)])
        for node in self._nodes:
            outputs = next((ys for layer, _, ys in made if layer is node.operation), None)
            if outputs is None:
                return {}
            found.update((id(x), y) for x, y in zip(node.outputs, outputs))
        return found


def _is_trial(args: Sequence[Any], given: Sequence[Any]) -> bool:
    """Tell whether a layer was only called for a shape, as Lambda layers of keras 2.3.1 are."""
    known = set(map(id, given))
    operations = [getattr(x, "op", None) for x in args if id(x) not in known]
    return any(op is not None and op.type == "Placeholder" for op in operations)


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
        with graph.as_default(), private_graphs.quiet_ids(graph):
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
            private_graphs.differentiate_through(op, inputs)

    def undo(self) -> None:
        """Have gradients that are built from now on recompute nothing."""
        for op in self._changed:
            private_graphs.differentiate_through(op, {})
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
        private_graphs.differentiate_through(op, inputs)


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
            if private_graphs.is_loop(context):
                found.setdefault(context, []).append(op)
    return found


def _contexts_of(op: Any) -> Iterator[Any]:
    context = private_graphs.control_flow_of(op)
    while private_graphs.is_known(context):
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
