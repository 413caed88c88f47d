"""Train the same model with and without recomputation, and compare everything."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from unittest import mock

import keras
import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute import recompute_scope
from tests.recompute.comparison import Run, recomputed

BACKEND = os.environ["KERAS_BACKEND"]
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's own API")
only_jax = pytest.mark.skipif(BACKEND != "jax", reason="about JAX's own API")
only_torch = pytest.mark.skipif(BACKEND != "torch", reason="about torch's own API")
only_jax = pytest.mark.skipif(BACKEND != "jax", reason="about JAX's own API")


def since(*version):
    """Mark a test of what Keras has since a version."""
    before = tuple(map(int, keras.version().split(".")[:2])) < version
    return pytest.mark.skipif(before, reason="Keras %d.%d has what this is about" % version)


def marked(cases, marks):
    """Return the parameters of a test, some of them with a mark, by their names."""
    return [pytest.param(case, marks=marks.get(case, ())) for case in cases]


def array(x):
    """Return a tensor, a variable or a sparse gradient as an array."""
    if type(x).__name__ == "IndexedSlices":
        return np.concatenate([np.ravel(x.indices).astype("float32"), np.ravel(x.values)])
    return np.array(keras.ops.convert_to_numpy(x))


def variables_of(*owners):
    """Return all variables of models and optimizers, by their position and path."""
    return {
        f"{i}.{v.path}": array(v.value) for i, owner in enumerate(owners) for v in owner.variables
    }


def fresh_model(build):
    """Build a model as if the process had just begun."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    return build()


def fit(build, x, y, on, *, epochs=2, batch_size=4, optimizer=None, loss="mse", **options):
    """Train with fit, four steps by default; return losses and all variables."""
    model = fresh_model(build)
    optimizer = optimizer() if optimizer else keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, loss, **options)
    with recompute_scope(on):
        history = model.fit(
            x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0
        ).history
    return Run(history["loss"], variables_of(model, model.optimizer))


def loss_of(outputs, y, losses):
    """Return mean square error plus what layers have added."""
    y = keras.ops.convert_to_tensor(y)
    outputs = keras.tree.flatten(outputs)
    loss = sum(keras.ops.mean(keras.ops.square(keras.ops.cast(o, "float32") - y)) for o in outputs)
    return loss + sum(keras.ops.sum(extra) for extra in losses)


def step(model, x, y, on, training=True):
    """Run one eager step of a custom loop; return loss, gradients and state.

    The gradients are those of all trainable variables and of the inputs that are floats.
    """
    inputs = [keras.ops.convert_to_tensor(a) for a in keras.tree.flatten(x)]
    floats = [
        i for i, a in enumerate(inputs) if "float" in keras.backend.standardize_dtype(a.dtype)
    ]
    with recompute_scope(on):
        loss, gradients, state = _STEPS[BACKEND](model, x, inputs, floats, y, training)
    names = [f"input {i}" for i in floats] + [v.path for v in model.trainable_variables]
    arrays = {f"gradient of {n}": array(g) for n, g in zip(names, gradients) if g is not None}
    assert len(arrays) >= sum(g is not None for g in gradients)
    arrays.update({f"{i}.{v.path}": array(s) for i, (v, s) in enumerate(state)})
    return Run([array(loss)], arrays)


def steps(build, x, y, on, count=2, **options):
    """Build a model and run some eager steps; return the last, whose state has seen them all."""
    model = fresh_model(build)
    for _ in range(count):
        run = step(model, x, y, on, **options)
    return run


def _tensorflow_step(model, x, inputs, floats, y, training):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch([inputs[i] for i in floats])
        outputs = model(keras.tree.pack_sequence_as(x, inputs), training=training)
        loss = loss_of(outputs, y, model.losses)
    sources = [inputs[i] for i in floats] + [v.value for v in model.trainable_variables]
    gradients = tape.gradient(loss, sources)
    return loss, gradients, [(v, v.value) for v in model.non_trainable_variables]


def _jax_step(model, x, inputs, floats, y, training):
    import jax

    def compute(sources):
        filled = list(inputs)
        for i, a in zip(floats, sources):
            filled[i] = a
        # stateless_call hands ``training`` to the model's own call, which need not take it.
        mapping = zip(model.trainable_variables, sources[len(floats) :])
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            outputs = model(keras.tree.pack_sequence_as(x, filled), training=training)
            losses = model.losses
            state = [scope.get_current_value(v) for v in model.non_trainable_variables]
        state = [v.value if s is None else s for v, s in zip(model.non_trainable_variables, state)]
        return loss_of(outputs, y, losses), state

    sources = [inputs[i] for i in floats] + [v.value for v in model.trainable_variables]
    (loss, state), gradients = jax.jit(jax.value_and_grad(compute, has_aux=True))(sources)
    for v, value in zip(model.non_trainable_variables, state):
        v.assign(value)
    return loss, gradients, list(zip(model.non_trainable_variables, state))


def _torch_step(model, x, inputs, floats, y, training):
    model.zero_grad()
    for i in floats:
        inputs[i] = inputs[i].detach().requires_grad_()
    outputs = model(keras.tree.pack_sequence_as(x, inputs), training=training)
    loss = loss_of(outputs, y, model.losses)
    with ThreadPoolExecutor(1) as another_thread:  # as autograd has for each GPU
        another_thread.submit(loss.backward).result()
    gradients = [inputs[i].grad for i in floats]
    gradients += [v.value.grad for v in model.trainable_variables]
    state = [(v, v.value) for v in model.non_trainable_variables]
    return loss.detach(), gradients, state


_STEPS = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}

# XLA fuses the recomputed operations in other groups. Where that rounds differently (with
# TensorFlow's jit_compile, and on JAX where a step is not compiled as a whole) a few of the last
# bits differ; the flags in conftest keep it from doing so on JAX.
# On TensorFlow, what is used inside a recomputed call and outside of it too has the parts of its
# gradient added in another order. Everything else is equal bit by bit; on torch, everything is.
# Up to JAX 0.9, XLA fuses some operations whatever the flags in conftest say, and runs what
# recomputes as one program even where the rest runs operation by operation.
FEW_ULP = 4e-6
XLA_ROUNDS = BACKEND == "jax" and sys.modules["jax"].__version_info__ < (0, 10)
GROWN = 10 * FEW_ULP  # the last bits, after a few steps of training
ROUNDING = GROWN if XLA_ROUNDS else 0.0


def assert_exact(build, x, y, *, regrouped=False, **options):
    """Compare runs with and without recomputation: steps of a custom loop, then fit.

    ``regrouped`` says that something is used inside and outside of recomputed calls.
    """
    rounded = XLA_ROUNDS or (BACKEND != "torch" and regrouped)
    off, on = steps(build, x, y, False), steps(build, x, y, True)
    off.assert_same(on, FEW_ULP if rounded else 0.0)
    off, on = fit(build, x, y, False, **options), fit(build, x, y, True, **options)
    compiled = BACKEND == "tensorflow" and options.get("jit_compile")
    off.assert_same(on, GROWN if rounded or compiled else 0.0)


def steps_in_threads(models, x, y):
    """Take a step with each model, all at once, every second one recomputed; return the runs.

    The threads take turns often, so that what one of them disturbs is seen.
    """
    runs = {}

    def train(i):
        runs[i] = step(models[i], x, y, i % 2 == 0)

    threads = [threading.Thread(target=train, args=(i,)) for i in range(len(models))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(runs) == len(models)
    return list(runs.values())


def gradient(function, x):
    """Return the gradient of a function of one array, as an array; no scope is entered."""
    x = keras.ops.convert_to_tensor(x)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return array(tape.gradient(y, x))
    if BACKEND == "jax":
        import jax

        return array(jax.grad(function)(x))
    x.requires_grad_()
    function(x).backward()
    return array(x.grad)


class Way(NamedTuple):
    """How to ask for recomputation of a model that a test builds."""

    layer: object  # gives the class of layers to use in place of another
    options: dict | None  # of apply, for a model that has a graph

    def model(self, inputs, outputs):
        """Return a functional model."""
        return self.apply(keras.Model(inputs, outputs))

    def apply(self, model):
        """Return a model after ``apply``, where this is the way; one without a graph by layers."""
        if self.options is not None:
            has_graph = isinstance(model, (keras.Sequential, keras.src.models.Functional))
            options = self.options if has_graph or "layers" in self.options else {}
            plan = recompute.apply(model, **options)
            assert any(segment.recomputed for segment in plan.segments)
        return model


def _same(kind):
    return kind


PLAIN = Way(_same, None)
WAYS = {
    "decorated": Way(recomputed, None),
    "applied": Way(_same, {"every": 1}),
    "applied to layers": Way(_same, {"layers": lambda layer: bool(layer.weights)}),
}


def in_turn(programs, ways=("decorated", "applied")):
    """Mark a test of programs, of which each is recomputed in one of the ways, in turn."""
    pairs = [
        pytest.param(program, ways[i % len(ways)], id=f"{program.__name__}-{ways[i % len(ways)]}")
        for i, program in enumerate(programs)
    ]
    return pytest.mark.parametrize(("program", "way"), pairs, indirect=["way"])


@contextlib.contextmanager
def recomputations():
    """Count the calls that are handed to the framework to be run again, in a list of one each."""
    engine = importlib.import_module("perftricks.recompute.keras3." + BACKEND)
    calls, checkpoint = [], engine.checkpoint

    def counted(pure):
        calls.append(1)  # not the call: what JAX traces must not outlive it
        return checkpoint(pure)

    counted.autograph_info__ = {}
    with mock.patch.object(engine, "checkpoint", counted):
        yield calls


def assert_same_program(way, program, *, tolerance=ROUNDING):
    """Run a whole program plainly and recomputed, from imports on; compare the runs it returns.

    The plain one knows nothing of perftricks. In the other one, recomputation is switched on for
    everything that the program does, as by ``RECOMPUTE=1``, and must really happen.

    Args:
        way: How to ask for recomputation.
        program: A function of a way that returns a Run.
        tolerance: As ``Run.assert_same`` has it.
    """
    plain = _plain(program)
    with recompute_scope(True):
        run, calls = _run(program, way)
    assert calls
    plain.assert_same(run, tolerance)


def _run(program, way):
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    with recomputations() as calls:
        return program(way), calls


@functools.lru_cache(maxsize=None)  # each program is recomputed in several ways
def _plain(program):
    run, calls = _run(program, PLAIN)
    keras.config.set_dtype_policy("float32")
    assert not calls
    return run


def update(models, variables, optimizer, loss, *data):
    """Take a step of a custom loop with an optimizer of Keras; return the loss.

    Args:
        models: All that the loss runs, whose state it may change.
        variables: The trainable variables that are updated.
        optimizer: Which updates them.
        loss: A function of the data.
        data: Arrays, nested.
    """
    value, gradients = value_and_gradients(models, variables, loss, *data)
    known = [(g, v) for g, v in zip(gradients, variables) if g is not None]
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply_gradients(known)
    else:
        optimizer.apply_gradients(known)
    return float(array(value))


def value_and_gradients(models, variables, loss, *data):
    """Return a loss and its gradients, of which some may be None; the models' state moves on."""
    data = keras.tree.map_structure(keras.ops.convert_to_tensor, data)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(*data)
        return value, tape.gradient(value, [v.value for v in variables])
    if BACKEND == "torch":
        for model in models:
            model.zero_grad()
        value = loss(*data)
        value.backward()
        return value.detach(), [v.value.grad for v in variables]
    import jax

    state = [v for model in models for v in model.non_trainable_variables]

    def compute(values):
        with keras.StatelessScope(state_mapping=zip(variables, values)) as scope:
            found = loss(*data)
        return found, [scope.get_current_value(v) for v in state]

    values = [v.value for v in variables]
    (value, found), gradients = jax.jit(jax.value_and_grad(compute, has_aux=True))(values)
    for v, new in zip(state, found):
        if new is not None:
            v.assign(new)
    return value, gradients
