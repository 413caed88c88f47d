"""What a graph with sessions does: which calls of layers were recomputed when it was built.

The switch may have changed since; the graph does not.
"""

from __future__ import annotations

import weakref
from typing import Any, Callable, List, NamedTuple, Sequence, Set, Tuple

import tensorflow as tf

from perftricks.recompute import switch
from perftricks.recompute.keras2 import private

_NOTES = "_perftricks_notes"
_PLAIN = "it was off when the graph was built; set %s=1, then build the model again" % (
    switch.VARIABLE
)


class _Note(NamedTuple):
    """That a call was to be recomputed.

    Attributes:
        layer: A weak reference to its layer.
        method: The name of the method.
        why: What said so.
        operations: What is recomputed; none if nothing can be.
    """

    layer: Any
    method: str
    why: str
    operations: Tuple[Any, ...]


def lasts(graph: Any) -> bool:
    """Tell whether a graph is that of models, and not traced anew when they are compiled."""
    return not private.eager_outside_functions() or private.is_graph_of_symbols(_outermost(graph))


def is_unordered(graph: Any) -> bool:
    """Tell whether nothing but their inputs says which of two operations runs first."""
    return lasts(graph) and _outermost(graph) is graph


def note(graph: Any, call: Callable[..., Any], args: Sequence[Any], made: Sequence[Any]) -> None:
    """Note that a call in a graph was to be recomputed.

    Args:
        graph: The graph.
        call: The method of a layer, bound or with the layer first in ``args``, or anything else.
        args: Its arguments.
        made: The tensors that stand for its outputs.
    """
    owner = getattr(call, "__self__", None)
    layer = next((x for x in (owner, *args[:1]) if hasattr(x, "_inbound_nodes")), None)
    if layer is None:
        return
    outermost = _outermost(graph)
    notes: List[_Note] = getattr(outermost, _NOTES, [])
    setattr(outermost, _NOTES, notes)
    why = "the graph was built with %s" % switch.state(default=False)[1]
    operations = tuple({x.op: None for x in made})
    notes.append(_Note(weakref.ref(layer), getattr(call, "__name__", ""), why, operations))


class Built:
    """What was recomputed in the graph of a model when that was built.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._graph = _outermost(tf.convert_to_tensor(model.outputs[0]).graph)
        self._inside = behind([x.op for x in model.outputs])

    def state(self, layer: Any, method: str) -> Tuple[bool, str]:
        """Tell whether a method of a layer is recomputed, and why or why not."""
        notes: List[_Note] = getattr(self._graph, _NOTES, [])
        notes = [x for x in notes if x.layer() is layer and x.method == method]
        here = [x for x in notes if method != "call" or self._has(x)]
        if here:
            return True, here[-1].why
        if any(not x.operations for x in notes):
            return False, "nothing of the call can be computed again"
        return False, _PLAIN

    def _has(self, note: _Note) -> bool:
        """Tell whether a call belongs to the model; in a function of the graph, it may."""
        return any(op.graph is not self._graph or op in self._inside for op in note.operations)


def _outermost(graph: Any) -> Any:
    """Return the graph in which models are built, from inside of a function of it."""
    while not private.is_graph_of_symbols(graph) and getattr(graph, "outer_graph", None):
        graph = graph.outer_graph
    return graph


def behind(operations: Sequence[Any]) -> Set[Any]:
    """Return operations and all that runs before them."""
    found: Set[Any] = set()
    waiting = list(operations)
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting.extend(x.op for x in op.inputs)
            waiting.extend(op.control_inputs)
    return found
