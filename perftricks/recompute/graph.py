"""A functional model as steps with sizes: what there is to cut."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from perftricks.recompute.segments import Chain, Part, Step, Tensor
from perftricks.recompute.stacks import family_of

# Stands for a dimension that is not known, the batch excepted: a sequence length, an image size.
_UNKNOWN = 128
_FREE = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "ExpandDims", "GetItem"}
_KEEPS_OUTPUT_ONLY = {"linear", "relu", "sigmoid", "tanh", "softmax"}


class Graph:
    """The graph of a functional model.

    Attributes:
        functional: The model.
        nodes: The calls of layers in it, in the order they run.
        is_static: Whether the operations exist already, and what is built upon the outputs of the
            model does not know of its parts.

    Args:
        functional: The model.
    """

    def __init__(self, functional: Any) -> None:
        self.functional = functional
        self._family = family_of(functional)
        self.nodes = self._family.nodes_of(functional)
        self.is_static = self._family.is_static(functional)
        self._shapes = self._all_shapes()

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

    def is_last(self, part: Part) -> bool:
        """Tell whether a part gives nothing but outputs of the model."""
        outputs = {id(symbol) for symbol in self.functional.outputs}
        return all(key in outputs for key in part.gives)

    def _all_shapes(self) -> Dict[int, Tuple[Any, ...]]:
        """Return the shapes of all tensors, with a nominal length for what is not known."""
        inputs = self.functional.inputs
        symbols = [*inputs, *(tensor for node in self.nodes for tensor in node.outputs)]
        shapes = {id(symbol): self._family.shape_of(symbol) for symbol in symbols}
        if any(None in shapes[id(symbol)][1:] for symbol in inputs):
            shapes.update(self._family.nominal_shapes(self.functional, self.nodes, _UNKNOWN))
        return shapes

    def _tensor(self, symbol: Any) -> Tensor:
        dtype = self._family.dtype_of(symbol)
        size = _width(dtype)
        for dimension in self._shapes[id(symbol)][1:]:  # one sample of the batch
            size *= _UNKNOWN if dimension is None else dimension
        return Tensor(id(symbol), size, "float" in dtype)

    def _bytes(self, node: Any) -> int:
        """Estimate what a call keeps for the backward pass: the tensors it makes on the way."""
        layer = node.operation
        outputs = sum(self._tensor(tensor).bytes for tensor in node.outputs)
        inner = self._family.graph_of(layer)
        if inner is not None:
            return max(outputs, Graph(inner).chain({}).bytes)
        kind = type(layer).__name__
        if kind in _FREE:
            return outputs // 4 if kind == "Dropout" and layer.rate else 0
        below = leaves(layer) if self._family.is_layer(layer) else [layer]
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
        return 2 * heads * lengths[0] * lengths[-1] * _width(self._family.dtype_of(node.outputs[0]))


def leaves(layer: Any) -> List[Any]:
    """List the layers at or below a layer that have none below themselves."""
    family = family_of(layer)
    return [
        below
        for below in family.everything_in(layer)
        if not family.children(below) and not family.is_input_layer(below)
    ]


def _width(dtype: str) -> int:
    """Return the bytes of one number."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)
