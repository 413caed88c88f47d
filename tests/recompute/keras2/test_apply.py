"""``apply`` on Keras 2 models that exist: the same training, and no trace of it in a file."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute.models import is_applied
from tests.recompute.keras2.binding import GRAPH, NAME, K, keras, layers, sgd, tf
from tests.recompute.keras2.test_executions import Executions
from tests.recompute.keras2.training import (
    FEW_ULP,
    OFF,
    ON,
    assert_exact,
    fit,
    fresh_model,
    values,
    way,
)
from tests.recompute.planned import assert_refused_where_it_does_not_fit, saved_plan

WIDTH = 6


def data(*shape):
    """Return inputs and targets."""
    x = np.random.RandomState(0).normal(size=shape or (8, WIDTH)).astype("float32")
    return x, np.tanh(x.reshape(len(x), -1)[:, :1]).astype("float32")


def applied(build, **options):
    """Return a builder of a model to which apply was applied."""

    def build_and_apply():
        model = build()
        plan = recompute.apply(model, **options)
        assert any(segment.recomputed for segment in plan.segments)
        return model

    return build_and_apply


def mlp(depth=9):
    """Dense, dropout and batch normalization, one after the other."""
    inputs = x = layers.Input((WIDTH,))
    for _ in range(depth // 3):
        x = layers.Dense(WIDTH, activation="softplus")(x)
        x = layers.Dropout(0.2)(x)
        x = layers.BatchNormalization()(x)
    return keras.models.Model(inputs, layers.Dense(1)(x))


def residual(count=4):
    """Blocks with a connection around each."""
    inputs = layers.Input((WIDTH,))
    x = layers.Dense(WIDTH)(inputs)
    for _ in range(count):
        y = layers.Dense(2 * WIDTH, activation="softplus", kernel_regularizer="l2")(x)
        y = layers.Dropout(0.2)(y)
        x = layers.BatchNormalization()(layers.add([x, layers.Dense(WIDTH)(y)]))
    return keras.models.Model(inputs, layers.Dense(1)(x))


def sequential():
    """A plain Sequential."""
    return keras.models.Sequential(
        [
            layers.Dense(WIDTH, activation="softplus", input_shape=(WIDTH,)),
            layers.Dropout(0.2),
            layers.BatchNormalization(),
            layers.Dense(2 * WIDTH, activation="softplus"),
            layers.ActivityRegularization(l2=0.01),
            layers.Dense(WIDTH, activation="softplus"),
            layers.Dense(1),
        ]
    )


def shared():
    """The same layers called several times."""
    dense = layers.Dense(WIDTH, activation="softplus")
    inputs = x = layers.Input((WIDTH,))
    for _ in range(4):
        x = dense(layers.Dropout(0.1)(x))
    return keras.models.Model(inputs, layers.Dense(1)(x))


def nested():
    """A model in a model."""
    inner = layers.Input((WIDTH,))
    x = inner
    for _ in range(4):
        x = layers.BatchNormalization()(layers.Dense(WIDTH, activation="softplus")(x))
        x = layers.Dropout(0.2)(x)
    model = keras.models.Model(inner, x, name="inner")
    inputs = layers.Input((WIDTH,))
    x = layers.Dense(WIDTH, activation="softplus")(inputs)
    x = layers.Dense(WIDTH, activation="softplus")(model(x))
    return keras.models.Model(inputs, layers.Dense(1)(layers.add([x, inputs])))


def recurrent():
    """Token ids with padding, masks, an LSTM with dropout."""
    tokens = layers.Input((5,), dtype="int32")
    x = layers.Embedding(9, WIDTH, mask_zero=True)(tokens)
    x = layers.Dropout(0.3)(x)
    x = layers.LSTM(WIDTH, return_sequences=True, dropout=0.2)(x)
    x = layers.TimeDistributed(layers.Dense(WIDTH, activation="softplus"))(x)
    x = layers.LSTM(WIDTH)(x)
    return keras.models.Model(tokens, layers.Dense(1)(x))


def tokens():
    """Return padded tokens and targets."""
    x = np.random.RandomState(0).randint(1, 9, (8, 5))
    x[:, 3:] = 0
    return x, data()[1]


def unet():
    """Connections from the way down to the way up."""
    inputs = layers.Input((8, 8, 2))
    a = layers.Conv2D(4, 3, padding="same", activation="softplus")(inputs)
    b = layers.Conv2D(4, 3, padding="same", activation="softplus")(layers.MaxPooling2D()(a))
    b = layers.Conv2D(4, 3, padding="same", activation="softplus")(b)
    a = layers.concatenate([layers.UpSampling2D()(b), a])
    a = layers.Conv2D(4, 3, padding="same", activation="softplus")(a)
    return keras.models.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling2D()(a)))


MODELS = {
    "mlp": (mlp, data, {}),
    "mlp, every cut point": (mlp, data, {"every": 1}),
    "residual": (residual, data, {}),
    "residual, every second": (residual, data, {"every": 2}),
    "residual, layers": (residual, data, {"layers": layers.Dense}),
    "Sequential": (sequential, data, {}),
    "Sequential, every": (sequential, data, {"every": 2}),
    "shared layers": (shared, data, {"every": 2}),
    "nested": (nested, data, {"every": 1}),
    "nested, as a layer": (nested, data, {"layers": "inner"}),
    "recurrent": (recurrent, tokens, {"every": 1}),
    "unet": (unet, lambda: data(4, 8, 8, 2), {}),
}


# Where something is used in several segments, or three times in one (as by batch normalization),
# tf.gradients adds the parts of its gradient in the order in which it meets them.
REORDERED = {"residual, every second", "residual, layers", "shared layers"}


@pytest.mark.parametrize("name", MODELS)
def test_exact(name):
    """Losses, gradients and state over several steps, in a custom loop and in fit."""
    build, make, options = MODELS[name]
    assert_exact(applied(build, **options), *make(), tolerance=4e-6 if name in REORDERED else 0.0)


def test_an_application():
    """Two steps of fit of ResNet50, with its moving averages."""

    def build():
        options = {"weights": None, "input_shape": (32, 32, 3), "classes": 1}
        return keras.applications.ResNet50(**options)

    x, y = data(4, 32, 32, 3)
    options = {"epochs": 1, "batch_size": 2, "optimizer": lambda: sgd(1e-4)}
    off, on = (fit(applied(build), x, y, how, **options) for how in (OFF, ON))
    off.assert_same(on, 0.0 if GRAPH else 4e-4)


def counted(model, executions):
    """Return how often the layer ran in a step of training."""
    x, y = data()
    executions.count = 0
    model.train_on_batch(x, y)
    return executions.count


def noted_dense(executions, x):
    """Return what a dense layer and one that notes its executions give."""
    x = layers.Dense(WIDTH, activation="softplus")(x)
    return layers.Lambda(lambda x: tf.tanh(executions.on(x)))(x)


def test_it_is_recomputed_until_removed():
    """A model that has been trained, with weights of its own, goes on as it was, recomputed."""
    executions = Executions()

    def counting():
        inputs = x = layers.Input((WIDTH,))
        for _ in range(3):
            x = noted_dense(executions, x)
            x = layers.Dense(WIDTH, activation="softplus")(x)
        return keras.models.Model(inputs, layers.Dense(1)(x))

    runs = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(counting)
            model.compile(sgd(0.1, momentum=0.9), "mse")
            assert counted(model, executions) == 3
            recompute.apply(model, every=3)
            assert counted(model, executions) == (3 if how == OFF else 6)
            assert is_applied(model)
            recompute.remove(model)
            assert not is_applied(model)
            assert counted(model, executions) == 3
            runs.append(values(model.weights))
    for name, array in runs[0].items():
        np.testing.assert_allclose(array, runs[1][name], 0, 0 if GRAPH else 4e-5, err_msg=name)


def pair(base):
    """Return a model that calls another one on two inputs."""
    one, two = (layers.Input((WIDTH,)) for _ in range(2))
    x = layers.subtract([base(one), base(two)])
    return keras.models.Model([one, two], layers.Dense(1)(x))


def each_step(base):
    """Return a model that calls another one on each step of a sequence."""
    inputs = layers.Input((3, WIDTH))
    x = layers.TimeDistributed(base)(layers.Dense(WIDTH)(inputs))
    return keras.models.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))


def repeated(base):
    """Return a model that calls another one in a loop."""
    inputs = layers.Input((3, WIDTH))
    x = layers.Lambda(lambda x: K.rnn(lambda x, h: (base(x + h[0]),) * 2, x, [x[:, 0]])[0])(inputs)
    return keras.models.Model(inputs, layers.Dense(1)(x))


@pytest.mark.parametrize(("around", "times"), [(pair, 2), (each_step, 1)])
def test_a_model_that_another_calls(around, times):
    """A model under a plan is recomputed as a part of a model that is built of it later."""
    executions = Executions()

    def build():
        x = inputs = layers.Input((WIDTH,))
        for _ in range(2):
            x = noted_dense(executions, x)
            x = layers.Dropout(0.2)(layers.BatchNormalization()(x))
            x = layers.Dense(WIDTH, activation="softplus")(x)
        base = keras.models.Model(inputs, x)
        recompute.apply(base, every=5)
        return around(base)

    x, y = data()
    x = [x, x[::-1].copy()] if around is pair else np.stack([x, x[::-1], x], 1)
    counts, runs = [], []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(build)
            model.compile(sgd(0.01), "mse")
            losses = []
            for _ in range(3):
                executions.count = 0
                losses.append(model.train_on_batch(x, y))
            counts.append(executions.count)
            # Nobody says which of two calls is the first to change a moving average.
            runs.append([np.array(losses), *K.batch_get_value(model.trainable_weights)])
    for off, on in zip(*runs):
        np.testing.assert_allclose(off, on, rtol=FEW_ULP, atol=FEW_ULP)
    assert counts[1] >= counts[0] + times  # the last part runs plainly


LOAD = """
import sys
sys.modules["perftricks"] = None
import numpy as np
{import_keras}
model = keras.models.load_model("model.h5")
np.testing.assert_allclose(model.predict(np.load("x.npy")), np.load("y.npy"), 1e-5, 1e-6)
"""
IMPORTS = {
    "keras": "import keras",
    "tf.keras": "import tensorflow as tf; keras = tf.keras",
    "tf_keras": "import tf_keras as keras",
}


@pytest.mark.parametrize("name", ["residual", "Sequential"])
def test_saved_models_load_without_us(name, tmp_path):
    """A saved model loads in a process in which perftricks cannot be imported."""
    build, make, options = MODELS[name]
    x, y = make()
    model = fresh_model(applied(build, **options))
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    np.save(str(tmp_path / "x.npy"), x)
    np.save(str(tmp_path / "y.npy"), model.predict(x))
    model.save(str(tmp_path / "model.h5"))
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD.format(import_keras=IMPORTS[NAME])],
        check=True,
        cwd=str(tmp_path),
    )


def test_everything_else_goes_on():
    """evaluate, predict, weights, clones and configurations."""
    x, y = data()
    model = fresh_model(residual)
    model.compile("sgd", "mse")
    loss, outputs, config = model.evaluate(x, y, verbose=0), model.predict(x), model.get_config()
    names = [v.name for v in model.weights]
    recompute.apply(model)
    recompute.apply(model)
    assert model.evaluate(x, y, verbose=0) == loss
    np.testing.assert_array_equal(model.predict(x), outputs)
    assert [v.name for v in model.weights] == names
    assert str(model.get_config()) == str(config)
    other = keras.models.clone_model(model)
    assert not is_applied(other)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(other.predict(x), outputs)


def test_the_plan():
    """It covers each layer once and prints as a table."""
    model = fresh_model(lambda: residual(9))
    plan = recompute.apply(model)
    names = [name for segment in plan.segments for name in segment.layers]
    assert sorted(names) == sorted(layer.name for layer in model.layers[1:])
    assert plan.peak < plan.plain
    assert len(str(plan).splitlines()) == 2 + len(plan.segments)


@pytest.mark.parametrize("options", [{}, {"every": 2}, {"layers": layers.Dense}])
def test_a_plan_of_another_copy(options, tmp_path):
    """It is made without touching the model, saved, and applied to one of the same structure."""
    loaded = saved_plan(fresh_model(lambda: residual(4)), tmp_path / "plan.json", options)

    def planned():
        residual(1)  # so that the layers have other names
        copy = residual(4)
        recompute.apply(copy, plan=loaded)
        assert is_applied(copy)
        return copy

    assert_exact(planned, *data())
    fits, other = fresh_model(lambda: residual(4)), fresh_model(lambda: residual(3))
    assert_refused_where_it_does_not_fit(loaded, fits, other)


ERRORS = [
    (lambda: keras.models.Sequential([layers.Dense(2)]), {}, ValueError, "is not built"),
    (lambda: "model", {}, TypeError, "expects a built model .*builtins.str"),
    (mlp, {"every": 0}, ValueError, "at least 1, got 0"),
    (mlp, {"layers": "dens"}, ValueError, "no layer 'dens'"),
]


@pytest.mark.parametrize(("build", "options", "error", "words"), ERRORS)
def test_errors(build, options, error, words):
    """Each says what was received and what to do, and changes nothing."""
    with pytest.raises(error, match=words):
        recompute.apply(build(), **options)


@pytest.mark.skipif(not GRAPH, reason="elsewhere layers inside can be chosen")
def test_what_a_graph_does_not_know():
    """Layers of a nested model cannot be told apart in a graph that exists."""
    model = fresh_model(nested)
    inside = model.get_layer("inner").layers[1]
    with pytest.raises(ValueError, match="hidden in a layer or a nested model"):
        recompute.apply(model, layers=inside.name)
