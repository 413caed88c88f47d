"""How ``apply`` recomputes the parts of a Keras 2 model, once they are chosen.

Where models run eagerly or in a ``tf.function``, a function stands in for the method that runs
the graph of layers, as on Keras 3. Where the graph of TensorFlow exists already (keras 2.3.1,
TensorFlow 1, v1 graphs) the gradients are led another way: ``engines.keras2_static``.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Sequence, Tuple

from perftricks.recompute import switch
from perftricks.recompute.engines import keep_autograph_out, keras2
from perftricks.recompute.engines.compat_keras2 import is_symbol
from perftricks.recompute.families import keras2 as compat
from perftricks.recompute.graph import Graph
from perftricks.recompute.segments import Part

Hook = Tuple[Any, str, Any]


@keep_autograph_out
def _wanted() -> bool:
    return switch.enabled(default=True) and not compat.is_only_inference()


def graph_hook(graph: Graph, parts: Sequence[Part], recomputed: Sequence[bool]) -> Hook:
    """Return what stands in where: an object, the name of an attribute, its new value."""
    functional = graph.functional
    pieces = [_piece(graph, part) for part in parts]
    if graph.is_static:
        return _static_hook(functional, [piece[1:] for piece in pieces], recomputed)
    plain = type(functional)._run_internal_graph.__get__(functional)
    runs = [compat.PartOfGraph(functional, *piece) for piece in pieces]
    layers = [list({id(n.operation): n.operation for n in piece[0]}.values()) for piece in pieces]

    @functools.wraps(plain)
    @keep_autograph_out
    def run(inputs: Any, training: Any = None, mask: Any = None, **more: Any) -> Any:
        flat = compat.reference_inputs(functional, inputs)
        if not _wanted() or any(more.values()) or any(map(is_symbol, flat)):
            return plain(inputs, training=training, mask=mask, **more)
        masks = [None] * len(flat) if mask is None else compat.reference_inputs(functional, mask)
        for x, own in zip(flat, masks):
            x._keras_mask = own
        values = {id(symbol): x for symbol, x in zip(functional.inputs, flat)}
        for i, part in enumerate(parts):
            segment = _segment(runs[i], training)
            tensors = [values[key] for key in part.takes]
            if recomputed[i]:
                given = keras2.checkpointed_call(segment, (tensors,), {}, layers=layers[i])
            else:
                given = segment(tensors)
            values.update(zip(part.gives, given))
        return compat.pack_outputs(functional, [values[id(x)] for x in functional.outputs])

    return functional, "_run_internal_graph", run


def _segment(part: compat.PartOfGraph, training: Any) -> Callable[..., Any]:
    @keep_autograph_out
    def segment(tensors: Sequence[Any]) -> List[Any]:
        return part.run(tensors, training)

    return segment


def _piece(graph: Graph, part: Part) -> Tuple[List[Any], List[Any], List[Any]]:
    """Return the calls of a part, and the symbols it takes and gives."""
    symbols: Dict[int, Any] = {id(x): x for x in graph.functional.inputs}
    symbols.update((id(x), x) for node in graph.nodes for x in node.outputs)
    return (
        graph.nodes[part.start : part.stop],
        [symbols[key] for key in part.takes],
        [symbols[key] for key in part.gives],
    )


def layer_hooks(model: Any, layers: Sequence[Any]) -> List[Hook]:
    """Return what stands in where, to recompute some layers each on its own.

    Raises:
        ValueError: If the graph of the model exists already and says nothing of one of them.
    """
    if not compat.is_static(model):
        return [(layer, "call", _call_hook(layer)) for layer in layers]
    graph = compat.graph_of(model)
    nodes = [] if graph is None else compat.nodes_of(graph)
    for layer in layers:
        if not any(node.operation is layer for node in nodes):
            raise ValueError(
                "the calls of %s are hidden in a layer or a nested model of %s: in a graph with "
                "sessions only the layers in model.layers can be chosen; choose the one around it, "
                "or put @recompute_grad above its call" % (layer.name, model.name)
            )
    outputs = {id(x) for x in graph.outputs}
    chosen = [
        any(node.operation is layer for layer in layers)
        and not all(id(x) in outputs for x in node.outputs)
        for node in nodes
    ]
    if not any(chosen):
        return []
    return [_static_hook(graph, [(n.input_tensors, n.outputs) for n in nodes], chosen)]


def _static_hook(
    functional: Any, parts: Sequence[Tuple[List[Any], List[Any]]], recomputed: Sequence[bool]
) -> Hook:
    from perftricks.recompute.engines.keras2_static import Between, StandIns

    stand_ins = StandIns([Between(*part, on) for part, on in zip(parts, recomputed)])
    return functional, "_perftricks_stand_ins", stand_ins


def _call_hook(layer: Any) -> Callable[..., Any]:
    """Return what stands in for the ``call`` of a layer; AutoGraph may convert it."""
    plain = type(layer).call.__get__(layer)

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not _wanted():
            return plain(*args, **kwargs)
        return keras2.checkpointed_call(plain, args, kwargs, (layer,))

    return call
