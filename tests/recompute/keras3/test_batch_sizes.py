"""``max_batch_size``: what it finds is trained in processes of their own."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

from perftricks import recompute
from perftricks.recompute import batch_trial
from perftricks.recompute.batch_trial import Trial
from perftricks.recompute.measure.meters import PeakMeter
from perftricks.recompute.measure.steps import counted_peak

BACKEND = keras.backend.backend()


def build(width=64, depth=6, rate=0.1, compiled=True):
    """Return a model whose activations are most of what a step takes."""
    x = inputs = keras.Input((width, 8))
    for _ in range(depth):
        x = layers.Dropout(rate)(layers.Dense(64, activation="gelu")(x))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))
    if compiled:
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=BACKEND == "jax")
    return model


def take(model, batch_size):
    """Return the bytes of a step of this process, at its peak; None where nothing counts them."""
    x, y = np.zeros((batch_size, 64, 8), "float32"), np.zeros((batch_size, 1), "float32")
    return counted_peak(model, x, y)


@pytest.mark.timeout(1800)
def test_largest():
    """The largest batch fits, a sixteenth more does not, and recomputing fits more."""
    memory = take(build(), 40) or 2**26
    lines = []
    found = recompute.max_batch_size(
        lambda: build(), memory=memory, start=39, limit=60, steps=3, progress=lines.append
    )
    plain, full, planned = (found[way] for way in ("plain", "full", "planned"))
    if BACKEND != "tensorflow":
        assert plain.batch_size == pytest.approx(39, abs=2)
        assert plain.batch_size < plain.too_large <= plain.batch_size + 3
        assert 57 <= full.batch_size <= 60
        assert 57 <= planned.batch_size <= 60
    for way in found.ways:
        assert 0 < way.batch_size <= 60
        assert way.peak <= memory == found.memory
        assert way.sample_seconds > 0
        assert f"{way.way}, a batch of {way.batch_size}" in lines
        assert f"{way.way:8s}  {way.batch_size:7d}  {way.too_large or '-':>9}" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["device"] == "cpu"


@pytest.mark.timeout(1800)
def test_nothing_fits():
    """Where not even one sample fits, the answer is 0."""
    found = recompute.max_batch_size(build, memory="1kB", start=1, ways=["planned"])
    assert (found["planned"].batch_size, found["planned"].too_large) == (0, 1)
    assert found["planned"].peak is None


class Own(keras.Model):
    """A model with a call of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(32, activation="gelu") for _ in range(3)]

    def call(self, inputs):
        x = inputs["x"]
        for block in self.blocks:
            x = block(x)
        return x


def own(with_data):
    """Return such a model, with samples or without."""
    model = Own()
    model.compile("sgd", "mse")
    x, y = {"x": np.ones((2, 32), "float32")}, np.ones((2, 32), "float32")
    model.predict(x, verbose=0)
    return (model, x, y) if with_data else model


@pytest.mark.timeout(1800)
def test_own_call_and_data():
    """A model with a call of its own trains on the samples that come with it."""
    found = recompute.max_batch_size(
        lambda: own(True), memory="1GiB", ways=["plain", "planned"], start=5, limit=5, steps=1
    )
    for way in found.ways:
        assert way.batch_size == 5
        assert way.too_large is None


def trial(batch_size=4):
    return Trial("", "plain", batch_size, None, 2**30, 1.0, 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: own(False), "have build return (model, x, y)"),
        (lambda: build(compiled=False), "must return a compiled model"),
        (lambda: (build(), 1), "it returned Functional, int"),
        (lambda: 7, "must return a model of Keras 3, or (model, x, y); it returned int"),
        (lambda: (build(), np.zeros((0, 64, 8)), np.zeros(1)), "must have samples"),
    ],
)
def test_build_is_wrong(function, message):
    """What is wrong with what ``build`` returns is told in a line."""
    with pytest.raises(SystemExit) as caught:
        batch_trial._built(function(), trial())
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_samples_are_repeated():
    """Samples are repeated up to a batch, and made where there are none."""
    x, y = {"x": np.arange(6.0).reshape(3, 2)}, np.arange(3)
    _, x, y = batch_trial._built((build(), x, y), trial(4))
    assert x["x"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert y.tolist() == [0, 1, 2, 0]
    _, x, y = batch_trial._built(build(), trial(4))
    assert (x.shape, y.shape) == ((4, 64, 8), (4, 1))
    assert x.std() > 0.5


def test_a_gpu_is_asked_for_its_own_count():
    """The peak of a step there is what its counter shows, all that is in use included."""
    meter = PeakMeter("a counter", lambda: 1000, lambda: 1500)
    model = build()
    x, y = np.zeros((4, 64, 8), "float32"), np.zeros((4, 1), "float32")
    peak, seconds, how = batch_trial._train(model, x, y, trial(4), meter)
    assert (peak, how) == (1500, "a counter")
    assert seconds > 0


def test_build_raises():
    """An error of ``build`` is told as it was raised in the other process."""
    with pytest.raises(RuntimeError, match=r"^ZeroDivisionError: division by zero$"):
        recompute.max_batch_size(lambda: 1 / 0, memory="1GiB", ways=["plain"])


def test_memory_of_a_cpu_is_given():
    """There is no memory of its own to run out of, and the machine's is not tried."""
    with pytest.raises(RuntimeError, match="say how much memory a step may take"):
        recompute.max_batch_size(build, ways=["plain"])
