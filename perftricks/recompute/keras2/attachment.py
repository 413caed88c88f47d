"""One operation of a graph whose gradient is a copy of what a call has computed.

The outputs of the call pass an ``IdentityN``, together with the tensors that the
outputs can be computed from again; nothing in the backward pass goes through the operations of the
call itself. The gradient function copies those operations, makes the copy wait until the incoming
gradient exists, and differentiates it.

How to copy them is written on the ``IdentityN`` itself, in an attribute: it is still there where
the graph has been copied, and inside a call that is recomputed as a whole.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import tensorflow as tf

from perftricks.recompute import switch
from perftricks.recompute.keras2 import built, private, private_graphs, purity
from perftricks.recompute.keras2.recipe import Recipe, parse_recipe
from perftricks.recompute.keras2.slice import Slice, replay
from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs.ordering import in_order, weights_first

_GRADIENT = "PerftricksRecompute"
SWITCHED_GRADIENT = "PerftricksSwitchedRecompute"
_RECIPE = "_perftricks_recompute"
_GATE = "PerftricksGate"
_GATED = "_perftricks_gated"


def is_differentiable(x: Any) -> bool:
    """Tell whether a tensor may have a gradient."""
    dtype = x.dtype.base_dtype
    return bool(dtype.is_floating or dtype.is_complex or dtype == tf.resource)


def attach(
    graph: Any,
    found: Slice,
    starts: Optional[Sequence[Any]] = None,
    gradient: str = _GRADIENT,
    start: Optional[int] = None,
) -> Dict[int, Any]:
    """Return what stands for the outputs of a slice, by the ids of the tensors it has made.

    Args:
        graph: The graph.
        found: The slice.
        starts: Other tensors to start from, of the same values as those of the slice.
        gradient: The name of the gradient.
        start: Which operation of the graph is the first of the call, if what follows the call is
            computed from what stands for its outputs.
    """
    attributes = {_RECIPE: graphs.bytes_attribute(found.recipe.SerializeToString())}
    gated = private_graphs.is_in_loop(graph)
    if gated:
        attributes[_GATED] = graphs.bytes_attribute(b"")
    sources = [*(found.starts if starts is None else starts), *found.kept]
    outputs = list(found.outputs)
    if start is not None and graph.building_function:
        with private.stop_recording():
            outputs = in_order(outputs, sources, graph.get_operations()[start:])
    inputs = [*outputs, *sources]
    override = private_graphs.gradient_of(graph, "IdentityN", gradient)
    with private.stop_recording(), graphs.attributes(graph, attributes), override:
        attached = tf.identity_n(inputs, name="recompute")
    operation = attached[0].op
    given = attached[: len(found.outputs)]
    private.record(
        "IdentityN",
        given,
        private_graphs.outside(graph, inputs),
        lambda *upstream: _gradient(operation, *upstream),
    )
    for old, new in zip(found.outputs, given):
        new.set_shape(old.shape)
    if gated:
        with graph.gradient_override_map({"Identity": _GATE}):
            given = [tf.identity(x) for x in given]
    return {id(old): new for old, new in zip(found.outputs, given)}


@tf.RegisterGradient(_GATE)  # type: ignore[untyped-decorator]
def _gate(operation: Any, upstream: Any) -> Any:
    """Note that there is a gradient: inside of a loop, zeros may be anything, even a constant."""
    x = operation.inputs[0]
    _there(x.op).add(x.value_index)
    return upstream


def _there(operation: Any) -> Set[int]:
    """Return the numbers of the outputs of which a gate has noted that they have a gradient."""
    if not hasattr(operation.graph, _GATED):
        setattr(operation.graph, _GATED, {})
    found: Dict[str, Set[int]] = getattr(operation.graph, _GATED)
    return found.setdefault(operation.name, set())


_pass_by = threading.local()


@contextlib.contextmanager
def plain_gradients() -> Iterator[None]:
    """Differentiate what has been computed, as if nothing were recomputed."""
    before = getattr(_pass_by, "on", False)
    _pass_by.on = True
    try:
        yield
    finally:
        _pass_by.on = before


@tf.RegisterGradient(SWITCHED_GRADIENT)  # type: ignore[untyped-decorator]
def _switched_gradient(operation: Any, *upstream: Any) -> List[Any]:
    """Recompute if that is on where gradients are asked for."""
    with contextlib.nullcontext() if switch.enabled(default=True) else plain_gradients():
        gradients: List[Any] = _gradient(operation, *upstream)
    return gradients


@tf.RegisterGradient(_GRADIENT)  # type: ignore[untyped-decorator]
def _gradient(operation: Any, *upstream: Any) -> List[Any]:
    """Copy the operations of a call, and differentiate the copy."""
    recipe = parse_recipe(operation.get_attr(_RECIPE))
    count = len(recipe.outputs)
    wanted = [i for i in range(count) if not _is_missing(operation, i, upstream[i])]
    _there(operation).clear()
    gradients: List[Optional[Any]] = [None] * len(operation.inputs)
    starts = operation.inputs[count : count + len(recipe.starts)]
    if getattr(_pass_by, "on", False) or _reads_late(recipe, starts):
        for i in wanted:
            gradients[i] = upstream[i]
        return gradients
    if not wanted:
        return gradients
    incoming = [tf.convert_to_tensor(upstream[i]) for i in wanted]
    ends = count + len(recipe.starts)

    def differentiated() -> List[Optional[Any]]:
        given, after = _after(incoming, operation.inputs[count:])
        starts, kept = after[: ends - count], after[ends - count :]
        again = replay(recipe, starts)
        sources = [i for i, x in enumerate(starts) if is_differentiable(x)]
        found = tf.gradients([again[i] for i in wanted], [starts[i] for i in sources], given)
        # Measured first: what is replaced has no consumers any more.
        copies = list(zip(again[count:], kept))
        for copy, shape in copies[len(recipe.kept) :]:
            private_graphs.replace_shape(copy, shape)
        for copy, tensor in copies[: len(recipe.kept)]:
            graphs.replace(copy, tensor)
        for i, gradient in zip(sources, found):
            gradients[count + i] = gradient
        return weights_first(gradients, [private_graphs.is_read(x) for x in operation.inputs])

    return _as_one(operation.type, [*incoming, *operation.inputs[count:ends]], differentiated)


def _reads_late(recipe: Recipe, starts: Sequence[Any]) -> bool:
    """Tell whether a function in the copy would read a variable that has been assigned to since.

    What a call reads itself is among the starts; what a function reads is not.
    """
    copied = {node.name for node in recipe.graph_def.node}
    for x in starts:
        while x.dtype == tf.resource and x.op.type == "Identity":
            x = x.op.inputs[0]
        users = x.consumers() if x.dtype == tf.resource else []
        readers = {op for op in users if op.name in copied}
        writers = {op for op in users if op.name not in copied and purity.may_write(op)}
        if readers and writers:
            used = [op for op in x.graph.get_operations() if op in readers or op in writers]
            first = next(number for number, op in enumerate(used) if op in readers)
            later = writers.intersection(used[first:])
            if built.is_unordered(x.graph):
                later = {op for op in later if not readers.isdisjoint(built.behind([op]))}
            if later:
                return True
    return False


def _as_one(
    name: str, inputs: Sequence[Any], compute: Callable[[], List[Optional[Any]]]
) -> List[Optional[Any]]:
    """Compute something that a tape, if there is one, takes for one operation on these inputs.

    A tape around the backward pass would record parts of it only: it does not see copies.
    """
    if not private.may_record():
        return compute()
    with private.stop_recording():
        outputs = compute()
    tensors = [getattr(x, "values", x) for x in outputs if x is not None]

    def backward(*upstream: Any) -> List[Optional[Any]]:
        pairs = [(x, dx) for x, dx in zip(tensors, upstream) if dx is not None]
        ends, incoming = [x for x, _ in pairs], [dx for _, dx in pairs]
        starts = list(inputs)  # what these depend on is the tape's affair
        return _as_one(
            name,
            [*incoming, *inputs],
            lambda: list(tf.gradients(ends, starts, incoming, stop_gradients=starts)),
        )

    graph = tf.compat.v1.get_default_graph()
    private.record(name, tensors, private_graphs.outside(graph, inputs), backward)
    return outputs


def _is_missing(operation: Any, i: int, gradient: Any) -> bool:
    """Tell whether nothing uses an output: TensorFlow then hands over zeros it has made of it."""
    if gradient is None:
        return True
    if _GATED in operation.node_def.attr:
        return i not in _there(operation)
    maker = getattr(gradient, "op", None)
    return (
        maker is not None and maker.type == "ZerosLike" and maker.inputs[0] is operation.outputs[i]
    )


def _after(incoming: Sequence[Any], starts: Sequence[Any]) -> Tuple[List[Any], List[Any]]:
    """Give copies of tensors, by name only, that are there once the incoming gradient is."""
    graph = tf.compat.v1.get_default_graph()
    if graphs.compiles_with_xla(graph) and private_graphs.has_barrier():
        return private_graphs.after_barrier(incoming, starts)
    with tf.control_dependencies(incoming):
        return list(incoming), [tf.identity(x) for x in starts]
