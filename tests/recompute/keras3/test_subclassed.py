"""Budgets and profiles of models with a ``call`` of their own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from perftricks import recompute
from perftricks.recompute import likeness, units
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.measure.steps import counted_peak
from tests.recompute.keras3.kept import kept_bytes
from tests.recompute.keras3.subclassed import (
    BATCH,
    CASES,
    CLASSES,
    IDS,
    LENGTH,
    ONES,
    WIDTH,
    Block,
    Tokens,
    sparse,
)
from tests.recompute.keras3.training import BACKEND, array, fresh_model

OF_MOST = "tokens", "shared", "wrapped"  # where each plan traces or compiles steps, these


def cases(some=tuple(CASES)):
    """Return the names of cases; on torch of all, elsewhere of some."""
    return list(CASES if BACKEND == "torch" else some)


def compiled(name):
    """Return a compiled model that is not built, and how to plan it."""
    case = CASES[name]
    model = fresh_model(case.build)
    loss = case.loss() if callable(case.loss) else case.loss
    model.compile(keras.optimizers.SGD(0.01), loss)
    return model, {"batch_size": BATCH, "x": keras.tree.map_structure(lambda a: a[:2], case.x)}


def ends(model, options):
    """Return the least that a step takes, and what a plain one does."""
    points = recompute.plan(model, budget="1TiB", **options).curve
    return points[0].peak, points[-1].peak


@pytest.mark.parametrize("name", cases(OF_MOST))
def test_budgets(name, tmp_path):
    """A plan keeps its budget, goes through a file to a fresh copy, and changes no number."""
    case = CASES[name]
    model, options = compiled(name)
    least, plain = ends(model, options)
    assert least < plain
    assert not recompute.status(model).parts
    plan = recompute.plan(model, budget=(2 * least + plain) // 3, **options)
    assert plan.step_peak <= plan.budget
    assert any(segment.recomputed for segment in plan.segments)
    plan.save(tmp_path / "plan.json")
    loaded = recompute.Plan.load(tmp_path / "plan.json")
    assert loaded == plan

    copy, _ = compiled(name)
    copy(keras.tree.map_structure(lambda a: keras.ops.convert_to_tensor(a[:2]), case.x))
    recompute.apply(copy, plan=loaded)
    found = recompute.verify(copy, case.x, case.y)
    assert found.ok, found
    if BACKEND != "tensorflow":
        assert counted_peak(copy, case.x, case.y) == pytest.approx(plan.step_peak, rel=0.05)
    recompute.remove(copy)
    assert not any(set(keras3.METHODS) & vars(one).keys() for one in keras3.everything_in(copy))


@pytest.mark.skipif(BACKEND != "torch", reason="TensorFlow counts nothing, and JAX takes minutes")
@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_forecast(name, share):
    """What is forecast without running a step is what real ones make, to a twentieth."""
    case = CASES[name]
    model, options = compiled(name)
    least, plain = ends(model, options)
    budget = plain if share else least
    plan = recompute.plan(model, budget=budget, y=case.y, **options)
    if any(segment.recomputed for segment in plan.segments):
        recompute.apply(model, plan=plan)
    assert counted_peak(model, case.x, case.y) == pytest.approx(plan.step_peak, rel=0.05)


@pytest.mark.parametrize("name", cases(("tokens", "translation", "autoencoder")))
def test_profile(name):
    """Activations are what the backend keeps; segments are the layers that were called."""
    case = CASES[name]
    model, options = compiled(name)
    profile = recompute.profile(model, **options)
    kept = kept_bytes(model, case.x)  # and what the loss needs
    assert 0.93 * kept <= profile.activations <= 1.03 * kept
    for segment in profile.segments:
        assert segment.full <= segment.save_masks <= segment.save_matmuls
    assert profile.planned_peak <= profile.plain_peak
    assert "save_masks" in str(profile)


def test_samples_build_the_model():
    """Symbols are as good as arrays, nothing is computed, and weights are there afterwards."""
    symbols = keras.Input((LENGTH,), dtype="int32")
    by_symbols, by_arrays = fresh_model(Tokens), fresh_model(Tokens)
    found = [
        recompute.profile(model, batch_size=8, x=x).to_json()
        for model, x in ((by_symbols, symbols), (by_arrays, np.ones((3, LENGTH), "int32")))
    ]
    assert found[0].replace(by_symbols.name, "") == found[1].replace(by_arrays.name, "")
    assert by_symbols.built
    assert all(np.isfinite(array(v)).all() for v in by_symbols.variables)
    assert by_symbols(IDS).shape == (BATCH, 3)


def test_a_layer_with_several_calls():
    """It is recomputed at each of them, or at none, and stands in the plan once."""
    model, options = compiled("shared")
    least, _ = ends(model, options)
    plan = recompute.plan(model, budget=least, **options)
    names = [segment.layers for segment in plan.segments]
    assert len(names) == len(set(names))
    assert (model.block.name,) in names


def test_a_large_layer_is_looked_into():
    """Where one layer is most of the model, the layers in it are segments."""
    model = fresh_model(InOneLayer)
    options = {"batch_size": BATCH, "x": np.ones((1, 24, WIDTH), "float32"), "loss": "mse"}
    plan = recompute.plan(model, budget="1GiB", **options)
    names = {name for segment in plan.segments for name in segment.layers}
    assert {block.name for block in model.only.blocks} <= names
    least = recompute.plan(model, budget=plan.curve[0].peak, **options)
    assert least.step_peak < 0.8 * plan.step_peak


class Stack(layers.Layer):
    """All of a model in one layer."""

    def __init__(self):
        super().__init__()
        self.blocks = [Block() for _ in range(5)]

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return x


class InOneLayer(keras.Model):
    """A model that is one layer."""

    def __init__(self):
        super().__init__()
        self.only, self.head = Stack(), layers.Dense(1)

    def call(self, x, training=None):
        return self.head(self.only(x, training=training)[:, 0])


def test_layers_that_are_alike_are_measured_once(monkeypatch):
    """Four blocks cost what one does; another rate or width is another layer."""
    measured = []
    plain = units.cost_of
    monkeypatch.setattr(units, "cost_of", lambda *given: measured.append(0) or plain(*given))
    model, options = compiled("tokens")
    recompute.plan(model, budget="1GiB", **options)
    assert len(measured) == 4  # the whole, the embedding, a block, the head
    block, same, other = Block(), Block(), Block()
    other.dropout.rate = 0.2
    texts = [likeness.text_of(one) for one in (block, same, other, Block(2 * WIDTH))]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


class OwnStep(Tokens):
    """A step of its own."""

    def train_step(self, *given):
        return super().train_step(*given)


class Peeking(keras.Model):
    """A call that looks at numbers."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x * float(keras.ops.convert_to_numpy(keras.ops.sum(x))))


def test_what_cannot_be_planned():
    """Each is one line that says what to do."""
    model, options = compiled("tokens")
    x = options.pop("x")
    with pytest.raises(ValueError, match="is not built, so its layers are not known yet"):
        recompute.plan(model, budget="1GiB", **options)
    model(x)
    for look in (recompute.profile, lambda *a, **k: recompute.plan(*a, budget="1GiB", **k)):
        with pytest.raises(ValueError, match="so what it takes is not known: give x="):
            look(model, **options)
        with pytest.raises(ValueError, match="x must be samples: arrays, tensors or keras"):
            look(model, x=[1, 2], **options)
    with pytest.raises(ValueError, match="returns 1 tensors, and y has 2"):
        recompute.plan(model, budget="1GiB", x=x, y=[CLASSES, CLASSES], **options)
    with pytest.raises(ValueError, match="y: given with a budget only"):
        recompute.plan(model, y=CLASSES)
    with pytest.raises(recompute.BudgetError, match="no batch would fit"):
        recompute.plan(model, budget=1000, x=x, **options)
    model = fresh_model(OwnStep)
    model.compile("sgd", sparse())
    with pytest.raises(ValueError, match="has a train_step of its own, so what a step takes is no"):
        recompute.plan(model, budget="1GiB", x=x, **options)
    assert recompute.plan(model, budget="1GiB", x=x, loss=sparse(), **options).step_peak > 0
    model = fresh_model(Tokens)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"is compiled without a loss and adds none itself"):
        recompute.plan(model, budget="1GiB", x=x, **options)
    peeking = fresh_model(Peeking)
    peeking(ONES)
    with pytest.raises(ValueError, match="cannot be traced without numbers"):
        recompute.plan(peeking, budget="1GiB", x=ONES, **options)
