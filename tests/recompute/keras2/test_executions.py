"""That recomputation happens: executions are counted, and what is kept for backward is weighed."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from perftricks.recompute import recompute_grad
from perftricks.recompute.measure.counters import allocated_peak
from tests.recompute.comparison import recomputed
from tests.recompute.keras2.binding import (
    GRAPH,
    STANDALONE,
    TF_EAGER,
    K,
    keras,
    layers,
    session_backend,
    sgd,
    tf,
)
from tests.recompute.keras2.training import OFF, ON, fresh_model, way

WIDTH = 8


class Executions:
    """Counts how often an operation really runs, in graphs too."""

    def __init__(self):
        self.count = 0

    def on(self, x):
        """Return ``x``; each time it is computed, count."""

        def bump(a):
            self.count += 1
            return np.zeros_like(a)

        # The zeros are part of the data, so that they are computed whenever ``x`` is. What is
        # called stateful would be kept, as random numbers are.
        zeros = tf.stop_gradient(tf.compat.v1.py_func(bump, [x], x.dtype, stateful=False))
        # An operation, because TensorFlow 2.0 forgets what set_shape has said in a branch.
        return x + tf.ensure_shape(zeros, x.shape)


class Counted(layers.Layer):
    """A decorated layer that counts."""

    def __init__(self, executions, **kwargs):
        super().__init__(**kwargs)
        self.executions = executions
        self.dense = layers.Dense(WIDTH, activation="tanh")

    def build(self, shape):
        self.dense.build(shape)
        super().build(shape)

    @recompute_grad
    def call(self, x):
        return tf.sin(self.dense(self.executions.on(x)))


class Outer(layers.Layer):
    """A decorated layer around a decorated layer."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)
        super().build(shape)

    @recompute_grad
    def call(self, x):
        return tf.sin(self.inner(x))


def count(how, make, **options):
    """Return how often the layer ran in three steps of training, and in evaluating as often."""
    executions = Executions()

    def build():
        inputs = layers.Input((WIDTH,))
        x = make(executions)(layers.Dense(WIDTH)(inputs))
        return keras.models.Model(inputs, layers.Dense(WIDTH)(x))

    with way(how):
        # Grappler as it is for everybody: it must not merge what runs twice.
        model = fresh_model(build, grappler=True)
        model.compile(sgd(0.1), "mse", **options)
        x = np.ones((2, WIDTH), "float32")
        executions.count = 0
        for _ in range(3):
            model.train_on_batch(x, x)
        trained, executions.count = executions.count, 0
        for _ in range(3):
            model.test_on_batch(x, x)
        return trained, executions.count


def test_each_layer_runs_twice_in_a_training_step():
    """Off once and on twice per step; once where nothing is differentiated."""
    assert count(OFF, Counted) == (3, 3)
    assert count(ON, Counted) == (6, 3)


@pytest.mark.skipif(GRAPH, reason="graphs do not run eagerly")
def test_each_layer_runs_twice_eagerly():
    """The same with ``run_eagerly=True``."""
    assert count(OFF, Counted, run_eagerly=True) == (3, 3)
    assert count(ON, Counted, run_eagerly=True) == (6, 3)


def test_a_nested_layer_runs_again():
    """Inside a decorated layer a decorated layer runs twice or three times, not more."""
    trained, evaluated = count(ON, lambda executions: Outer(Counted(executions)))
    assert trained in (6, 9)
    assert evaluated == 3


class Branching(Counted):
    """A decorated layer that counts in a branch, which drops something besides."""

    @recompute_grad
    def call(self, x):
        y = self.dense(x)
        counted = lambda: tf.nn.dropout(self.executions.on(tf.sin(y)), rate=0.1)  # noqa: E731
        return tf.cond(tf.reduce_sum(x) < 1e9, counted, lambda: y)


@pytest.mark.skipif(not GRAPH, reason="a tape has seen the branch, and keeps it whole")
def test_a_branch_that_draws_runs_again():
    """What drops something in a branch is computed twice, like everything else."""
    assert count(OFF, Branching) == (3, 3)
    assert count(ON, Branching) == (6, 3)


ROWS, WIDE, DEPTH = 256, 512, 12
WATCHED = []  # weak references to activations


class Wide(layers.Layer):
    """64 -> 512 -> 64; with dropout on the way."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up = layers.Dense(WIDE)
        self.down = layers.Dense(64)
        self.dropout = layers.Dropout(0.1)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], WIDE))
        super().build(shape)

    def call(self, x):
        h = self.up(x)
        for function in 2 * (tf.sin, tf.tanh, tf.exp, tf.sin, tf.tanh):
            h = function(h)
            if tf.executing_eagerly():
                WATCHED.append(weakref.ref(h))
        return self.down(self.dropout(h))


def deep():
    """Return a stack of decorated wide layers."""
    inputs = x = layers.Input((64,))
    for _ in range(DEPTH):
        x = recomputed(Wide)()(x)
    return keras.models.Model(inputs, x)


def trace_of_a_step(how, build, shape):
    """Return what TensorFlow says of each operation that ran in a step on an input of a shape."""
    with way(how):
        model = fresh_model(build, grappler=True)
        session = session_backend().get_session()
        loss = tf.reduce_mean(tf.square(model.outputs[0]))
        gradients = K.gradients(loss, model.trainable_weights)
        session.run(tf.compat.v1.global_variables_initializer())
        metadata = tf.compat.v1.RunMetadata()
        feed = {model.inputs[0]: np.ones(shape, "float32")}
        if not isinstance(K.learning_phase(), int):
            feed[K.learning_phase()] = 1
        session.run(
            [g.op for g in gradients if g is not None],
            feed,
            options=tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE),
            run_metadata=metadata,
        )
    return metadata.step_stats


@pytest.mark.skipif(TF_EAGER, reason="about sessions")
def test_the_peak_of_a_session_is_lower():
    """A step with recomputation needs a third of the memory, or less, with Grappler as it is."""
    plain, recomputing = (
        allocated_peak(trace_of_a_step(how, deep, (ROWS, 64))) for how in (OFF, ON)
    )
    assert plain > DEPTH * 4 * ROWS * WIDE * 4
    assert recomputing < plain / 3


class FeedForward(Wide):
    """A block whose last product is the longest, and added to what was given."""

    def __init__(self, last, rate, **kwargs):
        super().__init__(**kwargs)
        self.last = last
        self.dropout = layers.Dropout(rate)

    def call(self, x):
        y = x + self.dropout(self.down(tf.tanh(self.up(x))))
        return self.last(y)


@pytest.mark.skipif(TF_EAGER, reason="about sessions")
@pytest.mark.parametrize("shape", [(8, 64), (8, 4, 64)])
@pytest.mark.parametrize("rate", [0.1, 0.0])
@pytest.mark.parametrize("last", [lambda y: y, lambda y: y / (1 + tf.square(y))])
def test_the_longest_product_is_kept(last, rate, shape):
    """It is as large as what the block was given, and takes the longest to compute again."""

    def build():
        inputs = x = layers.Input(shape[1:])
        for _ in range(3):
            x = recomputed(FeedForward)(last, rate)(x)
        return keras.models.Model(inputs, x)

    # Forward 2, backward 4 (not through the model's input: 3); the shorter one again.
    assert products_of_a_step(build, shape) == {OFF: 3 * 6 - 1, ON: 3 * 7 - 1}


def products_of_a_step(build, shape):
    """Count the matrix products that run in a step, both ways."""
    products = {}
    for how in (OFF, ON):
        stats = trace_of_a_step(how, build, shape)
        ran = [node.timeline_label for device in stats.dev_stats for node in device.node_stats]
        products[how] = sum("MatMul(" in label for label in ran)
    return products


class Averaged(Wide):
    """A block of which the plain run keeps next to nothing: the gradient of a mean needs none."""

    def call(self, x):
        return tf.tanh(tf.reduce_mean(0.5 * self.down(x), 1))

    def compute_output_shape(self, shape):
        return shape[0], 64


class Tokens(Wide):
    """A block that makes a batch of tokens of a batch of sequences: fewer dimensions, no less."""

    def call(self, x):
        y = self.up(tf.reshape(x, (-1, 64)))
        return tf.reshape(self.down(y * tf.sigmoid(y)), (-1, 16, 64))


@pytest.mark.skipif(TF_EAGER, reason="about sessions")
@pytest.mark.parametrize(
    ("block", "shape", "products"),
    [(Averaged, (8, 4, WIDE), {OFF: 2, ON: 3}), (Tokens, (8, 16, 64), {OFF: 5, ON: 6})],
)
def test_no_product_is_kept_that_takes_too_much(block, shape, products):
    """More than half of what the plain run keeps, or more than the block was given."""

    def build():
        inputs = layers.Input(shape[1:])
        return keras.models.Model(inputs, recomputed(block)()(inputs))

    assert products_of_a_step(build, shape) == products


@pytest.mark.skipif(GRAPH, reason="about tapes")
def test_less_is_kept_by_a_tape():
    """Between forward and backward the activations inside decorated layers are gone."""
    alive = {}
    for how in (OFF, ON):
        model = fresh_model(deep)
        with way(how):
            WATCHED.clear()
            with tf.GradientTape() as tape:
                y = model(tf.ones((ROWS, 64)), training=True)
            gc.collect()
            alive[how] = sum(ref() is not None for ref in WATCHED)
            gradients = tape.gradient(y, model.trainable_weights)
            assert all(g is not None for g in gradients)
    assert alive[OFF] >= DEPTH * 4
    assert alive[ON] <= DEPTH


def test_recomputation_waits_for_the_incoming_gradient():
    """In a graph nothing is recomputed before the gradient of the outputs is there."""
    block = recompute_grad(lambda x: tf.sin(tf.tanh(x) * x))

    def gradient(x):
        if STANDALONE or not TF_EAGER:
            return tf.gradients(tf.reduce_sum(tf.cos(block(x))), x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.cos(block(x)))
        return tape.gradient(y, x)

    with way(ON):
        if TF_EAGER:
            function = tf.function(gradient).get_concrete_function(tf.TensorSpec([2], tf.float32))
            graph = function.graph
        else:
            graph = tf.Graph()
            with graph.as_default():
                gradient(tf.compat.v1.placeholder(tf.float32, [2]))
    tanhs = [op for op in graph.get_operations() if op.type == "Tanh"]
    assert len(tanhs) == 2
    before = ancestors(tanhs[1])
    # The gradient of cos is -sin; it is computed from what the block returned.
    assert any(op.type == "Neg" for op in before)
    assert not any(op.type == "Neg" for op in ancestors(tanhs[0]))


def ancestors(op):
    """Return the operations that an operation waits for."""
    found, todo = {}, [op]
    while todo:
        op = todo.pop()
        for above in [t.op for t in op.inputs] + list(op.control_inputs):
            if above.name not in found:
                found[above.name] = above
                todo.append(above)
    return list(found.values())
