"""What holds of plans on every Keras."""

from __future__ import annotations

import pytest

from perftricks import recompute
from perftricks.recompute.models import is_applied


def saved_plan(model, path, options):
    """Plan without touching the model, save and load; return the plan, which is that of apply."""
    plan = recompute.plan(model, **options)
    assert not is_applied(model)
    plan.save(path)
    loaded = recompute.Plan.load(path)
    assert loaded == plan == recompute.apply(model, **options)
    return loaded


def assert_refused_where_it_does_not_fit(plan, fits, other):
    """A model of another structure, steps that there are not, other options, what is no plan."""
    longer = plan.segments[-1]._replace(steps=(0, 999), number=0)
    for model, wrong in ((other, plan), (fits, plan._replace(segments=(longer,)))):
        with pytest.raises(ValueError, match=r"made for .*, whose layers or their connections"):
            recompute.apply(model, plan=wrong)
    with pytest.raises(ValueError, match="with a plan, which has chosen"):
        recompute.apply(fits, plan=plan, every=1)
    with pytest.raises(TypeError, match="plan must be what"):
        recompute.apply(fits, plan="plan.json")
