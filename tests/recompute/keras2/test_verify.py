"""``verify`` on Keras 2 says whether recomputation changes anything, and changes nothing itself."""

from __future__ import annotations

import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute import recompute_grad
from perftricks.recompute.models import is_applied
from tests.recompute.keras2.binding import GRAPH, TF_EAGER, keras, layers, tf
from tests.recompute.keras2.test_apply import WIDTH, data, mlp, residual, sequential
from tests.recompute.keras2.training import ON, fresh_model, values, way


class Own(layers.Layer):
    """Draws random numbers that nobody can draw again."""

    @recompute_grad
    def call(self, x):
        noise = np.random.normal(size=(WIDTH,)).astype("float32")
        return tf.tanh(x * tf.constant(noise))


@pytest.mark.parametrize("build", [mlp, residual, sequential])
def test_same(build):
    """Loss, gradients and state of several steps, with a report; weights stay."""
    model = fresh_model(build)
    recompute.apply(model)
    before = values(model.weights)
    found = recompute.verify(model, *data(), loss="mse", steps=2)
    assert found.ok, found
    assert found.repeatable
    kinds = [difference.kind for difference in found.differences]
    assert kinds.count("loss") == 2
    assert kinds.count("gradient") == 2 * len(model.trainable_weights)
    assert kinds.count("state") == 2 * len(model.non_trainable_weights)
    assert "recomputed and plain: the same" in str(found)
    assert (found.plain_peak is None) == TF_EAGER
    for name, array in values(model.weights).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert is_applied(model)


def test_a_plan_for_the_time_of_the_run():
    """A model to which nothing was applied is left so; its own loss is used."""
    model = fresh_model(residual)
    model.compile("adam", "mse")
    model.fit(*data(), verbose=0)
    assert recompute.verify(model, *data()).ok
    assert not is_applied(model)
    model.fit(*data(), verbose=0)


def test_less_memory():
    """In sessions, the peak of a deep model is lower."""
    if TF_EAGER:
        pytest.skip("TensorFlow counts memory in sessions only")

    def deep():
        inputs = x = layers.Input((64,))
        for _ in range(36):
            x = layers.Dense(64, activation="softplus")(x)
        return keras.models.Model(inputs, layers.Dense(1)(x))

    found = recompute.verify(fresh_model(deep), *data(512, 64), loss="mse")
    assert found.ok, found
    assert found.recomputed_peak < found.plain_peak / 2


@pytest.mark.skipif(GRAPH, reason="what a graph has computed is not called again")
def test_what_cannot_be_replayed():
    """A decorated layer with numpy's own random numbers is found out."""

    def build():
        inputs = layers.Input((WIDTH,))
        x = Own()(layers.Dense(WIDTH, activation="softplus")(inputs))
        return keras.models.Model(inputs, layers.Dense(1)(x))

    model = fresh_model(build)
    original = np.random.normal
    try:  # Keras puts the state of numpy's own generator back; this is another one
        np.random.normal = np.random.RandomState(3).normal
        found = recompute.verify(model, *data(), loss="mse")
    finally:
        np.random.normal = original
    assert not found.ok
    assert "NOT the same" in str(found)


@pytest.mark.skipif(not GRAPH, reason="decorated layers are traced when a graph is built")
def test_decorated_layers_in_a_graph():
    """The plain gradients of a decorated layer are found in the same graph."""

    class Decorated(layers.Layer):
        @recompute_grad
        def call(self, x):
            return tf.tanh(tf.nn.dropout(x, rate=0.3))

    def build():
        inputs = layers.Input((WIDTH,))
        x = Decorated()(layers.Dense(WIDTH)(inputs))
        return keras.models.Model(inputs, layers.Dense(1)(x))

    with way(ON):
        model = fresh_model(build)
        found = recompute.verify(model, *data(), loss="mse")
    assert found.bitwise, found
    assert not is_applied(model)


def test_errors():
    """It asks for a loss and for one that it can compute."""
    model = fresh_model(mlp)
    with pytest.raises(ValueError, match="needs a loss: pass loss='mse'"):
        recompute.verify(model, *data())
    with pytest.raises(ValueError, match="takes one loss for the whole model"):
        recompute.verify(model, *data(), loss=["mse"])
