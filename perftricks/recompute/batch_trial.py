"""The process of one try of ``max_batch_size``: trains what a caller's function builds.

Usage: ``KERAS_BACKEND=jax python -m perftricks.recompute.batch_trial``, with a ``Trial`` as JSON on
stdin. The last line of stdout is an ``Outcome`` as JSON.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import statistics
import sys
import time
from typing import Any, List, NamedTuple, Optional, Tuple

from perftricks.recompute.stacks import generation_of
from perftricks.recompute.switch import VARIABLE

WAYS = ("plain", "full", "planned")


class Trial(NamedTuple):
    """What is trained, and how.

    Attributes:
        build: The function that builds the model, pickled, in base 64.
        way: One of ``WAYS``.
        batch_size: Samples in a step.
        length: What stands for dimensions that are not known; None if there are none.
        memory: Bytes that a step may take; None for all that the device has.
        share: The share of the memory that is planned for.
        steps: Steps that are trained.
    """

    build: str
    way: str
    batch_size: int
    length: Optional[int]
    memory: Optional[int]
    share: float
    steps: int


class Outcome(NamedTuple):
    """What was measured.

    Attributes:
        peak: Bytes at the peak of a whole step; of the least plan, as forecast, if none fits.
        least_bytes: What the plan that needs least takes, as forecast; without plans the peak.
        free_bytes: What the device had for a step; None on the CPU.
        seconds: Median time of a step; None if none was trained, for no plan fits.
        measured: What the peak is the peak of.
        device: "cpu" or "gpu".
    """

    peak: int
    least_bytes: int
    free_bytes: Optional[int]
    seconds: Optional[float]
    measured: str
    device: str


def main() -> None:
    """Train as stdin says."""
    trial = Trial(**json.load(sys.stdin))
    os.environ.pop(VARIABLE, None)
    build = pickle.loads(base64.b64decode(trial.build))
    keras = _keras_3()

    from perftricks.recompute.measure.meters import peak_meter

    meter = peak_meter(keras.backend.backend())
    free = meter.free()
    room = free if trial.memory is None else trial.memory
    if room is None:
        sys.exit("say how much memory a step may take (memory='4GiB'); %s does not" % meter.source)
    model, x, y = _built(build(), trial)
    least, fits = _prepare(model, trial, room, x, y)
    if not fits:
        outcome = Outcome(least or 0, least or 0, free, None, "forecast", meter.device)
    else:
        peak, seconds, how = _train(model, x, y, trial, meter)
        outcome = Outcome(peak, least or peak, free, seconds, how, meter.device)
    print(json.dumps(outcome._asdict()))


_KERAS_2 = (
    "max_batch_size is for models of Keras 3, and this is Keras 2: use apply(model), or "
    "apply(model, policy='save_matmuls') to keep more, and try batch sizes in fit"
)


def _keras_3() -> Any:
    """Return Keras 3; say what to use in its place if there is none."""
    try:
        import keras
    except ImportError:
        sys.exit(_KERAS_2)
    if int(keras.__version__.partition(".")[0]) < 3:
        sys.exit(_KERAS_2)
    return keras


def _built(result: Any, trial: Trial) -> Tuple[Any, Any, Any]:
    """Take apart what the caller's function has returned, and make a batch."""
    import keras

    model, *data = result if isinstance(result, tuple) else (result,)
    if generation_of(model) == 2:
        sys.exit(_KERAS_2)
    is_ours = isinstance(model, keras.Model)
    if not is_ours or len(data) not in (0, 2):
        kinds = ", ".join(type(one).__name__ for one in (model, *data))
        sys.exit("build must return a model of Keras 3, or (model, x, y); it returned %s" % kinds)
    if not model.compiled:
        sys.exit("build must return a compiled model: call compile on %s in it" % model.name)
    x, y = data or _drawn(model, trial)
    return model, _repeated(x, trial.batch_size), _repeated(y, trial.batch_size)


def _repeated(samples: Any, count: int) -> Any:
    """Repeat samples up to a batch."""
    import keras
    import numpy as np

    def repeat(samples: Any) -> Any:
        array = np.asarray(samples)
        if not array.ndim or not len(array):
            shape = array.shape
            sys.exit("x and y of build must have samples; one is an array of shape %s" % (shape,))
        return np.resize(array, (count, *array.shape[1:]))

    return keras.tree.map_structure(repeat, samples)


def _drawn(model: Any, trial: Trial) -> Tuple[Any, Any]:
    """Make a sample of what a graph of layers takes, and a target: noise and zeros."""
    import keras
    import numpy as np

    from perftricks.recompute.budgeting import loss_of
    from perftricks.recompute.outlining import Outlined
    from perftricks.recompute.samples import Samples

    outlined = Outlined(model)
    graph = outlined.root
    if graph is None:
        sys.exit(
            "%s has a call of its own, so its inputs are not known: have build return (model, x, y)"
            % model.name
        )
    functional = graph.functional
    draw = np.random.default_rng(0)
    samples = Samples(model, outlined, 1, trial.length)
    outputs = list(map(samples.spec, functional.outputs))
    x = [
        draw.standard_normal(spec.shape, "float32").astype(spec.dtype)
        if "float" in spec.dtype
        else np.zeros(spec.shape, spec.dtype)
        for spec in samples.inputs
    ]
    targets, _ = loss_of(model, None, samples, outputs, functional._outputs_struct)
    y = [np.zeros(spec.shape, spec.dtype) for spec in targets]
    return (
        keras.tree.pack_sequence_as(functional._inputs_struct, x),
        keras.tree.pack_sequence_as(functional._outputs_struct, y),
    )


def _prepare(model: Any, trial: Trial, room: int, x: Any, y: Any) -> Tuple[Optional[int], bool]:
    """Have a model train in the way that is asked for.

    Returns:
        With plans, what the one that needs least would take, else None; and whether one fits.
    """
    from perftricks.recompute.applying import apply
    from perftricks.recompute.choosing import plan
    from perftricks.recompute.inspection import is_decorated
    from perftricks.recompute.planning.plans import BudgetError

    if trial.way == "plain":
        os.environ[VARIABLE] = "0"
    elif trial.way == "full" and is_decorated(model):
        os.environ[VARIABLE] = "1"
    elif trial.way == "full":
        apply(model, x=x)
    else:
        budget = max(1, int(room * trial.share))
        try:
            chosen = plan(
                model,
                budget=budget,
                batch_size=trial.batch_size,
                length=trial.length,
                loss=model.loss,  # it is trained, so a step of its own shows what it takes
                x=x,
                y=y,
            )
        except BudgetError as error:
            return error.least, False
        if any(segment.recomputed for segment in chosen.segments):
            apply(model, plan=chosen)
        return chosen.curve[0].peak, True
    return None, True


def _train(model: Any, x: Any, y: Any, trial: Trial, meter: Any) -> Tuple[int, float, str]:
    """Train; return the peak of a whole step, the time of one, and what the peak is of."""
    import keras

    from perftricks.recompute.measure.steps import counted_peak, idle_bytes

    on_cpu = meter.device == "cpu"
    idle = idle_bytes(model)
    is_tensorflow = keras.backend.backend() == "tensorflow"
    # What TensorFlow counts leaves out what it keeps in reserve, and a process must have that too.
    counted = counted_peak(model, x, y) if on_cpu and not is_tensorflow else None
    if is_tensorflow and trial.batch_size > 2:
        # It keeps what a step has freed, so the first full step is measured; tracing shall not be.
        for size in (1, 2):
            parts = keras.tree.map_structure(lambda array: array[:size], (x, y))  # noqa: B023
            model.train_on_batch(*parts)
    seconds: List[float] = []
    meter.start()
    for _ in range(trial.steps):
        began = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - began)
    time_of_one = statistics.median(seconds[1:] or seconds)
    if counted is not None:
        return counted, time_of_one, "bytes counted"
    return meter.stop() + (idle if on_cpu else meter.baseline), time_of_one, meter.source


if __name__ == "__main__":
    main()
