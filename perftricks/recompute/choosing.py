"""``plan``: what a user chooses in names, layers and tensors becomes a plan; nothing changes."""

from __future__ import annotations

import difflib
import functools
import inspect
import numbers
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from perftricks.recompute.models import check
from perftricks.recompute.outlining import Outlined
from perftricks.recompute.planning.cutters import Boundaries, Cutter, Every
from perftricks.recompute.planning.planner import plan_layers, plan_segments
from perftricks.recompute.planning.plans import Plan
from perftricks.recompute.policies import Given, policy_of
from perftricks.recompute.stacks import family_of, generation_of
from perftricks.sizes import parse_size


def plan(
    model: Any,
    *,
    every: Optional[int] = None,
    layers: Any = None,
    boundaries: Any = None,
    policy: Optional[Given] = None,
    budget: Union[int, str, None] = None,
    batch_size: Optional[int] = None,
    length: Optional[int] = None,
    loss: Any = None,
    optimizer: Any = None,
    x: Any = None,
    y: Any = None,
) -> Plan:
    """Choose what ``apply`` would recompute, and leave the model as it is.

    With a budget it is the choice with the least time whose whole training step fits: weights,
    gradients, optimizer, batch and activations, as the backend itself counts them. For each segment
    it is chosen whether it runs plainly, is recomputed, or is recomputed but for its matrix
    products. Nothing is run but some small arrays to time the device. A larger budget never takes
    longer, and a smaller one never more memory. What kernels need for themselves and what an
    allocator keeps in reserve is not counted, so leave a tenth for it.

    The plan can be printed, compared, saved as JSON, and applied to this model or to another one of
    the same structure: ``apply(model, plan=plan)``.

    Args:
        model: A built model of Keras 3 or Keras 2.
        every: Make a segment of as many steps between cut points (1 for the most segments).
        layers: Instead of segments of a graph, recompute each of these layers on its own: a class,
            the name of a layer, a function of a layer that returns a bool, or several of them.
        boundaries: Cut a graph after these: names of layers, layers, symbolic tensors, or one.
        policy: What is kept beside the inputs of segments: None or "full" for nothing; "save_masks"
            for masks of dropout, "save_matmuls" for these and what matrix products and convolutions
            give, "save_attention" for what a fused attention operation gives; a list of names that
            ``keep`` has given to tensors; or a function of the kind of an operation and its name,
            which returns True to keep what it gives.
        budget: What a training step may take: bytes, or a size such as "6GiB". It chooses segments
            and policies, so none of the options above is given. For models of Keras 3.
        batch_size: With a budget: samples in a batch.
        length: With a budget: what to take for each other dimension of the inputs that is not
            known: the tokens of a text, the sides of an image.
        loss: With a budget: a Keras loss, its name, or a list of them, one for each output. None
            for what the model is compiled with; if it is not, the mean squared error. A model with
            a ``train_step`` or ``compute_loss`` of its own needs it, for a step with that loss.
        optimizer: With a budget: the optimizer or its name; None for that of the model, if it is
            compiled.
        x: For a model with a ``call`` of its own, with a budget: samples of what it is called with,
            arrays or ``keras.Input`` nested as ``fit`` takes them. Only shapes and types are looked
            at, and ``batch_size`` says how many there are. A model that is not built is built.
            A graph of layers needs none; dimensions that it does not know are taken from them.
        y: With a budget: samples of the targets; None for what goes with the outputs and the loss.

    Returns:
        The plan; ``print`` it for a table.

    Raises:
        TypeError: If ``model`` is no Keras model, or an option has the wrong type.
        ValueError: If the model is not built, a name is unknown, there is nothing to segment, or a
            step cannot be measured.
        BudgetError: A ValueError: if no plan fits the budget.

    Example:
        >>> from perftricks import recompute
        >>> plan = recompute.plan(model)  # doctest: +SKIP
        >>> plan.save("plan.json")  # doctest: +SKIP
        >>> recompute.apply(another, plan=recompute.Plan.load("plan.json"))  # doctest: +SKIP
    """
    check(model, "plan", x)
    if budget is None:
        given = {"batch_size": batch_size, "length": length, "loss": loss, "optimizer": optimizer}
        given["y"] = y  # by x a model that is not built is built
        alone = [name for name, value in given.items() if value is not None]
        if alone:
            raise ValueError("%s: given with a budget only" % ", ".join(alone))
        chosen = "full" if policy is None else policy
        return choose(Outlined(model), model, every, layers, boundaries, chosen)
    if any(option is not None for option in (every, layers, boundaries, policy)):
        raise ValueError(
            "a budget chooses segments and policies: every, layers, boundaries and policy are not "
            "given with it"
        )
    return _plan_for_budget(model, budget, batch_size, length, loss, optimizer, x, y)


def _plan_for_budget(
    model: Any,
    budget: Union[int, str],
    batch_size: Optional[int],
    length: Optional[int],
    loss: Any,
    optimizer: Any,
    x: Any,
    y: Any,
) -> Plan:
    from perftricks.recompute.budgeting import Setting, plan_for

    if generation_of(model) != 3:
        raise ValueError(
            "a budget is for models of Keras 3, and %s is of Keras 2: use apply(model), or "
            "apply(model, policy='save_matmuls') to keep more; every= and layers= choose what is "
            "recomputed" % model.name
        )
    if batch_size is None:
        raise ValueError("with a budget, give batch_size: the samples in a batch")
    batch_size = check_count("batch_size", batch_size)
    length = None if length is None else check_count("length", length)
    size = check_count("budget", parse_size(budget) if isinstance(budget, str) else budget)
    if optimizer is not None:
        import keras

        optimizer = keras.optimizers.get(optimizer)
    setting = Setting(batch_size, length, loss, optimizer, x, y)
    return plan_for(model, Outlined(model), size, setting)


def check_count(name: str, value: Any) -> int:
    """Return a whole number of at least 1, of Python or numpy, as Python's; refuse the rest."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError("%s must be a whole number of at least 1, got %r" % (name, value))
    return int(value)


def choose(
    outlined: Outlined,
    model: Any,
    every: Optional[int],
    layers: Any,
    boundaries: Any,
    policy: Given,
) -> Plan:
    """Return the plan for a model that has been outlined; see ``plan``."""
    given = policy_of(policy).given
    plan = _chosen(outlined, model, every, layers, boundaries)
    return plan._replace(
        segments=tuple(
            segment._replace(policy=given) if segment.recomputed else segment
            for segment in plan.segments
        )
    )


def _chosen(
    outlined: Outlined, model: Any, every: Optional[int], layers: Any, boundaries: Any
) -> Plan:
    options = {"every": every, "layers": layers, "boundaries": boundaries}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            "give one of every, layers and boundaries, or none, got " + ", ".join(given)
        )
    if layers is not None:
        return plan_layers(outlined.outline, _layers(outlined, model, layers))
    return plan_segments(outlined.outline, _cutter(outlined, model, every, boundaries))


def _cutter(outlined: Outlined, model: Any, every: Optional[int], boundaries: Any) -> Cutter:
    if every is None and boundaries is None:
        return Cutter()
    if family_of(model).graph_of(model) is None:
        raise ValueError(
            "%s has a call of its own and no graph of layers to cut by every or boundaries: use "
            "layers=[names or classes of layers], or no option" % model.name
        )
    if boundaries is not None:
        return _boundaries(outlined, model, _several(boundaries))
    return Every(check_count("every", every))


def _several(choice: Any) -> List[Any]:
    return list(choice) if isinstance(choice, (list, tuple, set, frozenset)) else [choice]


def _boundaries(outlined: Outlined, model: Any, boundaries: Sequence[Any]) -> Boundaries:
    known = [layer.name for layer in outlined.layers]
    names = set()
    tensors = set()
    for boundary in boundaries:
        if isinstance(boundary, str):
            if boundary not in known:
                raise ValueError(_unknown(model, boundary, known))
            names.add(boundary)
        elif hasattr(boundary, "_keras_history") or hasattr(boundary, "record_history"):
            number = outlined.number_of(boundary)
            if number is None:
                raise ValueError(
                    "the tensor %s in boundaries is not made in the graph of %s"
                    % (boundary.name, model.name)
                )
            tensors.add(number)
        elif getattr(boundary, "name", None) in known:
            names.add(boundary.name)
        else:
            raise TypeError(
                "boundaries takes names of layers, layers of the model and symbolic tensors, "
                "got %r" % (boundary,)
            )
    return Boundaries(names, tensors)


def _layers(outlined: Outlined, model: Any, choice: Any) -> Dict[int, str]:
    """Choose layers by class, name or predicate, wherever they are in a model."""
    family = family_of(model)
    candidates = {
        number: layer
        for number, layer in enumerate(outlined.layers)
        if layer is not model and not family.is_input_layer(layer)
    }
    tests = [_test(model, list(candidates.values()), wanted) for wanted in _several(choice)]
    chosen: Dict[int, str] = {}
    inside = {id(family.graph_of(model))}
    for number, layer in candidates.items():  # a layer comes before those below it
        if id(layer) not in inside and any(test(layer) for test in tests):
            inside.update(id(below) for below in family.everything_in(layer))
            chosen[number] = layer.name
    if not chosen:
        classes = sorted({type(layer).__name__ for layer in candidates.values()})
        raise ValueError(
            "no layer of %s is chosen by layers=%r; it has layers of the classes %s"
            % (model.name, choice, ", ".join(classes))
        )
    return chosen


def _test(model: Any, candidates: Sequence[Any], wanted: Any) -> Callable[[Any], bool]:
    """Return a test of whether a layer is one of those that are wanted."""
    if isinstance(wanted, str):
        names = [layer.name for layer in candidates]
        if wanted not in names:
            raise ValueError(_unknown(model, wanted, names))
        return functools.partial(_has_name, wanted)
    if inspect.isclass(wanted):
        return functools.partial(_is_instance, wanted)
    if family_of(model).is_layer(wanted):
        if not any(layer is wanted for layer in candidates):
            raise ValueError("the layer %s is not in the model %s" % (wanted.name, model.name))
        return functools.partial(_is, wanted)
    if callable(wanted):
        test: Callable[[Any], bool] = wanted
        return test
    raise TypeError(
        "layers takes classes, names of layers and functions of a layer, got %r" % (wanted,)
    )


def _has_name(name: str, layer: Any) -> bool:
    return bool(layer.name == name)


def _is_instance(kind: type, layer: Any) -> bool:
    return isinstance(layer, kind)


def _is(wanted: Any, layer: Any) -> bool:
    return layer is wanted


def _unknown(model: Any, name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    hint = "did you mean %s?" % " or ".join(near) if near else "model.summary() lists them"
    return "the model %s has no layer %r; %s" % (model.name, name, hint)
