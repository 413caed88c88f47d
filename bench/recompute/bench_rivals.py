"""Other tools on a model where they work: no dropout, no state; each in turn with ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.recompute.measure import measure
from bench.recompute.steps import TrainingError
from bench.recompute.trainer import Case, Trainer

OWN_TOOL = {
    "tensorflow": "tf.recompute_grad",
    "jax": "jax.checkpoint",
    "torch": "torch.utils.checkpoint",
}

RAISES = {("jax", "keras.RematScope"): "it traces the flag training, which calls branch on"}


def _measure(benchmark, tool, place, full):
    # RematScope hands keywords to tf.recompute_grad, which refuses them in a graph.
    eager = (place.backend, tool) == ("tensorflow", "keras.RematScope")
    size = {"batch_size": 32 if full else 8, "dropout": 0.0, "eager": eager}
    rival = Case(tool, *place, **size)
    if (place.backend, tool) in RAISES:
        with pytest.raises(TrainingError), Trainer(rival):
            pass
        pytest.skip(f"not measured: {tool} raises: {RAISES[place.backend, tool]}")
    mode = ", run eagerly" if eager else ""
    benchmark.group = f"{rival.model}{mode}, other tools: {rival.backend}, {rival.device}"
    amount = {"rounds": 10, "processes": 3} if full else {"rounds": 3}
    measure(benchmark, rival, replace(rival, tool="recompute_grad"), **amount)


def bench_framework(benchmark, place, full):
    """The framework's own tool around each block."""
    _measure(benchmark, OWN_TOOL[place.backend], place, full)


@pytest.mark.full
@pytest.mark.parametrize("tool", ["keras.remat", "keras.RematScope"])
def bench_keras(benchmark, tool, place, full):
    """Keras' own tools around each block."""
    _measure(benchmark, tool, place, full)
