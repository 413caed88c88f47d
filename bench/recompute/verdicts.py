"""What two trainings differ in, in a few words, for the tables of layers and of models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

# Share of an array's largest number by which the last bits may differ: XLA compiles forward and
# backward pass as one program, and groups operations differently when some are there twice.
ROUNDING = 4e-5
# How much more than by last bits of all weights it may be where a model grows these: every
# operation rounds, and not the weights alone.
_MARGIN = 4
_COLORS = re.compile("\x1b\\[[0-9;]*m")
_PLACES = (
    "Exception encountered",
    "in user code",
    "File ",
)  # Keras tells where before it tells what
Arrays = dict[str, np.ndarray]


class Trained(NamedTuple):
    """What training has left, arrays by name."""

    gradients: Arrays
    variables: Arrays
    losses: Arrays


def arrays(variables: list[Any]) -> Arrays:
    """Return the values of variables, by number and path."""
    return {
        f"{i} {v.path}": np.array(keras.ops.convert_to_numpy(v.value))
        for i, v in enumerate(variables)
    }


def verdict(
    trained: Trained, plain: Trained, nudged: Callable[[], Trained] | None = None
) -> dict[str, str]:
    """Compare two trainings.

    Args:
        trained: One.
        plain: The other.
        nudged: Trains as the other one did, from weights that differ in last bits. A model that
            grows these beyond what counts as rounding grows any rounding so.

    Returns:
        The "verdict" in a few words, and "detail": the difference.
    """
    largest = _largest(trained, plain)
    detail = ", ".join(f"{what} {size:.1e}" for what, size in largest.items() if size)
    if not detail:
        return {"verdict": "exact", "detail": ""}
    if max(largest.values()) <= ROUNDING:
        return {"verdict": "exact but for rounding", "detail": detail}
    if nudged is not None:
        growth = _largest(nudged(), plain)
        if all(size <= max(_MARGIN * growth[what], ROUNDING) for what, size in largest.items()):
            grown = ", ".join(f"{what} {size:.1e}" for what, size in growth.items() if size)
            return {
                "verdict": "exact but for rounding",
                "detail": f"{detail}; plainly, from weights that differ in last bits: {grown}",
            }
    wrong = "gradients" if largest["gradients"] > ROUNDING else "state"
    return {"verdict": f"wrong {wrong}", "detail": detail}


def _largest(trained: Trained, plain: Trained) -> dict[str, float]:
    return {
        what: max(differences(ours, theirs), default=0.0)
        for what, ours, theirs in zip(Trained._fields, trained, plain, strict=True)
    }


def raised(error: BaseException) -> dict[str, str]:
    """Return the verdict on a training that has ended with an error."""
    return {"verdict": "raises", "detail": first_line(error)}


def differences(ours: Arrays, theirs: Arrays) -> Iterator[float]:
    """Give the largest difference of each pair of arrays, as a share of the largest number."""
    if [a.shape for a in ours.values()] != [a.shape for a in theirs.values()]:
        yield float("inf")
        return
    for one, two in zip(ours.values(), theirs.values(), strict=True):
        if not one.size or np.array_equal(one, two):
            continue
        a, b = one.astype("float64"), two.astype("float64")
        # A gradient near zero is what is left when larger numbers cancel.
        size = 1.0 if one.dtype.kind in "iub" else max(np.abs(b).max(), 0.01)
        difference = float(np.abs(a - b).max() / size)
        yield difference if np.isfinite(difference) else float("inf")


def first_line(error: BaseException) -> str:
    """Return the type of the first error of a chain, and the first line of its message."""
    while error.__cause__ or (error.__context__ and not error.__suppress_context__):
        error = error.__cause__ or error.__context__
    lines = [line.strip() for line in _COLORS.sub("", str(error)).splitlines()]
    message = next((line for line in lines if line and not line.startswith(_PLACES)), "")
    return f"{type(error).__name__}: {message}".rstrip(": ")
