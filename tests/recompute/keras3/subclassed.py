"""Models with a ``call`` of their own, as strangers write them."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

WIDTH, BATCH, LENGTH = 32, 16, 24


class Block(layers.Layer):
    """A block of a transformer that keeps a Sequential inside."""

    def __init__(self, width=WIDTH, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.before, self.after = layers.LayerNormalization(), layers.LayerNormalization()
        self.feed = keras.Sequential(
            [layers.Dense(4 * width, activation="gelu"), layers.Dense(width)]
        )
        self.dropout = layers.Dropout(0.1, seed=1)

    def call(self, x, training=None):
        x = self.before(x + self.dropout(self.attention(x, x), training=training))
        return self.after(x + self.feed(x))


class Tokens(keras.Model):
    """A list of blocks, called in a loop."""

    def __init__(self, depth=4, outputs=3):
        super().__init__()
        self.embed = layers.Embedding(50, WIDTH)
        self.blocks = [Block() for _ in range(depth)]
        self.head = layers.Dense(outputs)

    def call(self, x, training=None):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(ops.mean(x, axis=1))


class Shared(keras.Model):
    """One block, called several times."""

    def __init__(self):
        super().__init__()
        self.embed, self.block = layers.Embedding(50, WIDTH), Block()
        self.other, self.head = Block(), layers.Dense(3)

    def call(self, x, training=None):
        x = self.other(self.embed(x), training=training)
        for _ in range(3):
            x = self.block(x, training=training)
        return self.head(x[:, 0])


class Decoder(layers.Layer):
    """A block with several inputs, by keyword."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner, self.cross = (layers.MultiHeadAttention(2, WIDTH // 2) for _ in range(2))
        self.norm, self.dense = layers.LayerNormalization(), layers.Dense(WIDTH, activation="gelu")
        self.dropout = layers.Dropout(0.1, seed=2)

    def call(self, x, memory, memory_mask=None, training=None):
        mask = None if memory_mask is None else memory_mask[:, None, :]
        x = x + self.inner(x, x, use_causal_mask=True)
        x = x + self.cross(x, memory, attention_mask=mask)
        return self.norm(x + self.dropout(self.dense(x), training=training))


class Translation(keras.Model):
    """An encoder and a decoder; inputs and outputs with names, masks."""

    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(50, WIDTH, mask_zero=True)
        self.encoder, self.decoder = [Block() for _ in range(2)], [Decoder() for _ in range(2)]
        self.tokens, self.score = layers.Dense(50), layers.Dense(1)

    def call(self, inputs, training=None):
        mask = ops.not_equal(inputs["source"], 0)
        x, y = self.embed(inputs["source"]), self.embed(inputs["target"])
        for block in self.encoder:
            x = block(x, training=training)
        for block in self.decoder:
            y = block(y, memory=x, memory_mask=mask, training=training)
        return {"score": self.score(ops.mean(x, axis=1)), "tokens": self.tokens(y)}


class Autoencoder(keras.Model):
    """A variational one: it draws, and adds a loss; no ``training``."""

    def __init__(self):
        super().__init__()
        wide = [layers.Dense(128, activation="gelu") for _ in range(4)]
        self.encoder = keras.Sequential([*wide[:2], layers.Dense(16)])
        self.decoder = keras.Sequential([*wide[2:], layers.Dense(WIDTH)])
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        mean, spread = ops.split(self.encoder(x), 2, axis=-1)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        self.add_loss(-0.5 * ops.mean(1 + spread - mean**2 - ops.exp(spread)))
        return self.decoder(mean + ops.exp(0.5 * spread) * noise)


class Nested(keras.Model):
    """Another model inside, and control flow by shape."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = Tokens(depth=3, outputs=8), layers.Dense(1)

    def call(self, x, training=None):
        if x.shape[1] > 12:
            x = x[:, ::2]
        return self.head(self.inner(x, training=training))


class Wrapped(keras.Model):
    """A graph of layers, as people wrap a pretrained model."""

    def __init__(self):
        super().__init__()
        inputs = keras.Input((16, 16, 3))
        x = inputs
        for _ in range(4):
            x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
            x = layers.ReLU()(x)
        self.body = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
        self.head = layers.Dense(3)

    def call(self, x, training=None):
        return self.head(self.body(x / 2, training=training))


class Residual(layers.Layer):
    """Convolutions and normalizations, whose averages are state."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = (layers.Conv2D(8, 3, padding="same") for _ in range(2))
        self.norm, self.last = layers.BatchNormalization(), layers.BatchNormalization()

    def call(self, x, training=None):
        y = ops.relu(self.norm(self.first(x), training=training))
        return ops.relu(x + self.last(self.second(y), training=training))


class Images(keras.Model):
    """Residual blocks."""

    def __init__(self):
        super().__init__()
        self.stem = layers.Conv2D(8, 3, padding="same")
        self.blocks, self.head = [Residual() for _ in range(4)], layers.Dense(3)

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(ops.mean(x, axis=(1, 2)))


class Pairs(keras.Model):
    """A list of inputs, a tuple of outputs, a tower that is used for both."""

    def __init__(self):
        super().__init__()
        self.tower = keras.Sequential([layers.Dense(256, activation="gelu"), layers.Dense(WIDTH)])
        self.head = layers.Dense(1)

    def call(self, inputs):
        a, b = (self.tower(x) for x in inputs)
        return self.head(a * b), ops.sum(a * b, -1)


class Case(NamedTuple):
    """A model, a batch and its loss."""

    build: Any
    x: Any
    y: Any
    loss: Any


def _case(build, x, y=None, loss="mse"):
    return Case(build, x, y, loss)


def sparse():
    """Return the loss of classes."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


_draw = np.random.default_rng(0)
IDS = _draw.integers(0, 50, (BATCH, LENGTH)).astype("int32")
CLASSES = _draw.integers(0, 3, BATCH).astype("int32")
SERIES = _draw.normal(size=(BATCH, LENGTH, WIDTH)).astype("float32")
ROWS = _draw.normal(size=(BATCH, WIDTH)).astype("float32")
PICTURES = _draw.normal(size=(BATCH, 16, 16, 3)).astype("float32")
ONES = np.ones((BATCH, 1), "float32")
CASES = {
    "tokens": _case(Tokens, IDS, CLASSES, sparse),
    "shared": _case(Shared, IDS, CLASSES, sparse),
    "translation": _case(
        Translation,
        {"source": IDS, "target": IDS},
        {"score": ONES, "tokens": IDS},
        lambda: {"score": "mse", "tokens": sparse()},
    ),
    "autoencoder": _case(Autoencoder, ROWS, ROWS),
    "nested": _case(Nested, IDS, ONES),
    "wrapped": _case(Wrapped, PICTURES, CLASSES, sparse),
    "images": _case(Images, PICTURES, CLASSES, sparse),
    "pairs": _case(
        Pairs,
        [SERIES, SERIES],
        [SERIES[..., :1], SERIES[..., 0]],
        lambda: ["mse", "mse"],
    ),
}
