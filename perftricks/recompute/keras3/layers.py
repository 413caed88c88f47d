"""Private parts of Keras 3 that ``apply`` and ``verify`` need, and nobody else.

Each function says what it stands for. Keras is imported when a function runs, never before.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Sequence, Tuple

from perftricks.recompute.keras3 import private

METHODS: Tuple[str, ...] = ("call", "quantized_call", "_run_through_graph")
COMPILED: Tuple[str, ...] = ("train_function", "test_function", "predict_function")


def is_static(model: Any) -> bool:
    """Tell whether a model is a graph that was built once and for all; none of Keras 3 is."""
    return False


def is_model(layer: Any) -> bool:
    """Tell whether a layer is a model."""
    import keras

    return isinstance(layer, keras.Model)


def is_layer(x: Any) -> bool:
    """Tell whether something is a layer."""
    import keras

    return isinstance(x, keras.Layer)


def is_input_layer(layer: Any) -> bool:
    """Tell whether a layer only stands for an input."""
    import keras

    return isinstance(layer, keras.layers.InputLayer)


def is_built(model: Any) -> bool:
    """Tell whether the weights of a model exist."""
    return bool(model.built)


def graph_of(layer: Any) -> Any:
    """Return the graph that a layer runs when it is called, or None if it has a call of its own.

    It is a Functional model itself, or the one that a built Sequential keeps inside.
    """
    import keras

    if isinstance(layer, keras.Sequential):
        return layer._functional if type(layer).call is keras.Sequential.call else None
    functional = private.functional_class()
    if isinstance(layer, functional):
        return layer if type(layer).call is functional.call else None
    return None


def nodes_of(graph: Any) -> List[Any]:
    """List the calls of layers in a graph, in the order in which Keras makes them."""
    known = {id(tensor) for tensor in graph.inputs}
    nodes = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.operation or node.is_input:
                continue
            if all(id(tensor) in known for tensor in node.input_tensors):
                known.update(id(tensor) for tensor in node.outputs)
                nodes.append(node)
    return nodes


def node_of(symbol: Any) -> Any:
    """Return the call that a symbolic tensor comes from, or None if it is an input."""
    history = getattr(symbol, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    return None if node.is_input else node


def own(node: Any) -> Any:
    """Return what Keras itself keeps of a call."""
    return node


def is_symbol(x: Any) -> bool:
    """Tell whether ``x`` is a symbolic tensor."""
    import keras

    return isinstance(x, keras.KerasTensor)


def graph_class() -> Any:
    """Return the class whose method runs graphs of layers: models, and functions of Keras."""
    return private.function_class()


def is_symbolic(inputs: Any) -> bool:
    """Tell whether there are symbolic tensors among inputs."""
    import keras

    return any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(inputs))


def arguments(node: Any, values: Dict[int, Any]) -> Tuple[Any, Any]:
    """Return the arguments of a call, given the values of tensors by the ids of their symbols."""
    args, kwargs = node.arguments.fill_in(values)
    return args, kwargs


def operation_of(graph: Any, node: Any) -> Any:
    """Return what a node calls."""
    find = getattr(graph, "_get_operation_for_node", None)
    return node.operation if find is None else find(node)


def run_nodes(
    functional: Any,
    nodes: Sequence[Any],
    values: Dict[int, Any],
    operation: Callable[[Any], Any],
) -> None:
    """Run some calls of a graph as Keras runs them.

    Args:
        functional: The model they belong to.
        nodes: The calls, in order.
        values: Tensors by the ids of their symbols; what the calls return is added.
        operation: Gives what to call for a layer.
    """
    import keras

    for node in nodes:
        args, kwargs = arguments(node, values)
        outputs = operation(operation_of(functional, node))(*args, **kwargs)
        for symbol, value in zip(node.outputs, keras.tree.flatten(outputs)):
            values[id(symbol)] = value


def shape_of(symbol: Any) -> Tuple[Any, ...]:
    """Return the shape of a symbol; None for what is not known."""
    return tuple(symbol.shape)


def dtype_of(symbol: Any) -> str:
    """Return the name of the type of a symbol's numbers."""
    return str(symbol.dtype)


def nominal_shapes(graph: Any, nodes: Sequence[Any], length: int) -> Dict[int, Tuple[Any, ...]]:
    """Return shapes by the ids of symbols, if each dimension that is not known had some length."""
    import keras

    values = {}
    for symbol in graph.inputs:
        shape = [length if size is None else size for size in symbol.shape[1:]]
        values[id(symbol)] = keras.KerasTensor((*symbol.shape[:1], *shape), symbol.dtype)
    try:
        run_nodes(graph, nodes, values, lambda layer: layer.compute_output_spec)
    except Exception:  # a layer may refuse the length, in any way; the estimate is then rougher
        return {}
    return {key: tuple(value.shape) for key, value in values.items()}


def known_shapes(graph: Any, inputs: Sequence[Tuple[int, ...]]) -> Dict[int, Tuple[Any, ...]]:
    """Return the shapes of tensors by the ids of their symbols, those of its inputs being known.

    The graphs of models that it calls are gone through, too.

    Args:
        graph: The model that runs the graph.
        inputs: The shapes of its inputs.

    Raises:
        Exception: Whatever a layer raises that does not take these shapes.
    """
    import keras

    found: Dict[int, Tuple[Any, ...]] = {}

    def run(graph: Any, inputs: Any) -> Any:
        values = dict(zip(map(id, graph.inputs), keras.tree.flatten(inputs)))
        run_nodes(graph, nodes_of(graph), values, called)
        found.update((key, tuple(value.shape)) for key, value in values.items())
        outputs = [values[id(symbol)] for symbol in graph.outputs]
        return keras.tree.pack_sequence_as(outputs_struct(graph), outputs)

    def called(layer: Any) -> Callable[..., Any]:
        inner = graph_of(layer)
        if inner is None:
            return functools.partial(_spec_of_outputs, layer)
        return lambda inputs, *args, **kwargs: run(inner, inputs)

    run(graph, [keras.KerasTensor(shape, x.dtype) for shape, x in zip(inputs, graph.inputs)])
    return found


def _spec_of_outputs(layer: Any, *args: Any, **kwargs: Any) -> Any:
    import keras

    found = layer.compute_output_spec(*args, **kwargs)
    if any(None in x.shape for x in keras.tree.flatten(found) if x is not None):
        # A layer that computes its shapes itself may do without some that tracing finds.
        found = keras.Operation.compute_output_spec(layer, *args, **kwargs)
    return found


def outputs_struct(graph: Any) -> Any:
    """Return the nested structure of symbols that a graph returns."""
    return graph._outputs_struct


def children(layer: Any) -> List[Any]:
    """List the layers directly below a layer."""
    found: List[Any] = list(layer._flatten_layers(include_self=False, recursive=False))
    return found


def everything_in(model: Any) -> List[Any]:
    """List a model, all layers below it and the graphs that Sequentials keep inside, each once."""
    found: Dict[int, Any] = {}
    for layer in private.flat_layers(model):
        found[id(layer)] = layer
        graph = graph_of(layer)
        if graph is not None:
            found[id(graph)] = graph
    return list(found.values())


def forget_compiled(model: Any) -> None:
    """Make Keras trace its training step again."""
    for layer in everything_in(model):
        for name in COMPILED:
            if getattr(layer, name, None) is not None:
                setattr(layer, name, None)


def global_random_state() -> List[Any]:
    """List the variables of random number generators that belong to no layer."""
    seed = private.global_seed_generator()
    return [] if seed is None else [seed.state]
