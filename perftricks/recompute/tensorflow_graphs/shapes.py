"""How large tensors of TensorFlow are, where the size of a batch is not known before."""

from __future__ import annotations

from typing import Any, Dict, Iterable, NamedTuple, Optional

# What they give has as many elements as the first thing they take.
_RESHAPES = {"ExpandDims", "Reshape", "Squeeze"}
# In what they give, an unknown dimension may be longer than in all that they take.
_ENLARGE = {
    "BatchToSpaceND",
    "BroadcastTo",
    "Concat",
    "ConcatV2",
    "DynamicStitch",
    "Fill",
    "MirrorPad",
    "Pack",
    "Pad",
    "PadV2",
    "SpaceToBatchND",
    "Tile",
    "Where",
}


class Size(NamedTuple):
    """The size of a tensor.

    Attributes:
        unknown: How many of its dimensions are unknown, or of those that it was reshaped from.
        nbytes: The bytes that the others make. Sizes compare if as many dimensions are unknown.
    """

    unknown: int
    nbytes: int


def size_of(x: Any) -> Optional[Size]:
    """Return the size of a tensor, or None if not even the number of its dimensions is known."""
    if x.shape.rank is None:
        return None
    lengths = x.shape.as_list()
    return Size(lengths.count(None), _known(lengths) * x.dtype.size)


def _known(lengths: Iterable[Optional[int]]) -> int:
    product = 1
    for length in lengths:
        product *= 1 if length is None else length
    return product


class Sizes:
    """How large tensors of a graph are, in terms of what some operations are given.

    Of a batch of sequences that is reshaped to a batch of tokens, only the unknown length is left;
    its size is still that of the sequences. No size is given where it cannot be known to be no
    larger than that.

    Args:
        operations: The operations, those that others depend on first.
    """

    def __init__(self, operations: Iterable[Any]) -> None:
        # By the names of tensors: unknown dimensions, and how much longer than those these are.
        self._scales: Dict[str, Optional[Any]] = {}
        for op in operations:
            for x in op.outputs:
                self._scales[x.name] = self._scale(op, x)

    def of(self, x: Any) -> Optional[Size]:
        """Return the size of a tensor that the operations make or take; None if not known."""
        size = size_of(x)
        if size is None or size.unknown == 0:
            return size
        scale = self._scales.get(x.name, (size.unknown, 1.0))
        return None if scale is None else Size(scale[0], int(size.nbytes * scale[1]))

    def _scale(self, op: Any, x: Any) -> Optional[Any]:
        size = size_of(x)
        if size is None or op.type in _ENLARGE:
            return None
        if op.type in _RESHAPES:
            taken = self.of(op.inputs[0])
            if taken is None or not size.nbytes or not taken.unknown:
                return None
            return taken.unknown, taken.nbytes / size.nbytes
        if op.type == "MatMul" and op.inputs[1].shape.is_fully_defined():
            return self._scale_of_product(op, size)
        found = []
        for y in op.inputs:
            its, whole = size_of(y), self.of(y)
            if its is not None and its.unknown == 0:
                continue
            if its is None or whole is None or not its.nbytes or its.unknown != size.unknown:
                return None
            found.append((whole.unknown, whole.nbytes / its.nbytes))
        return max(found, default=None)

    def _scale_of_product(self, op: Any, size: Size) -> Optional[Any]:
        """Return the scale of a batch times a matrix, even if the batch has no known length."""
        taken = self.of(op.inputs[0])
        if taken is None or not size.nbytes or not taken.unknown:
            return None
        shape = op.inputs[1].shape.as_list()
        rows, columns = reversed(shape) if op.get_attr("transpose_b") else shape
        return taken.unknown, taken.nbytes / max(1, rows) * columns / size.nbytes
