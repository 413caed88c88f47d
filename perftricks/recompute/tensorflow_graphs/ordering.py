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

from typing import Any, List, Sequence, Set

import tensorflow as tf

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
        known = _computed_from(result, inside)
        others = [
            op for op in dict.fromkeys(before) if op not in known and op.graph is result.graph
        ]
        if others:
            with tf.control_dependencies(others):
                result = tf.identity(result)
        found.append(result)
    return found


def _reads(op: Any) -> bool:
    """Tell whether an operation may read a variable, itself or in a function."""
    return op.type not in WRITES and any(x.dtype == tf.resource for x in op.inputs)


def _computed_from(result: Any, inside: Set[Any]) -> Set[Any]:
    """Return the operations that a tensor depends on: some, and what these begin with."""
    found: Set[Any] = set()
    waiting = [result.op]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            if op in inside:
                waiting.extend(x.op for x in op.inputs)
                waiting.extend(op.control_inputs)
    return found
