"""Stock layers of Keras, each as it is used: the layer that is recomputed, in a small model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

VECTOR, SEQUENCE, IMAGE, VOLUME = (6,), (5, 6), (6, 6, 3), (4, 4, 4, 2)
SAMPLES = 8

Make = Callable[..., Any]  # (layer class, *arguments) -> the layer, ready to be recomputed


class Case(NamedTuple):
    """A layer and what goes in.

    Attributes:
        shape: Of a sample.
        add: Takes ``make`` and a tensor; returns what the layer makes of it.
    """

    shape: tuple[int, ...]
    add: Callable[[Make, Any], Any]


def _stock(shape: tuple[int, ...], layer: type, *args: Any, **kwargs: Any) -> Case:
    return Case(shape, lambda make, x: make(layer, *args, **kwargs)(x))


def _attention(add: Callable[[Make, Any, Any], Any]) -> Case:
    def add_all(make: Make, x: Any) -> Any:
        return add(make, layers.Dense(6)(x), layers.Dense(6)(x))

    return Case(SEQUENCE, add_all)


def _embedding(make: Make, x: Any) -> Any:
    tokens = keras.ops.cast(keras.ops.clip(keras.ops.abs(x[..., 0]) * 4, 0, 8), "int32")
    return layers.LSTM(4)(make(layers.Embedding, 9, 6, mask_zero=True)(tokens))


def _masking(make: Make, x: Any) -> Any:
    return layers.GRU(3)(make(layers.Masking)(keras.ops.relu(x)))


def _model(make: Make, x: Any) -> Any:
    inner = make(
        keras.Sequential,
        [
            keras.Input(VECTOR),
            layers.Dense(6, activity_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.4),
        ],
    )
    return inner(x)


CASES: dict[str, Case] = {
    "Dense": _stock(VECTOR, layers.Dense, 4, "gelu"),
    "Dense, activity_regularizer": _stock(VECTOR, layers.Dense, 4, activity_regularizer="l2"),
    "EinsumDense": _stock(SEQUENCE, layers.EinsumDense, "abc,cd->abd", (5, 4)),
    "Conv1D": _stock(SEQUENCE, layers.Conv1D, 4, 3),
    "Conv2D": _stock(IMAGE, layers.Conv2D, 4, 3, activation="relu"),
    "Conv3D": _stock(VOLUME, layers.Conv3D, 3, 2),
    "Conv2DTranspose": _stock(IMAGE, layers.Conv2DTranspose, 3, 3),
    "DepthwiseConv2D": _stock(IMAGE, layers.DepthwiseConv2D, 3),
    "SeparableConv1D": _stock(SEQUENCE, layers.SeparableConv1D, 4, 3),
    "SeparableConv2D": _stock(IMAGE, layers.SeparableConv2D, 4, 3),
    "MaxPooling2D": _stock(IMAGE, layers.MaxPooling2D),
    "LSTM": _stock(SEQUENCE, layers.LSTM, 4),
    "LSTM, dropout": _stock(SEQUENCE, layers.LSTM, 4, dropout=0.3, recurrent_dropout=0.3),
    "GRU, dropout": _stock(SEQUENCE, layers.GRU, 4, dropout=0.3),
    "SimpleRNN, dropout": _stock(SEQUENCE, layers.SimpleRNN, 4, recurrent_dropout=0.3),
    "Bidirectional LSTM, dropout": Case(
        SEQUENCE, lambda make, x: make(layers.Bidirectional, layers.LSTM(3, dropout=0.3))(x)
    ),
    "TimeDistributed": Case(
        SEQUENCE, lambda make, x: make(layers.TimeDistributed, layers.Dense(4))(x)
    ),
    "MultiHeadAttention": _attention(
        lambda make, q, v: make(layers.MultiHeadAttention, 2, 4)(q, v)
    ),
    "MultiHeadAttention, dropout": _attention(
        lambda make, q, v: make(layers.MultiHeadAttention, 2, 4, dropout=0.3)(q, v)
    ),
    "MultiHeadAttention, dropout, seed": _attention(
        lambda make, q, v: make(layers.MultiHeadAttention, 2, 4, dropout=0.3, seed=1)(q, v)
    ),
    "MultiHeadAttention, causal": _attention(
        lambda make, q, v: make(layers.MultiHeadAttention, 2, 4)(q, v, use_causal_mask=True)
    ),
    "GroupQueryAttention, dropout": _attention(
        lambda make, q, v: make(layers.GroupQueryAttention, 4, 4, 2, dropout=0.3)(q, v)
    ),
    "Attention, dropout": _attention(
        lambda make, q, v: make(layers.Attention, use_scale=True, dropout=0.3)([q, v])
    ),
    "AdditiveAttention, dropout": _attention(
        lambda make, q, v: make(layers.AdditiveAttention, dropout=0.3)([q, v])
    ),
    "Embedding, mask": Case(SEQUENCE, _embedding),
    "Masking": Case(SEQUENCE, _masking),
    "LayerNormalization": _stock(SEQUENCE, layers.LayerNormalization),
    "BatchNormalization": _stock(IMAGE, layers.BatchNormalization),
    "GroupNormalization": _stock(IMAGE, layers.GroupNormalization, 3),
    "UnitNormalization": _stock(SEQUENCE, layers.UnitNormalization),
    "SpectralNormalization": Case(
        VECTOR, lambda make, x: make(layers.SpectralNormalization, layers.Dense(4))(x)
    ),
    "Dropout": _stock(VECTOR, layers.Dropout, 0.5),
    "Dropout, seed": _stock(VECTOR, layers.Dropout, 0.5, seed=1),
    "SpatialDropout1D": _stock(SEQUENCE, layers.SpatialDropout1D, 0.5),
    "GaussianNoise": _stock(VECTOR, layers.GaussianNoise, 0.5),
    "GaussianDropout": _stock(VECTOR, layers.GaussianDropout, 0.5),
    "AlphaDropout": _stock(VECTOR, layers.AlphaDropout, 0.5),
    "RandomFlip": _stock(IMAGE, layers.RandomFlip),
    "RandomRotation": _stock(IMAGE, layers.RandomRotation, 0.2),
    "RandomContrast": _stock(IMAGE, layers.RandomContrast, 0.2),
    "ActivityRegularization": _stock(VECTOR, layers.ActivityRegularization, l2=0.1),
    "PReLU": _stock(VECTOR, layers.PReLU),
    "a model as a layer": Case(VECTOR, _model),
}


def build(case: Case, make: Make) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a model with the layer between two plain ones, inputs and targets.

    Args:
        case: The layer.
        make: Makes it.
    """
    inputs = keras.Input(case.shape)
    x = layers.Dense(case.shape[-1], activation="tanh")(inputs)
    # The sine makes gradients depend on what the layer gave: a mask that is drawn anew shows.
    x = keras.ops.sin(case.add(make, x))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    draw = np.random.default_rng(0)
    features = draw.normal(size=(SAMPLES, *case.shape)).astype("float32")
    return model, features, draw.normal(size=(SAMPLES, 2)).astype("float32")
