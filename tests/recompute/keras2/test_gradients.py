"""Weights that a call uses within a gradient of somebody else, or within a function."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute import recompute_grad
from perftricks.recompute.tensorflow_graphs import private as graphs
from tests.recompute.keras2.binding import GRAPH, TF, keras, layers, tf
from tests.recompute.keras2.programs import WIDTH, WithDense, around, data
from tests.recompute.keras2.training import (
    OFF,
    ON,
    Steps,
    assert_exact,
    fresh_model,
    steps,
    way,
)


class Quantized(WithDense):
    """Rounds its kernel, and lets the gradient through as if it did not."""

    @recompute_grad
    def call(self, x):
        @tf.custom_gradient
        def rounded(kernel):
            return tf.round(kernel * 4.0) / 4.0, lambda dy: dy * 0.5

        kernel = tf.identity(self.dense.kernel)
        return tf.tanh(tf.matmul(x, rounded(kernel)) + self.dense.bias)


class OwnGradient(WithDense):
    """Uses weights within a function that says what their gradients are."""

    @recompute_grad
    def call(self, x):
        kernel = self.dense.kernel

        @tf.custom_gradient
        def product(x):
            def gradient(dy, variables=None):
                dx = tf.matmul(dy, kernel, transpose_b=True)
                return dx, [2.0 * tf.matmul(x, dy, transpose_a=True) for _ in variables]

            return tf.matmul(x, kernel), gradient

        return tf.tanh(product(tf.sin(x)) + self.dense.bias)


class OwnRecompute(WithDense):
    """Recomputes a part of itself with TensorFlow's own tool."""

    def build(self, shape):
        super().build(shape)
        self.inner = tf.recompute_grad(lambda z: tf.sin(self.dense(z)))

    @recompute_grad
    def call(self, x):
        return tf.exp(self.inner(tf.tanh(x)))


class Traced(WithDense):
    """Runs a part of itself in a tf.function, which may have been traced before."""

    def build(self, shape):
        super().build(shape)
        self.inner = tf.function(lambda z: tf.sin(self.dense(z)))

    @recompute_grad
    def call(self, x):
        return tf.exp(self.inner(tf.tanh(x)))


def needs_resources(layer):
    """Skip where the plain run refuses what a layer does."""
    if GRAPH and TF < (2, 2) and layer is not Quantized:
        pytest.skip(
            "the plain run cannot: variables of this Keras are no resources, or in no scope"
        )
    if GRAPH and layer is OwnRecompute:
        pytest.skip("the plain run hangs: Keras runs a session while TensorFlow holds the graph")
    if GRAPH and layer is Traced:
        pytest.skip("the plain run raises: the session knows the function from before its gradient")
    if layer is OwnRecompute and TF < (2, 15):
        pytest.skip("recompute_grad of older versions takes variables of its own scopes only")


@pytest.mark.parametrize(
    "layer", [Quantized, OwnGradient, OwnRecompute, Traced], ids=lambda kind: kind.__name__
)
def test_weights_within_gradients_of_others(layer):
    """All gradients are there and right, and nothing is warned of."""
    needs_resources(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A tf.function inside adds up the parts of a gradient in another order.
        assert_exact(around(layer), *data(), tolerance=4e-6)
        names = steps(around(layer), *data(), ON).arrays
    assert sum(name.startswith("gradient of") for name in names) >= 6


class Ragged(WithDense):
    """A layer whose decorated part returns a ragged tensor."""

    @recompute_grad
    def inner(self, x):
        y = tf.reshape(self.dense(x), (-1,))
        lengths = tf.fill([tf.shape(x)[0]], WIDTH)
        return tf.RaggedTensor.from_row_lengths(y, lengths)

    def call(self, x):
        return tf.reshape(self.inner(x).flat_values, tf.shape(x))


def test_a_ragged_tensor_is_returned():
    """What it is made of has its gradient."""
    assert_exact(around(Ragged), *data(), tolerance=4e-6)


def test_an_empty_batch():
    """In a graph, a normalization of nothing does not end the process."""
    norm = layers.LayerNormalization() if hasattr(layers, "LayerNormalization") else None
    if norm is None or TF < (2, 15):
        pytest.skip("there is no LayerNormalization, or it ends the process without us, too")
    block = recompute_grad(lambda x: norm(tf.tanh(x)))
    norm.build((0, WIDTH))

    def gradient(x):
        return tf.gradients(tf.reduce_sum(block(x)), x)[0]

    with way(ON):
        if GRAPH:
            with tf.compat.v1.Session() as session:
                x = tf.zeros((0, WIDTH))
                dx = gradient(x)
                session.run(tf.compat.v1.global_variables_initializer())
                found = session.run(dx)
        else:
            found = tf.function(gradient)(tf.zeros((0, WIDTH)))
    assert found.shape == (0, WIDTH)


class Counted(layers.Layer):
    """Counts how often it runs."""

    runs = 0

    def call(self, x):
        def count(x):
            Counted.runs += 1
            return x

        y = tf.compat.v1.py_func(count, [x], x.dtype)
        y.set_shape(x.shape)
        return x + tf.stop_gradient(y - x)


def blocks_model():
    """Return a model of two blocks that a decorated function has built, one taking two tensors."""

    @recompute_grad
    def block(x, gate=None):
        y = layers.Dense(WIDTH, activation="tanh")(Counted()(x))
        y = layers.Dropout(0.3, seed=3)(y)
        return layers.add([x, y if gate is None else layers.multiply([y, gate])])

    inputs = layers.Input((WIDTH,))
    x = layers.Dense(WIDTH)(inputs)
    x = block(block(x), gate=layers.Activation("sigmoid")(x))
    return keras.models.Model(inputs, layers.Dense(3)(x))


def test_functions_of_symbols():
    """Blocks that decorated functions have built are recomputed, each as a whole, exactly."""
    x, _ = data()
    # What is used in a block and after it has a gradient that is added up in another order.
    assert_exact(blocks_model, x, np.ones((len(x), 3), "float32"), tolerance=4e-6)


def test_functions_of_symbols_run_twice():
    """Their layers run once more in the backward pass; without the switch they do not."""
    x, _ = data()
    counts = {}
    for how in (OFF, ON):
        with way(how):
            step = Steps(blocks_model, x, np.ones((len(x), 3), "float32"))
            if GRAPH:  # the operations of both passes are there
                operations = tf.convert_to_tensor(step.model.outputs[0]).graph.get_operations()
                counts[how] = sum(op.type == "Tanh" for op in operations)
                continue
            Counted.runs = 0
            step()
            counts[how] = Counted.runs
    assert counts == {OFF: 2, ON: 4}


@pytest.mark.skipif(GRAPH or TF < (2, 1), reason="there are no callbacks of what runs eagerly")
def test_functions_are_seen_after_callbacks():
    """What TensorFlow undoes after callbacks of operations does not hide functions from us."""
    steps(around(Traced), *data(), ON)  # now what watches operations is there
    with graphs.operations_reported(lambda *operation: None):
        tf.zeros(1) + 1.0
    assert_exact(around(Traced), *data(), tolerance=4e-6)


@pytest.mark.skipif(GRAPH, reason="a graph with sessions has no layers to run, and no marks")
def test_functions_of_symbols_are_shown():
    """``status`` names the functions and their layers; a loaded model is plain."""
    model = fresh_model(blocks_model)
    with way(ON):
        shown = str(recompute.status(model))
    assert shown.count("block (") == 2


@pytest.mark.skipif(GRAPH, reason="a graph keeps its operations, and they their layers")
def test_models_of_blocks_can_go():
    """What is known of a model with blocks does not keep it."""
    with way(ON):
        model = fresh_model(blocks_model)
        model(data()[0])
        reference = weakref.ref(model)
        del model
        keras.backend.clear_session()
        gc.collect()
    assert reference() is None
