"""Private parts of Keras 2 that ``apply`` and ``verify`` need: keras 2.3.1, tf.keras, tf_keras.

The same functions as in ``keras3``. Each says what it stands for.
"""

from __future__ import annotations

import collections
import importlib
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import tensorflow as tf

from perftricks.recompute.keras2 import private

METHODS: Tuple[str, ...] = ("call", "_run_internal_graph", "_perftricks_stand_ins")
COMPILED: Tuple[str, ...] = (
    "train_function",
    "test_function",
    "predict_function",
    "train_tf_function",
)
_CACHES = ("_distributed_function_cache", "_distributed_model_cache")  # TensorFlow 2.0 and 2.1


class Node(NamedTuple):
    """A call of a layer in a graph, under the names that Keras 3 has for what belongs to it.

    Attributes:
        operation: The layer.
        input_tensors: The symbols it is called with.
        outputs: The symbols it returns.
        own: What Keras itself keeps of the call.
    """

    operation: Any
    input_tensors: List[Any]
    outputs: List[Any]
    own: Any


def keras_of(layer: Any) -> Any:
    """Return the public module of the Keras that a layer belongs to."""
    for kind in type(layer).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in ("keras", "tf_keras"):
            return importlib.import_module(root)
        if root.startswith("tensorflow"):
            return tf.keras
    raise TypeError("%r is no layer of Keras 2" % (layer,))


def is_static(model: Any) -> bool:
    """Tell whether a model is part of a graph with sessions, built once and for all."""
    return hasattr(model, "outputs") and (
        private.is_standalone(model) or not private.eager_outside_functions()
    )


def is_model(layer: Any) -> bool:
    """Tell whether a layer is a model."""
    return hasattr(layer, "_is_graph_network") or hasattr(layer, "train_on_batch")


def is_layer(x: Any) -> bool:
    """Tell whether something is a layer."""
    return not isinstance(x, type) and hasattr(x, "call") and hasattr(x, "_inbound_nodes")


def is_input_layer(layer: Any) -> bool:
    """Tell whether a layer only stands for an input."""
    return type(layer).__name__ == "InputLayer"


def is_built(model: Any) -> bool:
    """Tell whether the weights of a model exist."""
    return bool(model.built) and (not is_static(model) or bool(model.outputs))


def graph_of(layer: Any) -> Any:
    """Return the graph of layers that a layer is, or None if it has a call of its own."""
    if not getattr(layer, "_is_graph_network", False) or not getattr(layer, "outputs", None):
        return None
    # A subclass may call its graph in a way of its own.
    own = type(layer).call.__module__
    known = any(own.startswith(root) for root in ("keras.", "tf_keras.", "tensorflow"))
    return layer if known else None


def nodes_of(graph: Any) -> List[Node]:
    """List the calls of layers in a graph, in the order in which Keras makes them."""
    known = {id(tensor) for tensor in graph.inputs}
    nodes = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for own in graph._nodes_by_depth[depth]:
            node = _node(own)
            if is_input_layer(node.operation):
                continue
            if all(id(tensor) in known for tensor in node.input_tensors):
                known.update(id(tensor) for tensor in node.outputs)
                nodes.append(node)
    return nodes


def _node(own: Any) -> Node:
    layer = getattr(own, "outbound_layer", None)
    layer = own.layer if layer is None else layer
    if hasattr(own, "keras_inputs"):  # from TensorFlow 2.2 on
        return Node(layer, list(own.keras_inputs), tf.nest.flatten(own.outputs), own)
    takes = tf.nest.flatten(own.input_tensors)
    more = tf.nest.flatten(getattr(own, "arguments", None) or {})
    takes += [x for x in more if hasattr(x, "_keras_history")]
    return Node(layer, takes, tf.nest.flatten(own.output_tensors), own)


def node_of(symbol: Any) -> Optional[Node]:
    """Return the call that a symbol comes from, or None if it is an input."""
    if not hasattr(symbol, "_keras_history"):
        private.complete_history(symbol)
    layer, number = symbol._keras_history[:2]
    return None if is_input_layer(layer) else _node(layer._inbound_nodes[number])


def own(node: Node) -> Any:
    """Return what Keras itself keeps of a call."""
    return node.own


def is_symbol(x: Any) -> bool:
    """Tell whether ``x`` is a symbol of a Keras whose models call layers."""
    return private.is_symbol(x) or private.is_in_graph_of_symbols(x)


def graph_classes() -> List[Any]:
    """List the classes whose method runs a graph of layers, one for each Keras that is loaded."""
    return private.graph_classes("_run_internal_graph")


def shape_of(symbol: Any) -> Tuple[Any, ...]:
    """Return the shape of a symbol; None for what is not known."""
    if symbol.shape.rank is None:
        return (None,)
    return tuple(symbol.shape.as_list())


def dtype_of(symbol: Any) -> str:
    """Return the name of the type of a symbol's numbers."""
    return str(tf.as_dtype(symbol.dtype).base_dtype.name)


def nominal_shapes(graph: Any, nodes: Sequence[Any], length: int) -> Dict[int, Any]:
    """Return shapes for a nominal length, by symbol; here nobody computes them."""
    return {}


def children(layer: Any) -> List[Any]:
    """List the layers directly below a layer."""
    if hasattr(layer, "_flatten_layers"):
        return list(layer._flatten_layers(recursive=False, include_self=False))
    found = getattr(layer, "_layers", None)
    if found is None:  # wrappers and cells of keras 2.3.1
        names = ("layer", "forward_layer", "backward_layer", "cell")
        found = [getattr(layer, name, None) for name in names]
    below = [x for each in found for x in _listed(each) if is_layer(x)]
    return list({id(x): x for x in below}.values())


def _listed(x: Any) -> List[Any]:
    return list(getattr(x, "layers", [])) if not is_layer(x) else [x]


def everything_in(model: Any) -> List[Any]:
    """List a model and all layers below it, each once."""
    found: Dict[int, Any] = {}
    waiting = [model]
    while waiting:
        layer = waiting.pop(0)
        if id(layer) not in found:
            found[id(layer)] = layer
            waiting.extend(children(layer))
    return list(found.values())


def is_only_inference() -> bool:
    """Tell whether nobody can ask for gradients of what runs now: a model is being saved."""
    return private.is_saving()


def forget_compiled(model: Any) -> None:
    """Make Keras build or trace its training step again; the optimizer keeps its state."""
    trained = getattr(model, "train_function", None) is not None
    for layer in everything_in(model):
        for name in COMPILED:
            if getattr(layer, name, None) is not None:
                setattr(layer, name, None)
        for name in _CACHES:
            getattr(layer, name, {}).clear()
    if trained and private.is_standalone(model):
        weights = model.optimizer.get_weights()
        model._make_train_function()  # with slots that begin at zero
        model.optimizer.set_weights(weights)


def updates_of(model: Any) -> List[Any]:
    """List the assignments that belong to a step of a model in a graph, as its ``fit`` does."""
    if private.is_standalone(model):
        return list(model.updates)
    return [*model.get_updates_for(None), *model.get_updates_for(model.inputs)]


class PartOfGraph:
    """Stands for a functional model of which only some calls are made.

    Keras runs it as if it were the model; whatever is not said here is that of the model.

    Args:
        graph: The model.
        nodes: The calls, in order.
        takes: The symbols of the tensors they start from.
        gives: The symbols of the tensors that are wanted.
    """

    def __init__(
        self, graph: Any, nodes: Sequence[Node], takes: Sequence[Any], gives: Sequence[Any]
    ) -> None:
        self._graph = graph
        self.inputs = self._nested_inputs = list(takes)
        self.outputs = self._nested_outputs = list(gives)
        # The first depth is that of the inputs.
        self._nodes_by_depth = {1: [], 0: [node.own for node in nodes]}
        self._output_shape_cache: Dict[Any, Any] = {}
        counts: Any = collections.Counter(str(id(t)) for n in nodes for t in n.input_tensors)
        counts.update(str(id(t)) for t in gives)
        self._tensor_usage_count = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def run(self, tensors: Sequence[Any], training: Any) -> List[Any]:
        """Make the calls; masks come and go with the tensors."""
        masks = [getattr(x, "_keras_mask", None) for x in tensors]
        plain = type(self._graph)._run_internal_graph
        return list(plain(self, list(tensors), training=training, mask=masks))


def reference_inputs(graph: Any, structure: Any) -> List[Any]:
    """List the tensors, or masks, that a model is called with, in the order of its inputs."""
    if hasattr(graph, "_flatten_to_reference_inputs"):
        return list(graph._flatten_to_reference_inputs(structure))
    if isinstance(structure, dict) and isinstance(graph._nested_inputs, (list, tuple)):
        return [structure[x._keras_history.layer.name] for x in graph._nested_inputs]
    return list(tf.nest.flatten(structure))


def pack_outputs(graph: Any, outputs: Sequence[Any]) -> Any:
    """Return the nested structure that a model returns."""
    return tf.nest.pack_sequence_as(graph._nested_outputs, list(outputs))
