"""A small BERT of bert4keras, with random weights, whose recomputation is ours.

``python -m tests.recompute.keras2.bert on`` prints by how many bytes training raises the peak.
"""

from __future__ import annotations

import json
import os
import re
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


def configuration(hidden=HIDDEN, depth=LAYERS, heads=2, length=LENGTH):
    """Return what a model of bert4keras is configured with, two kinds of dropout included."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "attention_head_size": hidden // heads,
        "attention_key_size": hidden // heads,
        "intermediate_size": 4 * hidden,
        "embedding_size": hidden // 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": length,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
    }


# What build_transformer_model is called with, beside the configuration.
FAMILIES = {
    "bert": {"model": "bert", "embedding_size": None},
    "bert-lm": {"model": "bert", "application": "lm", "with_mlm": True, "embedding_size": None},
    "bert-unilm": {"model": "bert", "application": "unilm", "with_mlm": True},
    "albert": {"model": "albert"},
    "electra": {"model": "electra"},
    "nezha": {"model": "nezha"},
    "roformer": {"model": "roformer"},
    "roformer-v2": {"model": "roformer_v2"},
    "gpt": {"model": "gpt", "embedding_size": None},
    "gpt2": {"model": "gpt2", "embedding_size": None},
    "t5": {"model": "t5"},
    "t5.1.1": {"model": "t5.1.1", "hidden_act": ["gelu", "linear"]},
}


def builder(hidden=HIDDEN, depth=LAYERS, heads=2, length=LENGTH, family="bert"):
    """Return a builder of a model of a family that classifies by its first token."""
    build_transformer_model = import_bert4keras()
    options = {**configuration(hidden, depth, heads, length), **FAMILIES[family]}
    how = {name: options.pop(name) for name in ("model", "application") if name in options}

    def build():
        from bert4keras.backend import keras

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bert_config.json")
            with open(path, "w") as file:
                json.dump(options, file)
            model = build_transformer_model(path, **how)
        x = keras.layers.Lambda(lambda x: x[:, 0])(model.output)
        return keras.models.Model(model.inputs, keras.layers.Dense(3)(x))

    return build


def inputs_of(build, rows=8):
    """Return token and segment numbers for as many inputs as a model has."""
    (tokens, segments), targets = data(rows)
    names = [x.name for x in build().inputs]
    if len(names) == 1:
        return tokens, targets
    return [tokens, tokens if "Decoder" in names[1] else segments], targets


def gated_attention_units():
    """Return a builder of a model of two gated attention units, with padding masks."""
    import_bert4keras()

    def build():
        from bert4keras.backend import keras
        from bert4keras.layers import Embedding, GatedAttentionUnit, SinusoidalPositionEmbedding

        tokens = keras.layers.Input(shape=(None,))
        x = Embedding(VOCABULARY, HIDDEN, mask_zero=True)(tokens)
        positions = SinusoidalPositionEmbedding(8, merge_mode="zero")(x)
        for _ in range(LAYERS):
            unit = GatedAttentionUnit(
                2 * HIDDEN, 8, normalization="softmax_plus", attention_dropout=0.1
            )
            x = keras.layers.add([x, unit([x, positions], p_bias="rotary")])
        x = keras.layers.Lambda(lambda x: x[:, 0], mask=lambda x, mask=None: None)(x)
        return keras.models.Model(tokens, keras.layers.Dense(3)(x))

    return build


def data(rows=4, length=LENGTH):
    """Return token and segment numbers, with padding, and targets."""
    generator = np.random.RandomState(0)
    tokens = generator.randint(1, VOCABULARY, (rows, length))
    tokens[:, length - 3 :] = 0
    segments = np.zeros_like(tokens)
    segments[:, length // 2 :] = 1
    return [tokens, segments], generator.normal(size=(rows, 3)).astype("float32")


def peak_of_this_process():
    """Return the peak of the resident set in bytes; ru_maxrss would count the parent's as well."""
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read()).group(1))


def peak_of_training(how):
    """Return by how many bytes two steps of a wider BERT raise the peak of the resident set."""
    with way(how):
        model = fresh_model(builder(hidden=128, depth=8, heads=4, length=128))
        model.compile(sgd(0.1), "mse")
        model.train_on_batch(*data(2, 128))  # what is loaded and allocated once
        before = peak_of_this_process()
        for _ in range(2):
            model.train_on_batch(*data(16, 128))
    return peak_of_this_process() - before


if __name__ == "__main__":
    print(peak_of_training(*sys.argv[1:]))
