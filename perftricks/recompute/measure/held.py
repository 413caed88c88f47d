"""What a training step holds all the time: variables, and what an optimizer keeps of them."""

from __future__ import annotations

import math
import re
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
    if optimizer.built:
        return sum(map(variable_bytes, optimizer.variables))
    samples = [_sample(number, variable) for number, variable in enumerate(trained)]
    copy = type(optimizer).from_config(optimizer.get_config())
    copy.build(samples)
    found = 0
    for slot in copy.variables:
        of = re.search(_NAME % r"(\d+)", slot.path)
        dimensions = trained[int(of.group(1))].shape if of is not None else ()
        # A dimension of a sample says which one it is.
        sizes = [dimensions[d - 1] if d <= len(dimensions) else d for d in slot.shape]
        found += variable_bytes(slot) // max(1, math.prod(slot.shape)) * math.prod(sizes)
    return found


_NAME = "perftricks%s_of"


def _sample(number: int, variable: Any) -> Any:
    """Return a small variable of the same rank, whose dimensions are 1, 2, 3 and so on."""
    import keras

    shape: Tuple[int, ...] = tuple(range(1, len(variable.shape) + 1))
    name = _NAME % number + variable.path.replace("/", "_")
    return keras.Variable(keras.ops.zeros(shape), dtype=variable.dtype, name=name)
