"""In a graph, take the shapes that a backward pass asks for from the forward pass.

Where the size of a batch is not known before, gradients ask for the shapes of tensors that they
need nothing else of: of what a block adds up last, say. In the plain run such a tensor is there
anyway. In the backward pass of a recomputed call it would be computed for its shape alone, which
costs the last matrix product of many a block. The first run made a tensor of the same shape.
"""

from __future__ import annotations

from typing import Any, List, Sequence

import tensorflow as tf

from perftricks.recompute.engines import compat

# Weights are read, and captured from outside, by the first run only; later ones are given values.
_READS = ("ReadVariableOp", "Placeholder")


def operations_since(graph: Any, start: int) -> List[Any]:
    """List the operations of a graph from a number on."""
    operations: List[Any] = graph.get_operations()[start:]
    return operations


def borrow_shapes(first: Sequence[Any], again: Sequence[Any], backward: Sequence[Any]) -> None:
    """Let operations take shapes from the first run of a call.

    Nothing is changed where the two runs did not create the same operations.

    Args:
        first: The operations of the first run.
        again: Those of the second run, in the same graph.
        backward: Those of the gradients.
    """
    first = [op for op in first if op.type not in _READS]
    later = [op for op in again if op.type not in _READS]
    if [op.type for op in first] != [op.type for op in later]:
        return
    twins = {op.name: twin for op, twin in zip(later, first)}
    for op in [*later, *backward]:
        if op.type != "Shape" or op.inputs[0].op.name not in twins:
            continue
        source = op.inputs[0]
        with tf.control_dependencies(None):  # now, and not after the gradient that comes in
            twin = twins[source.op.name].outputs[source.value_index]
            shape = tf.shape(twin, out_type=op.outputs[0].dtype)
        compat.tensorflow_replace(op.outputs[0], shape)
