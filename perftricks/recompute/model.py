"""``apply`` and ``remove``: recompute segments of a model that exists, and undo it.

::

    model ──graph.py: steps, bytes──▶ segments.py: cuts ──▶ Plan
      │                                                       │
      └── one function in vars(graph) or vars(layer) ◀────────┘
              runs the segments through the engine; Keras saves, clones and lists layers as before

The function shadows a method of that one object: ``_run_through_graph`` of a graph of layers,
``call`` of a single layer. It is put into the object's ``__dict__`` directly, so Keras does not
track it, does not save it, and builds copies without it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from perftricks.recompute import stacks, stages, switch
from perftricks.recompute.graph import Graph, leaves
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.plans import Plan, Segment
from perftricks.recompute.segments import Chain, Part
from perftricks.recompute.stacks import engine_for, family_of, generation_of
from perftricks.recompute.stages import Stage

_MARK = "perftricks_replaced"
_lock = threading.Lock()


def apply(
    model: Any,
    *,
    every: Optional[int] = None,
    layers: Any = None,
    boundaries: Any = None,
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
        every: Make a segment of as many steps between cut points (1 for the most segments).
        layers: Instead of segments of a graph, recompute each of these layers on its own, wherever
            in the model they are: a class, the name of a layer, a function of a layer that returns
            a bool, or several of them. A layer inside one that is chosen is not chosen again.
        boundaries: Cut a graph after these: names of layers, layers, symbolic tensors, or one.

    Returns:
        The plan; ``print`` it for a table.

    Raises:
        TypeError: If ``model`` is no Keras model, or an option has the wrong type.
        ValueError: If the model is not built, a name is unknown, or there is nothing to segment.

    Example:
        >>> from perftricks import recompute
        >>> model = keras.applications.ResNet50()  # doctest: +SKIP
        >>> print(recompute.apply(model))  # doctest: +SKIP

    Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
    """
    check(model, "apply")
    given = [
        name
        for name, value in (("every", every), ("layers", layers), ("boundaries", boundaries))
        if value is not None
    ]
    if len(given) > 1:
        raise ValueError("apply takes one of every, layers and boundaries, got " + ", ".join(given))
    if layers is not None:
        draft = _of_layers(model, layers)
    else:
        draft = _Planner(model, _cutter(model, every, boundaries)).plan(model)
    if not any(segment.recomputed for segment in draft.segments):
        raise ValueError(
            "there is nothing to segment in %s: %s; try every=1, boundaries=[names of layers] or "
            "layers=[names or classes of layers]"
            % (model.name, "no place to cut, or nothing to save between them")
        )
    plan = Plan(
        model.name,
        tuple(draft.segments),
        draft.plain,
        None if draft.kept is None or draft.largest is None else draft.kept + draft.largest,
    )
    with _lock:
        _detach(model)
        for owner, method, replacement in draft.hooks:
            setattr(replacement, _MARK, vars(owner).get(method))
            replacement.perftricks_plan = plan
            vars(owner)[method] = replacement
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


def is_applied(model: Any) -> bool:
    """Tell whether any part of a model is recomputed because of ``apply``."""
    return any(
        hasattr(vars(owner).get(method), _MARK)
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


def check(model: Any, name: str) -> None:
    """Refuse what is no built model of a Keras; ``name`` is the function that needs one."""
    kind: Any = getattr(sys.modules.get("keras"), "Model", ())
    family = family_of(model)
    if not (family.is_model(model) if generation_of(model) == 2 else isinstance(model, kind)):
        raise TypeError(
            "recompute.%s expects a built model of Keras 3 or Keras 2 (keras.Model), got %r"
            % (name, type(model).__module__ + "." + type(model).__name__)
        )
    engine_for(model.call, ())  # complains about another Keras
    if name != "remove" and not family.is_built(model):
        raise ValueError(
            "the model %s is not built, so its layers are not known yet: call it on a batch or "
            "model.build(input_shape) first" % model.name
        )


def _detach(model: Any) -> bool:
    found = False
    family = family_of(model)
    for owner in family.everything_in(model):
        for method in family.METHODS:
            replacement: Any = vars(owner).get(method)
            if hasattr(replacement, _MARK):
                found = True
                if hasattr(replacement, "undo"):
                    replacement.undo()
                before = getattr(replacement, _MARK)
                if before is None:
                    del vars(owner)[method]
                else:
                    vars(owner)[method] = before
    return found


class _Draft(NamedTuple):
    """What is to be done to a model, and what it costs."""

    hooks: List[Tuple[Any, str, Any]]
    segments: List[Segment]
    plain: Optional[int]
    kept: Optional[int]
    largest: Optional[int]


class _Planner:
    """Plans a model and the models inside it.

    Args:
        root: The model. Its last segment runs plainly: what it computes is needed next.
        cut: Given a graph, says after which steps to cut, and whether this was asked for, so that
            segments which save nothing are recomputed too.
    """

    def __init__(self, root: Any, cut: _Cutter) -> None:
        self._root = root
        self._cut = cut
        self._done: Dict[int, _Draft] = {}

    def plan(self, model: Any) -> _Draft:
        """Plan a model; one that is used in several places is planned once."""
        if id(model) not in self._done:
            graph = family_of(model).graph_of(model)
            if graph is not None:
                self._done[id(model)] = self._plan_graph(model, graph)
            elif self._cut.only_graphs or family_of(model).is_static(model):
                self._done[id(model)] = _Draft([], [], None, None, None)
            else:
                self._done[id(model)] = self._plan_children(model)
        return self._done[id(model)]

    def _plan_graph(self, model: Any, functional: Any) -> _Draft:
        graph = Graph(functional)
        chain = graph.chain({})
        cuts, asked = self._cut(graph, chain)
        peak = chain.peak(chain.parts(cuts))
        inner = self._inner(graph, chain, peak)
        if inner:
            sizes = {i: (d.kept or 0, d.largest or 0) for i, d in inner.items()}
            with_inner = graph.chain(sizes)
            inner_cuts, asked = self._cut(graph, with_inner)
            if asked or with_inner.peak(with_inner.parts(inner_cuts)) < peak:
                chain, cuts = with_inner, inner_cuts
            else:
                inner = {}
        parts = chain.parts(cuts)
        if len(parts) < 2 and not asked and not inner:
            return _Draft([], [], chain.bytes, 0, chain.bytes)
        hooks: Dict[Tuple[int, str], Tuple[Any, str, Any]] = {}
        segments: List[Segment] = []
        recomputed = []
        for part in parts:
            draft = inner.get(part.start)
            if draft is not None:
                hooks.update({(id(o), name): (o, name, hook) for o, name, hook in draft.hooks})
                segments.extend(s for s in draft.segments if s not in segments)
                recomputed.append(False)
                continue
            is_last = model is self._root and graph.is_last(part)
            recomputed.append((asked or part.frees > 0) and not is_last)
            names = tuple(dict.fromkeys(s.name for s in chain.steps[part.start : part.stop]))
            segments.append(Segment(model.name, names, part.bytes, part.kept, recomputed[-1]))
        if any(recomputed):
            owner, name, hook = _graph_hook(graph, parts, recomputed)
            hooks[id(owner), name] = owner, name, hook
        peak = chain.peak(parts)
        kept = sum(part.kept for part in parts)
        kept += sum(s.inner[0] for s in chain.steps if s.inner is not None)
        return _Draft(list(hooks.values()), segments, chain.bytes, kept, peak - kept)

    def _inner(self, graph: Graph, chain: Chain, peak: int) -> Dict[int, _Draft]:
        """Plan the nested models that a plan around them cannot help, by their step."""
        found: Dict[int, _Draft] = {}
        if graph.is_static:
            return found
        for number, node in enumerate(graph.nodes):
            model = node.operation
            if not family_of(model).is_model(model):
                continue
            if self._cut.wants(model) or 2 * chain.steps[number].bytes > peak:
                draft = self.plan(model)
                if any(segment.recomputed for segment in draft.segments):
                    found[number] = draft
        return found

    def _plan_children(self, model: Any) -> _Draft:
        family = family_of(model)
        hooks: List[Tuple[Any, str, Any]] = []
        segments: List[Segment] = []
        total = len(leaves(model))
        for child in family.children(model):
            if not child.weights and not family.children(child):
                continue
            if family.is_model(child) and 2 * len(leaves(child)) > total:
                draft = self.plan(child)
                if draft.hooks:
                    hooks.extend(draft.hooks)
                    segments.extend(draft.segments)
                    continue
            hooks.extend(_layer_hooks(model, [child]))
            segments.append(Segment(model.name, (child.name,), None, None))
        return _Draft(hooks, segments, None, None, None)


class _Cutter:
    """The default: the cuts with the lowest peak."""

    only_graphs = False

    def __call__(self, graph: Graph, chain: Chain) -> Tuple[List[int], bool]:
        return chain.best_cuts(), False

    def wants(self, model: Any) -> bool:
        """Tell whether to look into a nested model, however small."""
        return False


class _Every(_Cutter):
    """A cut at every k-th cut point."""

    only_graphs = True

    def __init__(self, every: int) -> None:
        self._every = every

    def __call__(self, graph: Graph, chain: Chain) -> Tuple[List[int], bool]:
        cuts = chain.cut_points()[self._every - 1 :: self._every]
        return cuts, bool(cuts)


class _Boundaries(_Cutter):
    """Cuts after given layers and tensors."""

    only_graphs = True

    def __init__(self, model: Any, boundaries: Sequence[Any]) -> None:
        self._keys = set()
        self._names = set()
        everything = family_of(model).everything_in(model)
        names = [layer.name for layer in everything]
        known = {
            id(tensor) for layer in everything for node in _nodes(layer) for tensor in node.outputs
        }
        for boundary in boundaries:
            if isinstance(boundary, str):
                if boundary not in names:
                    raise ValueError(_unknown(model, boundary, names))
                self._names.add(boundary)
            elif hasattr(boundary, "_keras_history") or hasattr(boundary, "record_history"):
                if id(boundary) not in known:
                    raise ValueError(
                        "the tensor %s in boundaries is not made in the graph of %s"
                        % (boundary.name, model.name)
                    )
                self._keys.add(id(boundary))
            elif getattr(boundary, "name", None) in names:
                self._names.add(boundary.name)
            else:
                raise TypeError(
                    "boundaries takes names of layers, layers of the model and symbolic tensors, "
                    "got %r" % (boundary,)
                )

    def __call__(self, graph: Graph, chain: Chain) -> Tuple[List[int], bool]:
        cuts = [i for i, node in enumerate(graph.nodes) if self._ends(node)]
        return [cut for cut in cuts if cut < len(graph.nodes) - 1], bool(cuts)

    def wants(self, model: Any) -> bool:
        """Tell whether a boundary is somewhere inside."""
        return any(
            self._ends(node)
            for layer in family_of(model).everything_in(model)
            for node in _nodes(layer)
        )

    def _ends(self, node: Any) -> bool:
        return node.operation.name in self._names or any(id(t) in self._keys for t in node.outputs)


def _nodes(layer: Any) -> List[Any]:
    graph = family_of(layer).graph_of(layer)
    return [] if graph is None else list(family_of(layer).nodes_of(graph))


def _cutter(model: Any, every: Optional[int], boundaries: Any) -> _Cutter:
    if every is None and boundaries is None:
        return _Cutter()
    if family_of(model).graph_of(model) is None:
        raise ValueError(
            "%s has a call of its own and no graph of layers to cut by every or boundaries: use "
            "layers=[names or classes of layers], or no option" % model.name
        )
    if boundaries is not None:
        several = isinstance(boundaries, (list, tuple, set, frozenset))
        return _Boundaries(model, boundaries if several else [boundaries])
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ValueError("every must be a whole number of at least 1, got %r" % (every,))
    return _Every(every)


def _of_layers(model: Any, choice: Any) -> _Draft:
    """Choose layers by class, name or predicate, wherever they are in a model."""
    family = family_of(model)
    choices = list(choice) if isinstance(choice, (list, tuple, set, frozenset)) else [choice]
    candidates = [
        layer
        for layer in family.everything_in(model)
        if layer is not model and not family.is_input_layer(layer)
    ]
    names = [layer.name for layer in candidates]
    tests: List[Callable[[Any], bool]] = []
    for wanted in choices:
        if isinstance(wanted, str):
            if wanted not in names:
                raise ValueError(_unknown(model, wanted, names))
            tests.append(functools.partial(_has_name, wanted))
        elif inspect.isclass(wanted):
            tests.append(functools.partial(_is_instance, wanted))
        elif family.is_layer(wanted):
            if not any(layer is wanted for layer in candidates):
                raise ValueError("the layer %s is not in the model %s" % (wanted.name, model.name))
            tests.append(functools.partial(_is, wanted))
        elif callable(wanted):
            tests.append(wanted)
        else:
            raise TypeError(
                "layers takes classes, names of layers and functions of a layer, got %r" % (wanted,)
            )
    chosen: List[Any] = []
    inside = {id(family.graph_of(model))}
    for layer in candidates:  # a layer comes before those below it
        if id(layer) not in inside and any(test(layer) for test in tests):
            inside.update(id(below) for below in family.everything_in(layer))
            chosen.append(layer)
    if not chosen:
        raise ValueError(
            "no layer of %s is chosen by layers=%r; it has layers of the classes %s"
            % (model.name, choice, ", ".join(sorted({type(x).__name__ for x in candidates})))
        )
    hooks = _layer_hooks(model, chosen)
    segments = [Segment(model.name, (x.name,), None, None, bool(hooks)) for x in chosen]
    return _Draft(hooks, segments, None, None, None)


def _layer_hooks(model: Any, layers: Sequence[Any]) -> List[Tuple[Any, str, Any]]:
    """Return what stands in where, to recompute some layers each on its own."""
    if generation_of(model) == 2:
        from perftricks.recompute.keras2 import symbols

        return symbols.layer_hooks(model, layers)
    return [
        (layer, method, _call_hook(layer, method))
        for layer in layers
        for method in ("call", "quantized_call")  # Keras calls the other one of what is quantized
    ]


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


def _call_hook(layer: Any, method: str) -> Callable[..., Any]:
    """Return what stands in for a method of a layer that Keras calls it by."""
    plain = getattr(layer, method)
    if hasattr(plain, _MARK):  # the plan that is about to be replaced
        plain = getattr(plain, _MARK) or getattr(type(layer), method).__get__(layer)

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not switch.enabled(default=True):
            return plain(*args, **kwargs)
        return stacks.recompute(plain, args, kwargs, (layer,))

    call.autograph_info__ = {}  # type: ignore[attr-defined]
    return call


def _graph_hook(
    graph: Graph, parts: Sequence[Part], recomputed: Sequence[bool]
) -> Tuple[Any, str, Any]:
    """Return what stands in where, to recompute parts of a functional model."""
    if generation_of(graph.functional) == 2:
        from perftricks.recompute.keras2 import symbols

        return symbols.graph_hook(graph, parts, recomputed)
    functional = graph.functional
    plain = type(functional)._run_through_graph.__get__(functional)
    planned = stages.passing_on(
        [
            Stage(graph.nodes[part.start : part.stop], part.takes, part.gives, is_recomputed)
            for part, is_recomputed in zip(parts, recomputed)
        ],
        [id(x) for x in functional.outputs],
    )

    @functools.wraps(plain)
    def run(inputs: Any, operation_fn: Any = None, call_fn: Any = None) -> Any:
        operation = operation_fn or (lambda x: x)
        if call_fn is None and switch.enabled(default=True) and not keras3.is_symbolic(inputs):
            return stages.run(functional, planned, inputs, operation)
        return plain(inputs, operation_fn=operation, call_fn=call_fn)

    run.autograph_info__ = {}  # type: ignore[attr-defined]
    return functional, "_run_through_graph", run
