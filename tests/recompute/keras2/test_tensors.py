"""What hangs on the tensors that a recomputed call gives, and what nobody uses of them."""

from __future__ import annotations

import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute import recompute_grad
from tests.recompute.comparison import recomputed
from tests.recompute.keras2.binding import GRAPH, TF, keras, layers, sgd, tf
from tests.recompute.keras2.programs import WIDTH, around, data
from tests.recompute.keras2.training import (
    OFF,
    ON,
    REORDERED,
    assert_exact,
    fit,
    fresh_model,
    values,
    way,
)

CLASSES = 5
EAGERLY = [False] if GRAPH else [False, True]


def pixels():
    """Return large inputs, for which a softmax is all ones and zeros, and classes."""
    generator = np.random.RandomState(0)
    x = generator.uniform(0, 2550, (8, WIDTH)).astype("float32")
    return x, generator.randint(0, CLASSES, 8)


def targets(loss, y):
    """Return classes in the form that a loss takes."""
    if loss == "sparse_categorical_crossentropy":
        return y.astype("float32")
    return np.eye(CLASSES, dtype="float32")[y]


HEADS = {
    "sparse_categorical_crossentropy": "softmax",
    "categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
}


class Block(layers.Layer):
    """A decorated layer with the head of a model inside."""

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(WIDTH, activation="relu")
        self.head = layers.Dense(CLASSES, activation=activation)

    def build(self, shape):
        self.hidden.build(shape)
        self.head.build((None, WIDTH))
        super().build(shape)

    @recompute_grad
    def call(self, x):
        return self.head(self.hidden(x))

    def compute_output_shape(self, shape):
        return shape[0], CLASSES


def stock(activation):
    """Return a model that ends in a decorated Dense."""
    inputs = layers.Input((WIDTH,))
    x = recomputed(layers.Dense)(WIDTH, activation="relu")(inputs)
    return keras.models.Model(inputs, recomputed(layers.Dense)(CLASSES, activation=activation)(x))


def block(activation):
    """Return a model that ends in a block with the head inside."""
    inputs = layers.Input((WIDTH,))
    return keras.models.Model(inputs, Block(activation)(inputs))


def layer(activation):
    """Return a model that ends in a decorated layer which is nothing but the activation."""
    inputs = layers.Input((WIDTH,))
    x = recomputed(layers.Dense)(CLASSES)(inputs)
    return keras.models.Model(inputs, recomputed(layers.Activation)(activation)(x))


def wrapped(activation):
    """Return a model with another preprocessing around a model that ends in a block."""
    inner = block(activation)
    inputs = layers.Input((WIDTH,))
    return keras.models.Model(inputs, inner(layers.Lambda(lambda x: x * 0.5)(inputs)))


def segmented(activation):
    """Return a model whose nested model ends in a segment of apply."""
    inputs = layers.Input((WIDTH,))
    x = layers.Dense(WIDTH, activation="relu")(inputs)
    x = layers.Dense(WIDTH, activation="relu")(x)
    inner = keras.models.Model(inputs, layers.Dense(CLASSES, activation=activation, name="head")(x))
    outside = layers.Input((WIDTH,))
    model = keras.models.Model(outside, inner(layers.Lambda(lambda x: x * 0.5)(outside)))
    if GRAPH:
        recompute.apply(inner, every=1)
    else:
        recompute.apply(model, layers=["head"])
    return model


@pytest.mark.parametrize("eagerly", EAGERLY)
@pytest.mark.parametrize("loss", HEADS)
@pytest.mark.parametrize(
    "make", [stock, block, layer, wrapped, segmented], ids=lambda f: f.__name__
)
def test_losses_find_the_logits(make, loss, eagerly):
    """A loss near saturation is the same as without recomputation, and so is what is learnt."""
    x, y = pixels()
    options = {"run_eagerly": True} if eagerly else {}
    runs = [
        fit(
            lambda: make(HEADS[loss]),
            x,
            targets(loss, y),
            how,
            loss=loss,
            optimizer=lambda: sgd(1e-5, momentum=0.9),
            **options,
        )
        for how in (OFF, ON)
    ]
    if TF >= (2, 2) or not eagerly:  # before, a loss found nothing eagerly
        assert runs[0].losses[0] > 16.2  # more than any loss of probabilities, which are cut off
    runs[0].assert_same(runs[1], REORDERED)


@pytest.mark.skipif(GRAPH, reason="this Keras knows no models with a call of their own in graphs")
@pytest.mark.parametrize("eagerly", EAGERLY)
def test_the_head_of_a_model_with_a_call_of_its_own(eagerly):
    """After apply, the last layer of a subclassed model learns what it learnt before."""

    class Net(keras.models.Model):
        def __init__(self):
            super().__init__()
            self.hidden = layers.Dense(WIDTH, activation="relu")
            self.head = layers.Dense(CLASSES, activation="softmax")

        def call(self, x):
            return self.head(self.hidden(x))

    def build():
        model = Net()
        model.build((None, WIDTH))
        recompute.apply(model)
        return model

    x, y = pixels()
    runs = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(build)
            model.compile(sgd(1e-5), "sparse_categorical_crossentropy", run_eagerly=eagerly)
            losses = [model.train_on_batch(x, y) for _ in range(3)]
            runs.append([np.array(losses), *values(model.weights).values()])
    for a, b in zip(*runs):
        np.testing.assert_allclose(a, b, REORDERED, REORDERED)


@pytest.mark.skipif(not GRAPH, reason="about operations of a graph")
@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid"])
def test_the_last_operation_stays_what_it_is(activation):
    """The output of a recomputed head is made by the operation that losses look for."""
    with way(ON):
        operation = fresh_model(lambda: block(activation.lower())).outputs[0].op
    assert operation.type == activation
    assert operation.inputs[0].op.type == "IdentityN"


class Hanging(layers.Layer):
    """A layer whose decorated part hangs something on what it returns, and on what it is given."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(WIDTH, activation="tanh")
        self.other = layers.Dense(WIDTH, activation="tanh")

    def build(self, shape):
        self.dense.build(shape)
        self.other.build(shape)
        super().build(shape)

    @recompute_grad
    def inner(self, x):
        y = self.dense(x)
        y.scores = {"all": [self.other(x), self.other(y)]}
        y._of_mine = "a word"
        x.seen_as = tf.sin(self.other(x))
        return y

    def call(self, x):
        x = tf.identity(x)
        y = self.inner(x)
        assert y._of_mine == "a word"
        first, second = y.scores["all"]
        return y + first * second + x.seen_as


def test_what_a_program_hangs_on_tensors():
    """Tensors in attributes of tensors are there after the call, with their gradients."""
    assert_exact(around(Hanging), *data(), tolerance=4e-6)


def test_an_argument_that_is_given_and_returned_twice():
    """The same tensor for two arguments, both returned, beside what is made of them."""

    class Outer(Hanging):
        @recompute_grad
        def inner(self, a, b):
            return a, b, self.dense(a) * self.other(b)

        def call(self, x):
            a, b, y = self.inner(x, x)
            return a + y * b

    assert_exact(around(Outer), *data(), tolerance=4e-6)


class Spare(Hanging):
    """A layer with a result that nobody uses; its gradient would be infinite."""

    @recompute_grad
    def inner(self, x):
        return self.dense(x), tf.sqrt(tf.nn.relu(-tf.square(self.other(x)))), x * 2.0

    def call(self, x):
        y, _, z = self.inner(x)
        return y * z


class SpareInLoop(Spare):
    """The same in the body of a loop."""

    def call(self, x):
        def turn(i, z):
            y, _, w = self.inner(z)
            return i + 1, y * w

        return tf.while_loop(lambda i, z: i < 2, turn, (tf.constant(0), x))[1]


def spare_gradients(layer, how, kind):
    """Return the gradients of the weights of a layer with a result that nobody uses, or None."""
    x = np.abs(data()[0])
    with way(how):
        if kind == "graph":
            model = fresh_model(around(layer))
            weights = model.trainable_weights
            backend = keras.backend
            with model.outputs[0].graph.as_default():
                loss = tf.reduce_sum(model.outputs[0])
                found = backend.gradients(loss, weights)
                there = [dy for dy in found if dy is not None]
                function = backend.function(model.inputs, there)
            numbers = iter(function([x]))
            return [None if dy is None else next(numbers) for dy in found]
        model = fresh_model(around(layer))
        weights = model.trainable_weights

        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True))
            return tape.gradient(loss, weights)

        found = (tf.function(step) if kind == "function" else step)(tf.constant(x))
        return [None if dy is None else tf.convert_to_tensor(dy).numpy() for dy in found]


@pytest.mark.parametrize("kind", ["graph"] if GRAPH else ["function", "eager"])
@pytest.mark.parametrize("layer", [Spare, SpareInLoop], ids=lambda kind: kind.__name__)
def test_a_result_that_nobody_uses_has_no_gradient(layer, kind):
    """Weights that lead nowhere else have no gradient; nothing becomes not a number."""
    plain, again = (spare_gradients(layer, how, kind) for how in (OFF, ON))
    assert [dy is None for dy in plain] == [dy is None for dy in again]
    if layer is Spare:
        assert sum(dy is None for dy in plain) == 2
    for a, b in zip(plain, again):
        if a is not None:
            assert np.isfinite(a).all()
            np.testing.assert_allclose(b, a, 4e-6, 4e-6)
