"""``apply`` on models that exist: the same training, less memory, and no trace of it in a file."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from keras import layers, ops

import perftricks.recompute as recompute
from perftricks.recompute import recompute_scope
from tests.recompute.keras3.training import (
    BACKEND,
    FEW_ULP,
    array,
    assert_exact,
    fit,
    fresh_model,
    step,
    variables_of,
)

WIDTH = 6


def data(*shape):
    """Return inputs and targets."""
    random = np.random.default_rng(0)
    x = random.normal(size=shape or (8, WIDTH)).astype("float32")
    return x, np.tanh(x.reshape(len(x), -1)[:, :1]).astype("float32")


def applied(build, **options):
    """Return a builder of a model to which apply was applied."""

    def build_and_apply():
        model = build()
        plan = recompute.apply(model, **options)
        assert sum(segment.recomputed for segment in plan.segments) >= 1
        return model

    return build_and_apply


class Counting(layers.Layer):
    """Counts how often it really runs, in a way that every backend keeps in its graphs."""

    runs = 0

    def call(self, x):
        return self.count(x) if BACKEND == "torch" else _counted(x)

    def count(self, x):
        """Count a run."""
        Counting.runs += 1
        return x * 1.0

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def _counted(x):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def count(x):
            def add(a):
                Counting.runs += 1
                return a

            y = tf.numpy_function(add, [x], x.dtype)
            y.set_shape(x.shape)
            return y, lambda dy: dy

        return tf.math.tanh(count(x))
    import jax

    jax.debug.callback(_add)
    return ops.tanh(x)


def _add():
    Counting.runs += 1


def mlp(depth=9):
    """Dense, dropout and batch normalization, one after the other."""
    inputs = keras.Input((WIDTH,))
    x = inputs
    for _ in range(depth // 3):
        x = layers.Dense(WIDTH, activation="gelu")(x)
        x = layers.Dropout(0.2)(x)
        x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(1)(x))


def residual(count=4):
    """Blocks with a connection around each."""
    inputs = keras.Input((WIDTH,))
    x = layers.Dense(WIDTH)(inputs)
    for _ in range(count):
        y = layers.Dense(2 * WIDTH, activation="gelu")(x)
        y = layers.Dropout(0.2)(y)
        y = layers.Dense(WIDTH)(y)
        x = layers.LayerNormalization()(layers.add([x, y]))
    return keras.Model(inputs, layers.Dense(1)(x))


def unet():
    """Connections from each level on the way down to the same level on the way up."""
    inputs = keras.Input((8, 8, 2))
    a = layers.Conv2D(4, 3, padding="same", activation="gelu")(inputs)
    b = layers.Conv2D(4, 3, padding="same", activation="gelu")(layers.MaxPooling2D()(a))
    c = layers.Conv2D(4, 3, padding="same", activation="gelu")(layers.MaxPooling2D()(b))
    b = layers.concatenate([layers.UpSampling2D()(c), b])
    b = layers.Conv2D(4, 3, padding="same", activation="gelu")(b)
    a = layers.concatenate([layers.UpSampling2D()(b), a])
    a = layers.Conv2D(4, 3, padding="same", activation="gelu")(a)
    return keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling2D()(a)))


def shared():
    """The same layers called several times."""
    dense, norm = layers.Dense(WIDTH, activation="gelu"), layers.BatchNormalization()
    inputs = keras.Input((WIDTH,))
    x = inputs
    for _ in range(4):
        x = norm(dense(layers.Dropout(0.1)(x)))
    return keras.Model(inputs, layers.Dense(1)(x))


def inner_model():
    """A model to be nested in others."""
    inputs = keras.Input((WIDTH,))
    x = inputs
    for _ in range(6):
        x = layers.BatchNormalization()(layers.Dense(WIDTH, activation="gelu")(x))
        x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, x, name="inner")


def nested():
    """A functional model in which another one holds most of the memory, called twice."""
    inputs = keras.Input((WIDTH,))
    inner = inner_model()
    return keras.Model(inputs, layers.Dense(1)(inner(inner(inputs)) + inputs))


def nested_sequential():
    """A Sequential around a functional model."""
    return keras.Sequential([keras.Input((WIDTH,)), inner_model(), layers.Dense(1)])


def sequential():
    """A plain Sequential."""
    stack = [layers.Dense(WIDTH, activation="gelu"), layers.Dropout(0.2)]
    stack += [layers.BatchNormalization(), layers.Dense(2 * WIDTH, activation="gelu")]
    stack += [layers.Dense(WIDTH, activation="gelu"), layers.ActivityRegularization(l2=0.01)]
    return keras.Sequential([keras.Input((WIDTH,)), *stack, layers.Dense(1)])


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A layer with layers inside and a call of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(2 * WIDTH, activation="gelu")
        self.dropout = layers.Dropout(0.3)
        self.second = layers.Dense(WIDTH)
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 2 * WIDTH))
        self.norm.build(shape)

    def call(self, x, training=None):
        return x + self.norm(self.second(self.dropout(self.first(x), training=training)))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A model with a call of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block() for _ in range(3)]
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(x)


def subclassed():
    """A built subclassed model."""
    model = Subclassed()
    model(np.zeros((1, WIDTH), "float32"))
    return model


@keras.saving.register_keras_serializable("tests")
class Around(keras.Model):
    """A subclassed model around a functional one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.backbone = inner_model()
        self.head = layers.Dense(1)

    def call(self, x):
        return self.head(self.backbone(x))


def around():
    """A built model around another."""
    model = Around()
    model(np.zeros((1, WIDTH), "float32"))
    return model


def transformer(causal=False):
    """Token ids with padding, positions, two blocks of attention with dropout, pooled."""
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 8, mask_zero=True)(tokens)
    for _ in range(2):
        y = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x, use_causal_mask=causal)
        x = layers.LayerNormalization()(layers.add([x, layers.Dropout(0.1)(y)]))
        y = layers.Dense(8)(layers.Dense(16, activation="gelu")(x))
        x = layers.LayerNormalization()(layers.add([x, layers.Dropout(0.1)(y)]))
    return keras.Model(tokens, layers.Dense(1)(layers.GlobalAveragePooling1D()(x)))


def tokens():
    """Return padded tokens and targets."""
    random = np.random.default_rng(0)
    x = random.integers(1, 11, (8, 7)).astype("int32")
    x[:, 5:] = 0
    return x, data(8, WIDTH)[1]


@keras.saving.register_keras_serializable("tests")
class Positions(layers.Layer):
    """Adds a weight for each position."""

    def build(self, shape):
        self.table = self.add_weight(shape[1:], initializer="normal")

    def call(self, x):
        return x + self.table


def vit():
    """Patches of an image, a class token of position embeddings, blocks of attention."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 4, 4)(inputs)
    x = layers.Reshape((4, 8))(x)
    x = Positions()(x)
    for _ in range(3):
        y = layers.LayerNormalization()(x)
        x = layers.add([x, layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y)])
        y = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.add([x, layers.Dropout(0.1)(layers.Dense(8)(y))])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1)(x))


MODELS = {
    "mlp": (mlp, data, {}),
    "mlp, every cut point": (mlp, data, {"every": 1}),
    "residual": (residual, data, {}),
    "residual, every second": (residual, data, {"every": 2}),
    "unet": (unet, lambda: data(4, 8, 8, 2), {}),
    "shared layers": (shared, data, {}),
    "nested": (nested, data, {}),
    "nested in a Sequential": (nested_sequential, data, {}),
    "nested, as a layer": (nested, data, {"layers": "inner"}),
    "Sequential": (sequential, data, {}),
    "subclassed": (subclassed, data, {}),
    "subclassed, classes": (subclassed, data, {"layers": [Block, layers.Dense]}),
    "subclassed around functional": (around, data, {}),
    "transformer": (transformer, tokens, {}),
    "transformer, every cut point": (transformer, tokens, {"every": 1}),
    "transformer, layers": (transformer, tokens, {"layers": layers.MultiHeadAttention}),
    "causal transformer": (lambda: transformer(causal=True), tokens, {}),
    "vit": (vit, lambda: data(4, 8, 8, 3), {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_exact(name):
    """Losses, gradients and state over several steps, in a custom loop and in fit."""
    build, make, options = MODELS[name]
    # XLA rounds each reuse of a layer, and each step of momentum on top, a little differently.
    tolerance = 5 * FEW_ULP if BACKEND == "jax" else None
    assert_exact(applied(build, **options), *make(), tolerance=tolerance)
