"""``verify`` says whether recomputation changes anything, and leaves the model as it found it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks import recompute
from perftricks.recompute import recompute_grad
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.models import is_applied
from tests.recompute.keras3.training import XLA_ROUNDS, array, fresh_model

WIDTH = 6


def data():
    """Return inputs and targets."""
    x = np.random.default_rng(0).normal(size=(8, WIDTH)).astype("float32")
    return x, x[:, :1]


class Own(layers.Layer):
    """Draws random numbers that nobody can draw again."""

    def call(self, x):
        noise = np.random.default_rng().normal(size=(WIDTH,)).astype("float32")
        return x * ops.convert_to_tensor(noise)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def build(layer=None, count=3):
    """Dense, dropout and batch normalization, and a layer among them."""
    inputs = x = keras.Input((WIDTH,))
    for i in range(count):
        x = layers.Dropout(0.2)(layers.Dense(WIDTH, activation="gelu")(x))
        x = layers.BatchNormalization()(x)
        if layer is not None and i == 1:
            x = layer(x)
    return keras.Model(inputs, layers.Dense(1)(x))


def test_same():
    """Loss, gradients and state of several steps, with a report."""
    model = fresh_model(build)
    recompute.apply(model)
    found = recompute.verify(model, *data(), loss="mse", steps=2)
    assert found.ok, found
    assert found.repeatable
    assert found.bitwise or XLA_ROUNDS
    kinds = [difference.kind for difference in found.differences]
    assert kinds.count("loss") == 2
    assert kinds.count("gradient") == 2 * len(model.trainable_variables)
    assert kinds.count("state") == 2 * (len(model.variables) - len(model.trainable_variables))
    assert (found.plain_peak is not None) == ("not measured" not in found.memory)
    assert "recomputed and plain: the same" in str(found)
    assert "peak memory" in str(found)


def test_left_as_found():
    """Weights, state, attributes, compiled functions and random numbers are those of before."""
    model = fresh_model(build)
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(*data(), verbose=0)
    function = model.train_function
    everything = keras3.everything_in(model)
    attributes = [{k: id(v) for k, v in vars(layer).items()} for layer in everything]
    values = [array(v) for v in (*model.variables, *model.optimizer.variables)]
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    assert recompute.verify(model, *data()).ok
    assert np.random.random() == expected
    assert model.train_function is function
    assert attributes == [{k: id(v) for k, v in vars(layer).items()} for layer in everything]
    for a, b in zip(values, (*model.variables, *model.optimizer.variables)):
        np.testing.assert_array_equal(a, array(b))


def test_what_cannot_be_replayed():
    """A layer with random numbers from nowhere is named."""
    model = fresh_model(lambda: build(Own(name="culprit")))
    recompute.apply(model)
    found = recompute.verify(model, *data(), loss="mse")
    assert not found.ok
    assert found.suspects == ("culprit (Own)",)
    assert "NOT the same" in str(found)
    assert "culprit (Own)" in str(found)


def test_decorated_layers():
    """A model with decorated layers is verified as it is, and no plan is made for it."""

    class Decorated(layers.Layer):
        @recompute_grad
        def call(self, x):
            return Own.call(self, x)

        compute_output_spec = Own.compute_output_spec

    model = fresh_model(lambda: build(Decorated(), count=2))
    found = recompute.verify(model, *data(), loss="mse")
    assert not found.ok
    assert not is_applied(model)


@pytest.mark.parametrize(
    "loss", ["mse", keras.losses.MeanAbsoluteError(), lambda y, p: ops.abs(y - p)]
)
def test_losses(loss):
    """A name, a Loss or a function, with and without weights of the samples."""
    model = fresh_model(build)
    weights = np.arange(8, dtype="float32")[:, None]
    plain = recompute.verify(model, *data(), loss=loss, tolerance=1e-4)
    weighted = recompute.verify(model, *data(), loss=loss, sample_weight=weights, tolerance=1e-4)
    assert plain.ok
    assert weighted.ok


def test_errors():
    """It asks for a loss, a built model and a sensible number of steps."""
    model = fresh_model(build)
    with pytest.raises(ValueError, match="needs a loss: pass loss='mse'"):
        recompute.verify(model, *data())
    with pytest.raises(ValueError, match="at least 1, got 0"):
        recompute.verify(model, *data(), loss="mse", steps=0)
    with pytest.raises(TypeError, match=r"recompute\.verify expects a built model"):
        recompute.verify(None, *data())
