"""``apply`` and ``remove``: recompute segments of a model that exists, and undo it.

::

    model ──outlining──▶ Outline: names, numbers, bytes ──planning──▶ Plan
      │                                                                │
      └── one function in vars(graph) or vars(layer) ◀─────────────────┘
              runs the segments through the engine; Keras saves, clones and lists layers as before

The function shadows a method of that one object: ``_run_through_graph`` of a graph of layers,
``call`` of a single layer. It is put into the object's ``__dict__`` directly, so Keras does not
track it, does not save it, and builds copies without it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from perftricks.recompute import choosing, stacks, stages, switch
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.models import MARK, check, compiled_functions, put_back_compiled
from perftricks.recompute.outlining import Graph, Outlined
from perftricks.recompute.planning.plans import Plan, Segment
from perftricks.recompute.policies import Given, Policy, policy_of
from perftricks.recompute.stacks import family_of, generation_of
from perftricks.recompute.stages import Stage

Hook = Tuple[Any, str, Any]  # an object, the name of an attribute, its new value
_lock = threading.Lock()


def apply(
    model: Any,
    *,
    plan: Optional[Plan] = None,
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
    """Recompute the activations of a built model in the backward pass, segment by segment.

    The model is changed in place and keeps its weights, layers, configuration and compiled state;
    what it computes, and its gradients, stay the same. It is saved as it was, and loads without
    perftricks. Without an option, a graph of layers (Functional, Sequential) is cut where
    everything flows through a single tensor, into as many segments as give the lowest peak by the
    shapes of its tensors; in a nested model that holds most of the memory the same is done inside.
    The last segment runs plainly: the backward pass begins with it, so to forget it saves nothing.
    In a model with a ``call`` of its own each direct sub-layer that has weights or sub-layers is a
    segment.

    It is on unless ``RECOMPUTE=0`` or ``recompute_scope(False)`` says otherwise when the model
    runs or is traced. Applying again replaces the plan. If the model is part of a larger one that
    has been compiled, compile that again, or apply to the larger one. Adding layers to a Sequential
    discards the plan. In a graph with sessions (keras 2.3.1, TensorFlow 1) it is what gradients
    that are built from then on do.

    Args:
        model: A built model of Keras 3 or Keras 2.
        plan: What ``plan`` has chosen, for this model or for another one of the same structure;
            then the other options are not given.
        every: Make a segment of as many steps between cut points (1 for the most segments).
        layers: Instead of segments of a graph, recompute each of these layers on its own, wherever
            in the model they are: a class, the name of a layer, a function of a layer that returns
            a bool, or several of them. A layer inside one that is chosen is not chosen again.
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
        y: With a budget: samples of the targets; None for what goes with the outputs and the loss.

    Returns:
        The plan; ``print`` it for a table.

    Raises:
        TypeError: If ``model`` is no Keras model, or an option has the wrong type.
        ValueError: If the model is not built, a name is unknown, there is nothing to segment, or
            the plan was made for a model of another structure.

    Example:
        >>> from perftricks import recompute
        >>> model = keras.applications.ResNet50()  # doctest: +SKIP
        >>> print(recompute.apply(model))  # doctest: +SKIP

    Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
    """
    check(model, "apply", x)
    outlined = Outlined(model)
    options = {
        **{"every": every, "layers": layers, "boundaries": boundaries, "policy": policy},
        **{"budget": budget, "batch_size": batch_size, "length": length},
        **{"loss": loss, "optimizer": optimizer, "x": x, "y": y},
    }
    if plan is None:
        plan = choosing.plan(model, **options)
    else:
        _check_plan(plan, outlined, model, options)
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
    return plan


def remove(model: Any) -> None:
    """Undo ``apply``: the model, and every layer in it, is as it was before.

    A model to which nothing was applied stays as it is.

    Args:
        model: A Keras model.

    Raises:
        TypeError: If ``model`` is no Keras model.
    """
    check(model, "remove")
    with _lock:
        if _detach(model):
            family_of(model).forget_compiled(model)


@contextlib.contextmanager
def applied(model: Any, plan: Optional[Plan]) -> Iterator[None]:
    """Have a plan in force for a while, and then again what was before.

    Args:
        model: A model of Keras 3.
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
            remove(model)
        else:
            apply(model, plan=plan)
        yield
    finally:
        remove(model)
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


def _check_plan(plan: Any, outlined: Outlined, model: Any, options: Dict[str, Any]) -> None:
    if not isinstance(plan, Plan):
        raise TypeError("plan must be what recompute.plan or Plan.load returns, got %r" % (plan,))
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError("with a plan, which has chosen, %s cannot be given" % ", ".join(given))
    fits = plan.digest == outlined.outline.digest() and all(
        segment.number < len(outlined.layers)
        if segment.steps is None
        else segment.number in outlined.graphs
        and segment.steps[1] <= len(outlined.graphs[segment.number].nodes)
        for segment in plan.segments
    )
    if not fits:
        raise ValueError(
            "the plan was made for %s, whose layers or their connections are not those of %s; make "
            "one for this model: recompute.plan(model)" % (plan.model, model.name)
        )


def _hooks(model: Any, outlined: Outlined, plan: Plan) -> List[Hook]:
    """Return what stands in where."""
    by_graph: Dict[int, List[Segment]] = {}
    layers = []
    for segment in plan.segments:
        if segment.steps is not None:
            by_graph.setdefault(segment.number, []).append(segment)
        elif segment.recomputed:
            layers.append((outlined.layers[segment.number], policy_of(segment.policy)))
    hooks = _layer_hooks(model, layers) if layers else []
    for number, segments in by_graph.items():
        if any(segment.recomputed for segment in segments):
            hooks.append(_graph_hook(outlined, outlined.graphs[number], segments))
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

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not switch.enabled(default=True):
            return plain(*args, **kwargs)
        return stacks.recompute(plain, args, kwargs, (layer,), policy=policy)

    call.autograph_info__ = {}  # type: ignore[attr-defined]
    return call


def _graph_hook(outlined: Outlined, graph: Graph, segments: Sequence[Segment]) -> Hook:
    """Return what stands in where, to recompute segments of a graph of layers."""
    stages_of_graph = stages_of_plan(outlined, graph, segments)
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


def stages_of_plan(outlined: Outlined, graph: Graph, segments: Sequence[Segment]) -> List[Stage]:
    """Return all calls of a graph in stages: its segments, and what is between them."""
    policies = {
        s.steps[0]: policy_of(s.policy) for s in segments if s.steps is not None and s.recomputed
    }
    ends = {place for s in segments if s.steps is not None for place in s.steps}
    cuts = [place - 1 for place in ends if 0 < place < len(graph.nodes)]
    return [
        stage._replace(policy=policies.get(start))
        for start, _, stage in stages_between(outlined, graph, cuts)
    ]


def stages_between(
    outlined: Outlined, graph: Graph, cuts: Sequence[int]
) -> List[Tuple[int, int, Stage]]:
    """Return all calls of a graph in stages, with the numbers of their first and after their last.

    Args:
        outlined: The model.
        graph: The graph.
        cuts: After which calls to cut.
    """
    return [
        (
            part.start,
            part.stop,
            Stage(
                graph.nodes[part.start : part.stop],
                tuple(id(outlined.symbols[key]) for key in part.takes),
                tuple(id(outlined.symbols[key]) for key in part.gives),
                None,
            ),
        )
        for part in graph.chain.parts(cuts)
    ]
