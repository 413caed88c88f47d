"""What changes between or in a call and its gradient: the second run sees what the first saw."""

from __future__ import annotations

import numpy as np
import pytest

from perftricks.recompute import recompute_grad
from perftricks.recompute.keras2 import attachment
from tests.recompute.comparison import Run, recomputed
from tests.recompute.keras2.binding import GRAPH, TF, keras, layers, sgd, tf
from tests.recompute.keras2.programs import WIDTH, WithDense, around, data
from tests.recompute.keras2.training import FEW_ULP, OFF, ON, fit, fresh_model, values, way

taped = pytest.mark.skipif(GRAPH, reason="in a session, gradients come with the call")


class Inside(WithDense):
    """A layer that reads its weights in a function of TensorFlow."""

    @recompute_grad
    def call(self, x):
        return self.inner(x) * 2

    @tf.function
    def inner(self, x):
        return self.dense(x) * tf.sin(x)


def embedding():
    """Return a model whose embedding and dense layer are recomputed."""
    inputs = layers.Input((WIDTH,))
    x = recomputed(layers.Embedding)(9, WIDTH)(inputs)
    x = layers.GlobalAveragePooling1D()(recomputed(layers.Dense)(WIDTH, activation="tanh")(x))
    return keras.models.Model(inputs, layers.Dense(WIDTH)(x))


def noisy():
    """Return a recomputed layer with moving averages and a mask, within another."""

    class Noisy(WithDense):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.norm = recomputed(layers.BatchNormalization)()
            self.dropout = layers.Dropout(0.3, seed=3)

        def build(self, shape):
            self.norm.build(shape)
            super().build(shape)

        @recompute_grad
        def call(self, x, training=None):
            y = self.norm(self.dense(x), training=training)
            return self.dropout(y, training=training) * tf.concat([self.dense.bias], 0)

    return Noisy()


BUILDERS = {"embedding": embedding, "normalized": around(noisy)}


def train(build, how, in_function, x):
    """Return what three steps give in which all weights change before gradients are taken."""
    y = tf.constant(data()[1])
    with way(how):
        model = fresh_model(build)
        optimizer = sgd(0.1)

        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
            for v in model.trainable_variables:
                v.assign(v * 1.5)
            gradients = tape.gradient(loss, model.trainable_variables)
            for v in model.trainable_variables:
                v.assign(v / 1.5)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return loss

        step = tf.function(step) if in_function else step
        return Run([float(step()) for _ in range(3)], values(model.weights))


@taped
@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("kind", sorted(BUILDERS))
def test_weights_that_change(kind, in_function):
    """The gradient is that at the weights that the call has read."""
    x = np.arange(8 * WIDTH).reshape(8, WIDTH) % 9 if kind == "embedding" else data()[0]
    plain, again = (train(BUILDERS[kind], how, in_function, tf.constant(x)) for how in (OFF, ON))
    plain.assert_same(again, FEW_ULP)


@taped
def test_weights_that_change_for_a_function_inside():
    """In a graph its gradient is the plain one; eagerly it cannot be had, and that is said."""
    x = tf.constant(data()[0])
    plain, again = (train(around(Inside), how, True, x) for how in (OFF, ON))
    plain.assert_same(again, FEW_ULP)
    with pytest.raises(RuntimeError, match="assigned to before the gradient was taken"):
        train(around(Inside), ON, False, x)


@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_layers_that_keep_their_state(layer):
    """A stateful recurrent layer assigns what its function has read, in the call itself."""

    def build():
        inputs = layers.Input(batch_shape=(4, 3, WIDTH))
        x = recomputed(getattr(layers, layer))(WIDTH, stateful=True)(inputs)
        return keras.models.Model(inputs, layers.Dense(WIDTH)(x))

    x, y = data(8, 3, WIDTH)
    plain, again = (fit(build, x, y[:, 0], how) for how in (OFF, ON))
    plain.assert_same(again, FEW_ULP)


@taped
def test_functions_inside_are_recomputed(monkeypatch):
    """Nothing but an assignment before the gradient keeps them from that."""
    found = []
    late = attachment._reads_late
    monkeypatch.setattr(
        attachment, "_reads_late", lambda *args: found.append(late(*args)) or found[-1]
    )

    def build():
        inputs = layers.Input((WIDTH,))
        shared = Inside()
        return keras.models.Model(inputs, shared(Inside()(shared(inputs))))

    fit(build, *data(), ON)
    assert found
    assert not any(found), TF


def move_on(kind, how, in_function):
    """Return the gradient of a call that samples or moves something on, and what that is then."""
    tf.random.set_seed(3)
    weights, label = tf.Variable(data(20, 4)[0]), tf.constant([[1]], tf.int64)
    row = tf.Variable(tf.zeros(4), trainable=False)
    table = tf.lookup.experimental.DenseHashTable(tf.int64, tf.float32, 0.0, -1, -2)
    key, x = tf.constant(1, tf.int64), tf.constant([[0.1, 0.2, 0.3, 0.4]])
    numbers = iter(tf.data.Dataset.from_tensor_slices([0.5, 2.0, 3.0, 4.0]))

    class Moving(layers.Layer):
        @recompute_grad
        def call(self, x):
            if kind == "sampled":
                return tf.nn.sampled_softmax_loss(weights, weights[:, 0], label, tf.sin(x), 3, 20)
            if kind == "slice":
                row[:1].assign(row[:1] + 1.0)
            elif kind == "scatter":
                row.scatter_add(tf.IndexedSlices(tf.constant([2.0]), tf.constant([1])))
            elif kind == "table":
                table.insert(key, table.lookup(key) + 1.0)
            else:
                x *= next(numbers)
            return tf.sin(x) * tf.sin(x + row)

    block = Moving()

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = block(x)
        return tape.gradient(y, x)

    with way(how):
        gradient = (tf.function(run) if in_function else run)()
    return [t.numpy() for t in (gradient, row, table.lookup(key), next(numbers))]


@taped
@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("kind", ["sampled", "slice", "scatter", "table", "iterator"])
def test_what_a_call_moves_on(kind, in_function):
    """Classes that are sampled, parts of a variable, a table, an iterator: once, as plainly."""
    plain, again = (move_on(kind, how, in_function) for how in (OFF, ON))
    for x, y in zip(plain, again):
        np.testing.assert_array_equal(x, y)
