"""Stock layers with a decorated call: loss, gradients and state are those of the plain run."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests.recompute.comparison import recomputed
from tests.recompute.keras3.training import BACKEND, assert_exact, marked, since

VECTOR, SEQUENCE, IMAGE, VOLUME = (6,), (5, 6), (6, 6, 3), (4, 4, 4, 2)


def R(layer_class, *args, **kwargs):  # noqa: N802
    """Make a layer whose call is decorated."""
    return recomputed(layer_class)(*args, **kwargs)


CASES = {
    "Dense": (VECTOR, lambda: R(layers.Dense, 4, "gelu", kernel_regularizer="l2")),
    "Dense, activity": (VECTOR, lambda: R(layers.Dense, 4, activity_regularizer="l2")),
    "EinsumDense": (SEQUENCE, lambda: R(layers.EinsumDense, "abc,cd->abd", (5, 4))),
    "Conv1D": (SEQUENCE, lambda: R(layers.Conv1D, 4, 3)),
    "Conv2D": (IMAGE, lambda: R(layers.Conv2D, 4, 3, padding="same", activation="relu")),
    "Conv3D": (VOLUME, lambda: R(layers.Conv3D, 3, 2)),
    "Conv2DTranspose": (IMAGE, lambda: R(layers.Conv2DTranspose, 3, 3)),
    "DepthwiseConv2D": (IMAGE, lambda: R(layers.DepthwiseConv2D, 3)),
    "SeparableConv1D": (SEQUENCE, lambda: R(layers.SeparableConv1D, 4, 3)),
    "SeparableConv2D": (IMAGE, lambda: R(layers.SeparableConv2D, 4, 3)),
    "MaxPooling2D": (IMAGE, lambda: R(layers.MaxPooling2D)),
    "LSTM": (SEQUENCE, lambda: R(layers.LSTM, 4)),
    "LSTM, dropout": (SEQUENCE, lambda: R(layers.LSTM, 4, dropout=0.3, recurrent_dropout=0.3)),
    "LSTM, unrolled": (SEQUENCE, lambda: R(layers.LSTM, 4, unroll=True, dropout=0.3)),
    "GRU": (SEQUENCE, lambda: R(layers.GRU, 4, dropout=0.3, return_sequences=True)),
    "SimpleRNN": (SEQUENCE, lambda: R(layers.SimpleRNN, 4, recurrent_dropout=0.3)),
    "RNN of cells": (
        SEQUENCE,
        lambda: R(layers.RNN, [layers.LSTMCell(4, dropout=0.3), layers.GRUCell(3, dropout=0.2)]),
    ),
    "Bidirectional": (SEQUENCE, lambda: R(layers.Bidirectional, layers.LSTM(3, dropout=0.3))),
    "TimeDistributed": (SEQUENCE, lambda: R(layers.TimeDistributed, layers.Dense(4))),
    "LayerNormalization": (SEQUENCE, lambda: R(layers.LayerNormalization)),
    "RMSNormalization": (SEQUENCE, lambda: R(layers.RMSNormalization)),
    "BatchNormalization": (IMAGE, lambda: R(layers.BatchNormalization)),
    "BatchNormalization, renorm": (IMAGE, lambda: R(layers.BatchNormalization, renorm=True)),
    "GroupNormalization": (IMAGE, lambda: R(layers.GroupNormalization, 3)),
    "UnitNormalization": (SEQUENCE, lambda: R(layers.UnitNormalization)),
    "SpectralNormalization": (
        VECTOR,
        lambda: R(layers.SpectralNormalization, layers.Dense(4), power_iterations=2),
    ),
    "Dropout": (VECTOR, lambda: R(layers.Dropout, 0.5)),
    "SpatialDropout1D": (SEQUENCE, lambda: R(layers.SpatialDropout1D, 0.5)),
    "SpatialDropout2D": (IMAGE, lambda: R(layers.SpatialDropout2D, 0.5)),
    "GaussianNoise": (VECTOR, lambda: R(layers.GaussianNoise, 0.5)),
    "GaussianDropout": (VECTOR, lambda: R(layers.GaussianDropout, 0.5)),
    "AlphaDropout": (VECTOR, lambda: R(layers.AlphaDropout, 0.5)),
    "RandomFlip": (IMAGE, lambda: R(layers.RandomFlip)),
    "RandomRotation": (IMAGE, lambda: R(layers.RandomRotation, 0.2)),
    "RandomTranslation": (IMAGE, lambda: R(layers.RandomTranslation, 0.2, 0.2)),
    "RandomContrast": (IMAGE, lambda: R(layers.RandomContrast, 0.2)),
    "ActivityRegularization": (VECTOR, lambda: R(layers.ActivityRegularization, l1=0.1, l2=0.1)),
    "PReLU": (VECTOR, lambda: R(layers.PReLU)),
}


SINCE = {"BatchNormalization, renorm": since(3, 14)}


@pytest.mark.parametrize("case", marked(CASES, SINCE))
def test_layer(case):
    """A decorated stock layer between two plain ones."""
    shape, make = CASES[case]

    def build():
        inputs = keras.Input(shape)
        x = layers.Dense(shape[-1], activation="tanh")(inputs)
        x = make()(x)
        x = layers.Dense(2)(layers.Flatten()(x))
        return keras.Model(inputs, x)

    random = np.random.default_rng(0)
    x = random.normal(size=(8, *shape)).astype("float32")
    y = random.normal(size=(8, 2)).astype("float32")
    assert_exact(build, x, y)


ATTENTION = {
    "self": lambda q, kv: R(layers.MultiHeadAttention, 2, 4, dropout=0.3)(q, q),
    "cross": lambda q, kv: R(layers.MultiHeadAttention, 2, 4, dropout=0.3)(q, value=kv, key=kv * 2),
    "causal": lambda q, kv: R(layers.MultiHeadAttention, 2, 4)(q, q, use_causal_mask=True),
    "grouped": lambda q, kv: R(layers.GroupQueryAttention, 4, 4, 2, dropout=0.3)(q, kv),
    "additive": lambda q, kv: R(layers.AdditiveAttention, dropout=0.3)([q, kv]),
    "dot": lambda q, kv: R(layers.Attention, use_scale=True, dropout=0.3)([q, kv]),
    "mask": lambda q, kv: R(layers.MultiHeadAttention, 2, 4, dropout=0.3)(
        q, kv, attention_mask=keras.ops.ones((1, 5, 5), "bool")
    ),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case):
    """A decorated attention layer: with itself, across, causal, with masks, with dropout."""

    def build():
        inputs = keras.Input(SEQUENCE)
        q, kv = layers.Dense(6)(inputs), layers.Dense(6)(inputs)
        return keras.Model(inputs, ATTENTION[case](q, kv))

    random = np.random.default_rng(0)
    x = random.normal(size=(8, *SEQUENCE)).astype("float32")
    # XLA folds a mask that is constant into what is around it, in other ways in the two programs.
    rounded = BACKEND == "jax" and case == "mask"
    assert_exact(build, x, np.tanh(x), regrouped=rounded)


def test_embedding_with_masks():
    """A decorated Embedding passes its mask on, through other layers, to an LSTM and the loss."""

    def build():
        inputs = keras.Input((5,), dtype="int32")
        x = R(layers.Embedding, 9, 6, mask_zero=True)(inputs)
        x = R(layers.Dropout, 0.3)(x)
        x = R(layers.MultiHeadAttention, 2, 3, dropout=0.2)(x, x)
        x = R(layers.LSTM, 6, return_sequences=True, dropout=0.2)(x)
        return keras.Model(inputs, R(layers.Dense, 3)(x))

    random = np.random.default_rng(0)
    x = random.integers(0, 9, size=(8, 5)).astype("int32")
    x[:, 3:] *= random.integers(0, 2, size=(8, 2)).astype("int32")
    # XLA sums up the gradient of a bias before the LSTM in another order.
    y = random.normal(size=(8, 5, 3)).astype("float32")
    assert_exact(build, x, y, regrouped=BACKEND == "jax")


def test_masking():
    """A decorated Masking layer attaches the mask it computed."""

    def build():
        inputs = keras.Input(SEQUENCE)
        return keras.Model(inputs, layers.GRU(3)(R(layers.Masking)(inputs)))

    random = np.random.default_rng(0)
    x = random.normal(size=(8, *SEQUENCE)).astype("float32")
    x[::2, 3:] = 0
    assert_exact(build, x, random.normal(size=(8, 3)).astype("float32"))


def test_a_whole_model_as_a_layer():
    """A decorated model with dropout, batch normalization and losses inside."""

    class Inner(keras.Sequential):
        pass

    def build():
        inner = recomputed(Inner)(
            [
                keras.Input(VECTOR),
                layers.Dense(6, activity_regularizer="l2"),
                layers.BatchNormalization(),
                layers.Dropout(0.4),
                layers.Dense(6, kernel_regularizer="l1"),
            ]
        )
        inputs = keras.Input(VECTOR)
        return keras.Model(inputs, inner(layers.Dense(6)(inputs)))

    random = np.random.default_rng(0)
    x = random.normal(size=(8, *VECTOR)).astype("float32")
    assert_exact(build, x, np.tanh(x))


def test_the_backend_is_the_one_asked_for():
    """The session tests what its environment says."""
    assert keras.backend.backend() == BACKEND
