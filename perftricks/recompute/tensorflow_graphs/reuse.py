"""In a graph, what the second run of a call takes from the first instead of computing it again.

Shapes. Where the size of a batch is not known before, gradients ask for the shapes of tensors that
they need nothing else of: of what a block adds up last, say. In the plain run such a tensor is
there anyway. In the backward pass of a recomputed call it would be computed for its shape alone,
which costs the last matrix product of many a block. The first run made a tensor of the same shape.
What is needed for its numbers, too, keeps its shape: TensorFlow fuses operations by who else needs
what is between them, and the second run shall be fused, and rounded, as the plain one.

Masks. To draw random numbers again costs a twentieth of a step on the CPU; the mask that dropout
makes of them takes a byte where they took four. Masks are kept from the first run, the smallest
first, while all of them take no more memory than what the call was given, which is kept as well.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import tensorflow as tf

from perftricks.recompute.policies import FULL, Policy
from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs.kept import wanted
from perftricks.recompute.tensorflow_graphs.operations import STATELESS
from perftricks.recompute.tensorflow_graphs.shapes import size_of

# Weights are read, and captured from outside, by the first run only; later ones are given values.
_READS = ("ReadVariableOp", "Placeholder")


def count(graph: Any) -> int:
    """Return how many operations a graph has; None, which is eager execution, has none."""
    return 0 if graph is None else len(graph.get_operations())


def operations_since(graph: Any, start: int, end: Optional[int] = None) -> List[Any]:
    """List the operations of a graph from a number on, before another number."""
    return [] if graph is None else list(graph.get_operations()[start:end])


def reuse(
    first: Sequence[Any],
    again: Sequence[Any],
    backward: Sequence[Any],
    gradients: Sequence[Any],
    inputs: Sequence[Any],
    policy: Policy = FULL,
) -> None:
    """Let the second run of a call, and its gradients, take masks and shapes from the first.

    Nothing is changed where the two runs did not create the same operations in one graph.

    Args:
        first: The operations of the first run.
        again: Those of the second run.
        backward: Those of the gradients.
        gradients: What they compute; None for a gradient that there is not.
        inputs: The tensors that the call was given.
        policy: What else it takes.
    """
    first = [op for op in first if op.type not in _READS]
    later = [op for op in again if op.type not in _READS]
    alike = [op.type for op in first] == [op.type for op in later]
    if not alike or not first or first[0].graph is not later[0].graph:
        return
    twins = {op.name: twin for op, twin in zip(later, first)}
    for mask, shape in _masks_that_fit(later, inputs):
        # Where the numbers were drawn of a tensor's shape, that tensor had one more who needs it.
        # It must stay so, for the sake of what is fused, and in a way that is not simplified away.
        true = tf.reduce_all(shape >= 0)
        twin = twins[mask.op.name].outputs[mask.value_index]
        graphs.replace(mask, tf.logical_and(twin, true))
    for kept in wanted(policy, dict.fromkeys(later), ()):
        twin = twins[kept.tensor.op.name].outputs[kept.tensor.value_index]
        graphs.replace(kept.tensor, twin)
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
        graphs.replace(op.outputs[0], shape)


def _masks_that_fit(operations: Sequence[Any], inputs: Sequence[Any]) -> List[Tuple[Any, Any]]:
    """Return masks, as ``_random_masks``, that take no more memory together than the inputs."""
    masks = [(size_of(mask), (mask, shape)) for mask, shape in _random_masks(operations)]
    room = [size for size in map(size_of, inputs) if size is not None]
    fitting = []
    # Sizes are compared where both are of as many unknown dimensions: of a batch's size, say.
    for unknown in {size.unknown for size in room}:
        left = sum(size.nbytes for size in room if size.unknown == unknown)
        alike = [(s.nbytes, mask) for s, mask in masks if s is not None and s.unknown == unknown]
        for nbytes, mask in sorted(alike, key=lambda pair: pair[0]):
            left -= nbytes
            if left >= 0:
                fitting.append(mask)
    return fitting


def _random_masks(operations: Sequence[Any]) -> List[Tuple[Any, Any]]:
    """Return the boolean tensors that are made of one draw of random numbers and constants.

    With each comes the shape, a tensor, that the numbers were drawn in.
    """
    masks: List[Tuple[Any, Any]] = []
    constant: Set[str] = set()
    drawn: Dict[str, Any] = {}  # the draw that an operation goes back to
    for op in operations:
        sources = {x.op.name for x in op.inputs}
        draws = {drawn[name].name: drawn[name] for name in sources if name in drawn}
        if op.type == "Const" or (sources and sources <= constant):
            constant.add(op.name)
        elif op.type in STATELESS:
            drawn[op.name] = op
        elif len(draws) == 1 and sources <= constant | set(drawn):
            (draw,) = draws.values()
            drawn[op.name] = draw
            masks += [(y, draw.inputs[0]) for y in op.outputs if y.dtype == tf.bool]
    return masks


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
