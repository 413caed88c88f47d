"""Peak against depth: plain, each block decorated, what ``apply`` chooses, segments of sqrt(n)."""

from __future__ import annotations

import pytest

from bench.recompute.measure import measure
from bench.recompute.trainer import Case

TOOLS = ["plain", "recompute_grad", "apply", "apply, sqrt(n)"]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "layers",
    [6, 24, *[pytest.param(layers, marks=pytest.mark.full) for layers in (12, 36, 48)]],
)
def bench_depth(benchmark, layers, tool, place, full):
    """The curve; on TensorFlow its ends at least."""
    case = Case(tool, *place, layers=layers, batch_size=16 if full else 4)
    benchmark.group = f"{case.model}: {case.backend}, {case.device}"
    measure(benchmark, case, rounds=3 if full else 1)


bench_depth.quick_backends = ("tensorflow",)
