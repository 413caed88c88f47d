"""``status`` and ``verify`` tell what a model does, not only what the switch says now."""

from __future__ import annotations

import pytest

from perftricks import recompute
from perftricks.recompute import recompute_grad
from tests.recompute.comparison import recomputed
from tests.recompute.keras2.binding import GRAPH, K, keras, layers, tf
from tests.recompute.keras2.training import OFF, ON, fresh_model, way

WIDTH = 4
only_graphs = pytest.mark.skipif(not GRAPH, reason="elsewhere a model is traced when it trains")


class Block(layers.Layer):
    """A decorated layer."""

    @recompute_grad
    def call(self, x):
        return tf.tanh(tf.sin(x))


class Whole(layers.Layer):
    """A decorated layer that computes nothing."""

    @recompute_grad
    def call(self, x):
        return x


def model(*blocks):
    """Return a model of some layers."""
    x = inputs = layers.Input((WIDTH,))
    for block in blocks:
        x = block(layers.Dense(WIDTH)(x))
    return keras.models.Model(inputs, layers.Dense(1)(x))


def parts(built):
    """List whether parts are on, and why."""
    return [(part.on, part.why) for part in recompute.status(built).parts]


@only_graphs
def test_a_graph_stays_what_it_was_built():
    """The switch that counts is that of the time when the model was built."""
    built = fresh_model(lambda: model(Block()))
    with way(ON):
        ((on, why),) = parts(built)
        assert not on
        assert "off when the graph was built; set RECOMPUTE=1, then build" in why
        built = fresh_model(lambda: model(Block(), Whole()))
    assert parts(built) == [
        (True, "the graph was built with recompute_scope(True)"),
        (False, "nothing of the call can be computed again"),
    ]


@only_graphs
def test_models_of_one_graph():
    """A layer that is called plainly in one model and recomputed in another."""
    K.clear_session()
    block = Block()
    plain = model(block)
    with way(ON):
        later = model(block)
        inside = model(plain)
    assert [on for on, _ in parts(plain)] == [False]
    assert [on for on, _ in parts(later)] == [True]
    assert [on for on, _ in parts(inside)] == [True]


@pytest.mark.parametrize("how", [OFF, ON])
def test_layers_in_layers(how):
    """Layers that others call are seen, also those that are run in a loop."""
    cell = recomputed(layers.SimpleRNNCell)(WIDTH)
    dense = recomputed(layers.Dense)(WIDTH, activation="tanh")
    with way(how):
        inputs = layers.Input((3, WIDTH))
        x = layers.RNN(cell, return_sequences=True)(inputs)
        x = layers.TimeDistributed(dense)(x)
        built = keras.models.Model(inputs, x)
        assert [on for on, _ in parts(built)] == [how == ON] * 2


@only_graphs
def test_nothing_to_verify():
    """A graph that was built plainly is not compared with itself."""
    built = fresh_model(lambda: model(Block()))
    with way(ON), pytest.raises(ValueError, match=r"nothing to verify; block.*: it was off when"):
        recompute.verify(built, [[0.0] * WIDTH], [[0.0]], loss="mse")
