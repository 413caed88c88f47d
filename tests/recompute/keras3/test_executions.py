"""That recomputation happens: executions are counted, and what is kept for backward is weighed."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.comparison import recomputed
from tests.recompute.graphs import needed
from tests.recompute.keras3.training import BACKEND, fresh_model, only_tensorflow, only_torch

WIDTH = 8


class Executions:
    """Counts how often an operation really runs, compiled or not."""

    def __init__(self):
        self.count = 0

    def _bump(self, *_):
        self.count += 1
        return np.float32(0)

    def on(self, x):
        """Return ``x``; each time it is computed, count."""
        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.control_dependencies([tf.numpy_function(self._bump, [], tf.float32)]):
                return tf.identity(x)
        if BACKEND == "jax":
            import jax

            jax.debug.callback(self._bump, x)
            return x
        if x.device.type != "meta":  # there only shapes are inferred
            self._bump()
        return x

    def wait(self):
        """Wait for counts that are still on their way."""
        if BACKEND == "jax":
            import jax

            jax.effects_barrier()
        return self.count


class Counted(layers.Layer):
    """A decorated layer that counts."""

    def __init__(self):
        super().__init__()
        self.executions = Executions()
        self.dense = layers.Dense(WIDTH, activation="gelu")

    def build(self, shape):
        self.dense.build(shape)

    @recompute_grad
    def call(self, x):
        return ops.sin(self.dense(self.executions.on(x)))


@pytest.mark.parametrize("eager", [False, True])
def test_each_layer_runs_twice_in_a_training_step(eager):
    """Off once and on twice per step, in fit; once where nothing is differentiated."""
    counts = []
    for on in (False, True):

        def build():
            return keras.Sequential([keras.Input((WIDTH,)), layers.Dense(WIDTH), Counted()])

        model = fresh_model(build)
        model.compile("sgd", "mse", run_eagerly=eager)
        x = np.ones((6, WIDTH), "float32")
        executions = model.layers[1].executions
        with recompute_scope(on):
            model.fit(x, x, batch_size=2, epochs=2, verbose=0)
            trained = executions.wait()
            model.evaluate(x, x, batch_size=2, verbose=0)
        counts.append((trained, executions.wait() - trained))
    assert counts == [(6, 3), (12, 3)]


def test_a_nested_layer_runs_once_more_per_level():
    """Inside a decorated layer a decorated layer is recomputed by both."""

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Counted()

        def build(self, shape):
            self.inner.build(shape)

        @recompute_grad
        def call(self, x):
            return ops.sin(self.inner(x))

    def build():
        return keras.Sequential([keras.Input((WIDTH,)), layers.Dense(WIDTH), Outer()])

    model = fresh_model(build)
    model.compile("sgd", "mse")
    x = np.ones((2, WIDTH), "float32")
    with recompute_scope(True):
        model.fit(x, x, verbose=0)
    assert model.layers[1].inner.executions.wait() == 3


def kept_bytes(on):
    """Return the bytes that are kept between forward and backward, weights not counted."""
    stack = fresh_model(
        lambda: keras.Sequential(
            [keras.Input((64,)), *[recomputed(Wide)() for _ in range(4)]],
        )
    )
    x = ops.ones((16, 64))
    with recompute_scope(on):
        if BACKEND == "jax":
            import jax

            weights = [v.value for v in stack.trainable_variables]

            def forward(weights):
                return ops.sum(stack.stateless_call(weights, [], x)[0])

            _, backward = jax.vjp(forward, weights)
            sizes = {id(w): 0 for w in weights}
            kept = {id(a): a.nbytes for a in jax.tree_util.tree_leaves(backward)}
            return sum({**kept, **sizes}.values())
        if BACKEND == "torch":
            import torch

            kept = {}

            def pack(tensor):
                kept[tensor.data_ptr()] = tensor.nbytes
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                stack(x)
            weights = [v.value.data_ptr() for v in stack.trainable_variables]
            return sum({**kept, **dict.fromkeys(weights, 0)}.values())
        import tensorflow as tf

        WATCHED.clear()
        with tf.GradientTape() as tape:
            y = stack(x)
        alive = sum(ref() is not None for ref in WATCHED)
        assert tape.gradient(y, stack.trainable_variables[0].value) is not None
        return alive * 16 * 256 * 4


WATCHED = []


class Wide(layers.Layer):
    """64 -> 256 -> 64."""

    def __init__(self):
        super().__init__()
        self.up, self.down = layers.Dense(256), layers.Dense(64)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((None, 256))

    def call(self, x):
        h = self.up(x)
        for function in (ops.sin, ops.tanh, ops.exp):
            h = function(h)
            WATCHED.append(weakref.ref(h))
        return self.down(h)


def test_less_is_kept():
    """Between forward and backward the activations inside decorated layers are gone."""
    plain, recomputing = kept_bytes(False), kept_bytes(True)
    assert plain >= 4 * 2 * 16 * 256 * 4
    assert recomputing <= plain / 3


@only_tensorflow
def test_the_graph_recomputes_after_the_incoming_gradient():
    """In a graph each recomputed operation waits for the gradient that needs it."""
    import tensorflow as tf

    block = recompute_grad(lambda x: tf.sin(tf.tanh(x) * x, name="block_sin"))

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(block(x))
        return tape.gradient(y, x)

    with recompute_scope(True):
        graph = run.get_concrete_function(tf.constant([1.0])).graph
    # tanh of the forward pass has no control inputs, that of the replay waits or has one above.
    tanhs = [op for op in graph.get_operations() if op.type == "Tanh"]
    assert len(tanhs) == 2
    source = tanhs[1].inputs[0].op
    assert source.type == "Identity"
    assert source.control_inputs


@only_tensorflow
def test_xla_recomputes():
    """Under ``jit_compile`` a barrier keeps the recomputed operations apart from the first ones.

    What XLA makes of it is its own affair: for a CPU it drops the barriers at last, also those of
    ``jax.checkpoint``, and merges small programs again.
    """
    import tensorflow as tf

    block = recompute_grad(lambda x: tf.sin(tf.tanh(x) @ x))

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(block(block(x)))
        return tape.gradient(y, x)

    counts = []
    for on in (False, True):
        with recompute_scope(on):
            function = tf.function(lambda x: run(x), jit_compile=True)
            ir = function.experimental_get_compiler_ir(tf.ones((9, 9)))
            program = ir(stage="hlo")
            counts.append((program.count(" tanh("), program.count(" opt-barrier(")))
    assert counts == [(2, 0), (4, 2)]
    assert counts == [(2, 0), (4, 2)]


@only_torch
def test_nothing_that_was_recomputed_waits_for_the_garbage_collector():
    """Torch ends a recomputation by an error, which Keras catches and keeps in a cycle."""
    seen = []

    class Block(layers.Layer):
        def build(self, shape):
            self.inner, self.norm = layers.Dense(32, "gelu"), layers.LayerNormalization()
            self.inner.build(shape)
            self.norm.build((None, 32))

        def call(self, x):
            y = self.inner(x)
            seen.append(weakref.ref(y))
            return self.norm(y)

    block = recomputed(Block)()
    block.build((None, 16))
    x = ops.ones((4, 16))
    gc.collect()
    gc.disable()
    try:
        with recompute_scope(True):
            y = ops.sum(ops.square(block(x)))
            y.backward()
        assert [value() for value in seen] == [None, None]
    finally:
        gc.enable()


@only_torch
def test_nothing_that_was_computed_waits_in_cycles():
    """Keras flattens what layers are given; on torch that leaves cycles, which are freed."""
    seen = []

    class Block(layers.Layer):
        def build(self, shape):
            self.norm, self.attention = layers.LayerNormalization(), layers.MultiHeadAttention(2, 8)
            self.norm.build(shape)
            self.attention.build(shape, shape)

        def call(self, x):
            y = self.norm(x)
            seen.append(weakref.ref(y))
            return x + self.attention(y, y)

    block = recomputed(Block)()
    block.build((None, 4, 16))
    threshold = gc.get_threshold()
    gc.set_threshold(10**9)  # no collection of its own accord
    try:
        with recompute_scope(True):
            y = block(ops.ones((2, 4, 16)))
            after_forward = seen[0]()
            ops.sum(ops.square(y)).backward()
        assert after_forward is None
        assert [value() for value in seen] == [None, None]
    finally:
        gc.set_threshold(*threshold)


def _block(call):
    """Return a built block of two dense layers and dropout; ``call`` is what it computes."""

    class Block(keras.layers.Layer):
        def build(self, shape):
            self.inner = keras.layers.Dense(32, activation="tanh")
            self.outer = keras.layers.Dense(16)
            self.dropout = keras.layers.Dropout(0.5, seed=3)
            self.inner.build(shape)
            self.outer.build((None, 32))

        def call(self, x):
            return call(self, x)

    block = recomputed(Block)()
    block.build((None, 16))
    return block


def _types_needed(block):
    """Return the operations that a gradient needs, plainly and recomputed; compare its values."""
    import tensorflow as tf

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = keras.ops.sum(keras.ops.square(block(x)))
        return tape.gradient(y, [x, *(v.value for v in block.trainable_variables)])

    state = block.dropout.seed_generator.state
    start = state.numpy()
    types, values = [], []
    for on in (False, True):
        state.assign(start)
        with recompute_scope(on):
            function = tf.function(gradients, input_signature=[tf.TensorSpec([None, 16])])
            concrete = function.get_concrete_function()
            values.append(concrete(tf.ones((4, 16))))
            types.append(needed(concrete.graph))
    for plain, again in zip(*values):
        np.testing.assert_array_equal(plain, again)
    return types


@only_tensorflow
def test_nothing_is_computed_again_for_its_shape():
    """Of a block that ends in a sum, the last matrix product is not needed again."""

    def call(self, x):
        return x + self.dropout(self.outer(self.inner(x)), training=True)

    plain, again = _types_needed(_block(call))
    # Forward 2, backward 4; again 1 and not 2.
    assert plain.count("MatMul") == 6
    assert again.count("MatMul") == 7


@only_tensorflow
def test_masks_that_are_small_are_not_drawn_again():
    """Masks are kept while they take no more than the input: four of 16 bytes for 16 floats."""

    def drop(times):
        def call(self, x):
            y = self.outer(self.inner(x))
            for _ in range(times):
                y = self.dropout(y, training=True)
            return x + y

        return call

    for times, drawn_again in ((1, 0), (4, 0), (6, 2)):
        plain, again = _types_needed(_block(drop(times)))
        assert plain.count("StatelessRandomUniformV2") == times
        assert again.count("StatelessRandomUniformV2") == times + drawn_again


@only_tensorflow
def test_a_mask_that_is_larger_than_the_input_is_drawn_again():
    def call(self, x):
        wide = keras.ops.tile(self.inner(x), (1, 3))  # 96 bytes of mask for 16 floats
        return x + self.outer(self.dropout(wide, training=True)[:, :32])

    plain, again = _types_needed(_block(call))
    assert plain.count("StatelessRandomUniformV2") == 1
    assert again.count("StatelessRandomUniformV2") == 2


@only_tensorflow
def test_random_numbers_that_are_no_mask_are_drawn_again():
    """A comparison with what was computed is no mask of random numbers alone."""
    import tensorflow as tf

    def call(self, x):
        y = self.outer(self.inner(x))
        noise = tf.random.stateless_uniform(tf.shape(y), (1, 2))
        return x + self.dropout(tf.where(noise > y, y * noise, y), training=True)

    plain, again = _types_needed(_block(call))
    assert plain.count("StatelessRandomUniformV2") == 2
    assert again.count("StatelessRandomUniformV2") == 3
