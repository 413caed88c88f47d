"""Where the memory of a step goes is told without running one, as the backend would keep it."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

from perftricks import recompute
from tests.recompute.keras3.kept import kept_bytes
from tests.recompute.keras3.training import BACKEND, array, fresh_model

WIDTH = 32


def tokens():
    """Return a model of tokens, of any length, with attention and dropout."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(50, WIDTH)(inputs)
    for _ in range(4):
        y = layers.MultiHeadAttention(2, WIDTH // 2, dropout=0.1)(x, x)
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
        y = layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, activation="gelu")(x))
        x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def images():
    """Return a convolutional net with batch normalization."""
    parts = [
        part
        for _ in range(4)
        for part in (
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
        )
    ]
    return keras.Sequential([keras.Input((8, 8, 3)), *parts, layers.Flatten(), layers.Dense(3)])


CASES = {tokens: (np.ones((6, 10), "int32"), 10), images: (np.ones((6, 8, 8, 3), "float32"), None)}


@pytest.mark.parametrize("build", CASES)
def test_activations_are_what_the_backend_keeps(build):
    """All of them, and those of the segments, which add up to about as much."""
    x, length = CASES[build]
    model = fresh_model(build)
    profile = recompute.profile(model, batch_size=6, length=length)
    kept = kept_bytes(model, x)  # and what the loss needs
    assert 0.97 * kept <= profile.activations <= 1.03 * kept
    # A tensor between two segments may be kept by both: one needs what it gave, one what it takes.
    total = sum(segment.plain for segment in profile.segments)
    assert 0.9 * profile.activations <= total <= 1.3 * profile.activations
    assert all(s.full <= s.save_masks for s in profile.segments)
    assert all(s.save_masks <= s.save_matmuls < 1.2 * s.plain for s in profile.segments)
    assert profile.planned_peak < profile.plain_peak
    assert profile.largest in profile.segments


def test_nothing_is_allocated():
    """A million samples take as long as ten, and a hundred thousand times the bytes."""
    model = fresh_model(tokens)
    few, many = (recompute.profile(model, batch_size=n, length=16) for n in (10, 10**6))
    assert many.inputs == 10**5 * few.inputs == 10**6 * 16 * 4
    assert many.activations == pytest.approx(10**5 * few.activations, rel=0.01)
    assert many.weights == few.weights == sum(array(v).nbytes for v in model.variables)
    fits = few.largest_batch(many.planned_peak)
    assert fits == pytest.approx(10**6, rel=0.01)
    assert few.largest_batch(many.planned_peak, planned=False) < fits / 2
    assert few.largest_batch(few.weights) == 0


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adafactor", "Ftrl", None])
@pytest.mark.parametrize("scales_loss", [False, True])
def test_optimizer(name, scales_loss):
    """What the optimizer keeps is known before it is built, to the byte."""
    model = fresh_model(images)
    trained = sum(array(v).nbytes for v in model.trainable_variables)
    optimizer = None if name is None else getattr(keras.optimizers, name)()
    if scales_loss and optimizer:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    profile = recompute.profile(model, batch_size=2, optimizer=optimizer)
    kept = 0
    if optimizer:
        assert not optimizer.built
        optimizer.build(model.trainable_variables)
        kept = sum(array(v).nbytes for v in optimizer.variables)
    assert (profile.gradients, profile.optimizer) == (trained, kept)
    model.compile(optimizer or "sgd", "mse")
    assert recompute.profile(model, batch_size=2).optimizer == kept or not optimizer


def test_weights_that_are_not_trained_keep_less():
    """Nothing is kept before the first weight that is trained."""
    model = fresh_model(images)
    whole = recompute.profile(model, batch_size=2)
    for layer in model.layers[:-1]:
        layer.trainable = False
    frozen = recompute.profile(model, batch_size=2)
    assert frozen.activations < whole.activations / 4
    assert frozen.gradients == sum(array(v).nbytes for v in model.layers[-1].trainable_variables)


def test_table_and_json():
    """It is printed, and written as JSON."""
    profile = recompute.profile(fresh_model(images), batch_size=4)
    assert str(profile).startswith(f"{profile.model}, batch of 4, {BACKEND}; about\n  weights")
    assert "runs plainly" in str(profile)
    content = json.loads(profile.to_json())
    assert content["plain_peak"] == profile.fixed + profile.activations
    assert len(content["segments"]) == len(profile.segments)


def test_what_cannot_be_profiled():
    """Each is one line that says what to do."""
    model = fresh_model(tokens)
    with pytest.raises(ValueError, match=r"has the shape \(None, None\); give length="):
        recompute.profile(model, batch_size=4)
    with pytest.raises(ValueError, match="must be a whole number of at least 1, got 0"):
        recompute.profile(model, batch_size=0, length=4)
    with pytest.raises(TypeError, match=r"plan must be what recompute\.plan"):
        recompute.profile(model, batch_size=4, length=4, plan="plan.json")

    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own()
    own(np.ones((2, 3)))
    with pytest.raises(ValueError, match="has a call of its own, so what it takes is not known"):
        recompute.profile(own, batch_size=4)
