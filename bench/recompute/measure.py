"""A case on pytest-benchmark: the time of a step, with peak and losses beside it."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict
from typing import Any

import pytest

from bench.recompute.trainer import Case, Trainer

SAME_LOSS = 1e-3  # a share: tools that are not exact may differ in rounding, and train on with it


def measure(
    benchmark: Any,
    case: Case,
    beside: Case | None = None,
    rounds: int = 5,
    processes: int = 1,
) -> None:
    """Benchmark the step of a case; what else was measured goes into ``extra_info``.

    Args:
        benchmark: The fixture.
        case: What is trained.
        beside: Trained in turn with it, a step before each, so that whatever slows the machine
            down slows both; their losses must agree. None to train the case alone.
        rounds: Steps that are timed.
        processes: In how many processes the peak is measured where only the resident set tells. It
            varies by some percent; what else a process takes only adds, so the least counts.
    """
    with contextlib.ExitStack() as running:
        trainer = running.enter_context(Trainer(case))
        other = running.enter_context(Trainer(beside)) if beside else None
        benchmark.pedantic(trainer.step, setup=other.step if other else None, rounds=rounds)
        figures = trainer.figures()
        benchmark.extra_info.update(case=asdict(case), **figures)
        if other is None:
            return
        others = other.figures()
    assert trainer.losses == pytest.approx(other.losses, rel=SAME_LOSS)
    if "counted_peak_bytes" not in figures:
        for each, its in ((case, figures), (other.case, others)):
            again = [_peak(each) for _ in range(processes - 1)]
            its["peak_bytes"] = min([its["peak_bytes"], *again])
    pairs = zip(trainer.seconds, other.seconds, strict=True)
    benchmark.extra_info.update(
        peak_bytes=figures["peak_bytes"],
        beside={"tool": other.case.tool, **others},
        same_losses=trainer.losses == other.losses,
        time_ratio=statistics.median(one / two for one, two in pairs),
        peak_ratio=others["peak_bytes"] / max(1, figures["peak_bytes"]),
    )


def _peak(case: Case) -> int:
    """Return the peak of a process that trains a step, and one to get ready."""
    with Trainer(case) as trainer:
        trainer.step()
        return int(trainer.figures()["peak_bytes"])
