"""Which results of the first run are worth keeping in a graph: those of long matrix products.

What a product of n numbers each takes 4 bytes to keep takes 2n floating point operations to compute
again. Where what comes last in a block is such a product (the second layer of a feed-forward net
sums over four times the width), keeping it saves a third of the recomputation. Results are kept,
the longest products first, while they take no more memory together than what the call was given.

What is kept is not the product itself but what it is added to, as far as that is all that is done
with it: nothing between needs numbers in the backward pass, and what TensorFlow fuses stays fused,
and rounded, as in the plain run. To keep what is small and takes long is known as selective
activation recomputation (Korthikanti et al., arXiv 2205.05198).
"""

from __future__ import annotations

from typing import Any, Collection, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from perftricks.recompute.engines.shapes import size_of

_SHORT = 64  # products of fewer numbers are not worth their memory
_FILTERED = {"Conv2D", "Conv3D"}
_MULTIPLIED = {
    "MatMul": "transpose_a",
    "BatchMatMul": "adj_x",
    "BatchMatMulV2": "adj_x",
    "BatchMatMulV3": "adj_x",
}
# Their gradients need no numbers of what they take.
_MOVES = {"Identity", "Reshape", "Transpose"}
_SUMS = {"Add", "AddV2", "BiasAdd"}
# Nothing that is added and goes into one of these alone is fused with it.
_UNFUSED = {"If", "Mul", "SelectV2", "StatelessIf", "Switch"}


def worth_keeping(
    operations: Collection[Any], given: Sequence[Any], outputs: Sequence[Any]
) -> List[Any]:
    """Return the tensors to keep, of what some operations compute.

    Args:
        operations: What would be computed again.
        given: What the call was given; together they are as large as what is kept may be.
        outputs: What the call returns, which is there anyway.
    """
    there = {t.name for t in outputs}
    room: Dict[int, int] = {}  # by the number of unknown dimensions
    for size in (size_of(t) for t in given):
        if size is not None:
            room[size.unknown] = room.get(size.unknown, 0) + size.nbytes
    kept: Dict[str, Any] = {}
    for _, product in sorted(_products(operations), key=lambda found: -found[0]):
        end = _end(product, operations, there)
        size = None if end is None else size_of(end)
        if end is None or size is None or end.name in kept:
            continue
        needed = 0 if end.name in there else size.nbytes
        if needed <= room.get(size.unknown, 0):
            room[size.unknown] = room.get(size.unknown, 0) - needed
            kept[end.name] = end
    return list(kept.values())


def _products(operations: Iterable[Any]) -> Iterator[Tuple[int, Any]]:
    """Yield products, and how many numbers are added up for each of their elements."""
    for op in operations:
        length = None
        if op.type in _MULTIPLIED and op.inputs[0].shape.rank is not None:
            length = op.inputs[0].shape[-2 if op.get_attr(_MULTIPLIED[op.type]) else -1]
        elif op.type in _FILTERED and op.inputs[1].shape.is_fully_defined():
            shape = op.inputs[1].shape
            length = shape.num_elements() // int(shape[-1])
        length = getattr(length, "value", length)  # a Dimension, in TensorFlow 1
        if length is not None and length >= _SHORT:
            yield length, op.outputs[0]


def _end(product: Any, operations: Collection[Any], there: Collection[str]) -> Optional[Any]:
    """Follow a product to what it is added to; None if keeping that would change what is fused."""
    end = product
    while True:
        users = end.consumers()
        if end.name in there or len(users) > 1:
            return end
        if not users or users[0] not in operations:
            return None
        (user,) = users
        alike = user.type in _SUMS and size_of(user.outputs[0]) == size_of(end)
        if not (alike or user.type in _MOVES):
            return end if user.type in _UNFUSED else None
        end = user.outputs[0]
