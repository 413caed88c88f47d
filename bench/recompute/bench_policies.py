"""What a policy costs and saves: nothing is kept of a block, matrix products, everything."""

from __future__ import annotations

import pytest

from bench.recompute.measure import measure
from bench.recompute.trainer import Case

TOOLS = [
    "plain",
    "recompute_grad",
    "recompute_grad, save_masks",
    "recompute_grad, save_matmuls",
]


@pytest.mark.parametrize("tool", TOOLS)
def bench_policies(benchmark, tool, place, full):
    """Peak and time of a step."""
    case = Case(tool, *place, layers=12, batch_size=16)
    benchmark.group = f"policies, {case.model}: {case.backend}, {case.device}"
    measure(benchmark, case, rounds=5 if full else 3)
