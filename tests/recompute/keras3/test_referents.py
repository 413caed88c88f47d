"""What a call refers to by name is, in its second run, what it was in the first.

Closures, globals, what dicts and lists there hold, arrays of numpy and tensors may have changed by
the time of the backward pass: in a loop whose functions use its counter, always.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.keras3.training import (
    BACKEND,
    FEW_ULP,
    array,
    gradient,
    only_tensorflow,
    only_torch,
)

WIDTH, TURNS = 6, 3
X = np.linspace(-1, 1, 4 * WIDTH).reshape(4, WIDTH).astype("float32")
# Uses of one tensor in several calls: gradients are added in another order.
SUMS = 0.0 if BACKEND == "torch" else FEW_ULP
factor = 1.0


def both(build, x=X):
    """Return the gradients of a function of one tensor, off and on, and what it leaves behind."""
    found = []
    for on in (False, True):
        keras.utils.set_random_seed(3)
        function, left = build()
        with recompute_scope(on):
            dx = gradient(function, x)
        assert np.abs(dx).max() > 0
        found.append((dx, left()))
    return found


def assert_same(build):
    """Compare them, within the last bits where sums are in another order."""
    (off, left_off), (on, left_on) = both(build)
    np.testing.assert_allclose(on, off, rtol=0, atol=SUMS * np.abs(off).max())
    assert left_on == left_off


def _of_a_loop():
    """A function uses the counter of the loop that calls it, as in a network over time."""
    dense = [layers.Dense(WIDTH, "tanh") for _ in range(TURNS)]
    for layer in dense:
        layer.build((None, WIDTH))

    def run(x):
        turn = 0

        @recompute_grad
        def block(x):
            return dense[turn](x) * (turn + 1) + turn * ops.sin(x)

        for turn in range(TURNS):  # noqa: B007 (the function uses it)
            x = block(x)
        return ops.mean(ops.square(x))

    return run, lambda: None


def _globals():
    """A global changes between the calls, and is then what it was set to."""
    global factor
    factor = 1.0
    block = recompute_grad(lambda x: ops.tanh(x * factor))

    def run(x):
        global factor
        loss = 0.0
        for _ in range(TURNS):
            loss = loss + ops.mean(block(x))
            factor += 1.0
        return loss

    return run, lambda: factor


def _dicts_and_lists():
    """What the loop sets in a dict and a list, the second run sees as it was."""
    options, scales = {"rate": 1.0}, [1.0, 0.5]

    @recompute_grad
    def block(x):
        return ops.tanh(x * options["rate"]) * ops.sin(x * scales[0]) * scales[1]

    def run(x):
        loss = 0.0
        for _ in range(TURNS):
            loss = loss + ops.mean(block(x))
            options["rate"] += 1.0
            scales[0] += 1.0
        return loss

    return run, lambda: (options, scales)


def _nonlocal():
    """A call that counts in a variable of a closure, and uses the count, counts once."""
    count = 0

    @recompute_grad
    def block(x):
        nonlocal count
        count += 1
        return ops.tanh(x * count)

    return lambda x: ops.mean(block(block(x))), lambda: count


def _arrays():
    """A call changes an array of its layer in place; a loop changes one of a closure."""
    rate = np.ones((), "float32")

    class Doubling(layers.Layer):
        def __init__(self):
            super().__init__()
            self.scale = np.ones(2, "float32")

        @recompute_grad
        def call(self, x):
            self.scale *= 2.0
            return ops.tanh(x * float(self.scale[0])) * float(rate)

    layer = Doubling()

    def run(x):
        loss = 0.0
        for _ in range(TURNS):
            loss = loss + ops.mean(layer(x))
            rate[...] += 1.0
        return loss

    return run, lambda: (layer.scale.tolist(), rate.tolist())


@pytest.mark.parametrize("build", [_of_a_loop, _globals, _dicts_and_lists, _nonlocal, _arrays])
def test_variables_that_change(build):
    """Gradients, and what is left behind, are those of the plain run."""
    assert_same(build)


@pytest.mark.skipif(BACKEND == "torch", reason="compiled together with the plain run elsewhere")
def test_variables_of_a_loop_that_is_traced():
    """In a compiled function the second run is traced when the loop is over."""

    def build():
        run, left = _of_a_loop()
        if BACKEND == "tensorflow":
            import tensorflow as tf

            return tf.function(run), left
        import jax

        return jax.jit(run), left

    assert_same(build)


@only_tensorflow
@pytest.mark.parametrize("where", ["list", "dict", "nonlocal"])
def test_tensors_that_are_left_outside_are_refused(where):
    """Their gradient would be lost; a table that is kept there, or what has none, may be."""
    found, named, last = [], {}, None

    def leave(y):
        nonlocal last
        if where == "list":
            found.append(y)
        elif where == "dict":
            named["y"] = y
        else:
            last = y

    def table():
        if "table" not in named:
            named["table"] = ops.cos(ops.arange(WIDTH, dtype="float32"))
        return named["table"]

    @recompute_grad
    def block(x, stop):
        y = ops.tanh(x)
        leave(ops.stop_gradient(y) if stop else y)
        return y * y * table()

    with recompute_scope(True):
        gradient(lambda x: ops.sum(block(x, True)), X)
        with pytest.raises(TypeError, match="its gradient would be lost"):
            gradient(lambda x: ops.sum(block(x, False)), X)


def _shifted(where, changed_by, size):
    """A tensor of torch that is added, so that the plain backward pass needs none of it."""
    import torch

    outside = torch.ones(size)

    class Shifted(layers.Layer):
        def __init__(self):
            super().__init__()
            self.shift = torch.ones(size)

        @recompute_grad
        def call(self, x):
            shift = self.shift if where == "attribute" else outside
            if changed_by == "call":
                shift += 1.0
            return ops.tanh(x + shift[0])

    layer = Shifted()
    shift = layer.shift if where == "attribute" else outside

    def run(x):
        loss = 0.0
        for _ in range(TURNS):
            loss = loss + ops.mean(layer(x))
            if changed_by == "program":
                shift.add_(0.5)
        return loss

    return run, lambda: array(shift).tolist()


@only_torch
@pytest.mark.parametrize("where", ["attribute", "closure"])
@pytest.mark.parametrize("changed_by", ["call", "program"])
def test_tensors_of_torch_that_are_changed_in_place(where, changed_by):
    """Small ones, such as counters, are put back for the second run; large ones are refused."""
    assert_same(lambda: _shifted(where, changed_by, 1))
    with recompute_scope(True), pytest.raises(RuntimeError, match=r"shape \(100000,\)"):
        gradient(_shifted(where, changed_by, 100000)[0], X)
