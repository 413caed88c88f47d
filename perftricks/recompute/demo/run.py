"""One run of the demo: reads a configuration from stdin, trains, writes a line of JSON.

Usage: ``RECOMPUTE=1 KERAS_BACKEND=jax python -m perftricks.recompute.demo.run [FOLDER]``. Gradients
of the first step and variables after the last are left in FOLDER, an array a file. With
``--by-operation`` after it, the first step runs both ways, operation by operation; the line tells
the differences, and the gradients are those of the plain way.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, List, Optional

import numpy as np

from perftricks.recompute.demo import Config

# A power of two: momentum holds the learning rate times the gradient, so no bit is lost.
LEARNING_RATE = 2.0**-7


def main() -> None:
    """Train as the configuration on stdin says."""
    config = Config(**json.load(sys.stdin))
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    import keras

    from perftricks.recompute.demo.models import build
    from perftricks.recompute.measure.meters import peak_meter

    if config.backend == "tensorflow":
        import tensorflow as tf

        # Grappler fuses a matrix product with the activation after it where nobody needs what is
        # between, which is in the recomputed run only; the fused kernel rounds differently.
        tf.config.optimizer.set_experimental_options({"remapping": False})
    meter = peak_meter(config.backend)
    if config.device == "gpu" and meter.device == "cpu":
        sys.exit("%s sees no GPU" % config.backend)
    keras.utils.set_random_seed(config.seed)
    model, inputs, classes = build(config)
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=config.backend == "jax",
    )
    planned = _plan(model, config)
    if "--by-operation" in sys.argv:
        print(json.dumps(_by_operation(model, inputs, classes, folder)))
        return
    optimizer.build(model.trainable_variables)
    slots = [variable for variable in optimizer.variables if "momentum" in variable.path]
    # TensorFlow keeps what a step has freed, so its first full step must be the one measured. JAX
    # and torch compile or look for kernels in theirs, so it must not be.
    measures_first_step = config.backend == "tensorflow"
    if measures_first_step:
        _trace(model, slots, inputs, classes)
        meter.start()
    free = meter.free()
    losses = [float(model.train_on_batch(inputs, classes))]
    _save(folder, "gradient", [slot.value for slot in slots])
    if not measures_first_step:
        meter.start()
    seconds = []
    for _ in range(config.steps):
        began = time.perf_counter()
        losses.append(float(model.train_on_batch(inputs, classes)))
        seconds.append(time.perf_counter() - began)
    peak = meter.stop()
    _save(folder, "variable", [variable.value for variable in model.variables])
    record = {
        "peak_bytes": peak,
        "measured": meter.source,
        "step_seconds": float(np.median(seconds)),
        "losses": losses,
        "parameters": model.count_params(),
        "versions": _versions(config.backend),
        "device": meter.device,
        "free_bytes": free,
        "planned_bytes": planned,
    }
    print(json.dumps(record))


def _plan(model: Any, config: Config) -> Optional[int]:
    """Apply a plan for the budget, if there is one; return the peak of its step by forecast."""
    from perftricks.recompute.applying import apply
    from perftricks.recompute.choosing import plan
    from perftricks.recompute.planning.plans import BudgetError
    from perftricks.recompute.switch import enabled

    if config.budget is None or not enabled(default=True):
        return None
    try:
        chosen = plan(model, batch_size=config.batch_size, budget=config.budget)
    except BudgetError as error:
        sys.exit(str(error))
    if any(segment.recomputed for segment in chosen.segments):
        apply(model, plan=chosen)
    return chosen.step_peak


def _trace(model: Any, slots: List[Any], inputs: Any, classes: Any) -> None:
    """Train on two small batches, after which there is a graph for any size, and undo that."""
    import keras

    start = model.get_weights()
    for size in (1, 2):
        model.train_on_batch(inputs[:size], classes[:size])
    model.set_weights(start)
    for slot in slots:
        slot.assign(keras.ops.zeros(slot.shape, slot.dtype))


def _by_operation(
    model: Any, inputs: Any, classes: Any, folder: Optional[str]
) -> "dict[str, float]":
    """Return the largest difference of each kind."""
    import keras

    from perftricks.recompute.comparing import compare
    from perftricks.recompute.keras3 import trial as trials
    from perftricks.recompute.switch import recompute_scope

    x, y = keras.ops.convert_to_tensor(inputs), keras.ops.convert_to_tensor(classes)
    snapshot = trials.Snapshot(model)
    found = []
    for on in (False, True):
        with recompute_scope(on):
            result = trials.run(
                model, lambda outputs: model.compute_loss(x, y, outputs), x, 1, measure=False
            )
        snapshot.restore()
        found.append(result.arrays)
    gradients = [array for (kind, _), array in found[0].items() if kind == "gradient"]
    _save(folder, "gradient", [-LEARNING_RATE * gradient for gradient in gradients])
    worst = {"gradient": 0.0, "state": 0.0, "loss": 0.0}
    for one in compare(*found):
        if not one.bitwise:
            worst[one.kind] = max(worst[one.kind], one.absolute)
    return worst


def _save(folder: Optional[str], kind: str, tensors: List[Any]) -> None:
    import keras

    if folder is None:
        return
    for number, tensor in enumerate(tensors):
        value = keras.ops.convert_to_numpy(tensor)
        np.save(os.path.join(folder, "%s-%05d.npy" % (kind, number)), value)


def _versions(backend: str) -> "dict[str, str]":
    import importlib

    names = ["keras", backend, "numpy"]
    return {name: importlib.import_module(name).__version__ for name in names}


if __name__ == "__main__":
    main()
