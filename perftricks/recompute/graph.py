"""A functional model as steps with sizes: what there is to cut."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

from perftricks.recompute import model_compat
from perftricks.recompute.segments import Chain, Step, Tensor

# Stands for a dimension that is not known, the batch excepted: a sequence length, an image size.
_UNKNOWN = 128
_FREE = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "ExpandDims", "GetItem"}
_KEEPS_OUTPUT_ONLY = {"linear", "relu", "sigmoid", "tanh", "softmax"}


class Graph:
    """The graph of a functional model.

    Attributes:
        functional: The model.
        nodes: The calls of layers in it, in the order they run.

    Args:
        functional: The model.
    """

    def __init__(self, functional: Any) -> None:
        self.functional = functional
        self.nodes = model_compat.nodes_of(functional)
        self._shapes = _shapes(functional, self.nodes)

    def chain(self, inner: Dict[int, Tuple[int, int]]) -> Chain:
        """Return its steps; some may be models that have segments of their own.

        Args:
            inner: For such a step, by number, what it keeps and what it holds for a while.
        """
        steps = [
            Step(
                node.operation.name,
                tuple(dict.fromkeys(id(tensor) for tensor in node.input_tensors)),
                tuple(self._tensor(tensor) for tensor in node.outputs),
                self._bytes(node),
                inner.get(number),
            )
            for number, node in enumerate(self.nodes)
        ]
        inputs = [self._tensor(tensor) for tensor in self.functional.inputs]
        return Chain(inputs, steps, [id(tensor) for tensor in self.functional.outputs])

    def _tensor(self, symbol: Any) -> Tensor:
        size = _width(symbol.dtype)
        for dimension in self._shapes[id(symbol)][1:]:  # one sample of the batch
            size *= _UNKNOWN if dimension is None else dimension
        return Tensor(id(symbol), size, "float" in symbol.dtype)

    def _bytes(self, node: Any) -> int:
        """Estimate what a call keeps for the backward pass: the tensors it makes on the way."""
        layer = node.operation
        outputs = sum(self._tensor(tensor).bytes for tensor in node.outputs)
        inner = model_compat.graph_of(layer)
        if inner is not None:
            return max(outputs, Graph(inner).chain({}).bytes)
        kind = type(layer).__name__
        if kind in _FREE:
            return outputs // 4 if kind == "Dropout" and layer.rate else 0
        below = leaves(layer) if hasattr(layer, "_flatten_layers") else [layer]
        if len(below) > 1:
            inputs = max((self._tensor(t).bytes for t in node.input_tensors), default=0)
            return len(below) * max(outputs, inputs) + self._scores(node)
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        return outputs * (1 if activation in _KEEPS_OUTPUT_ONLY else 2)

    def _scores(self, node: Any) -> int:
        """Return the bytes of attention scores, before and after softmax."""
        heads = getattr(node.operation, "num_heads", None)
        shapes = [self._shapes[id(tensor)] for tensor in node.input_tensors[:2]]
        if not isinstance(heads, int) or not shapes or len(shapes[0]) != 3:
            return 0
        lengths = [_UNKNOWN if shape[1] is None else shape[1] for shape in shapes]
        return 2 * heads * lengths[0] * lengths[-1] * _width(node.outputs[0].dtype)


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
        args, kwargs = model_compat.arguments(node, values)
        outputs = operation(model_compat.operation_of(functional, node))(*args, **kwargs)
        for symbol, value in zip(node.outputs, keras.tree.flatten(outputs)):
            values[id(symbol)] = value


def leaves(layer: Any) -> List[Any]:
    """List the layers at or below a layer that have none below themselves."""
    import keras

    return [
        below
        for below in model_compat.everything_in(layer)
        if not model_compat.children(below) and not isinstance(below, keras.layers.InputLayer)
    ]


def _shapes(functional: Any, nodes: Sequence[Any]) -> Dict[int, Tuple[Any, ...]]:
    """Return the shapes of all tensors, with a nominal length for what is not known."""
    import keras

    symbols = [*functional.inputs, *(tensor for node in nodes for tensor in node.outputs)]
    shapes = {id(symbol): tuple(symbol.shape) for symbol in symbols}
    if all(None not in symbol.shape[1:] for symbol in functional.inputs):
        return shapes
    values = {}
    for symbol in functional.inputs:
        shape = [_UNKNOWN if size is None else size for size in symbol.shape[1:]]
        values[id(symbol)] = keras.KerasTensor((*symbol.shape[:1], *shape), symbol.dtype)
    try:
        run_nodes(functional, nodes, values, lambda layer: layer.compute_output_spec)
    except Exception:  # a layer may refuse the length, in any way; the estimate is then rougher
        return shapes
    shapes.update((key, tuple(value.shape)) for key, value in values.items())
    return shapes


def _width(dtype: str) -> int:
    """Return the bytes of one number."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)
