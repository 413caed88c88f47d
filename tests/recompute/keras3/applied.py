"""What ``apply`` promises for any model, to be bound to the models of several test modules."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np

from perftricks import recompute
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.models import is_applied
from tests.recompute.keras3.training import array, fresh_model


def applied(build, **options):
    """Return a builder of a model to which apply was applied."""

    def build_and_apply():
        model = build()
        plan = recompute.apply(model, **options)
        assert sum(segment.recomputed for segment in plan.segments) >= 1
        return model

    return build_and_apply


def assert_removed_without_trace(build, **options):
    """Apply twice, then remove twice: no attribute of any layer is another than before."""
    model = fresh_model(build)
    everything = keras3.everything_in(model)
    before = [{k: id(v) for k, v in vars(layer).items()} for layer in everything]
    names = [v.path for v in model.weights]
    config = keras.saving.serialize_keras_object(model)
    recompute.apply(model, **options)
    recompute.apply(model, **options)
    assert is_applied(model)
    assert [v.path for v in model.weights] == names
    assert keras.saving.serialize_keras_object(model) == config
    recompute.remove(model)
    recompute.remove(model)
    assert before == [{k: id(v) for k, v in vars(layer).items()} for layer in everything]


LOAD = """
import sys
sys.modules["perftricks"] = None
for name in sys.argv[1:]:
    __import__(name)  # the library whose layers are in the model
import keras, numpy as np
x = dict(np.load("x.npz"))
model = keras.saving.load_model("model.keras")
# The optimizer of TensorFlow's graphs, which conftest switches off here, is on there.
y = model.predict(x.pop("input", x), verbose=0)
np.testing.assert_allclose(y, np.load("y.npy"), 1e-5, 1e-6)
"""


def assert_saved_without_us(build, x, y, folder, *libraries, **options):
    """Train and save a model; load it where perftricks cannot be imported, and its weights here.

    Args:
        build: Returns a model with one output.
        x: Its inputs, an array or a dict of them.
        y: The targets.
        folder: Where to save.
        libraries: What must be imported before the model can be loaded.
        options: How to apply.
    """
    model = fresh_model(applied(build, **options))
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    np.savez(folder / "x.npz", **(x if isinstance(x, dict) else {"input": x}))
    np.save(folder / "y.npy", model.predict(x, verbose=0))
    model.save(folder / "model.keras")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, *libraries],
        check=True,
        cwd=folder,
    )
    model.save_weights(folder / "model.weights.h5")
    other = fresh_model(build)
    other.load_weights(folder / "model.weights.h5")
    for a, b in zip(model.weights, other.weights):
        np.testing.assert_array_equal(array(a), array(b))
