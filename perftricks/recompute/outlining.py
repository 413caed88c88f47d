"""A Keras model as planning sees it: numbers in place of layers and tensors."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from perftricks.recompute.planning import outline as planning
from perftricks.recompute.planning.chain import Chain, Step, Tensor
from perftricks.recompute.planning.costs import UNKNOWN, Facts, bytes_of, kept_bytes, width_of
from perftricks.recompute.stacks import family_of


class Graph(NamedTuple):
    """What stands behind the numbers of a graph in an outline.

    Attributes:
        functional: The model that runs the graph.
        nodes: The calls of layers in it, in the order they run.
        outline: What planning sees of it.
    """

    functional: Any
    nodes: Sequence[Any]
    outline: planning.Graph

    @property
    def chain(self) -> Chain:
        """The steps of the graph."""
        steps = [call.step for call in self.outline.calls]
        return Chain(self.outline.inputs, steps, self.outline.outputs)


class Outlined:
    """A model, what planning sees of it, and what stands behind the numbers.

    Attributes:
        layers: Everything in the model, by number.
        outline: What planning sees.
        graphs: The graphs in it, by number.
        symbols: The symbolic tensors of the graphs, by number.

    Args:
        model: A built model of Keras 3 or Keras 2.
    """

    def __init__(self, model: Any) -> None:
        self._family = family_of(model)
        self.layers: List[Any] = self._family.everything_in(model)
        self.graphs: Dict[int, Graph] = {}
        self.symbols: List[Any] = []
        self._numbers = {id(layer): number for number, layer in enumerate(self.layers)}
        self._tensors: Dict[int, int] = {}
        self._done: Dict[int, Any] = {}
        self.outline = planning.Outline(
            self._model(model), tuple(type(layer).__name__ for layer in self.layers)
        )

    @property
    def root(self) -> Optional[Graph]:
        """The graph of the model itself; None if it has a ``call`` of its own."""
        found = (g for g in self.graphs.values() if g.outline is self.outline.root)
        return next(found, None)

    def number_of(self, symbol: Any) -> Optional[int]:
        """Return the number of a symbolic tensor, or None for one that is in none of the graphs."""
        return self._tensors.get(id(symbol))

    def _model(self, model: Any) -> Any:
        if id(model) not in self._done:
            functional = self._family.graph_of(model)
            is_static = self._family.is_static(model)
            if functional is None:
                below = tuple(map(self._below, self._family.children(model)))
                leaves = len(leaves_of(model))
                self._done[id(model)] = planning.Layers(model.name, leaves, below, is_static)
            else:
                self._done[id(model)] = self._graph(model.name, functional)
        return self._done[id(model)]

    def _below(self, layer: Any) -> planning.Below:
        return planning.Below(
            self._numbers[id(layer)],
            layer.name,
            len(leaves_of(layer)),
            not layer.weights and not self._family.children(layer),
            self._model(layer) if self._family.is_model(layer) else None,
        )

    def _graph(self, name: str, functional: Any) -> planning.Graph:
        nodes = self._family.nodes_of(functional)
        shapes = self._shapes(functional, nodes)
        inputs = [self._tensor(symbol, shapes) for symbol in functional.inputs]
        calls = [self._call(node, shapes) for node in nodes]
        outline = planning.Graph(
            name,
            self._numbers[id(functional)],
            inputs,
            calls,
            [self._tensors[id(symbol)] for symbol in functional.outputs],
            self._family.is_static(functional),
        )
        self.graphs[outline.number] = Graph(functional, nodes, outline)
        return outline

    def _call(self, node: Any, shapes: Dict[int, Tuple[Any, ...]]) -> planning.Call:
        layer = node.operation
        is_model = self._family.is_model(layer)
        nested = self._model(layer) if is_model else None
        takes = [self._tensor(symbol, shapes) for symbol in node.input_tensors]
        gives = tuple(self._tensor(symbol, shapes) for symbol in node.outputs)
        kind = type(layer).__name__
        facts = Facts(
            kind,
            tuple(tensor.bytes for tensor in takes),
            tuple(tensor.bytes for tensor in gives),
            kind == "Dropout" and bool(layer.rate),
            getattr(getattr(layer, "activation", None), "__name__", "linear"),
            len(leaves_of(layer)) if self._family.is_layer(layer) else 1,
            self._attention(node, shapes),
            nested.bytes if isinstance(nested, planning.Graph) else None,
        )
        step = Step(
            layer.name, tuple(dict.fromkeys(x.key for x in takes)), gives, kept_bytes(facts)
        )
        return planning.Call(self._numbers.get(id(layer)), kind, step, nested)

    def _attention(
        self, node: Any, shapes: Dict[int, Tuple[Any, ...]]
    ) -> Optional[Tuple[int, int, int, int]]:
        heads = getattr(node.operation, "num_heads", None)
        given = [shapes[id(tensor)] for tensor in node.input_tensors[:2]]
        if not isinstance(heads, int) or not given or len(given[0]) != 3 or len(given[-1]) < 2:
            return None
        lengths = [UNKNOWN if shape[1] is None else shape[1] for shape in given]
        width = width_of(self._family.dtype_of(node.outputs[0]))
        return heads, lengths[0], lengths[-1], width

    def _shapes(self, functional: Any, nodes: Sequence[Any]) -> Dict[int, Tuple[Any, ...]]:
        """Return the shapes of all tensors, with a nominal length for what is not known."""
        symbols = [*functional.inputs, *(x for node in nodes for x in node.outputs)]
        shapes = {id(symbol): self._family.shape_of(symbol) for symbol in symbols}
        if any(None in shapes[id(symbol)][1:] for symbol in functional.inputs):
            shapes.update(self._family.nominal_shapes(functional, nodes, UNKNOWN))
        return shapes

    def _tensor(self, symbol: Any, shapes: Dict[int, Tuple[Any, ...]]) -> Tensor:
        number = self._tensors.setdefault(id(symbol), len(self._tensors))
        if number == len(self.symbols):
            self.symbols.append(symbol)
        dtype = self._family.dtype_of(symbol)
        return Tensor(number, bytes_of(shapes[id(symbol)], dtype), "float" in dtype)


def leaves_of(layer: Any) -> List[Any]:
    """List the layers at or below a layer that have none below themselves."""
    family = family_of(layer)
    return [
        below
        for below in family.everything_in(layer)
        if not family.children(below) and not family.is_input_layer(below)
    ]
