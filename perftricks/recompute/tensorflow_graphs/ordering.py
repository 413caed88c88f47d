"""What keeps TensorFlow reading a variable before it is assigned to.

::

    read ──▶ MatMul ──▶ y ──▶ IdentityN ──▶ y ──▶ loss ──▶ assign
    read ─────────────────────▲    └──▶ (nobody)             ▲
      └ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┘

A function that is traced gets control edges from what reads a variable to what assigns to it later.
An operation with a gradient of its own passes its results and all that they can be computed from
through one ``IdentityN``. For Grappler that is a path from each of them to each result; the edge
from the second read, which only the backward pass uses, is redundant then, and taken away.
Afterwards Grappler takes the ``IdentityN`` apart, and with it that path: the backward pass may read
what the optimizer has already assigned.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Dict, List, Sequence, Set

import tensorflow as tf

from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs.operations import WRITES


def in_order(
    results: Sequence[Any], sources: Sequence[Any], operations: Sequence[Any]
) -> List[Any]:
    """Return results of a graph, each there only once all variables have been read.

    One that is computed from all sources, and from all reads, is returned as it is. Another gets
    control edges from those that it is not computed from; a tensor with such edges could not be
    fused with others.

    Args:
        results: Tensors.
        sources: Tensors that exist already, in the same graph.
        operations: What lies between them.
    """
    inside = set(operations)
    before = [*(x.op for x in sources), *(op for op in operations if _reads(op))]
    found = []
    for result in results:
        known = _computed_from([result], inside)
        others = [
            op for op in dict.fromkeys(before) if op not in known and op.graph is result.graph
        ]
        if others:
            with tf.control_dependencies(others):
                result = tf.identity(result)
        found.append(result)
    return found


def weights_first(
    gradients: Sequence[Any], of_weights: Sequence[bool], operations: Sequence[Any] = ()
) -> List[Any]:
    """Let a backward pass go on only when the gradients of the weights so far are there.

    Until then they hold activations, and nothing but this makes a scheduler compute them soon.

    ::

        dy ──▶ dW              dy ──▶ dW
        └────▶ dx ──▶          └────▶ ┊ (edge) ──▶ dx ──▶

    Args:
        gradients: Tensors of a graph; None where there is none.
        of_weights: Which of them are those of weights.
        operations: What computes them, where it is to be put in order as well.

    Returns:
        The gradients.
    """
    pairs = [(x, is_weight) for x, is_weight in zip(gradients, of_weights) if _is_dense(x)]
    weights = [x for x, is_weight in pairs if is_weight]
    others = [x for x, is_weight in pairs if not is_weight]
    if not any(op.op_def.is_stateful for op in operations):
        # The order of those with state is the order in which they were made, and is kept so.
        _begin_with(weights, others, operations)
    with tf.control_dependencies(weights):
        return [
            tf.identity(x) if _is_dense(x) and not is_weight else x
            for x, is_weight in zip(gradients, of_weights)
        ]


def _begin_with(weights: Sequence[Any], others: Sequence[Any], operations: Sequence[Any]) -> None:
    """Add control edges from what only some tensors need to what others need next."""
    inside = set(operations)
    needed = _computed_from(others, inside) & inside
    beside = (_computed_from(weights, inside) & inside) - needed
    waiting: List[Any] = []
    for op in _in_turn(operations, beside):
        if op in beside:
            waiting.append(op)
        elif op in needed:
            used = {x.op for some in waiting for x in some.inputs}
            graphs.add_edges([some for some in waiting if some not in used], op)
            waiting.clear()


def _in_turn(operations: Sequence[Any], first: Set[Any]) -> List[Any]:
    """Return operations in an order in which they can run: some of them as soon as they can."""
    inside = set(operations)
    after: Dict[Any, List[Any]] = {op: [] for op in operations}
    waits: Dict[Any, int] = {}
    for op in operations:
        before = [x for x in (*(y.op for y in op.inputs), *op.control_inputs) if x in inside]
        waits[op] = len(before)
        for x in before:
            after[x].append(op)
    ready = [deque(op for op in operations if not waits[op])]
    ready.insert(0, deque())
    found = []
    while any(ready):
        op = (ready[0] or ready[1]).popleft()
        found.append(op)
        for x in after[op]:
            waits[x] -= 1
            if not waits[x]:
                ready[x not in first].append(x)
    return found


def _is_dense(gradient: Any) -> bool:
    return isinstance(gradient, tf.Tensor)


def _reads(op: Any) -> bool:
    """Tell whether an operation may read a variable, itself or in a function."""
    return op.type not in WRITES and any(x.dtype == tf.resource for x in op.inputs)


def _computed_from(results: Sequence[Any], inside: Set[Any]) -> Set[Any]:
    """Return the operations that tensors depend on: some, and what these begin with."""
    found: Set[Any] = set()
    waiting = [x.op for x in results]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            if op in inside:
                waiting.extend(x.op for x in op.inputs)
                waiting.extend(op.control_inputs)
    return found
