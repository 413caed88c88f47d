"""Forward and backward passes of a model of Keras 2, for ``verify``.

Where models run eagerly there are three passes from the same state, and random numbers that the
first has drawn are given to the others. In a graph with sessions there is one: from one forward
pass two sets of gradients are computed, plain and recomputed, so that random numbers are the same.
"""

from __future__ import annotations

import random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from perftricks.recompute import switch
from perftricks.recompute.keras2 import layers as keras2
from perftricks.recompute.keras2 import private
from perftricks.recompute.measure.counters import allocated_peak
from perftricks.recompute.python_state import Attributes
from perftricks.recompute.tensorflow_graphs import runtime
from perftricks.recompute.tensorflow_graphs.operations import DRAWS

Arrays = Dict[Tuple[str, str], Any]  # by kind (loss, gradient, state) and name
_NOT_MEASURED = "not measured: TensorFlow counts memory on GPUs and in sessions only"


class Trial(NamedTuple):
    """What the passes have produced, as in ``keras3.Result``, and the peaks of memory.

    Attributes:
        plain: What a plain run gives.
        again: What a second plain run gives.
        recomputed: What a recomputed run gives.
        plain_peak: Bytes at the peak of the plain run, or None.
        recomputed_peak: The same, recomputed.
        how: How memory was measured, or why it was not.
    """

    plain: Arrays
    again: Arrays
    recomputed: Arrays
    plain_peak: Optional[int]
    recomputed_peak: Optional[int]
    how: str


def run(model: Any, x: Any, y: Any, loss: Any, sample_weight: Any, steps: int) -> Trial:
    """Compare; see ``verify`` for the arguments."""
    trial = _in_a_session if keras2.is_static(model) else _eagerly
    return trial(model, x, y, _loss(model, loss), sample_weight, steps)


def precision_of(model: Any) -> str:
    """Return the name of the precision in which a model computes."""
    policy = getattr(model, "compute_dtype", None) or getattr(model, "dtype", None)
    name = str(getattr(policy, "name", policy) or "float32")
    return name if name in ("float16", "bfloat16", "float64") else "float32"


def _loss(model: Any, loss: Any) -> Callable[..., Any]:
    """Return a function of targets, outputs and weights of the samples; a scalar."""
    given = model.loss if loss is None else loss
    if isinstance(given, (list, tuple, dict)):
        raise ValueError(
            "verify takes one loss for the whole model on Keras 2, got %r; pass a function of y "
            "and of what the model returns as loss=" % (given,)
        )
    keras = keras2.keras_of(model)
    function = keras.losses.get(given)

    def compute(y: Any, outputs: Any, sample_weight: Any) -> Any:
        if sample_weight is not None and isinstance(function, keras.losses.Loss):
            return function(y, outputs, sample_weight=sample_weight)
        each = function(y, outputs)
        return tf.reduce_mean(each if sample_weight is None else each * sample_weight)

    return compute


def _arrays(model: Any, steps: Sequence[Tuple[Any, Sequence[Any], Sequence[Any]]]) -> Arrays:
    found: Arrays = {}
    for number, (loss, gradients, state) in enumerate(steps, 1):
        at = " at step %d" % number if len(steps) > 1 else ""
        found["loss", "loss" + at] = np.array(loss)
        for i, (variable, gradient) in enumerate(zip(model.trainable_weights, gradients)):
            if gradient is not None:
                found["gradient", "%d.%s%s" % (i, variable.name, at)] = np.array(gradient)
        for i, (variable, value) in enumerate(zip(model.non_trainable_weights, state)):
            found["state", "%d.%s%s" % (i, variable.name, at)] = np.array(value)
    return found


def _eagerly(
    model: Any, x: Any, y: Any, loss: Callable[..., Any], sample_weight: Any, steps: int
) -> Trial:
    x, y = (tf.nest.map_structure(tf.convert_to_tensor, tensors) for tensors in (x, y))
    modules = private.with_own_state(private.modules_at(model))
    weights = [(v, v.numpy()) for v in model.weights]
    drawn: List[Any] = []

    def passes(on: bool, answer: Any) -> Arrays:
        attributes, scopes = Attributes(modules), private.Scopes()
        python = random.getstate()
        try:
            answered = runtime.operations_through(answer)
            with switch.recompute_scope(on), scopes.entered(), answered:
                found = [_step(model, x, y, loss, sample_weight) for _ in range(steps)]
            return _arrays(model, found)
        finally:
            for variable, value in weights:
                variable.assign(value)
            attributes.restore()
            random.setstate(python)

    def draw(run: Callable[[], Any], name: str, inputs: Sequence[Any]) -> Any:
        result = run()
        if name in DRAWS:
            drawn.append(result)
        return result

    def drawing_again() -> Any:
        numbers = iter(drawn)
        return lambda run, name, inputs: next(numbers) if name in DRAWS else run()

    plain = passes(False, draw)
    again, recomputed = passes(False, drawing_again()), passes(True, drawing_again())
    return Trial(plain, again, recomputed, None, None, _NOT_MEASURED)


def _step(model: Any, x: Any, y: Any, loss: Callable[..., Any], sample_weight: Any) -> Any:
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True), sample_weight)
        for extra in model.losses:
            value = value + tf.cast(tf.reduce_sum(extra), value.dtype)
    gradients = tape.gradient(value, model.trainable_weights)
    arrays = [None if g is None else tf.convert_to_tensor(g).numpy() for g in gradients]
    return value.numpy(), arrays, [v.numpy() for v in model.non_trainable_weights]


def _in_a_session(
    model: Any, x: Any, y: Any, loss: Callable[..., Any], sample_weight: Any, steps: int
) -> Trial:
    from perftricks.recompute.keras2.attachment import plain_gradients

    backend = keras2.keras_of(model).backend
    phase = backend.learning_phase()
    placeholders = [*model.inputs, *([] if isinstance(phase, int) else [phase])]
    fed = [*_in_order(model, x), 1][: len(placeholders)]
    with model.outputs[0].graph.as_default():
        outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
        value = loss(tf.nest.map_structure(tf.convert_to_tensor, y), outputs, sample_weight)
        for extra in model.losses:
            value = value + tf.cast(tf.reduce_sum(extra), value.dtype)
        with plain_gradients():
            off = _gradients(backend, value, model)
        with switch.recompute_scope(True):
            on = _gradients(backend, value, model)
        step = backend.function(
            placeholders, [value, *off.values(), *on.values()], updates=keras2.updates_of(model)
        )
    before = backend.batch_get_value(model.weights)
    plain, recomputed = [], []
    try:
        for _ in range(steps):
            at, *found = step(fed)
            state = backend.batch_get_value(model.non_trainable_weights)
            plain.append((at, _by_variable(model, off, found), state))
            recomputed.append((at, _by_variable(model, on, found[len(off) :]), state))
        session = private.session_of(backend)
        peaks: List[Any] = [None, None]
        if session is not None:
            feed = dict(zip(placeholders, fed))
            peaks = [_traced(session, list(some.values()), feed) for some in (off, on)]
    finally:
        backend.batch_set_value(list(zip(model.weights, before)))
    arrays = _arrays(model, plain)
    how = _NOT_MEASURED if session is None else "records of a session, weights not included"
    return Trial(arrays, arrays, _arrays(model, recomputed), peaks[0], peaks[1], how)


def _gradients(backend: Any, value: Any, model: Any) -> Dict[int, Any]:
    """Return the gradients that there are, by the number of the variable."""
    found = backend.gradients(value, model.trainable_weights)
    return {i: tf.convert_to_tensor(g) for i, g in enumerate(found) if g is not None}


def _by_variable(model: Any, gradients: Dict[int, Any], arrays: Sequence[Any]) -> List[Any]:
    known = dict(zip(gradients, arrays))
    return [known.get(i) for i in range(len(model.trainable_weights))]


def _in_order(model: Any, x: Any) -> List[Any]:
    if isinstance(x, dict):
        return [x[name] for name in model.input_names]
    return list(x) if isinstance(x, (list, tuple)) else [x]


def _traced(session: Any, tensors: Sequence[Any], feed: Any) -> int:
    metadata = tf.compat.v1.RunMetadata()
    options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
    session.run([x.op for x in tensors], feed, options=options, run_metadata=metadata)
    return allocated_peak(metadata.step_stats)
