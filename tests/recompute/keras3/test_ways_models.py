"""Layers around layers: wrappers, cells, caches, weights and metrics that several parts have.

Each program is run plainly and recomputed, whole, and leaves the same losses and variables.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks import recompute
from tests.recompute.comparison import Run
from tests.recompute.keras3.programs import WIDTH, Block, data, fitted, network, sgd
from tests.recompute.keras3.training import (
    BACKEND,
    GROWN,
    ROUNDING,
    WAYS,
    array,
    assert_same_program,
    only_tensorflow,
    variables_of,
)

two_ways = pytest.mark.parametrize("way", ["decorated", "applied to layers"], indirect=True)


LENGTH = 5


def sequences(rows=8):
    x = np.random.default_rng(0).normal(size=(rows, LENGTH, WIDTH)).astype("float32")
    return x, np.tanh(x[:, ::-1])


def trained(model, x=None, y=None, **options):
    if x is None:
        x, y = sequences()
    model.compile(sgd(), "mse", **options)
    return fitted(model, x, y)


def time_distributed(way):
    """A decorated layer for each step, in a decorated wrapper."""
    inputs = keras.Input((LENGTH, WIDTH))
    x = way.layer(layers.TimeDistributed)(way.layer(Block)())(inputs)
    x = layers.TimeDistributed(way.layer(layers.Dense)(WIDTH, "gelu"))(x)
    return trained(way.model(inputs, x))


def both_directions(way):
    """Decorated recurrent layers, forward and backward, in a decorated wrapper."""
    inputs, kind = keras.Input((LENGTH, WIDTH)), way.layer(layers.GRU)
    with keras.saving.custom_object_scope({"GRU": kind}):  # the wrapper makes a second one
        x = layers.Bidirectional(kind(3, return_sequences=True, dropout=0.2, seed=4))(inputs)
    x = way.layer(layers.Bidirectional)(layers.LSTM(3, return_sequences=True))(x)
    return trained(way.model(inputs, x))


class Cell(layers.Layer):
    """A recurrent cell with a normalization and a dropout mask that it keeps for all steps."""

    def __init__(self, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.state_size = WIDTH
        self.dense, self.norm = layers.Dense(WIDTH, "tanh"), layers.LayerNormalization()
        self.dropout = layers.Dropout(rate, seed=4)

    def build(self, shape):
        self.dense.build((None, shape[-1] + WIDTH))
        self.norm.build((None, WIDTH))

    def call(self, x, states, training=None):
        (h,) = states
        h = self.norm(self.dense(self.dropout(ops.concatenate([x, h], -1), training=training)) + h)
        return h, [h]


def cells(way):
    """A decorated cell runs in a loop; with a stock cell and a stack of them beside it."""
    inputs = keras.Input((LENGTH, WIDTH))
    # Keras on JAX cannot trace random numbers that are drawn in the loop; for TensorFlow see below.
    x = layers.RNN(way.layer(Cell)(0.2 if BACKEND == "torch" else 0.0), return_sequences=True)(
        inputs
    )
    x = layers.RNN([way.layer(layers.GRUCell)(3), layers.LSTMCell(WIDTH)], return_sequences=True)(x)
    return trained(way.model(inputs, x))


def stateful(way):
    """A recurrent layer that goes on where the last batch ended."""
    inputs = keras.Input(batch_shape=(4, LENGTH, WIDTH))
    x = way.layer(layers.GRU)(WIDTH, stateful=True, return_sequences=True)(inputs)
    return trained(way.model(inputs, layers.Dense(WIDTH)(x)))


def shared_parts(way):
    """A layer inside of decorated ones is also called outside, and its weights are used by hand."""
    inner = layers.Dense(WIDTH, "gelu")

    class Around(layers.Layer):
        def __init__(self, inner, **kwargs):
            super().__init__(**kwargs)
            self.inner = inner

        def call(self, x):
            return x + ops.matmul(self.inner(x), ops.transpose(self.inner.kernel))

    inputs = keras.Input((WIDTH,))
    x = inner(inputs)
    for _ in range(2):
        x = way.layer(Around)(inner)(x)
    return trained(way.model(inputs, inner(x)), *data())


class Measured(layers.Layer):
    """Adds a loss, and counts in a metric that fit reports and resets."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(WIDTH, "gelu", kernel_regularizer="l2", activity_regularizer="l1")
        self.size = keras.metrics.Mean(name="size")
        self.calls = keras.metrics.Sum(name="calls")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        y = self.dense(x)
        self.add_loss(0.1 * ops.mean(ops.square(y)))
        if BACKEND != "jax":  # where Keras has no metrics of layers
            self.size.update_state(y)
            self.calls.update_state(1.0)
        return y


def measured(way):
    """Losses and metrics of layers count once a step, in fit and in evaluate."""
    inputs = keras.Input((WIDTH,))
    x = inputs
    for _ in range(2):
        x = way.layer(Measured)()(x)
    model = way.model(inputs, layers.Dense(WIDTH)(x))
    model.compile(sgd(), "mse", metrics=["mae"])
    x, y = data()
    found = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    last = model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    losses = [*itertools.chain(*found.values()), *map(float, last.values())]
    return Run(losses, variables_of(model, model.optimizer))


class Decoder(layers.Layer):
    """Causal attention that keeps keys and values in a cache when it is given one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = layers.Dense(3 * WIDTH)
        self.norm = layers.LayerNormalization()
        self.dropout = layers.Dropout(0.1, seed=6)

    def build(self, shape):
        self.project.build(shape)
        self.norm.build(shape)

    def call(self, x, cache=None, at=0, training=None):
        query, key, value = ops.split(self.project(self.norm(x)), 3, -1)
        if cache is not None:
            key = ops.slice_update(cache[:, 0], (0, at, 0), key)
            value = ops.slice_update(cache[:, 1], (0, at, 0), value)
            cache = ops.stack([key, value], 1)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
        later = ops.arange(ops.shape(key)[1])[None] > ops.arange(ops.shape(x)[1])[:, None] + at
        scores = ops.where(later, -1e9, scores)
        x = x + self.dropout(ops.matmul(ops.softmax(scores), value), training=training)
        return x if cache is None else (x, cache)


class Language(keras.Model):
    """Two decoders between a table of tokens and its transpose."""

    def __init__(self, kind):
        super().__init__()
        self.table = layers.Embedding(11, WIDTH)
        self.decoders = [kind(), kind()]

    def call(self, tokens, training=None):
        x = self.table(tokens)
        for decoder in self.decoders:
            x = decoder(x, training=training)
        return ops.matmul(x, ops.transpose(self.table.embeddings))

    def step(self, token, caches, at):
        x, new = self.table(token), []
        for decoder, cache in zip(self.decoders, caches):
            x, cache = decoder(x, cache, at=at, training=False)
            new.append(cache)
        return ops.matmul(x, ops.transpose(self.table.embeddings)), new

    def generate(self, token, count):
        """Return the likeliest tokens, in a loop of the backend."""
        caches = [ops.zeros((len(token), 2, count, WIDTH)) for _ in self.decoders]
        tokens = ops.zeros((len(token), count + 1), "int32")
        tokens = ops.slice_update(tokens, (0, 0), ops.cast(token, "int32"))

        def body(at, tokens, first, second):
            token = ops.slice(tokens, (0, at), (len(token_0), 1))
            scores, caches = self.step(token, [first, second], at)
            new = ops.cast(ops.argmax(scores, -1), "int32")
            return at + 1, ops.slice_update(tokens, (0, at + 1), new), *caches

        token_0 = token
        return ops.while_loop(lambda at, *_: at < count, body, (0, tokens, *caches))[1]


def generation(way):
    """Training, generation with a cache, training: with the switch on throughout."""
    model = Language(way.layer(Decoder))
    x = np.random.default_rng(0).integers(0, 11, (8, LENGTH)).astype("int32")
    model(x)
    way.apply(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(sgd(), loss)
    found = []
    for _ in range(2):
        run = fitted(model, x, np.roll(x, 1, 1))
        found += [*run.losses, *array(model.generate(x[:2, :1], 4)).ravel().tolist()]
    return Run(found, run.arrays)


def attention_scores(way):
    """Models of inner outputs share the layers, as those that show attention or features do."""
    model = network(way)
    model.compile(sgd(), "mse")
    run = fitted(model)
    inner = keras.Model(model.inputs[0], [layer.output for layer in model.layers[1:]])
    outputs = [array(x) for x in inner(data()[0], training=False)]
    return Run(run.losses, {**run.arrays, **{f"output {i}": x for i, x in enumerate(outputs)}})


PROGRAMS = [
    time_distributed,
    both_directions,
    cells,
    shared_parts,
    measured,
    generation,
    attention_scores,
]
if BACKEND != "torch":  # there a plain one cannot be trained
    PROGRAMS.append(stateful)

# Weights that are used in each turn of a loop, inside and outside of recomputed calls, or in a
# regularizer too: the parts of their gradients are added in another order, but on torch.
REORDERED = {
    "tensorflow": {cells, measured, shared_parts, time_distributed},
    "jax": {shared_parts},
    "torch": set(),
}[BACKEND]


@two_ways
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_exact(program, way):
    """The same losses and variables."""
    tolerance = GROWN if program in REORDERED else ROUNDING
    assert_same_program(way, program, tolerance=tolerance)


@only_tensorflow
def test_a_decorated_cell_draws():
    """A cell draws its own random numbers in each turn of a loop, and draws them again."""

    def program(way):
        inputs = keras.Input((LENGTH, WIDTH))
        x = layers.RNN(way.layer(Cell)(0.2), return_sequences=True)(inputs)
        return trained(way.model(inputs, x))

    assert_same_program(WAYS["decorated"], program, tolerance=GROWN)


@only_tensorflow
def test_a_loop_that_draws_is_refused():
    """A recurrent layer whose cell draws in each turn cannot be recomputed as a whole."""
    inputs = keras.Input((LENGTH, WIDTH))
    model = keras.Model(inputs, layers.RNN(Cell(0.2), name="loop")(inputs))
    recompute.apply(model, layers="loop")
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match="has a loop, a branch"):
        model.fit(np.ones((4, LENGTH, WIDTH)), np.ones((4, WIDTH)), verbose=0)
