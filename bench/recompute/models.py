"""A transformer whose blocks are recomputed by one tool or another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from bench.recompute.trainer import Case
from perftricks import recompute
from perftricks.recompute.measure.encoder import EncoderBlock

CLASSES, VOCABULARY = 10, 8192
Function = Callable[[Any], Any]


class Block(EncoderBlock):
    """The block without a decorator."""

    call = EncoderBlock.call.__wrapped__

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape, so that Keras need not run the call to find out."""
        return shape


class DecoratedBlock(Block):
    """The block with ours."""

    call = recompute.recompute_grad(Block.call)


class MaskedBlock(Block):
    """The block with ours, which keeps the masks of dropout."""

    call = recompute.recompute_grad(Block.call, policy="save_masks")


class KeepingBlock(Block):
    """The block with ours, which keeps what matrix products give, and masks."""

    call = recompute.recompute_grad(Block.call, policy="save_matmuls")


def _wrapped(wrap: Callable[[Function], Function]) -> type[Block]:
    """Return a block whose call is wrapped by a tool that takes a function of tensors."""

    class WrappedBlock(Block):
        def call(self, x: Any, training: bool | None = None) -> Any:
            return wrap(lambda x: Block.call(self, x, training=training))(x)

    return WrappedBlock


def _tf_recompute_grad(function: Function) -> Function:
    import tensorflow as tf

    return tf.recompute_grad(function)


def _jax_checkpoint(function: Function) -> Function:
    import jax

    return jax.checkpoint(function)


def _torch_checkpoint(function: Function) -> Function:
    from torch.utils.checkpoint import checkpoint

    return lambda x: checkpoint(function, x, use_reentrant=False)


def _transformer(case: Case, block: type[Block]) -> Any:
    tokens = keras.Input((case.seq_len,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, case.width)(tokens)
    x = keras.layers.LayerNormalization()(x)
    for number in range(case.layers):
        heads = max(1, case.width // 64)
        x = block(case.width, heads, case.dropout, case.norm_first, name=f"block_{number}")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(CLASSES)(x))


def _in_remat_scope(case: Case) -> Any:
    names = [f"block_{number}" for number in range(case.layers)]
    with keras.RematScope(mode="list_of_layers", layer_names=names):
        return _transformer(case, Block)


def _applied(case: Case) -> Any:
    model = _transformer(case, Block)
    recompute.apply(model)
    return model


def _in_square_root(case: Case) -> Any:
    """Cut a model of n blocks into segments of sqrt(n), as arXiv 1604.06174 does."""
    model = _transformer(case, Block)
    length = math.isqrt(case.layers - 1) + 1
    ends = [f"block_{number}" for number in range(length - 1, case.layers, length)]
    recompute.apply(model, boundaries=ends)
    return model


TOOLS: dict[str, Callable[[Case], Any]] = {
    "plain": lambda case: _transformer(case, Block),
    "recompute_grad": lambda case: _transformer(case, DecoratedBlock),
    "recompute_grad, save_masks": lambda case: _transformer(case, MaskedBlock),
    "recompute_grad, save_matmuls": lambda case: _transformer(case, KeepingBlock),
    "apply": _applied,
    "apply, sqrt(n)": _in_square_root,
    "keras.remat": lambda case: _transformer(case, _wrapped(keras.remat)),
    "keras.RematScope": _in_remat_scope,
    "tf.recompute_grad": lambda case: _transformer(case, _wrapped(_tf_recompute_grad)),
    "jax.checkpoint": lambda case: _transformer(case, _wrapped(_jax_checkpoint)),
    "torch.utils.checkpoint": lambda case: _transformer(case, _wrapped(_torch_checkpoint)),
}


def build(case: Case) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the model, a batch of inputs and their classes."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, VOCABULARY, (case.batch_size, case.seq_len), dtype="int32")
    classes = draw.integers(0, CLASSES, case.batch_size, dtype="int32")
    return TOOLS[case.tool](case), tokens, classes


def build_compiled(case: Case) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the model, compiled, a batch of inputs and their classes."""
    model, tokens, classes = build(case)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=case.eager,
        jit_compile=case.backend == "jax" and not case.eager,
    )
    return model, tokens, classes
