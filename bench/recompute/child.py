"""The process of a case: trains a step for each line "step" of stdin, and answers in JSON.

Usage: ``python -m bench.recompute.child CASE``, a ``Case`` as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from typing import Any

import keras
import numpy as np

from bench.recompute.models import build_compiled
from bench.recompute.trainer import Case
from perftricks.recompute.measure.counters import torch_allocations, xla_buffers
from perftricks.recompute.measure.meters import peak_meter


def main() -> None:
    """Get ready, say so, and do what stdin asks for."""
    warnings.simplefilter("ignore")
    case = Case(**json.loads(sys.argv[1]))
    meter = peak_meter(case.backend)
    if case.device == "gpu" and meter.device == "cpu":
        sys.exit(f"{case.backend} sees no GPU")
    keras.utils.set_random_seed(0)
    model, inputs, classes = build_compiled(case)
    # Two small batches first: TensorFlow then has a graph for batches of any size.
    for size in (1, 2):
        model.train_on_batch(inputs[:size], classes[:size])
    # TensorFlow keeps what a step has freed, so its first full step must be measured. JAX and torch
    # compile or look for kernels in theirs, so it must not be.
    if case.backend == "tensorflow":
        meter.start()
    model.train_on_batch(inputs, classes)
    if case.backend != "tensorflow":
        meter.start()
    _answer(ready=True)
    for line in sys.stdin:
        if line.strip() == "step":
            _answer(loss=float(model.train_on_batch(inputs, classes)))
        else:
            peak = meter.stop()
            _answer(
                peak_bytes=peak,
                measured=meter.source,
                versions=_versions(case.backend),
                **_counted_bytes(case, model, inputs, classes),
            )


def _answer(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def _counted_bytes(case: Case, model: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return the peak of a step as the framework itself counts it, where it does so on a CPU."""
    if case.backend == "jax" and not case.eager:
        peak, how = xla_buffers(model, x, y), "temporary buffers that XLA assigned"
    elif case.backend == "torch" and case.device == "cpu":
        peak = torch_allocations(lambda: model.train_on_batch(x, y))
        how = "allocations that torch's profiler saw"
    else:
        return {}
    return {"counted_peak_bytes": peak, "counted": how}


def _versions(backend: str) -> dict[str, str]:
    names = ("keras", backend, "numpy")
    return {name: importlib.import_module(name).__version__ for name in names}


if __name__ == "__main__":
    main()
