"""What is not training: what is saved or exported while recompute is on needs nothing of us."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from perftricks import recompute
from tests.recompute.comparison import recomputed
from tests.recompute.keras2.binding import GRAPH, TF, keras, layers, tf
from tests.recompute.keras2.training import ON, fresh_model, way

if GRAPH:
    pytest.skip("a SavedModel is written where models run eagerly", allow_module_level=True)

WIDTH = 6

LOAD = """
import sys
sys.modules["perftricks"] = None
import numpy as np
import tensorflow as tf
x, y = tf.constant(np.load("x.npy")), np.load("y.npy")
model = tf.saved_model.load("model")
run = getattr(model, "run", None) or getattr(model, "serve", None) or model
options = {"training": True} if run is model else {}
with tf.GradientTape() as tape:
    outputs = run(x, **options)
    loss = tf.reduce_sum(outputs ** 2)
np.testing.assert_allclose(outputs, y, 1e-5, 1e-6)
variables = getattr(model, "trainable_variables", None) or list(tape.watched_variables())
gradients = tape.gradient(loss, variables)
print("trained", sum(g is not None and bool(tf.reduce_any(g != 0)) for g in gradients))
"""


def decorated():
    """Return a model of decorated layers; nothing in it differs in training."""
    inputs = layers.Input((WIDTH,))
    x = recomputed(layers.Dense)(WIDTH, activation="tanh")(inputs)
    x = recomputed(layers.Dense)(WIDTH, activation="tanh")(x)
    return keras.models.Model(inputs, layers.Dense(3)(x))


def applied():
    """Return a model to which apply was applied."""
    inputs = x = layers.Input((WIDTH,))
    for _ in range(4):
        x = layers.Dense(WIDTH, activation="softplus")(x)
    model = keras.models.Model(inputs, layers.Dense(3)(x))
    recompute.apply(model, every=1)
    return model


def save(model, path):
    """Save a model as Keras does."""
    model.save(path, save_format="tf")


def save_plainly(model, path):
    """Save it as any object."""
    tf.saved_model.save(model, path)


def export(model, path):
    """Save what it predicts."""
    if not hasattr(model, "export"):
        pytest.skip("this Keras has no export")
    model.export(path)


def save_function(model, path):
    """Save a function that runs a model in training, traced with recomputation."""
    if TF == (2, 0):
        pytest.skip("TensorFlow 2.0 writes the name of a gradient into its graphs")
    module = tf.Module()
    module.model, module.kept = model, list(model.trainable_variables)
    module.run = tf.function(
        lambda x: model(x, training=True),
        input_signature=[tf.TensorSpec([None, WIDTH], tf.float32)],
    )
    graph = module.run.get_concrete_function().graph
    assert any(op.type == "IdentityN" for op in graph.get_operations())
    del module.model
    tf.saved_model.save(module, path)


@pytest.mark.parametrize("how", [save, save_plainly, export, save_function])
@pytest.mark.parametrize("build", [decorated, applied])
def test_what_is_saved_predicts_and_trains_without_us(build, how, tmp_path):
    """Loaded where perftricks cannot be imported it gives the same, and all gradients."""
    x = np.random.RandomState(0).normal(size=(8, WIDTH)).astype("float32")
    with way(ON):
        model = fresh_model(build)
        model.compile("sgd", "mse")
        model.fit(x, x[:, :3], verbose=0)
        np.save(str(tmp_path / "x.npy"), x)
        np.save(str(tmp_path / "y.npy"), model(x).numpy())
        how(model, str(tmp_path / "model"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        cwd=str(tmp_path),
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "trained %d" % len(model.trainable_weights) in done.stdout


@pytest.mark.skipif(TF < (2, 15), reason="the converter of newer versions")
@pytest.mark.parametrize("build", [decorated, applied])
def test_lite(build):
    """It is converted to TensorFlow Lite as large as it is without recomputation, and predicts."""
    x = np.random.RandomState(0).normal(size=(1, WIDTH)).astype("float32")
    with way(ON):
        model = fresh_model(build)
        data = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        expected = model(x).numpy()
    assert b"perftricks" not in data
    interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


def test_a_traced_prediction_is_plain():
    """In a function traced for inference there is nothing of ours."""
    with way(ON):
        model = fresh_model(decorated)
        function = tf.function(lambda x: model(x, training=False))
        graph = function.get_concrete_function(tf.TensorSpec([2, WIDTH], tf.float32)).graph
    assert not any(op.type == "IdentityN" for op in graph.get_operations())
