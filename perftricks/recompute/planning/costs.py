"""What a call of a layer keeps for the backward pass, estimated from what is known of it."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

# Stands for a dimension that is not known, the batch excepted: a sequence length, an image size.
UNKNOWN = 128
_FREE = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "ExpandDims", "GetItem"}
_KEEPS_OUTPUT_ONLY = {"linear", "relu", "sigmoid", "tanh", "softmax"}


class Facts(NamedTuple):
    """What is known of a call of a layer.

    Attributes:
        kind: The name of the layer's class.
        inputs: The bytes of the tensors it takes, for one sample.
        outputs: The bytes of those it gives.
        drops: Whether it draws which numbers to drop.
        activation: The name of its activation.
        leaves: How many layers there are in it, one if it is one.
        attention: Heads, lengths of the two sequences and bytes of a number, if it is attention.
        nested: What the calls inside keep, if it is a model that is a graph.
    """

    kind: str
    inputs: Tuple[int, ...]
    outputs: Tuple[int, ...]
    drops: bool
    activation: str
    leaves: int
    attention: Optional[Tuple[int, int, int, int]]
    nested: Optional[int]


def kept_bytes(facts: Facts) -> int:
    """Return the bytes of the tensors that a call makes on the way, for one sample."""
    outputs = sum(facts.outputs)
    if facts.nested is not None:
        return max(outputs, facts.nested)
    if facts.kind in _FREE:
        return outputs // 4 if facts.kind == "Dropout" and facts.drops else 0
    if facts.leaves > 1:
        return facts.leaves * max(outputs, max(facts.inputs, default=0)) + _scores(facts)
    return outputs * (1 if facts.activation in _KEEPS_OUTPUT_ONLY else 2)


def _scores(facts: Facts) -> int:
    """Return the bytes of attention scores, before and after softmax."""
    if facts.attention is None:
        return 0
    heads, queries, keys, width = facts.attention
    return 2 * heads * queries * keys * width


def bytes_of(shape: Tuple[Optional[int], ...], dtype: str) -> int:
    """Return the bytes of one sample of a batch of a shape."""
    size = width_of(dtype)
    for dimension in shape[1:]:
        size *= UNKNOWN if dimension is None else dimension
    return size


def width_of(dtype: str) -> int:
    """Return the bytes of one number of a type."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)
