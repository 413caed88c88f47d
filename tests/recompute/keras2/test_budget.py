"""Budgets are for Keras 3; on Keras 2 one line says what to use in their place, and that works."""

from __future__ import annotations

import pytest

from perftricks import recompute
from perftricks.recompute import batch_trial
from tests.recompute.keras2.test_apply import residual
from tests.recompute.keras2.training import fresh_model

TRIAL = batch_trial.Trial("", "plain", 4, None, 2**30, 1.0, 1)
OPTIONS = r"use apply\(model\), or apply\(model, policy='save_matmuls'\) to keep more"


def test_a_budget_is_refused():
    """For plans, for profiles and for the largest batch; and what they name does something."""
    model = fresh_model(residual)
    for plan in (recompute.plan, recompute.apply):
        with pytest.raises(ValueError, match="is of Keras 2: " + OPTIONS):
            plan(model, batch_size=4, budget="1GiB")
    with pytest.raises(ValueError, match=r"is of Keras 2; recompute\.plan\(model\) estimates"):
        recompute.profile(model, batch_size=4)
    with pytest.raises(SystemExit, match="this is Keras 2: " + OPTIONS):
        batch_trial._built(model, TRIAL)
    assert not recompute.status(model).parts
    plan = recompute.apply(model, policy="save_matmuls")
    assert {s.policy for s in plan.segments if s.recomputed} == {"save_matmuls"}
    assert recompute.status(model).parts
