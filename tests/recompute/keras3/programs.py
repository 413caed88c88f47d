"""What whole programs in the tests are made of: a small network, its data, a fit."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tests.recompute.comparison import Run
from tests.recompute.keras3.training import variables_of

WIDTH = 6


class Block(layers.Layer):
    """What blocks are made of: a normalization, a dropout and moving averages in a residual."""

    def __init__(self, width=WIDTH, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.inner, self.outer = layers.Dense(2 * width, "gelu"), layers.Dense(width)
        self.norm, self.average = layers.LayerNormalization(), layers.BatchNormalization()
        self.dropout = layers.Dropout(0.2, seed=3)

    def build(self, shape):
        self.inner.build(shape)
        self.outer.build((None, self.inner.units))
        self.norm.build(shape)
        self.average.build(shape)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "width": self.width}

    def call(self, x, training=None):
        y = self.dropout(self.inner(self.norm(x)), training=training)
        return x + self.average(self.outer(y), training=training)


def network(way, *, width=WIDTH, outputs=WIDTH, name=None):
    """Return a functional model of a block between two layers."""
    inputs = keras.Input((width,))
    x = layers.Dense(width, "tanh")(inputs)
    x = way.layer(Block)(width)(x)
    model = way.model(inputs, way.layer(layers.Dense)(outputs)(x))
    if name:
        model.name = name
    return model


def data(seed=0, rows=8):
    x = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype("float32")
    return x, np.tanh(x[:, ::-1])


def sgd(**options):
    return keras.optimizers.SGD(0.05, momentum=0.9, **options)


def fitted(model, x=None, y=None, *others, **options):
    """Fit without shuffling; return the losses and all variables of this and other models."""
    if x is None:
        x, y = data()
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0, **options}
    losses = model.fit(x, y, **options).history["loss"]
    return Run(losses, variables_of(model, model.optimizer, *others))


def squares(model):
    """Return a loss over several batches."""

    def loss(*batches):
        return sum(ops.mean(ops.square(model(x, training=True) - y)) for x, y in batches)

    return loss
