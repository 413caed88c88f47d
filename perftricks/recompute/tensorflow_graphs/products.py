"""Which results of the first run are worth keeping in a graph: those of long matrix products.

What a product of n numbers each takes 4 bytes to keep takes 2n floating point operations to compute
again. Where what comes last in a block is such a product (the second layer of a feed-forward net
sums over four times the width), keeping it saves a third of the recomputation. Results are kept,
the longest products first, while they take no more memory together than what the call was given,
and no more than half of what the plain run would keep.

What is kept is not the product itself but what it is added to, as far as that is all that is done
with it: of what is between, the backward pass needs no numbers, but may need shapes. What is
fused in the plain run, whose backward pass needs the same, is fused here, and rounded alike.

To keep what is small and takes long is known as selective activation recomputation (Korthikanti et
al., arXiv 2205.05198).
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from typing import (
    Any,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from perftricks.recompute.tensorflow_graphs.shapes import Sizes, size_of

_SHORT = 64  # products of fewer numbers are not worth their memory
# What counts as a product, or a convolution, for a policy.
PRODUCTS = {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "MatMul"}
CONVOLUTIONS = {
    "Conv2D",
    "Conv2DBackpropInput",
    "Conv3D",
    "Conv3DBackpropInputV2",
    "DepthwiseConv2dNative",
}
_FILTERED = {"Conv2D", "Conv3D"}
_MULTIPLIED = {
    "MatMul": ("transpose_a", "transpose_b"),
    "BatchMatMul": ("adj_x", "adj_y"),
    "BatchMatMulV2": ("adj_x", "adj_y"),
    "BatchMatMulV3": ("adj_x", "adj_y"),
}
# Their gradients need no numbers of what they take or give.
_MOVES = {"Identity", "Reshape", "Transpose"}
_SUMS = {"Add", "AddV2", "BiasAdd"}
# Their gradients need the shapes of what they take.
_SHAPED = {"Add", "AddV2", "Reshape"}
# Their gradients need the numbers of what they give, or of what they take. These are not all such
# operations, but those that layers are made of.
_GIVING = {"Elu", "Exp", "Relu", "Rsqrt", "Selu", "Sigmoid", "Softmax", "Sqrt", "Tanh"}
_TAKING = {
    "Erf",
    "Erfc",
    "FusedBatchNorm",
    "FusedBatchNormV2",
    "FusedBatchNormV3",
    "LogSoftmax",
    "Mul",
    "Pow",
    "RealDiv",
    "Softplus",
    "Square",
    "SquaredDifference",
    *_FILTERED,
    *_MULTIPLIED,
}
# Nothing that is added and goes into one of these alone is fused with it.
_UNFUSED = {"If", "Mul", "SelectV2", "StatelessIf", "Switch"}


class Kept(NamedTuple):
    """Something that is kept.

    Attributes:
        tensor: What a product is added to.
        between: Of the product and the tensors after it, those whose shapes gradients ask for.
    """

    tensor: Any
    between: List[Any]


def worth_keeping(
    operations: Collection[Any], given: Sequence[Any], outputs: Sequence[Any]
) -> List[Kept]:
    """Return what to keep of what some operations compute.

    Args:
        operations: What would be computed again.
        given: What the call was given; together they are as large as what is kept may be.
        outputs: What the call returns. If it is no larger than what the call was given, it is
            taken for something that is there anyway: given to the next call.
    """
    there = {t.name for t in outputs}
    sizes = Sizes(operations)
    room = _sum(sizes, given)
    spare = _sum(sizes, _kept_plainly(operations))
    left = Counter(room)
    kept: Dict[str, Kept] = {}
    for _, product in sorted(_products(operations), key=lambda found: -found[0]):
        found = followed(product, operations, there)
        size = None if found is None else sizes.of(found.tensor)
        if found is None or size is None or found.tensor.name in kept:
            continue
        is_output = found.tensor.name in there
        available = (room if is_output else left)[size.unknown]
        if size.nbytes <= min(available, spare[size.unknown] // 2):
            kept[found.tensor.name] = found
            left[size.unknown] -= 0 if is_output else size.nbytes
            spare[size.unknown] -= 2 * size.nbytes
    return list(kept.values())


def _sum(sizes: Sizes, tensors: Iterable[Any]) -> Counter[int]:
    """Add up the bytes of tensors, by how many of their dimensions are unknown."""
    total: Counter[int] = Counter()
    for size in filter(None, map(sizes.of, tensors)):
        total[size.unknown] += size.nbytes
    return total


def _kept_plainly(operations: Collection[Any]) -> List[Any]:
    """List the tensors made by operations whose numbers the plain backward pass needs."""
    needed = []
    for op in operations:
        if op.type in _GIVING:
            needed.append(op.outputs[0])
        if op.type in _TAKING and not _is_scaled(op):
            needed.extend(map(_origin, op.inputs))
    return list({x.name: x for x in needed if x.op in operations}.values())


def _origin(x: Any) -> Any:
    """Return the tensor whose numbers another has in another order or shape."""
    while x.op.type in _MOVES:
        x = x.op.inputs[0]
    return x


def _is_scaled(op: Any) -> bool:
    """Tell whether an operation multiplies or divides by a single number."""
    return op.type in ("Mul", "RealDiv") and any(x.shape.num_elements() == 1 for x in op.inputs)


def _products(operations: Iterable[Any]) -> Iterator[Tuple[int, Any]]:
    """Yield products, and how many numbers are added up for each of their elements."""
    for op in operations:
        length = None
        if op.type in _MULTIPLIED:
            first, second = op.inputs
            is_turned, other_is_turned = map(op.get_attr, _MULTIPLIED[op.type])
            length = _length(first, -2 if is_turned else -1)
            if length is None:
                length = _length(second, -1 if other_is_turned else -2)
        elif op.type in _FILTERED and op.inputs[1].shape.is_fully_defined():
            shape = op.inputs[1].shape.as_list()
            length = functools.reduce(operator.mul, shape[:-1], 1)  # math.prod is Python 3.8's
        if length is not None and length >= _SHORT:
            yield length, op.outputs[0]


def _length(x: Any, dimension: int) -> Optional[int]:
    """Return the length of a dimension if it is known."""
    return None if x.shape.rank is None else x.shape.as_list()[dimension]


def followed(product: Any, operations: Collection[Any], there: Collection[str]) -> Optional[Kept]:
    """Follow a product to what it is added to; None if keeping that would change what is fused."""
    end = product
    between: List[Any] = []
    while True:
        users = end.consumers()
        if end.name in there or len(users) > 1:
            return Kept(end, between)
        if not users or users[0] not in operations:
            return None
        (user,) = users
        alike = user.type in _SUMS and size_of(user.outputs[0]) == size_of(end)
        if not (alike or user.type in _MOVES):
            return Kept(end, between) if user.type in _UNFUSED else None
        if user.type in _SHAPED and not end.shape.is_fully_defined():
            between.append(end)
        end = user.outputs[0]
