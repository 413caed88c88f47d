"""What belongs to a tensor beside its numbers: what hangs on it, and who uses it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks import recompute
from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.keras3.training import (
    BACKEND,
    FEW_ULP,
    fit,
    gradient,
    only_tensorflow,
)

WIDTH, CLASSES = 12, 5
EAGER = [False] if BACKEND == "jax" else [False, True]  # JAX rounds otherwise in each program
LARGE = np.random.default_rng(0).uniform(0, 255, (16, WIDTH)).astype("float32")
CLASS = np.random.default_rng(1).integers(0, CLASSES, 16).astype("int32")
# Where a softmax saturates, another way of computing the loss gives other numbers.
HEADS = {
    "one-hot": (
        CLASSES,
        "softmax",
        "categorical_crossentropy",
        np.eye(CLASSES, dtype="float32")[CLASS],
    ),
    "sparse": (CLASSES, "softmax", "sparse_categorical_crossentropy", CLASS),
    "binary": (1, "sigmoid", "binary_crossentropy", CLASS[:, None] % 2),
    "focal": (1, "sigmoid", "binary_focal_crossentropy", CLASS[:, None] % 2),
}


def raw(name):
    """Return a function that Keras does not know to be an activation."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return getattr(tf.nn, name)
    return getattr(ops, name)


class Net(keras.Model):
    """A model with a call of its own, whose head is a layer."""

    def __init__(self, units, activation):
        super().__init__()
        self.hidden = layers.Dense(24, "relu")
        self.head = layers.Dense(units, activation)

    def call(self, x):
        return self.head(self.hidden(x))


class Block(layers.Layer):
    """A decorated layer that ends in the head of a model."""

    def __init__(self, units, activation):
        super().__init__()
        self.hidden = layers.Dense(24, "relu")
        self.head = layers.Dense(units, activation)

    def build(self, shape):
        self.hidden.build(shape)
        self.head.build((None, 24))

    @recompute_grad
    def call(self, x):
        return self.head(self.hidden(x))


class Wrapped(keras.Model):
    """A model that calls another one on inputs that it has changed, as an augmentation does."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def call(self, x):
        return self.inside(x * 0.5)


def sequential(*some):
    return keras.Sequential([keras.Input((WIDTH,)), *some])


WAYS = {
    "decorated": lambda units, activation: sequential(Block(units, activation)),
    "applied": lambda units, activation: recompute_applied(Net(units, activation)),
    "nested": lambda units, activation: recompute_applied(
        Wrapped(sequential(layers.Dense(24, "relu"), layers.Dense(units, activation)))
    ),
    "layers": lambda units, activation: recompute_applied(
        sequential(layers.Dense(24, "relu"), layers.Dense(units, activation)), layers=layers.Dense
    ),
    "a layer of its own": lambda units, activation: recompute_applied(
        sequential(layers.Dense(24, "relu"), layers.Dense(units), layers.Activation(activation)),
        layers=layers.Activation,
    ),
}


def recompute_applied(model, **options):
    model(LARGE[:1])
    recompute.apply(model, **options)
    return model


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", HEADS)
def test_losses_see_the_logits_behind_a_head(head, way, eager):
    """Losses on TensorFlow go on with what a softmax or a sigmoid was made of."""
    units, activation, loss, y = HEADS[head]
    build = lambda: WAYS[way](units, activation)  # noqa: E731
    options = {"loss": loss, "optimizer": lambda: keras.optimizers.SGD(1e-3), "epochs": 1}
    runs = [fit(build, LARGE, y, on, run_eagerly=eager, **options) for on in (False, True)]
    runs[0].assert_same(runs[1], FEW_ULP if BACKEND == "jax" else 0.0)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_losses_see_the_logits_behind_an_operation(name):
    """In a graph they look at the operation itself, whoever made it."""
    units, _, loss, y = next(head for head in HEADS.values() if head[1] == name)

    class Own(layers.Dense):
        @recompute_grad
        def call(self, x):
            return raw(name)(super().call(x))

    build = lambda: sequential(layers.Dense(24, "relu"), Own(units))  # noqa: E731
    options = {"loss": loss, "optimizer": lambda: keras.optimizers.SGD(1e-3), "epochs": 1}
    runs = [fit(build, LARGE, y, on, **options) for on in (False, True)]
    runs[0].assert_same(runs[1], FEW_ULP if BACKEND == "jax" else 0.0)


@only_tensorflow
def test_a_loss_inside_of_a_call_sees_the_logits_of_what_it_is_given():
    """What hangs on an argument hangs on it inside of the call, and has its gradient."""
    import tensorflow as tf

    @recompute_grad
    def loss(y):
        return ops.mean(keras.losses.sparse_categorical_crossentropy(CLASS, y))

    def run(x):
        return loss(keras.activations.softmax(x * 0.1))

    x = LARGE[:, :CLASSES]
    for function in (run, tf.function(run)):
        found = []
        for on in (False, True):
            with recompute_scope(on):
                found.append(gradient(function, x))
        np.testing.assert_array_equal(*found)
        assert np.abs(found[0]).max() > 0


@pytest.mark.skipif(BACKEND == "jax", reason="an array of JAX has no attributes")
def test_attributes_of_tensors():
    """What a program hangs on a tensor that it returns, or is given, is there, with gradients."""

    @recompute_grad
    def function(x):
        y = ops.tanh(x.twice) * x
        y.inside = ops.exp(x)
        y.note = "a note"
        x.mark = ops.sin(y)
        return y

    def run(x):
        x = x * 1.0
        x.twice = x * 2.0
        y = function(x)
        assert y.note == "a note"
        return ops.sum(y + y.inside * 3.0 + x.mark)

    found = []
    for on in (False, True):
        with recompute_scope(on):
            found.append(gradient(run, LARGE / 255))
    np.testing.assert_array_equal(*found)


class TwoHeads(layers.Layer):
    """A decorated layer with a second result, which nobody need use."""

    def __init__(self):
        super().__init__()
        self.main, self.other = layers.Dense(WIDTH), layers.Dense(WIDTH)

    def build(self, shape):
        self.main.build(shape)
        self.other.build(shape)

    @recompute_grad
    def call(self, x):
        return self.main(x), ops.sqrt(self.other(x) * 0.0)  # whose gradient is not finite


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("eager", EAGER)
def test_results_that_nobody_uses(eager):
    """Weights that lead to nothing else have no gradient, and are left alone by any optimizer."""

    def build():
        inputs = keras.Input((WIDTH,))
        y, _ = TwoHeads()(layers.Dense(WIDTH)(inputs))
        return keras.Model(inputs, layers.Dense(1)(y))

    options = {"optimizer": lambda: keras.optimizers.AdamW(0.01), "run_eagerly": eager}
    runs = [fit(build, LARGE / 255, CLASS, on, **options) for on in (False, True)]
    runs[0].assert_same(runs[1], FEW_ULP if BACKEND == "jax" else 0.0)
    if BACKEND != "jax":  # which has zeros as gradients, and zeros times infinity
        assert all(np.isfinite(value).all() for value in runs[1].arrays.values())
