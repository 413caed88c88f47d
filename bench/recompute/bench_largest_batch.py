"""The largest batch that fits, with and without recompute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perftricks.recompute.demo import Config, compare, largest_batch, train

BUDGET = 2**30  # bytes above the idle model, on the CPU; a GPU has what it has


def _search(benchmark, config, budget, known=(None, None)):
    """Search both ways; return the size and the run of each, the plain one first."""
    found = []

    def search():
        for way, run in zip((False, True), known, strict=True):
            found.append(largest_batch(config, way, budget, print, known=run))

    benchmark.pedantic(search, rounds=1)
    (plain, _), (recomputed, _) = found
    assert recomputed > plain > 0
    benchmark.extra_info.update(
        model=config.model,
        layers=config.layers,
        backend=config.backend,
        budget_bytes=budget,
        largest_batch={"plain": plain, "recompute": recomputed},
        ratio=recomputed / plain,
    )
    return found


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layers", [6, 12, 24])
def bench_largest_batch(benchmark, layers, place):
    """Of the small transformer, in a gibibyte of memory."""
    if place.device != "cpu":
        pytest.skip("not measured: BERT is what is asked of a GPU")
    benchmark.group = f"largest batch in 1 GiB: {place.backend}, cpu"
    _search(benchmark, Config(backend=place.backend, layers=layers, device="cpu"), BUDGET)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", ["bert-base", "bert-large"])
def bench_largest_batch_of_bert(benchmark, model, place):
    """Of BERT at 512 tokens, in all the memory of a GPU; and what a sample takes there.

    That both ways are equal is checked with a small batch, whose runs the search begins with. What
    just fits for two steps may not for six, so the plain way is timed with a sixteenth less.
    """
    if place.device != "gpu":
        pytest.skip("not measured: the CPU has no memory of its own to fill")
    benchmark.group = f"largest batch of BERT, 512 tokens: {place.backend}, gpu"
    config = Config(model, place.backend, batch_size=8, seq_len=512, steps=1, device="gpu")
    small = compare(config)
    assert small.exact
    found = _search(benchmark, config, None, (small.plain, small.recomputed))
    (plain_largest, _), (largest, at_its_own) = found
    batch_size = plain_largest - plain_largest // 16
    timed = replace(config, batch_size=batch_size, steps=5)
    plain, recomputed = train(timed, False), train(timed, True)
    benchmark.extra_info.update(
        small_batch=small.to_dict(),
        versions=plain.versions,
        sample_seconds={
            "plain": plain.step_seconds / batch_size,
            "recompute, same batch": recomputed.step_seconds / batch_size,
            "recompute": at_its_own.step_seconds / largest,
        },
        timed_batch=batch_size,
        free_bytes=plain.free_bytes,
        peak_bytes={"plain": plain.peak_bytes, "recompute, same batch": recomputed.peak_bytes},
    )
