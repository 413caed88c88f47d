"""Twelve transformer blocks, each decorated: peak and time of a step, beside the plain run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.recompute.measure import measure
from bench.recompute.trainer import Case


@pytest.mark.parametrize("norm_first", [False, True], ids=["norm-last", "norm-first"])
def bench_blocks(benchmark, place, full, norm_first):
    """Each block decorated, against the same model plain.

    Where a block normalizes last, all of it is needed again; where it normalizes first, no gradient
    needs its last product, which is left out where shapes are known before.
    """
    batch_size = 32 if full else 8
    case = Case("recompute_grad", *place, batch_size=batch_size, norm_first=norm_first)
    benchmark.group = f"{case.model}, each block decorated: {case.backend}, {case.device}"
    measure(benchmark, case, replace(case, tool="plain"), rounds=10 if full else 3)
