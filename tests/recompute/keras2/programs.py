"""What several suites call: a model around a layer, and samples for it."""

from __future__ import annotations

import numpy as np

from tests.recompute.keras2.binding import keras, layers

WIDTH = 6


def data(*shape):
    """Return inputs and targets."""
    x = np.random.RandomState(0).normal(size=shape or (8, WIDTH)).astype("float32")
    return x, np.tanh(x[..., ::-1]).astype("float32")


def around(layer):
    """Return a builder of a model that calls a layer on something that needs a gradient."""

    def build():
        inputs = layers.Input((WIDTH,))
        x = layers.Dense(WIDTH, activation="tanh")(inputs)
        return keras.models.Model(inputs, layers.Dense(WIDTH)(layer()(x)))

    return build


class WithDense(layers.Layer):
    """A layer with a Dense inside, to derive from."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(WIDTH, activation="tanh")

    def build(self, shape):
        self.dense.build(shape)
        super().build(shape)
