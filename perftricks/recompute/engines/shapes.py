"""How large tensors of TensorFlow are, where the size of a batch is not known before."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional


class Size(NamedTuple):
    """The size of a tensor.

    Attributes:
        unknown: How many of its dimensions are unknown.
        nbytes: The bytes that the others make. Sizes compare if as many dimensions are unknown.
    """

    unknown: int
    nbytes: int


def size_of(x: Any) -> Optional[Size]:
    """Return the size of a tensor, or None if not even the number of its dimensions is known."""
    if x.shape.rank is None:
        return None
    lengths = x.shape.as_list()
    nbytes = x.dtype.size
    for length in lengths:
        nbytes *= 1 if length is None else length
    return Size(lengths.count(None), nbytes)
