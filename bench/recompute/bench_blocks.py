"""Twelve transformer blocks, each decorated: peak and time of a step, beside the plain run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.recompute.measure import measure
from bench.recompute.trainer import Case

DEFAULT_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler=true"


def _case(place, full, **changes):
    return Case("recompute_grad", *place, batch_size=32 if full else 8, **changes)


@pytest.mark.parametrize("norm_first", [False, True], ids=["norm-last", "norm-first"])
def bench_blocks(benchmark, place, full, norm_first):
    """Each block decorated, against the same model plain.

    Where a block normalizes last, all of it is needed again; where it normalizes first, no gradient
    needs its last product, which is left out where shapes are known before.
    """
    case = _case(place, full, norm_first=norm_first)
    benchmark.group = f"{case.model}, each block decorated: {case.backend}, {case.device}"
    measure(benchmark, case, replace(case, tool="plain"), rounds=10 if full else 3)


@pytest.mark.full
def bench_blocks_with_xla_as_it_is(benchmark, place, full):
    """The same on JAX and CPU with XLA's own order of operations, which hides the saving."""
    if place != ("jax", "cpu"):
        pytest.skip("only XLA on the CPU has this choice")
    case = _case(place, full, xla_flags=DEFAULT_SCHEDULER)
    benchmark.group = f"{case.model}, each block decorated: jax, cpu, XLA's default scheduler"
    measure(benchmark, case, replace(case, tool="plain"), rounds=10)


bench_blocks_with_xla_as_it_is.backends = ("jax",)
