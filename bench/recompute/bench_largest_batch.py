"""The largest batch that fits: plainly, recomputed, and by a plan."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest

from bench.recompute.models import build_compiled
from bench.recompute.trainer import Case, Trainer
from perftricks import recompute

BUDGET = 2**30  # bytes of a step on the CPU; a GPU has what it has
STEPS = 100  # for which the largest batches are trained
DECORATED = "recompute_grad"
BERT = {
    "bert-base": {"layers": 12, "width": 768},
    "bert-large": {"layers": 24, "width": 1024},
}


def _search(
    benchmark: Any, model: str, case: Case, memory: int | None, start: int, steps: int
) -> Any:
    """Search all ways; each finds more than the one before."""
    found: list[Any] = []

    def search() -> None:
        build = functools.partial(build_compiled, case)
        found.append(
            recompute.max_batch_size(build, memory=memory, start=start, steps=steps, progress=print)
        )

    benchmark.pedantic(search, rounds=1)
    (largest,) = found
    sizes = {way.way: way.batch_size for way in largest.ways}
    assert sizes["planned"] > sizes["plain"] > 0
    benchmark.extra_info.update(
        model=model,
        layers=case.layers,
        backend=case.backend,
        budget_bytes=memory,
        largest_batch={
            "plain": sizes["plain"],
            "recompute": sizes["full"],
            "planned": sizes["planned"],
        },
        ratio=sizes["full"] / sizes["plain"],
        steps=steps,
        found=largest.to_dict(),
    )
    return largest


@pytest.mark.full
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("layers", [6, 12, 24])
def bench_largest_batch(benchmark, layers, place):
    """Of the small transformer, in a gibibyte of memory."""
    if place.device != "cpu":
        pytest.skip("not measured: BERT is what is asked of a GPU")
    benchmark.group = f"largest batch in 1 GiB: {place.backend}, cpu"
    case = Case(DECORATED, place.backend, layers=layers)
    _search(benchmark, "transformer", case, BUDGET, start=16, steps=5)


@pytest.mark.full
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("model", BERT)
def bench_largest_batch_of_bert(benchmark, model, place):
    """Of BERT at 512 tokens, in all the memory of a GPU; and what a sample takes there.

    Both ways have the same losses with a small batch. What just fits for two steps may not for six,
    so the plain way is timed with a sixteenth less.
    """
    if place.device != "gpu":
        pytest.skip("not measured: the CPU has no memory of its own to fill")
    benchmark.group = f"largest batch of BERT, 512 tokens: {place.backend}, gpu"
    case = Case(DECORATED, place.backend, "gpu", seq_len=512, batch_size=8, **BERT[model])
    small = {tool: _trained(replace(case, tool=tool), 2) for tool in ("plain", DECORATED)}
    assert small["plain"]["losses"] == pytest.approx(small[DECORATED]["losses"], rel=1e-5)
    largest = _search(benchmark, model, case, None, start=8, steps=STEPS)
    plain, full, planned = (largest[way] for way in ("plain", "full", "planned"))
    batch_size = plain.batch_size - plain.batch_size // 16
    timed = replace(case, batch_size=batch_size)
    same = {tool: _trained(replace(timed, tool=tool), 5) for tool in ("plain", DECORATED)}
    benchmark.extra_info.update(
        small_batch=small,
        versions=same["plain"]["versions"],
        sample_seconds={
            "plain": same["plain"]["median_step_seconds"] / batch_size,
            "recompute, same batch": same[DECORATED]["median_step_seconds"] / batch_size,
            "recompute": full.sample_seconds,
            "planned": planned.sample_seconds,
        },
        timed_batch=batch_size,
        peak_bytes={
            "plain": same["plain"]["peak_bytes"],
            "recompute, same batch": same[DECORATED]["peak_bytes"],
        },
    )


def _trained(case: Case, steps: int) -> dict[str, Any]:
    """Train some steps in a process of its own; return its figures and losses."""
    with Trainer(case) as trainer:
        for _ in range(steps):
            trainer.step()
        return {**trainer.figures(), "losses": trainer.losses}
