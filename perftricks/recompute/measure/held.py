"""What a training step holds all the time: variables, and what an optimizer keeps of them."""

from __future__ import annotations

import math
from typing import Any, List, Tuple


def variable_bytes(variable: Any) -> int:
    """Return the bytes of a variable."""
    from perftricks.recompute.measure.kept import spec_of

    return spec_of(variable).nbytes


def optimizer_bytes(optimizer: Any, trained: List[Any]) -> int:
    """Return what an optimizer keeps, or would keep once it is built."""
    import keras

    if optimizer is None:
        return 0
    optimizer = keras.optimizers.get(optimizer)
    if not optimizer.built:
        sample: Tuple[Any, ...] = tuple(
            keras.Variable(keras.ops.zeros((1,) * len(v.shape)), dtype=v.dtype) for v in trained
        )
        copy = type(optimizer).from_config(optimizer.get_config())
        copy.build(list(sample))
        slots = (sum(math.prod(v.shape) for v in copy.variables) - 2) / max(1, len(sample))
        return int(slots * sum(map(variable_bytes, trained)))
    return sum(map(variable_bytes, optimizer.variables))
