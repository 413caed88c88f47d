"""A case on pytest-benchmark: the time of a step, with peak and losses beside it."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict
from typing import Any

import pytest

from bench.recompute.trainer import Case, Trainer

SAME_LOSS = 1e-3  # a share: tools that are not exact may differ in rounding, and train on with it


def measure(benchmark: Any, case: Case, beside: Case | None = None, rounds: int = 5) -> None:
    """Benchmark the step of a case; what else was measured goes into ``extra_info``.

    Args:
        benchmark: The fixture.
        case: What is trained.
        beside: Trained in turn with it, a step before each, so that whatever slows the machine
            down slows both; their losses must agree. None to train the case alone.
        rounds: Steps that are timed.
    """
    with contextlib.ExitStack() as processes:
        trainer = processes.enter_context(Trainer(case))
        other = processes.enter_context(Trainer(beside)) if beside else None
        benchmark.pedantic(trainer.step, setup=other.step if other else None, rounds=rounds)
        figures = trainer.figures()
        benchmark.extra_info.update(case=asdict(case), **figures)
        if other is None:
            return
        others = other.figures()
    assert trainer.losses == pytest.approx(other.losses, rel=SAME_LOSS)
    pairs = zip(trainer.seconds, other.seconds, strict=True)
    benchmark.extra_info.update(
        beside={"tool": other.case.tool, **others},
        same_losses=trainer.losses == other.losses,
        time_ratio=statistics.median(one / two for one, two in pairs),
        peak_ratio=others["peak_bytes"] / max(1, figures["peak_bytes"]),
    )
