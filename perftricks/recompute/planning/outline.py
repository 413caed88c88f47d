"""What planning sees of a model: names, numbers, and the bytes that its layers keep.

The layers of a model are numbered as its Keras lists them, and so are the tensors of its graphs:
another model of the same structure has the same numbers, whatever its layers are called.
"""

from __future__ import annotations

import hashlib
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from perftricks.recompute.planning.chain import Step, Tensor


class Graph(NamedTuple):
    """A graph of layers: a Functional or Sequential model.

    Attributes:
        model: The name of the model.
        number: The number of the graph among everything in the model around it.
        inputs: The tensors it is called with.
        calls: The calls of layers, in the order they run.
        outputs: The numbers of the tensors it returns.
        is_static: Whether its operations exist already, and what is built upon the outputs of the
            model does not know of its parts.
    """

    model: str
    number: int
    inputs: Sequence[Tensor]
    calls: Sequence[Call]
    outputs: Sequence[int]
    is_static: bool

    @property
    def bytes(self) -> int:
        """What all calls keep in a plain run, for one sample."""
        return sum(call.step.bytes for call in self.calls)

    @property
    def everything(self) -> Iterator[Graph]:
        """This graph and those nested in it."""
        yield self
        for call in self.calls:
            if isinstance(call.nested, Graph):
                yield from call.nested.everything


class Call(NamedTuple):
    """A call of a layer in a graph.

    Attributes:
        number: The number of the layer; None for an operation that is no layer.
        kind: The name of its class.
        step: What it takes, gives and keeps.
        nested: What it looks like inside, if it is a model.
    """

    number: Optional[int]
    kind: str
    step: Step
    nested: Optional[Any]


class Layers(NamedTuple):
    """A model or layer with a ``call`` of its own: nobody knows in which order its layers run.

    Attributes:
        model: Its name.
        leaves: How many layers there are below it that have none below themselves.
        below: The layers directly below it.
        is_static: Whether its operations exist already.
    """

    model: str
    leaves: int
    below: Sequence[Below]
    is_static: bool


class Below(NamedTuple):
    """A layer directly below one with a ``call`` of its own.

    Attributes:
        number: Its number.
        name: Its name.
        leaves: How many layers without others there are in it.
        is_empty: Whether it has neither weights nor layers.
        nested: What it looks like inside, if it is a model.
    """

    number: int
    name: str
    leaves: int
    is_empty: bool
    nested: Optional[Any]


class Outline(NamedTuple):
    """A whole model.

    Attributes:
        root: What it looks like: a ``Graph`` or ``Layers``.
        kinds: The names of the classes of all layers in it, by their numbers.
    """

    root: Any
    kinds: Sequence[str]

    def digest(self) -> str:
        """Return what only models of the same structure have in common; names do not count."""
        text = repr((list(self.kinds), _structure(self.root)))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _structure(model: Any) -> List[Any]:
    if isinstance(model, Graph):
        calls: List[Tuple[Any, ...]] = [
            (
                call.number,
                call.kind,
                call.step.takes,
                [tensor.key for tensor in call.step.gives],
                [] if call.nested is None else _structure(call.nested),
            )
            for call in model.calls
        ]
        return [[tensor.key for tensor in model.inputs], calls, list(model.outputs)]
    return [
        (below.number, below.is_empty, [] if below.nested is None else _structure(below.nested))
        for below in model.below
    ]
