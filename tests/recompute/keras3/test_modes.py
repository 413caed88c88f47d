"""The ways of training: eager, compiled, mixed precision, distributed, threads, custom loops.

Each is bound to the ways of asking for recomputation: layers that are decorated, and ``apply``.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.keras3.training import (
    BACKEND,
    GROWN,
    array,
    assert_exact,
    fit,
    fresh_model,
    gradient,
    only_tensorflow,
    step,
    steps,
    steps_in_threads,
)

WIDTH = 6
not_torch = pytest.mark.skipif(BACKEND == "torch", reason="Keras has it on TensorFlow and JAX only")


class Block(layers.Layer):
    """A transformer block: attention, normalizations, dropout, a loss of its own."""

    def __init__(self, regularizer="l2"):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 3, dropout=0.2, seed=1)
        self.norm = layers.LayerNormalization()
        self.dense = layers.Dense(WIDTH, activation="gelu", activity_regularizer=regularizer)
        self.dropout = layers.Dropout(0.3, seed=2)
        self.batch_norm = layers.BatchNormalization()

    def build(self, shape):
        self.attention.build(shape, shape)
        for layer in (self.norm, self.dense, self.batch_norm):
            layer.build(shape)

    def call(self, x):
        x = self.norm(x + self.dropout(self.attention(x, x)))
        return self.batch_norm(x + self.dense(x))


class Wave(layers.Layer):
    """A function that has derivatives of every order."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(WIDTH, activation="tanh")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return ops.sin(self.dense(x)) * x


@pytest.fixture
def build(way):
    """Return a function that builds two transformer blocks and what is around them."""

    def build(**options):
        inputs = keras.Input((4, WIDTH))
        x = layers.Dense(WIDTH)(inputs)
        for _ in range(2):
            x = way.layer(Block)(**options)(x)
        return way.model(inputs, layers.Dense(WIDTH, dtype="float32")(x))

    return build


def data():
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 4, WIDTH)).astype("float32")
    return x, np.tanh(x)


def compare_fits(build, tolerance=0.0, **options):
    off, on = (fit(build, *data(), on, **options) for on in (False, True))
    off.assert_same(on, tolerance)


def test_fit_and_steps(build):
    """Transformer blocks, by fit and in a custom loop."""
    assert_exact(build, *data())


def test_eager_fit(build):
    """``run_eagerly=True``."""
    if BACKEND == "jax":
        # Keras tells losses apart by id() of arrays that are gone, and so loses one now and then.
        compare_fits(functools.partial(build, regularizer=None), GROWN, run_eagerly=True)
    else:
        compare_fits(build, run_eagerly=True)


@not_torch
def test_compiled_fit(build):
    """``jit_compile=True``, as JAX has it in all the other tests."""
    compare_fits(build, 0.0 if BACKEND == "jax" else GROWN, jit_compile=True)


@not_torch
def test_several_steps_per_execution(build):
    """``steps_per_execution=2``: the step is traced inside a loop."""
    compare_fits(build, steps_per_execution=2)


@only_tensorflow
def test_fit_with_the_graph_optimizer(build):
    """With Grappler on, as it is by default, the runs differ by rounding at most."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    try:
        compare_fits(build, GROWN)
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@only_tensorflow
def test_reads_come_before_assignments():
    """Whatever Grappler does, no variable is assigned to before the backward pass has read it."""
    import tensorflow as tf

    from tests.recompute import reads

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    try:
        assert reads.late(keras, jit_compile=False) == []
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def test_gradient_accumulation(build):
    """``gradient_accumulation_steps=2``."""
    compare_fits(
        build,
        optimizer=lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy, build):
    """The replay computes in the same precision; float16 scales the loss."""
    keras.config.set_dtype_policy(policy)
    steps(build, *data(), False).assert_same(steps(build, *data(), True))
    compare_fits(build)


def test_random_streams_do_not_drift(build):
    """Evaluating and predicting between epochs leaves the next epoch as it is without recompute."""

    def run(on):
        model = fresh_model(build)
        x, y = data()
        model.compile(keras.optimizers.SGD(0.1), "mse")
        losses = []
        with recompute_scope(on):
            for _ in range(2):
                losses += model.fit(x, y, batch_size=4, shuffle=False, verbose=0).history["loss"]
                losses.append(model.evaluate(x, y, verbose=0))
                losses.append(model.predict(x, verbose=0).sum())
        return losses

    np.testing.assert_allclose(run(False), run(True), rtol=GROWN)


def test_the_environment_variable_switches_it_on(monkeypatch):
    """RECOMPUTE=1 is read when the layer runs: the same layer, off and then on."""
    runs = []

    @recompute_grad
    def function(x):
        runs.append(1)
        return ops.tanh(ops.sin(x) * x)

    counts = []
    for word in ("0", "1"):
        monkeypatch.setenv("RECOMPUTE", word)
        runs.clear()
        gradient(lambda x: ops.sum(function(x)), np.ones(3, "float32"))
        counts.append(len(runs))
    # JAX traces once; what it runs twice is counted in test_executions.
    assert counts == [1, 1 if BACKEND == "jax" else 2]


def test_backward_outside_of_the_scope():
    """What was on in the forward pass is recomputed wherever the backward pass runs."""
    inner = recompute_grad(lambda x: ops.sin(x) * x)
    outer = recompute_grad(lambda x: ops.tanh(inner(x)) * x)
    x = np.linspace(0, 1, 5).astype("float32")

    def function(x):
        with recompute_scope(True):
            return ops.sum(outer(x))

    plain = gradient(lambda x: ops.sum(outer(x)), x)
    np.testing.assert_allclose(gradient(function, x), plain, rtol=1e-6)


def second_derivative(function, x):
    """Return the derivative of the sum of the squared gradient of a function of one array."""
    x = ops.convert_to_tensor(x)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def run(x):
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = function(x)
                dx = inner.gradient(y, x)
                total = tf.reduce_sum(dx**2)
            return outer.gradient(total, x)

        runs = [run, tf.function(run), tf.function(run, jit_compile=True)]
        return np.stack([array(r(x)) for r in runs])
    if BACKEND == "jax":
        import jax

        run = jax.grad(lambda x: ops.sum(jax.grad(function)(x) ** 2))
        return np.stack([array(run(x)), array(jax.jit(run)(x))])
    import torch

    x.requires_grad_()
    (dx,) = torch.autograd.grad(function(x), x, create_graph=True)
    return array(torch.autograd.grad((dx**2).sum(), x)[0])


def test_second_derivatives(way):
    """Gradients of gradients are right, eagerly, in a graph and compiled."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((WIDTH,))
    model = way.model(inputs, way.layer(Wave)()(way.layer(Wave)()(inputs)))
    x = np.random.default_rng(0).normal(size=(3, WIDTH)).astype("float32")
    results = []
    for on in (False, True):
        with recompute_scope(on):
            results.append(second_derivative(lambda x: ops.sum(model(x) ** 2), x))
    np.testing.assert_allclose(*results, rtol=2e-5, atol=1e-5)
    assert np.abs(results[0]).max() > 0.1


@only_tensorflow
def test_custom_loop_in_a_function(build):
    """A tf.function with a tape, with tf.gradients, and differentiated from outside."""
    import tensorflow as tf

    def run(how, on):
        model = fresh_model(build)
        x, y = (tf.constant(a) for a in data())
        weights = [v.value for v in model.trainable_variables]

        def loss():
            return tf.reduce_mean((model(x, training=True) - y) ** 2) + sum(model.losses)

        def tape():
            with tf.GradientTape() as tape:
                value = loss()
            return tape.gradient(value, weights)

        with recompute_scope(on):
            if how == "tape":
                return tf.function(tape)()
            if how == "compiled":
                return tf.function(tape, jit_compile=True)()
            if how == "tf.gradients":
                return tf.function(lambda: tf.gradients(loss(), weights))()
            function = tf.function(loss)
            with tf.GradientTape() as outer:
                value = function()
            return outer.gradient(value, weights)

    for how in ("tape", "compiled", "tf.gradients", "outside"):
        for a, b in zip(run(how, False), run(how, True)):
            size = max(np.abs(a).max(), 1e-2)
            np.testing.assert_allclose(a, b, rtol=0, atol=GROWN * size, err_msg=how)


@only_tensorflow
def test_autograph():
    """A decorated function that needs AutoGraph is converted as the plain one is."""
    import tensorflow as tf

    @recompute_grad
    def function(x):
        total = x
        for _ in tf.range(3):
            total = tf.sin(total) * x
        return total if tf.reduce_sum(x) > 0 else -total

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x)

    results = []
    for on in (False, True):
        with recompute_scope(on):
            x = tf.constant([0.3, 0.7])
            results.append([t.numpy() for t in tf.function(run)(x)])
    np.testing.assert_array_equal(results[0], results[1])


@only_tensorflow
@pytest.mark.parametrize("synchronized", [False, True])
def test_mirrored_strategy(way, strategy, synchronized):
    """Two replicas on two virtual devices; what is synchronized is built in turns."""

    def distributed():
        dense, norm, batch_norm, dropout, lstm = (
            way.layer(kind)
            for kind in (
                layers.Dense,
                layers.LayerNormalization,
                layers.BatchNormalization,
                layers.Dropout,
                layers.LSTM,
            )
        )
        inputs = keras.Input((4, WIDTH))
        x = norm()(dense(WIDTH, "gelu")(inputs))
        x = dropout(0.5, seed=3)(batch_norm(synchronized=synchronized)(x))
        return way.model(inputs, lstm(WIDTH, return_sequences=True)(x))

    results = []
    for on in (False, True):
        with strategy.scope():
            keras.utils.set_random_seed(7)
            model = distributed()
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        with recompute_scope(on):
            history = model.fit(*data(), batch_size=4, epochs=2, shuffle=False, verbose=0).history
        results.append([history["loss"], *model.get_weights()])
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution is JAX's")
def test_keras_distribution(build):
    """Data parallel training on two virtual devices."""
    import jax

    assert len(jax.devices()) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    try:
        compare_fits(build)
    finally:
        keras.distribution.set_distribution(None)


def test_threads(build):
    """Several threads train models of their own at once, some with recomputation, some without."""
    models = [fresh_model(build) for _ in range(4)]
    expected = step(fresh_model(build), *data(), False)
    for run in steps_in_threads(models, *data()):
        for a, b in zip(expected.arrays.values(), run.arrays.values()):
            np.testing.assert_array_equal(a, b)
