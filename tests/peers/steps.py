"""A training step of a layer, plain and recomputed, from the same state."""

from __future__ import annotations

import contextlib
import re

import numpy as np

LAST_BITS = 1e-5  # of the largest number of an array


@contextlib.contextmanager
def first_call_noted(kind):
    """Note the arguments of the first call of a layer that is given numbers, as arrays."""
    import keras

    noted = []
    plain = kind.__call__

    def call(self, *args, **kwargs):
        if type(self) is kind and not noted:
            with contextlib.suppress(Exception):  # symbols, tracers, ragged tensors
                noted.append(keras.tree.map_structure(_as_array, (args, kwargs)))
        return plain(self, *args, **kwargs)

    kind.__call__ = call
    try:
        yield noted
    finally:
        if "__call__" in vars(kind):
            del kind.__call__
        if kind.__call__ is not plain:
            kind.__call__ = plain


def _as_array(x):
    if isinstance(x, (type(None), bool, int, float, str, np.ndarray)):
        return x
    import keras

    if isinstance(x, keras.KerasTensor) or not keras.ops.is_tensor(x):
        raise TypeError("not an array")
    return keras.ops.convert_to_numpy(x)


def outcome(kind, options, noted):
    """Return how two steps of a layer compare: exact, last bits, another result, or an error."""
    if not noted:
        return "not compared: never called on arrays"
    args, kwargs = noted[0]
    kwargs = {name: x for name, x in kwargs.items() if name != "training"}
    try:
        state = []
        runs = [_step(kind, options, args, kwargs, on, state) for on in (False, True)]
    except _PlainError as error:
        return f"not compared: {error}"
    except Exception as error:
        return f"raises: {type(error).__name__}: {_first_line(error)}"
    return _difference(*runs)


class _PlainError(Exception):
    """A step that fails without recomputation, too."""


def _step(kind, options, args, kwargs, on, state):
    """Take a step; ``state`` is what variables are before, noted where it is still empty.

    The options may hold a layer, which is then the same one in both steps.
    """
    import keras

    from perftricks.recompute import recompute_scope
    from tests.recompute.keras3.training import step

    class Whole(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.layer = kind(**options)

        def call(self, inputs):
            return [_float(x) for x in keras.tree.flatten(self.layer(*inputs, **kwargs))]

    try:
        keras.utils.set_random_seed(7)
        whole = Whole()
        inputs = keras.tree.map_structure(_as_tensor, list(args))
        with recompute_scope(False):
            whole(inputs)
        if not state:
            state.extend(np.array(keras.ops.convert_to_numpy(v.value)) for v in whole.variables)
        for variable, value in zip(whole.variables, state, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(8)
        # A step at first, as some layers make what they need in it.
        return step(whole, list(args), np.float32(0.5), on)
    except Exception as error:
        if on:
            raise
        raise _PlainError(_first_line(error)) from error


def _first_line(error):
    return str(error).strip().partition("\n")[0][:200]


def _as_tensor(x):
    import keras

    return keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x


def _float(x):
    import keras

    return keras.ops.cast(x, "float32")


def _difference(plain, again):
    # Keras counts up the names of layers, so those of the second one are others.
    names = [[re.sub(r"_\d+", "", name) for name in run.arrays] for run in (plain, again)]
    if names[0] != names[1]:
        missing = sorted({*names[0]} ^ {*names[1]})
        return f"differs: there is no {', '.join(missing)} in one of the runs"
    rows = [*zip(names[0], plain.arrays.values(), again.arrays.values(), strict=True)]
    rows.append(("loss", np.array(plain.losses), np.array(again.losses)))
    worst = ("", 0.0)
    for name, a, b in rows:
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"differs: shape or type of {name}"
        if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            size = max(float(np.abs(a.astype("float64")).max()), 0.1)
            distance = float(np.abs(a.astype("float64") - b.astype("float64")).max()) / size
            if not np.isfinite(distance):  # NaN is no larger than any number
                distance = np.inf
            worst = max(worst, (name, distance), key=lambda pair: pair[1])
    if not worst[1]:
        return "exact"
    kind = "last bits" if worst[1] <= LAST_BITS else "differs"
    return f"{kind}: {worst[0]} by {worst[1]:.1e}"
