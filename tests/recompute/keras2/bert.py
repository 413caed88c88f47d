"""A small BERT of bert4keras, with random weights, whose recomputation is ours.

``python -m tests.recompute.keras2.bert on`` prints by how many bytes training raises the peak.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

import numpy as np

from perftricks.recompute import recompute_grad
from tests.recompute.keras2.binding import sgd
from tests.recompute.keras2.training import fresh_model, way

VOCABULARY, LENGTH, HIDDEN, LAYERS = 100, 16, 24, 2


def import_bert4keras():
    """Return ``build_transformer_model`` of bert4keras, with our decorator in place of its own."""
    import bert4keras.backend

    bert4keras.backend.recompute_grad = recompute_grad
    from bert4keras.models import build_transformer_model

    return build_transformer_model


def builder(hidden=HIDDEN, depth=LAYERS, heads=2, length=LENGTH):
    """Return a builder of a BERT that classifies, with dropout of activations and of attention."""
    build_transformer_model = import_bert4keras()
    configuration = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": length,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
    }

    def build():
        from bert4keras.backend import keras

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bert_config.json")
            with open(path, "w") as file:
                json.dump(configuration, file)
            bert = build_transformer_model(path, return_keras_model=False)
        x = keras.layers.Lambda(lambda x: x[:, 0])(bert.output)
        return keras.models.Model(bert.model.inputs, keras.layers.Dense(3)(x))

    return build


def data(rows=4, length=LENGTH):
    """Return token and segment numbers, with padding, and targets."""
    generator = np.random.RandomState(0)
    tokens = generator.randint(1, VOCABULARY, (rows, length))
    tokens[:, length - 3 :] = 0
    segments = np.zeros_like(tokens)
    segments[:, length // 2 :] = 1
    return [tokens, segments], generator.normal(size=(rows, 3)).astype("float32")


def peak_of_training(how):
    """Return by how many bytes two steps of a wider BERT raise the peak of the resident set."""
    import resource

    with way(how):
        model = fresh_model(builder(hidden=128, depth=8, heads=4, length=128))
        model.compile(sgd(0.1), "mse")
        model.train_on_batch(*data(2, 128))  # what is loaded and allocated once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2):
            model.train_on_batch(*data(16, 128))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


if __name__ == "__main__":
    print(peak_of_training(*sys.argv[1:]))
