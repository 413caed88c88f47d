"""``apply`` on models of keras-hub with random weights: a fine-tuned BERT, a ViT.

Every row of Keras 3 installs keras-hub; where it is missing this module cannot be imported, and so
fails.
"""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
import pytest
from keras import layers

from perftricks import recompute
from tests.recompute.keras3.applied import (
    applied,
    assert_removed_without_trace,
    assert_saved_without_us,
)
from tests.recompute.keras3.training import fit, fresh_model

WIDTH, LENGTH, VOCABULARY = 8, 7, 11


def backbone():
    """BERT with three blocks, dropout and padding."""
    return keras_hub.models.BertBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=3,
        num_heads=2,
        hidden_dim=WIDTH,
        intermediate_dim=2 * WIDTH,
        dropout=0.1,
        max_sequence_length=LENGTH,
    )


def bert():
    """A head on top of the graph of BERT."""
    model = backbone()
    return keras.Model(model.inputs, layers.Dense(1)(model.output["pooled_output"]))


def nested_bert():
    """A head on top of BERT, which is one layer of the model."""
    model = backbone()
    inputs = {name: keras.Input((LENGTH,), dtype="int32", name=name) for name in model.input}
    return keras.Model(inputs, layers.Dense(1)(model(inputs)["pooled_output"]))


def tokens():
    """Return padded tokens of two segments, and targets."""
    random = np.random.default_rng(0)
    ids = random.integers(1, VOCABULARY, (8, LENGTH)).astype("int32")
    padding = np.ones_like(ids)
    padding[::2, 5:] = 0
    segments = np.zeros_like(ids)
    segments[:, 3:] = 1
    x = {"token_ids": ids * padding, "segment_ids": segments, "padding_mask": padding}
    return x, np.tanh(random.normal(size=(8, 1))).astype("float32")


def vit():
    """Patches, a class token, three blocks in one layer, dropout."""
    model = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3),
        patch_size=4,
        num_layers=3,
        num_heads=2,
        hidden_dim=WIDTH,
        mlp_dim=2 * WIDTH,
        dropout_rate=0.1,
        attention_dropout=0.1,
    )
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layers.Dense(1)(model(inputs)[:, 0]))


def images():
    """Return images and targets."""
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    return x, np.tanh(x[:, 0, 0, :1])


def is_block(layer):
    """Tell whether a layer is a block of a ViT, whose class keras-hub does not export."""
    return type(layer).__name__ == "ViTEncoderBlock"


MODELS = {
    "bert": (bert, tokens, {}),
    "nested bert": (nested_bert, tokens, {}),
    "vit": (vit, images, {}),
    "vit, blocks": (vit, images, {"layers": is_block}),
}


@pytest.mark.parametrize("name", MODELS)
def test_exact(name):
    """Losses, weights, momentum and state of two steps of fit."""
    build, make, options = MODELS[name]
    build, (x, y) = applied(build, **options), make()
    fit(build, x, y, False, epochs=1).assert_same(fit(build, x, y, True, epochs=1))


@pytest.mark.parametrize("name", ["bert", "nested bert"])
def test_a_segment_for_each_block(name):
    """Each block of BERT is in a segment of its own, nested or not."""
    plan = recompute.apply(fresh_model(MODELS[name][0]))
    blocks = [
        [layer for layer in segment.layers if layer.startswith("transformer_layer")]
        for segment in plan.segments
    ]
    assert [one for one in blocks if one] == [[f"transformer_layer_{i}"] for i in range(3)]


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_saved_and_removed(name, tmp_path):
    """It is saved without a trace of perftricks, and remove leaves none."""
    build, make, options = MODELS[name]
    assert_saved_without_us(build, *make(), tmp_path, "keras_hub", **options)
    assert_removed_without_trace(build, **options)
