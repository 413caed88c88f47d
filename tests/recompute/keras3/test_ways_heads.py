"""Heads and what losses make of them: probabilities, unused outputs, shared weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.recompute.comparison import Run
from tests.recompute.keras3.training import (
    BACKEND,
    WAYS,
    array,
    assert_same_program,
    value_and_gradients,
    variables_of,
)

two_ways = pytest.mark.parametrize("way", ["decorated", "applied to layers"], indirect=True)


WIDTH = 6
CLASSES = 3
EAGER = [False, True] if BACKEND == "tensorflow" else [False]


def data():
    """Return inputs so large that probabilities are 0 and 1, and classes that are often wrong."""
    x = 60 * np.random.default_rng(0).normal(size=(8, WIDTH)).astype("float32")
    return x, np.arange(8) % CLASSES


def one_hot(y):
    return np.eye(CLASSES, dtype="float32")[y]


def binary(y):
    return (one_hot(y)[:, :CLASSES] > 0).astype("float32")


HEADS = {
    "softmax": ("softmax", "categorical_crossentropy", one_hot),
    "softmax, sparse": ("softmax", "sparse_categorical_crossentropy", lambda y: y),
    "softmax, smoothed": (
        "softmax",
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        one_hot,
    ),
    "softmax, focal": ("softmax", "categorical_focal_crossentropy", one_hot),
    "sigmoid": ("sigmoid", "binary_crossentropy", binary),
    "sigmoid, focal": ("sigmoid", "binary_focal_crossentropy", binary),
}


class Head(layers.Layer):
    """Ends in a function that is called, and in no layer's activation."""

    def __init__(self, activation):
        super().__init__()
        self.dense, self.activation = layers.Dense(CLASSES), keras.activations.get(activation)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.activation(self.dense(x))


class Net(keras.Model):
    """A model with a call of its own, which ends in its head."""

    def __init__(self, hidden, head):
        super().__init__()
        self.hidden, self.head = hidden, head

    def call(self, x):
        return self.head(self.hidden(x))


def trained(model, loss, y, eager, x=None):
    """Take three steps; return losses and variables."""
    model.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=eager)
    x = data()[0] if x is None else x
    losses = [float(model.train_on_batch(x, y)) for _ in range(3)]
    return Run(losses, variables_of(model, model.optimizer))


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("name", HEADS)
def test_losses_of_probabilities(name, eager):
    """A loss of probabilities has the gradient it has with the logits behind them."""
    activation, loss, targets = HEADS[name]

    def program(way):
        inputs = keras.Input((WIDTH,))
        x = way.layer(layers.Dense)(WIDTH, "relu")(inputs)
        model = way.model(inputs, way.layer(layers.Dense)(CLASSES, activation)(x))
        return trained(model, loss, targets(data()[1]), eager)

    assert_same_program(WAYS["decorated"], program)


def _activation_layer(way):
    inputs = keras.Input((WIDTH,))
    x = way.layer(layers.Dense)(CLASSES)(inputs)
    return way.model(inputs, way.layer(layers.Softmax)()(x))


def _function(way):
    inputs = keras.Input((WIDTH,))
    x = way.layer(layers.Dense)(WIDTH, "relu")(inputs)
    return way.model(inputs, way.layer(Head)("softmax")(x))


def _operation(way):
    inputs = keras.Input((WIDTH,))
    x = way.layer(layers.Dense)(WIDTH, "relu")(inputs)
    return way.model(inputs, ops.softmax(way.layer(layers.Dense)(CLASSES)(x)))


def _subclassed(way):
    hidden, head = way.layer(layers.Dense)(WIDTH, "relu"), layers.Dense(CLASSES, "softmax")
    model = way.layer(Net)(hidden, head)
    model(data()[0])
    return way.apply(model)


def _wrapped(way):
    return keras.Sequential([keras.Input((WIDTH,)), layers.Rescaling(0.5), _function(way)])


def _reshaped(way):
    """One prediction for each of two positions."""
    inputs = keras.Input((WIDTH,))
    x = layers.Reshape((2, WIDTH // 2))(inputs)
    x = way.layer(layers.Dense)(WIDTH, "relu")(x)
    x = way.layer(Head)("softmax")(x)
    return way.model(inputs, layers.Lambda(lambda x: x[:, 0], output_shape=(CLASSES,))(x))


PLACES = [_activation_layer, _function, _operation, _subclassed, _wrapped, _reshaped]


@two_ways
@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("build", PLACES, ids=lambda build: build.__name__[1:])
def test_places_of_the_softmax(build, eager, way):
    """It may be a layer, an activation, an operation, inside of a model, inside of a call."""

    def program(way):
        return trained(build(way), "sparse_categorical_crossentropy", data()[1], eager)

    assert_same_program(way, program)


@two_ways
def test_two_heads(way):
    """Each of two losses finds the logits of its own output, one of them by a name."""

    def program(way):
        inputs = keras.Input((WIDTH,))
        x = way.layer(layers.Dense)(WIDTH, "relu")(inputs)
        outputs = {
            "kind": way.layer(layers.Dense)(CLASSES, "softmax", name="kind")(x),
            "flags": way.layer(layers.Dense)(CLASSES, "sigmoid", name="flags")(x),
        }
        model = way.model(inputs, outputs)
        losses = {"kind": "categorical_crossentropy", "flags": "binary_crossentropy"}
        model.compile(keras.optimizers.SGD(1e-3), losses)
        x, y = data()
        found = model.fit(x, {"kind": one_hot(y), "flags": binary(y)}, epochs=3, verbose=0).history
        return Run(
            [*found["loss"], *found["kind_loss"], *found["flags_loss"]],
            variables_of(model, model.optimizer),
        )

    assert_same_program(way, program)


class TwoOutputs(layers.Layer):
    """Two outputs, each with weights of its own."""

    def __init__(self):
        super().__init__()
        self.heads = [layers.Dense(WIDTH, "gelu"), layers.Dense(WIDTH, "gelu")]

    def build(self, shape):
        for head in self.heads:
            head.build(shape)

    def call(self, x):
        return [head(x) for head in self.heads]


def _half_used(way):
    inputs = keras.Input((WIDTH,))
    used, unused = way.layer(TwoOutputs)()(layers.Dense(WIDTH)(inputs))
    return way.apply(keras.Model(inputs, [layers.Dense(1)(used), unused]))


@two_ways
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_outputs_that_nobody_uses(way):
    """Weights that only lead there have no gradient where the plain run gives none."""

    def program(way):
        model = _half_used(way)
        found = value_and_gradients(
            [model], model.trainable_variables, lambda x: ops.mean(model(x)[0] ** 2), data()[0]
        )[1]
        names = [v.path for v in model.trainable_variables]
        gradients = {f"gradient of {n}": array(g) for n, g in zip(names, found) if g is not None}
        model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1), ["mse", None])
        x, y = data()
        losses = model.fit(x, [one_hot(y)[:, :1], one_hot(y)], verbose=0).history["loss"]
        return Run(losses, {**gradients, **variables_of(model, model.optimizer)})

    assert_same_program(way, program)


class Tied(layers.Layer):
    """Projects back to the tokens by the table that embedded them."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return ops.softmax(ops.matmul(x, ops.transpose(self.embedding.embeddings)))


@pytest.mark.parametrize("eager", EAGER)
def test_tied_weights(eager):
    """A table is used in a decorated layer and outside of one, under a softmax."""

    def program(way):
        tokens = keras.Input((5,), dtype="int32")
        embedding = layers.Embedding(11, WIDTH)
        x = way.layer(layers.Dense)(WIDTH, "gelu")(embedding(tokens))
        model = keras.Model(tokens, way.layer(Tied)(embedding)(x))
        x = np.random.default_rng(0).integers(0, 11, (8, 5))
        return trained(model, "sparse_categorical_crossentropy", x[:, ::-1].copy(), eager, x)

    assert_same_program(WAYS["decorated"], program)
