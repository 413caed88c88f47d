"""Decorated layers, and runs that are compared; shared by the contracts of Keras 2 and Keras 3."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from perftricks.recompute import recompute_grad

# The contract is bound to a policy: what is decorated without naming one has this.
POLICY = os.environ.get("TEST_POLICY", "full")
recompute_grad.__kwdefaults__["policy"] = POLICY


def recomputed(layer_class):
    """Return a subclass of a layer whose call is decorated."""
    return type(layer_class.__name__, (layer_class,), {"call": recompute_grad(layer_class.call)})


class Run(NamedTuple):
    """What a training run has produced."""

    losses: list
    arrays: dict  # gradients and variables, by name

    def assert_same(self, other, tolerance=0.0):
        """Compare with another run: bitwise, or within a share of each array's largest number."""
        assert sorted(self.arrays) == sorted(other.arrays)
        others = {"loss": np.array(other.losses), **other.arrays}
        for name, a in {"loss": np.array(self.losses), **self.arrays}.items():
            b = others[name]
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            if tolerance and a.dtype.kind not in "iub":
                # A gradient near zero is what is left when larger numbers cancel.
                size = max(np.abs(a.astype("float64")).max(initial=0.0), 0.1)
                np.testing.assert_allclose(
                    a.astype("float64"), b.astype("float64"), 0, tolerance * size, err_msg=name
                )
            else:
                np.testing.assert_array_equal(a, b, err_msg=name)
