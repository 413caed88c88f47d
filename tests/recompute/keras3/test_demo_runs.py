"""The demo trains for real, on the backend of this session."""

from __future__ import annotations

import keras
import pytest

from perftricks.recompute.demo import Config, compare, largest_batch
from perftricks.recompute.measure.meters import peak_meter
from perftricks.recompute.measure.process import RunError
from tests.recompute.keras3.training import XLA_ROUNDS

SMALL = {"backend": keras.backend.backend(), "seq_len": 16, "width": 64}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("model", "batch_size"), [("transformer", 4), ("deep-mlp", 2048)])
def test_exact(model, batch_size, monkeypatch):
    """Losses, gradients and variables are equal to the last bit; memory can be told."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # what conftest has set; XLA rounds as it likes
    result = compare(
        Config(model=model, layers=3, steps=2, device="cpu", batch_size=batch_size, **SMALL)
    )
    by_operation = (result.by_operation or {}).values()
    rounded = XLA_ROUNDS and max(by_operation, default=0.0) < 1e-7
    assert result.exact or rounded, result
    assert len(result.plain.losses) == 3
    assert result.plain.peak_bytes > 0


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "options", [{"policy": "save_matmuls"}, {"budget": 6_000_000}, {"budget": 2**40}]
)
def test_policies_and_budgets(options):
    """Blocks under a policy, or a plan for a budget, train as plainly, to the last bit."""
    result = compare(
        Config(
            model="deep-mlp", layers=3, steps=1, device="cpu", batch_size=512, **SMALL, **options
        )
    )
    by_operation = (result.by_operation or {}).values()
    assert result.exact or (XLA_ROUNDS and max(by_operation, default=0.0) < 1e-7), result
    budget = options.get("budget")
    assert (result.recomputed.planned_bytes is None) == (budget is None)
    assert result.plain.planned_bytes is None
    if budget is not None:
        assert 0 < result.recomputed.planned_bytes <= budget


@pytest.mark.timeout(1800)
def test_a_budget_that_is_too_small():
    """It says what the least would be."""
    with pytest.raises(RunError, match=r"takes at least .*, and the budget is 1000 B; "):
        compare(
            Config(model="deep-mlp", layers=1, device="cpu", batch_size=4, budget=1000, **SMALL)
        )


@pytest.mark.timeout(1800)
def test_largest_batch():
    """The search ends at a batch that fits where the next larger one does not."""
    config = Config(model="deep-mlp", layers=2, device="cpu", batch_size=4, **SMALL)
    assert largest_batch(config, True, None, limit=8)[0] == 8
    assert largest_batch(config, True, 0, limit=8)[0] == 0


@pytest.mark.timeout(1800)
def test_a_run_that_fails_says_why():
    """The reason of a failure in the other process is the message."""
    with pytest.raises(RunError, match="sees no GPU"):
        compare(Config(model="deep-mlp", layers=1, device="gpu", batch_size=4, **SMALL))


def test_meter_of_an_unknown_backend():
    """A backend without a meter is refused."""
    with pytest.raises(ValueError, match="backend must be one of"):
        peak_meter("openvino")
