"""How far apart the arrays of two runs are."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple

# A gradient that is all rounding noise around zero (a bias before batch normalization) has nothing
# to be measured by but the other gradients.
_NOISE = 1e-3


class Difference(NamedTuple):
    """How far a quantity is from that of the plain run.

    Attributes:
        kind: ``loss``, ``gradient`` or ``state``.
        name: The path of the variable.
        absolute: The largest absolute difference.
        relative: The same as a share of the largest number in the quantity (or of a thousandth of
            the largest in all of its kind, if that is more).
        bitwise: Whether all bits are equal.
    """

    kind: str
    name: str
    absolute: float
    relative: float
    bitwise: bool


def same_bits(a: Any, b: Any) -> bool:
    """Tell whether two arrays are the same, bit by bit."""
    return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def compare(plain: Any, other: Any) -> List[Difference]:
    """Compare what two runs have produced, arrays by their kind and name."""
    import numpy as np

    sizes: Dict[str, float] = {}
    for (kind, _), a in plain.items():
        largest = float(np.abs(a.astype("float64")).max(initial=0.0))
        sizes[kind] = max(sizes.get(kind, 0.0), largest if np.isfinite(largest) else 0.0)
    found = []
    for kind, name in sorted(plain.keys() | other.keys()):
        a, b = plain.get((kind, name)), other.get((kind, name))
        if a is None or b is None or a.shape != b.shape:
            found.append(Difference(kind, name, float("inf"), float("inf"), False))
            continue
        bitwise = same_bits(a, b)
        wide = a.astype("float64")
        with np.errstate(invalid="ignore"):
            gap = np.where(wide == b, 0.0, np.abs(wide - b.astype("float64")))
        gap[np.isnan(wide) & np.isnan(b.astype("float64"))] = 0.0
        absolute = float(gap.max(initial=0.0)) if not np.isnan(gap).any() else float("inf")
        scale = float(np.abs(wide).max(initial=0.0))
        # State is compared by itself: seeds are large numbers, and whole.
        noise = 0.0 if kind == "state" else _NOISE * sizes[kind]
        scale = max(scale if np.isfinite(scale) else 0.0, noise)
        whole = a.dtype.kind in "iub"
        relative = 0.0 if absolute == 0 else float("inf")
        if absolute and scale and not whole:
            relative = absolute / scale
        found.append(Difference(kind, name, absolute, relative, bitwise))
    return found
