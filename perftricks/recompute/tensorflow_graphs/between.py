"""Variables of TensorFlow that change between a call and its gradient: they are as they were.

Keras' own are answered by a scope. Others, ``tf.Variable``, and all that a ``tf.function`` inside
of the call reads, are read by handle. Eagerly what they gave is noted, and put back while the call
runs again. In a graph the second run takes what the first has read.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import tensorflow as tf

from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs import runtime
from perftricks.recompute.tensorflow_graphs.operations import READS, WRITES


class Values:
    """What variables gave while a call ran eagerly."""

    def __init__(self) -> None:
        self._found: Dict[int, Tuple[Any, Any]] = {}  # handles and values

    def note(self, run: Callable[..., Any], name: str, inputs: Sequence[Any]) -> Any:
        """Run an operation, and note what it reads; see ``runtime.operations_through``."""
        handles = [variable.handle for variable in runtime.variables_among(inputs)]
        if name in READS or graphs.is_function(name):
            handles.extend(x for x in inputs if _is_of_variable(x))
        for handle in handles:
            if handle._id not in self._found:
                self._found[handle._id] = handle, None  # to read it comes here as well
                self._found[handle._id] = handle, runtime.read_handle(handle)
        return run()

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """Let the variables have these values for a while."""
        now = [(handle, old, runtime.read_handle(handle)) for handle, old in self._found.values()]
        changed = [(handle, old, x) for handle, old, x in now if not runtime.is_same(x, old)]
        for handle, old, _ in changed:
            runtime.assign_handle(handle, old)
        try:
            yield
        finally:
            for handle, _, x in changed:
                runtime.assign_handle(handle, x)


def _is_of_variable(x: Any) -> bool:
    may_be = isinstance(x, tf.Tensor) and x.dtype == tf.resource
    return may_be and graphs.variable_of(x) is not None


def read_as_before(
    first: Sequence[Any],
    again: Sequence[Any],
    gradients: Sequence[Any],
    graph: Any,
    since: Sequence[Any],
) -> List[Any]:
    """Give the second run of a call in a graph what the first has read of variables.

    Args:
        first: The operations of the first run.
        again: Those of the second run and of the gradients.
        gradients: What they compute; None for a gradient that there is not.
        graph: The graph of the second run. If it is another than that of the first, a function may
            be run between them.
        since: The operations that its graph has got since the first run began.

    Returns:
        The gradients.

    Raises:
        RuntimeError: If a loop, a branch or a function inside has read what is assigned to since.
    """
    if not first:
        return [*gradients]
    begun_in = first[0].graph
    changed = {_root(x) for op in since if _may_write(op) for x in _resources(op)}
    for op in first if changed else ():
        calls = op.type not in READS and graphs.functions_of(op.node_def)
        if calls and not changed.isdisjoint(map(_root, _resources(op))):
            raise RuntimeError(
                "a call that is to be recomputed has a loop, a branch or a tf.function inside that "
                "reads a variable, which is assigned to before the gradient is taken; take the "
                "gradient first, or give the call the value of the variable"
            )
    known: Dict[Tuple[str, int], List[Any]] = {}
    for op in first:
        if op.type in READS:
            known.setdefault((op.type, _root(op.inputs[0])), []).append(op.outputs[0])
    replaced: Dict[int, Any] = {}
    for op in again:
        root = _root(op.inputs[0]) if op.type in READS else None
        read = known.get((op.type, root or 0))
        if read and (graph is not begun_in or root in changed):
            there = graphs.captured(graph, read[0])
            # A variable gives the same each time, and rows of it are gathered in the same order.
            if op.type != "ReadVariableOp":
                read.pop(0)
            graphs.replace(op.outputs[0], there)
            replaced[graphs.tensor_id(op.outputs[0])] = there
    return [_instead(x, replaced) for x in gradients]


def _instead(x: Optional[Any], replaced: Dict[int, Any]) -> Optional[Any]:
    return replaced.get(graphs.tensor_id(x), x) if isinstance(x, tf.Tensor) else x


def _resources(op: Any) -> List[Any]:
    return [x for x in op.inputs if x.dtype == tf.resource]


def _root(x: Any) -> int:
    """Return the number of the tensor that a placeholder stands for, in the outermost graph."""
    found = x
    while found is not None:
        x, graph = found, getattr(found, "graph", None)  # that of a gradient is beside another one
        found = next((outer for outer, y in getattr(graph, "captures", ()) if y is x), None)
    return graphs.tensor_id(x)


def _may_write(op: Any) -> bool:
    types: Set[str] = graphs.function_operations(graphs.functions_of(op.node_def), op.graph)
    return any(kind in WRITES or kind.startswith(_APPLIES) for kind in (op.type, *types))


_APPLIES = ("ResourceApply", "ResourceSparseApply")
