"""What is asked of a model from outside: whether it is one, what is planned in it, what it runs."""

from __future__ import annotations

import sys
from typing import Any, List, Tuple

from perftricks.recompute.planning.plans import Plan
from perftricks.recompute.stacks import engine_for, family_of, generation_of

# On a function that stands in for a method: what was there before.
MARK = "perftricks_replaced"


def check(model: Any, name: str, x: Any = None) -> None:
    """Refuse what is no built model of a Keras.

    Args:
        model: The model.
        name: The function that needs one.
        x: Samples, by which a model of Keras 3 that is not built is built; None for no samples.
    """
    kind: Any = getattr(sys.modules.get("keras"), "Model", ())
    family = family_of(model)
    if not (family.is_model(model) if generation_of(model) == 2 else isinstance(model, kind)):
        raise TypeError(
            "recompute.%s expects a built model of Keras 3 or Keras 2 (keras.Model), got %r"
            % (name, type(model).__module__ + "." + type(model).__name__)
        )
    engine_for(model.call, ())  # complains about another Keras
    if x is not None and generation_of(model) == 3 and not family.is_built(model):
        from perftricks.recompute import samples

        samples.build(model, x)
    if name != "remove" and not family.is_built(model):
        raise ValueError(
            "the model %s is not built, so its layers are not known yet: call it on a batch or "
            "model.build(input_shape) first" % model.name
        )


def is_applied(model: Any) -> bool:
    """Tell whether any part of a model is recomputed because of ``apply``."""
    return any(
        hasattr(vars(owner).get(method), MARK)
        for owner in family_of(model).everything_in(model)
        for method in family_of(model).METHODS
    )


def plans_of(model: Any) -> List[Plan]:
    """List the plans that are in force in a model and the models inside, each once."""
    found = [
        getattr(vars(owner).get(method), "perftricks_plan", None)
        for owner in family_of(model).everything_in(model)
        for method in family_of(model).METHODS
    ]
    return list({id(plan): plan for plan in found if plan is not None}.values())


def compiled_functions(model: Any) -> List[Tuple[Any, str, Any]]:
    """List the functions that Keras has compiled for a model and those inside, to be put back."""
    return [
        (owner, name, getattr(owner, name))
        for owner in family_of(model).everything_in(model)
        for name in family_of(model).COMPILED
        if getattr(owner, name, None) is not None
    ]


def put_back_compiled(functions: List[Tuple[Any, str, Any]]) -> None:
    """Put compiled functions back after a change that was undone."""
    for owner, name, function in functions:
        setattr(owner, name, function)
