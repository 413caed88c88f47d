"""``status``: what of a model would be recomputed if it trained now, and why not where not."""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Tuple

from perftricks.recompute import switch
from perftricks.recompute.models import check, plans_of
from perftricks.recompute.planning.notebook import as_html
from perftricks.recompute.policies import Policy, policy_of
from perftricks.recompute.stacks import backend_of, family_of, generation_of

_QUANTIZED = "Keras runs quantized_call in its place: choose the layer by apply(layers=...)"


class Part(NamedTuple):
    """A part of a model that somebody has asked to be recomputed.

    Attributes:
        name: The layer, or the first and the last one, or the function and its layers.
        by: What asks for it: "decorator", "function" (decorated, in the functional API) or "plan".
        on: Whether it would be recomputed now, in training.
        why: Why, or why not.
    """

    name: str
    by: str
    on: bool
    why: str


class Status(NamedTuple):
    """What would be recomputed now. ``str(status)`` is a table.

    Attributes:
        model: The name of the model.
        parts: What has been asked for, in the order of the layers.
    """

    model: str
    parts: Tuple[Part, ...]

    @property
    def on(self) -> bool:
        """Whether anything would be recomputed."""
        return any(part.on for part in self.parts)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        if not self.parts:
            return "%s: nothing is recomputed; decorate a call, or use recompute.apply" % self.model
        rows = [("part", "by", "now", "why")]
        rows += [(x.name, x.by, "recomputed" if x.on else "plain", x.why) for x in self.parts]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
        count = sum(part.on for part in self.parts)
        head = "%s: %d of %d parts would be recomputed in training; inference runs plainly" % (
            self.model,
            count,
            len(self.parts),
        )
        return "\n".join([head, *lines])


def status(model: Any) -> Status:
    """Tell what of a model would be recomputed if it trained now, and why not where not.

    It looks at decorated layers, at decorated functions in the functional API, at the plan of
    ``apply``, and at the switch. A training function that Keras has compiled already does what the
    switch said then; ``compile`` the model again to have it follow. In a graph with sessions (keras
    2.3.1, TensorFlow 1) a decorated layer does what the switch said when the graph was built.

    Args:
        model: A built model of Keras 3 or Keras 2.

    Returns:
        The parts, each on or off; ``print`` it for a table.

    Raises:
        TypeError: If ``model`` is no Keras model.
        ValueError: If the model is not built, or ``RECOMPUTE`` means neither on nor off.

    Example:
        >>> from perftricks import recompute
        >>> print(recompute.status(model))  # doctest: +SKIP
    """
    check(model, "status")
    parts = decorated_in(model)
    for layer in family_of(model).everything_in(model):
        parts.extend(_functions(layer))
    for plan in plans_of(model):
        on, why = switch.state(default=True)
        for segment in plan.segments:
            name = segment.name_in(model.name)
            if segment.recomputed:
                policy = policy_of(segment.policy)
                parts.append(Part(name, "plan", *_possible(model, on, why, policy)))
            else:
                parts.append(Part(name, "plan", False, "nothing would be saved"))
    return Status(model.name, tuple(parts))


def is_decorated(model: Any) -> bool:
    """Tell whether anything in a model is decorated with ``recompute_grad``."""
    return bool(decorated_in(model)) or any(map(_functions, family_of(model).everything_in(model)))


def decorated_in(model: Any) -> List[Part]:
    """List the decorated methods of a built model and of all layers below it."""
    family = family_of(model)
    if generation_of(model) == 2 and family.is_static(model):
        from perftricks.recompute.keras2.built import Built

        state = Built(model).state
    else:
        state = _state_of_switch
    return [part for layer in family.everything_in(model) for part in _decorated(layer, state)]


def _state_of_switch(layer: Any, method: str) -> Tuple[bool, str]:
    return switch.state(default=False)


def _decorated(layer: Any, state: Callable[[Any, str], Tuple[bool, str]]) -> List[Part]:
    """List the decorated methods of a layer.

    Args:
        layer: The layer.
        state: Takes it and the name of a method; tells whether that is on, and what says so.
    """
    found = []
    names = dict.fromkeys(name for kind in type(layer).__mro__ for name in vars(kind))
    for name in names:
        policy = getattr(getattr(type(layer), name, None), "perftricks_decorated", None)
        if policy is not None:
            on, why = _possible(layer, *state(layer, name), policy)
            if name == "call" and getattr(layer, "quantization_mode", None) is not None:
                on, why = False, _QUANTIZED
            where = layer.name if name == "call" else "%s.%s" % (layer.name, name)
            found.append(Part(where, "decorator", on, why))
    return found


def _functions(layer: Any) -> List[Part]:
    """List the blocks of a graph of layers that decorated functions have made."""
    graph = family_of(layer).graph_of(layer)
    if graph is None or graph is not layer or family_of(layer).is_static(graph):
        return []
    from perftricks.recompute import blocks

    state = switch.state(default=False)
    return [
        Part(
            "%s (%s)" % (block.name, " .. ".join(block.ends)),
            "function",
            *_possible(layer, *state, block.policy),
        )
        for block in blocks.marked_in(graph)
    ]


def _possible(layer: Any, on: bool, why: str, policy: Policy) -> Tuple[bool, str]:
    """Add what no switch can change, and what is kept."""
    backend = backend_of(layer)
    if generation_of(layer) == 3:
        from perftricks.recompute.keras3.call import BACKENDS

        if backend not in BACKENDS:
            return False, "Keras' backend %s cannot train" % backend
    if not on or policy.is_full:
        return on, why
    return on, "%s; %s%s" % (why, str(policy), _limits(policy, backend))


def _limits(policy: Policy, backend: str) -> str:
    """Say what of a policy a backend cannot do."""
    if policy.given == "save_attention" and backend != "torch":
        return ", of which nothing can be kept on %s" % backend
    return ", in graphs, and nothing eagerly" if backend == "tensorflow" else ""
