"""In a graph, compute nothing again of which only the shape is needed.

Where the size of a batch is not known before, gradients ask for the shapes of tensors that they
need nothing else of: of what a block adds up last, say. In the plain run such a tensor is there
anyway. In the backward pass of a recomputed call it would be computed for its shape alone, which
costs the last matrix product of many a block. The first run made a tensor of the same shape.

What is needed for its numbers, too, keeps its shape: TensorFlow fuses operations by who else needs
what is between them, and the second run shall be fused, and rounded, as the plain one.
"""

from __future__ import annotations

from typing import Any, List, Sequence, Set

import tensorflow as tf

from perftricks.recompute.engines import compat

# Weights are read, and captured from outside, by the first run only; later ones are given values.
_READS = ("ReadVariableOp", "Placeholder")


def count(graph: Any) -> int:
    """Return how many operations a graph has; None, which is eager execution, has none."""
    return 0 if graph is None else len(graph.get_operations())


def operations_since(graph: Any, start: int) -> List[Any]:
    """List the operations of a graph from a number on."""
    return [] if graph is None else list(graph.get_operations()[start:])


def borrow_shapes(
    first: Sequence[Any], again: Sequence[Any], backward: Sequence[Any], gradients: Sequence[Any]
) -> None:
    """Let operations take shapes from the first run of a call.

    Nothing is changed where the two runs did not create the same operations in one graph.

    Args:
        first: The operations of the first run.
        again: Those of the second run.
        backward: Those of the gradients.
        gradients: What they compute; None for a gradient that there is not.
    """
    first = [op for op in first if op.type not in _READS]
    later = [op for op in again if op.type not in _READS]
    alike = [op.type for op in first] == [op.type for op in later]
    if not alike or not first or first[0].graph is not later[0].graph:
        return
    twins = {op.name: twin for op, twin in zip(later, first)}
    inside = {op.name for op in [*again, *backward]}
    needed = _needed_for_numbers(gradients, inside)
    for op in [*later, *backward]:
        if op.type != "Shape":
            continue
        source = op.inputs[0]
        if source.op.name not in twins or source.op.name in needed:
            continue
        with tf.control_dependencies(None):  # now, and not after the gradient that comes in
            twin = twins[source.op.name].outputs[source.value_index]
            shape = tf.shape(twin, out_type=op.outputs[0].dtype)
        compat.tensorflow_replace(op.outputs[0], shape)


def _needed_for_numbers(gradients: Sequence[Any], inside: Set[str]) -> Set[str]:
    """Return the names of the operations whose numbers, and not only shapes, gradients need."""
    tensors = tf.nest.flatten([x for x in gradients if x is not None], expand_composites=True)
    waiting = [x.op for x in tensors]
    needed: Set[str] = set()
    while waiting:
        op = waiting.pop()
        if op.name in inside and op.name not in needed:
            needed.add(op.name)
            if op.type != "Shape":
                waiting.extend(x.op for x in op.inputs)
            waiting.extend(op.control_inputs)
    return needed
