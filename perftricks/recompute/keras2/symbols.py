"""How ``apply`` recomputes the parts of a Keras 2 model, once they are chosen.

Where models run eagerly or in a ``tf.function``, a function stands in for the method that runs
the graph of layers, as on Keras 3. Where the graph of TensorFlow exists already (keras 2.3.1,
TensorFlow 1, v1 graphs) the gradients are led another way: ``keras2.static``.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import tensorflow as tf

from perftricks.recompute import blocks, switch
from perftricks.recompute.keras2 import call as engine
from perftricks.recompute.keras2 import layers as keras2
from perftricks.recompute.keras2.private import is_symbol
from perftricks.recompute.policies import Policy
from perftricks.recompute.stages import Stage
from perftricks.recompute.tracers import keep_autograph_out

Hook = Tuple[Any, str, Any]
Piece = Tuple[List[Any], List[Any], List[Any]]  # calls, the symbols they take, and those they give
Cut = Tuple[Sequence[Any], Sequence[int], Sequence[int]]  # the same, symbols by their ids


@keep_autograph_out
def _wanted() -> bool:
    return switch.enabled(default=True) and not keras2.is_only_inference()


class InParts:
    """A graph of layers that is run part by part; some are recomputed as a whole.

    Args:
        pieces: Of each part, in order: its calls, the symbols it takes, the symbols it gives.
        policies: Of each part, what is kept of it; None if it is not recomputed.
    """

    def __init__(self, pieces: Sequence[Piece], policies: Sequence[Optional[Policy]]) -> None:
        # Not the model, which is to go when nobody else keeps it.
        self._pieces = pieces
        self._layers = [
            list({id(n.operation): n.operation for n in nodes}.values()) for nodes, _, _ in pieces
        ]
        self._policies = policies

    def run(self, functional: Any, inputs: Any, training: Any, mask: Any) -> Any:
        """Return what the model returns."""
        flat = keras2.reference_inputs(functional, inputs)
        masks = [None] * len(flat) if mask is None else keras2.reference_inputs(functional, mask)
        for x, own in zip(flat, masks):
            x._keras_mask = own
        values = {id(symbol): x for symbol, x in zip(functional.inputs, flat)}
        for piece, layers, policy in zip(self._pieces, self._layers, self._policies):
            _, takes, gives = piece
            segment = _segment(keras2.PartOfGraph(functional, *piece), training)
            tensors = [values[id(symbol)] for symbol in takes]
            if policy is None:
                given = segment(tensors)
            else:
                given = engine.checkpointed_call(segment, (tensors,), {}, layers, policy)
            values.update(zip(map(id, gives), given))
        return keras2.pack_outputs(functional, [values[id(x)] for x in functional.outputs])


def graph_hook(functional: Any, stages: Sequence[Stage]) -> Hook:
    """Return what stands in where: an object, the name of an attribute, its new value."""
    pieces = _pieces(functional, [(stage.nodes, stage.takes, stage.gives) for stage in stages])
    policies = [stage.policy for stage in stages]
    if keras2.is_static(functional):
        return _static_hook(functional, [piece[1:] for piece in pieces], policies)
    plain = type(functional)._run_internal_graph.__get__(functional)
    in_parts = InParts(pieces, policies)

    @functools.wraps(plain)
    @keep_autograph_out
    def run(inputs: Any, training: Any = None, mask: Any = None, **more: Any) -> Any:
        if not _wanted() or any(more.values()) or _has_symbols(inputs):
            return plain(inputs, training=training, mask=mask, **more)
        return in_parts.run(functional, inputs, training, mask)

    return functional, "_run_internal_graph", run


def symbolic_call(call: Callable[..., Any], args: Any, kwargs: Any, policy: Policy) -> Any:
    """Return ``call(*args, **kwargs)``; the calls of layers it made become a part of the model."""
    outputs, found = blocks.marking(call, args, kwargs, policy, keras2)
    if found:
        for kind in keras2.graph_classes():
            _run_blocks(kind)
    return outputs


@functools.lru_cache(maxsize=None)  # each once
def _run_blocks(kind: Any) -> None:
    plain = kind._run_internal_graph
    known: Any = weakref.WeakKeyDictionary()

    @functools.wraps(plain)
    @keep_autograph_out
    def run(self: Any, inputs: Any, training: Any = None, mask: Any = None, **more: Any) -> Any:
        wanted = switch.enabled(default=False) and not keras2.is_only_inference()
        in_parts = None
        if wanted and isinstance(self, kind) and not any(more.values()):
            if self not in known:
                known[self] = _blocks_of(self)
            in_parts = known[self]
        if in_parts is not None and not _has_symbols(inputs):
            return in_parts.run(self, inputs, training, mask)
        return plain(self, inputs, training=training, mask=mask, **more)

    kind._run_internal_graph = run


def _blocks_of(functional: Any) -> Optional[InParts]:
    stages = blocks.stages_of(functional)
    if stages is None:
        return None
    pieces = _pieces(functional, [(stage.nodes, stage.takes, stage.gives) for _, stage in stages])
    return InParts(pieces, [stage.policy for _, stage in stages])


def _has_symbols(inputs: Any) -> bool:
    return any(map(is_symbol, tf.nest.flatten(inputs)))


def _segment(part: keras2.PartOfGraph, training: Any) -> Callable[..., Any]:
    @keep_autograph_out
    def segment(tensors: Sequence[Any]) -> List[Any]:
        return part.run(tensors, training)

    return segment


def _pieces(functional: Any, cuts: Sequence[Cut]) -> List[Piece]:
    """Return parts with the symbols that they take and give, which the cuts know by their ids."""
    symbols: Dict[int, Any] = {id(x): x for x in functional.inputs}
    symbols.update((id(x), x) for nodes, _, _ in cuts for node in nodes for x in node.outputs)
    return [
        (list(nodes), [symbols[key] for key in takes], [symbols[key] for key in gives])
        for nodes, takes, gives in cuts
    ]


def layer_hooks(model: Any, layers: Sequence[Tuple[Any, Policy]]) -> List[Hook]:
    """Return what stands in where, to recompute some layers each on its own."""
    if not keras2.is_static(model):
        return [(layer, "call", _call_hook(layer, policy)) for layer, policy in layers]
    graph = keras2.graph_of(model)
    nodes = keras2.nodes_of(graph)
    outputs = {id(x) for x in graph.outputs}
    policies = {id(layer): policy for layer, policy in layers}
    chosen = [
        None if all(id(x) in outputs for x in node.outputs) else policies.get(id(node.operation))
        for node in nodes
    ]
    return [_static_hook(graph, [(n.input_tensors, n.outputs) for n in nodes], chosen)]


def _static_hook(
    functional: Any,
    parts: Sequence[Tuple[List[Any], List[Any]]],
    policies: Sequence[Optional[Policy]],
) -> Hook:
    from perftricks.recompute.keras2.static import Between, OfModel

    planned = [Between(*part, policy) for part, policy in zip(parts, policies)]
    return functional, "_perftricks_stand_ins", OfModel(functional, planned)


def _call_hook(layer: Any, policy: Policy) -> Callable[..., Any]:
    """Return what stands in for the ``call`` of a layer; AutoGraph may convert it."""
    plain = type(layer).call.__get__(layer)

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not _wanted():
            return plain(*args, **kwargs)
        return engine.checkpointed_call(plain, args, kwargs, (layer,), policy)

    return call
