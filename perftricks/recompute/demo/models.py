"""The models of the demo, built from stock layers; weights and data are drawn, not downloaded."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Tuple

import keras
import numpy as np

from perftricks.recompute import recompute_grad
from perftricks.recompute.demo import Config
from perftricks.recompute.measure.encoder import EncoderBlock

CLASSES = 10
VOCABULARY = 8192


class MLPBlock(keras.layers.Layer):  # type: ignore[misc]
    """Normalization, dense layers with dropout, and a connection around them."""

    def __init__(self, width: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = keras.layers.LayerNormalization()
        self.inner = keras.layers.Dense(4 * width, activation="gelu")
        self.outer = keras.layers.Dense(width)
        self.dropout = keras.layers.Dropout(dropout)

    def build(self, shape: Tuple[Optional[int], ...]) -> None:
        self.norm.build(shape)
        self.inner.build(shape)
        self.outer.build(shape[:-1] + (self.inner.units,))
        self.dropout.build(shape)

    @recompute_grad
    def call(self, x: Any, training: Optional[bool] = None) -> Any:
        return x + self.outer(self.dropout(self.inner(self.norm(x)), training=training))


def build(config: Config) -> Tuple[Any, np.ndarray, np.ndarray]:
    """Return the model, a batch of inputs and their classes."""
    return _BUILDERS[config.model](config)


def _recomputed(block: Any, config: Config) -> Any:
    """Return a block as a configuration has it: with its policy, or undecorated for a plan."""
    plain = block.call.__wrapped__
    if config.budget is not None:
        return type(block.__name__, (block,), {"call": plain})
    return type(block.__name__, (block,), {"call": recompute_grad(plain, policy=config.policy)})


def _transformer(
    config: Config, width: int, heads: int, layers: int
) -> Tuple[Any, np.ndarray, np.ndarray]:
    tokens = keras.Input((config.seq_len,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, width)(tokens)
    x = keras.layers.LayerNormalization()(x)
    block = _recomputed(EncoderBlock, config)
    for _ in range(config.layers or layers):
        x = block(width, heads, config.dropout)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(tokens, keras.layers.Dense(CLASSES)(x))
    draw = np.random.default_rng(config.seed)
    inputs = draw.integers(0, VOCABULARY, (config.batch_size, config.seq_len), dtype="int32")
    return model, inputs, _classes(config, draw)


def _small_transformer(config: Config) -> Tuple[Any, np.ndarray, np.ndarray]:
    return _transformer(config, config.width, max(1, config.width // 64), layers=12)


def _bert_base(config: Config) -> Tuple[Any, np.ndarray, np.ndarray]:
    return _transformer(config, width=768, heads=12, layers=12)


def _bert_large(config: Config) -> Tuple[Any, np.ndarray, np.ndarray]:
    return _transformer(config, width=1024, heads=16, layers=24)


def _deep_mlp(config: Config) -> Tuple[Any, np.ndarray, np.ndarray]:
    features = keras.Input((config.width,))
    x = features
    block = _recomputed(MLPBlock, config)
    for _ in range(config.layers or 32):
        x = block(config.width, config.dropout)(x)
    model = keras.Model(features, keras.layers.Dense(CLASSES)(x))
    draw = np.random.default_rng(config.seed)
    inputs = draw.standard_normal((config.batch_size, config.width), dtype="float32")
    return model, inputs, _classes(config, draw)


def _resnet50(config: Config) -> Tuple[Any, np.ndarray, np.ndarray]:
    from perftricks.recompute.applying import apply

    model = keras.applications.ResNet50(
        weights=None, input_shape=(128, 128, 3), classes=CLASSES, classifier_activation=None
    )
    if config.budget is None:
        apply(model, policy=config.policy)
    draw = np.random.default_rng(config.seed)
    inputs = draw.standard_normal((config.batch_size, 128, 128, 3), dtype="float32")
    return model, inputs, _classes(config, draw)


def _classes(config: Config, draw: np.random.Generator) -> np.ndarray:
    return draw.integers(0, CLASSES, config.batch_size, dtype="int32")


_BUILDERS: Dict[str, Callable[[Config], Tuple[Any, np.ndarray, np.ndarray]]] = {
    "transformer": _small_transformer,
    "bert-base": _bert_base,
    "bert-large": _bert_large,
    "deep-mlp": _deep_mlp,
    "resnet50": _resnet50,
}
