"""Decorated functions in the functional API: a call becomes a segment of the model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks import recompute
from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.keras3.test_executions import Executions
from tests.recompute.keras3.training import FEW_ULP, assert_exact, fresh_model, step, steps

WIDTH = 6
X = np.random.default_rng(0).normal(size=(8, WIDTH)).astype("float32")
Y = np.tanh(X[:, ::-1])


def dense_block(wrap):
    """Return a block function of the functional API, decorated or not."""

    @wrap
    def block(x, units=WIDTH):
        y = layers.Dense(units, activation="tanh")(x)
        y = layers.Dropout(0.3)(layers.BatchNormalization()(y))
        return layers.Add()([x, y])

    return block


def chain(wrap=recompute_grad):
    block = dense_block(wrap)
    inputs = keras.Input((WIDTH,))
    x = inputs
    for _ in range(3):
        x = block(x)
    return keras.Model(inputs, layers.Dense(WIDTH)(x))


def several(wrap=recompute_grad):
    """Blocks with several inputs and results, a captured tensor, and a side branch in between."""
    inputs = keras.Input((WIDTH,))
    gate = layers.Dense(WIDTH, activation="sigmoid")(inputs)

    @wrap
    def split(pair, *, scale=2.0):
        a, b = pair["a"], pair["b"]
        c = layers.Dense(WIDTH, activation="tanh")(a * scale) * gate
        return c, [ops.sin(c) + b, a]

    first, (second, same) = split({"a": inputs, "b": gate})
    side = layers.Dense(WIDTH)(first)
    third, (fourth, _) = split({"a": second + side, "b": same}, scale=0.5)
    return keras.Model(inputs, layers.Dense(WIDTH)(third + fourth + side))


def nested(wrap=recompute_grad):
    """A decorated function that calls one."""
    inner = dense_block(wrap)
    outer = wrap(lambda x: inner(layers.Dense(WIDTH, activation="gelu")(inner(x))))
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, layers.Dense(WIDTH)(outer(outer(inputs))))


@pytest.mark.parametrize("build", [chain, nested])
def test_models_of_decorated_functions(build):
    """Loss, gradients and state are those of the plain run."""
    assert_exact(build, X, Y)


def test_blocks_with_several_inputs_and_results():
    """The same but for the last bits: a block runs at once, and so gradients add up otherwise."""
    steps(several, X, Y, False).assert_same(steps(several, X, Y, True), FEW_ULP)


class Counted(layers.Dense):
    """A layer that is not decorated, and counts."""

    def __init__(self):
        super().__init__(WIDTH)
        self.executions = Executions()

    def call(self, x):
        return super().call(self.executions.on(x))


def test_blocks_are_run_again():
    """A layer of a block runs twice in a step that is recomputed, once in another."""
    counts = []
    for on in (False, True):
        keras.utils.clear_session()
        counted = Counted()
        block = recompute_grad(lambda x, layer=counted: ops.tanh(layer(x)))
        inputs = keras.Input((WIDTH,))
        model = keras.Model(inputs, layers.Dense(WIDTH)(block(block(inputs))))
        counted.executions.wait()
        counted.executions.count = 0
        step(model, X, Y, on)
        counts.append(counted.executions.wait())
    assert counts == [2, 4]


def test_status_tells_of_blocks():
    """Each call of a function is a part, on or off by the switch."""
    model = fresh_model(chain)
    assert {(part.by, part.on, part.why) for part in recompute.status(model).parts} == {
        ("function", False, "RECOMPUTE is not set")
    }
    with recompute_scope(True):
        status = recompute.status(model)
    assert [part.on for part in status.parts] == [True] * 3
    assert "block (dense .. add)" in str(status)


def test_the_model_is_the_one_without_marks(tmp_path):
    """Layers, weights and the saved file are the same, and what is loaded trains as the model."""
    marked, plain = fresh_model(chain), fresh_model(lambda: chain(lambda function: function))
    assert [layer.name for layer in marked.layers] == [layer.name for layer in plain.layers]
    assert marked.to_json() == plain.to_json()
    marked.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert recompute.status(loaded).parts == ()
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), marked.predict(X, verbose=0))


def test_a_model_of_part_of_a_block():
    """A model that ends or begins inside of a block has what there is of it recomputed."""

    def build():
        whole = fresh_model(chain)
        return keras.Model(whole.inputs, whole.get_layer("batch_normalization_1").output)

    steps(build, X, Y, False).assert_same(steps(build, X, Y, True))
    assert len(recompute.status(build()).parts) == 2


def test_apply_takes_over():
    """A plan of apply is what counts for a model of blocks; without it the blocks do again."""

    def build():
        model = chain()
        recompute.apply(model, every=1)
        return model

    assert_exact(build, X, Y)
    model = build()
    recompute.remove(model)
    assert {part.by for part in recompute.status(model).parts} == {"function"}


def test_a_function_of_several_models():
    """One model may be called inside of another, and share a block's layers with it."""

    def build():
        inside = chain()
        inputs = keras.Input((WIDTH,))
        return keras.Model(inputs, inside(inside(inputs) * 0.5))

    assert_exact(build, X, Y, regrouped=True)


def test_inference_and_symbolic_calls_are_plain():
    """Shapes are inferred, and a model is called on symbols, as without marks."""
    model = fresh_model(chain)
    with recompute_scope(True):
        assert model.compute_output_shape((None, WIDTH)) == (None, WIDTH)
        assert model(keras.Input((WIDTH,))).shape == (None, WIDTH)
        on = model.predict(X, verbose=0)
    np.testing.assert_array_equal(on, model.predict(X, verbose=0))


@pytest.mark.parametrize("on", [False, True])
def test_a_function_that_builds_a_model_warns(on):
    """It runs once, and to decorate it changes nothing."""
    with recompute_scope(on), pytest.warns(RuntimeWarning, match="builds the model .*apply"):
        model = recompute_grad(lambda: chain(lambda function: function))()
    assert recompute.status(model).parts == ()
