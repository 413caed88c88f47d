"""The largest batch that fits, with and without recompute."""

from __future__ import annotations

import pytest

from perftricks.recompute.demo import Config, compare, max_batch_size

BUDGET = 2**30  # bytes above the idle model, on the CPU; a GPU has what it has


def _search(benchmark, config, budget):
    largest = {}

    def search():
        for way in (False, True):
            largest[way] = max_batch_size(config, way, budget)

    benchmark.pedantic(search, rounds=1)
    assert largest[True] > largest[False] > 0
    benchmark.extra_info.update(
        model=config.model,
        layers=config.layers,
        backend=config.backend,
        budget_bytes=budget,
        largest_batch={"plain": largest[False], "recompute": largest[True]},
        ratio=largest[True] / largest[False],
    )
    return largest


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
    """Of BERT at 512 tokens, in all the memory of a GPU; and a sample's time at plain's largest."""
    if place.device != "gpu":
        pytest.skip("not measured: the CPU has no memory of its own to fill")
    benchmark.group = f"largest batch of BERT, 512 tokens: {place.backend}, gpu"
    config = Config(model, place.backend, seq_len=512, device="gpu")
    largest = _search(benchmark, config, None)
    samples = {"batch_size": largest[False], "seq_len": 512, "device": "gpu"}
    result = compare(Config(model, place.backend, **samples))
    assert result.exact
    benchmark.extra_info["compared_at_plains_largest"] = result.to_dict()
