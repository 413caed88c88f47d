"""A plan is put into a model, and taken out again.

::

    Plan ──▶ one function in vars(graph) or vars(layer)
             runs segments through the engine; Keras saves, clones and lists layers as before

The function shadows a method of that one object: ``_run_through_graph`` of a graph of layers,
``call`` of a single layer. It is put into the object's ``__dict__`` directly, so Keras does not
track it, does not save it, and builds copies without it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from perftricks.recompute import stacks, stages, switch
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.models import MARK, compiled_functions, put_back_compiled
from perftricks.recompute.outlining import Graph, Outlined
from perftricks.recompute.planning.plans import Plan, Segment
from perftricks.recompute.policies import Policies, Policy, policy_of
from perftricks.recompute.stacks import family_of, generation_of

Hook = Tuple[Any, str, Any]  # an object, the name of an attribute, its new value
_lock = threading.Lock()
_UNNAMED = (
    " (the graph was there before the plan, and keep names tensors only while a call that is to be "
    "recomputed runs; put @recompute_grad(policy=...) on the layer)"
)


def put_in(model: Any, outlined: Outlined, plan: Plan) -> None:
    """Have a model run under a plan, in place of any other.

    Args:
        model: The model.
        outlined: What planning sees of it.
        plan: A plan that was made for it.
    """
    for segment in plan.segments:
        policy_of(segment.policy).check_backend(stacks.backend_of(model))
    hooks = _hooks(model, outlined, plan)
    with _lock:
        _detach(model)
        for owner, method, replacement in hooks:
            setattr(replacement, MARK, owner.__dict__.get(method))
            replacement.perftricks_plan = plan
            owner.__dict__[method] = replacement
            if hasattr(replacement, "install"):
                replacement.install()
        family_of(model).forget_compiled(model)


def take_out(model: Any) -> None:
    """Have a model run as if no plan had been put into it."""
    with _lock:
        if _detach(model):
            family_of(model).forget_compiled(model)


@contextlib.contextmanager
def applied(model: Any, outlined: Outlined, plan: Optional[Plan]) -> Iterator[None]:
    """Have a plan in force for a while, and then again what was before.

    Args:
        model: A model of Keras 3.
        outlined: What planning sees of it.
        plan: The plan; None for a while without any.
    """
    family = family_of(model)
    compiled = compiled_functions(model)
    before = [
        (vars(owner), method, vars(owner)[method])
        for owner in family.everything_in(model)
        for method in family.METHODS
        if hasattr(vars(owner).get(method), MARK)
    ]
    try:
        if plan is None:
            take_out(model)
        else:
            put_in(model, outlined, plan)
        yield
    finally:
        take_out(model)
        for attributes, method, replacement in before:
            attributes[method] = replacement
        put_back_compiled(compiled)


def _detach(model: Any) -> bool:
    found = False
    family = family_of(model)
    for owner in family.everything_in(model):
        for method in family.METHODS:
            replacement: Any = vars(owner).get(method)
            if hasattr(replacement, MARK):
                found = True
                if hasattr(replacement, "undo"):
                    replacement.undo()
                before = getattr(replacement, MARK)
                if before is None:
                    del vars(owner)[method]
                else:
                    vars(owner)[method] = before
    return found


def _hooks(model: Any, outlined: Outlined, plan: Plan) -> List[Hook]:
    """Return what stands in where."""
    family = family_of(model)
    by_graph: Dict[int, List[Segment]] = {}
    layers = []
    policies = Policies("the plan of " + model.name, _UNNAMED if family.is_static(model) else "")
    for segment in plan.segments:
        if segment.steps is not None:
            by_graph.setdefault(segment.number, []).append(segment)
        elif segment.recomputed:
            layers.append((outlined.layers[segment.number], policies.of(segment.policy)))
    hooks = _layer_hooks(model, layers) if layers else []
    for number, segments in by_graph.items():
        if any(segment.recomputed for segment in segments):
            hooks.append(_graph_hook(outlined, outlined.graphs[number], segments, policies))
    return hooks


def _layer_hooks(model: Any, layers: Sequence[Tuple[Any, Policy]]) -> List[Hook]:
    """Return what stands in where, to recompute some layers each on its own."""
    if generation_of(model) == 2:
        from perftricks.recompute.keras2 import symbols

        return symbols.layer_hooks(model, layers)
    return [
        (layer, method, _call_hook(layer, method, policy))
        for layer, policy in layers
        for method in ("call", "quantized_call")  # Keras calls the other one of what is quantized
    ]


def _call_hook(layer: Any, method: str, policy: Policy) -> Callable[..., Any]:
    """Return what stands in for a method of a layer that Keras calls it by."""
    plain = getattr(layer, method)
    if hasattr(plain, MARK):  # the plan that is about to be replaced
        plain = getattr(plain, MARK) or getattr(type(layer), method).__get__(layer)

    def fresh() -> Callable[..., Any]:
        @functools.wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_jax and vars(layer).get(method) is call:
                # JAX knows by the function what it has traced, with the weights of that time. A
                # method is another object each time one asks for it; so is this one.
                again = fresh()
                vars(again).update(vars(call))
                vars(layer)[method] = again
            if not switch.enabled(default=True):
                return plain(*args, **kwargs)
            return stacks.recompute(plain, args, kwargs, (layer,), policy=policy)

        call.autograph_info__ = {}  # type: ignore[attr-defined]
        return call

    is_jax = stacks.backend_of(layer) == "jax"
    return fresh()


def _graph_hook(
    outlined: Outlined, graph: Graph, segments: Sequence[Segment], policies: Policies
) -> Hook:
    """Return what stands in where, to recompute segments of a graph of layers."""
    stages_of_graph = stages.of_plan(outlined, graph, segments, policies.of)
    functional = graph.functional
    if generation_of(functional) == 2:
        from perftricks.recompute.keras2 import symbols

        return symbols.graph_hook(functional, stages_of_graph)
    plain = type(functional)._run_through_graph.__get__(functional)
    planned = stages.passing_on(stages_of_graph, [id(x) for x in functional.outputs])

    @functools.wraps(plain)
    def run(inputs: Any, operation_fn: Any = None, call_fn: Any = None) -> Any:
        operation = operation_fn or (lambda x: x)
        if call_fn is None and switch.enabled(default=True) and not keras3.is_symbolic(inputs):
            return stages.run(functional, planned, inputs, operation)
        return plain(inputs, operation_fn=operation, call_fn=call_fn)

    run.autograph_info__ = {}  # type: ignore[attr-defined]
    return functional, "_run_through_graph", run
