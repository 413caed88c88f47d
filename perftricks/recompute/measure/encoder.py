"""The block that measurements are made of, built from stock layers of Keras 3."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import keras

from perftricks.recompute import recompute_grad


class EncoderBlock(keras.layers.Layer):  # type: ignore[misc]
    """A block of a transformer encoder; the decorator is all that recompute needs.

    Source: Vaswani et al., "Attention is all you need", arXiv 1706.03762; normalization first:
    Xiong et al., "On layer normalization in the transformer architecture", arXiv 2002.04745.

    Args:
        width: Size of a token's vector.
        heads: Attention heads.
        dropout: Rate, on attention weights and after both sublayers.
        norm_first: Normalize what enters a sublayer, as newer models do, and not what leaves it, as
            BERT does.
    """

    def __init__(
        self, width: int, heads: int, dropout: float, norm_first: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.norm_first = norm_first
        self.attention = keras.layers.MultiHeadAttention(heads, width // heads, dropout=dropout)
        self.attention_norm = keras.layers.LayerNormalization()
        self.inner = keras.layers.Dense(4 * width, activation="gelu")
        self.outer = keras.layers.Dense(width)
        self.outer_norm = keras.layers.LayerNormalization()
        self.dropout = keras.layers.Dropout(dropout)

    def build(self, shape: Tuple[Optional[int], ...]) -> None:
        self.attention.build(shape, shape)
        self.attention_norm.build(shape)
        self.inner.build(shape)
        self.outer.build(shape[:-1] + (self.inner.units,))
        self.outer_norm.build(shape)
        self.dropout.build(shape)

    @recompute_grad
    def call(self, x: Any, training: Optional[bool] = None) -> Any:
        y = self.attention_norm(x) if self.norm_first else x
        x = x + self.dropout(self.attention(y, y, training=training), training=training)
        if not self.norm_first:
            x = self.attention_norm(x)
        y = self.outer_norm(x) if self.norm_first else x
        x = x + self.dropout(self.outer(self.inner(y)), training=training)
        return x if self.norm_first else self.outer_norm(x)
