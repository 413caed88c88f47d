"""``profile``: where the memory of a training step goes, found out without running one."""

from __future__ import annotations

import math
from typing import Any, List, Optional, Tuple

from perftricks.recompute.choosing import check_count, choose
from perftricks.recompute.models import check
from perftricks.recompute.outlining import Graph, Outlined
from perftricks.recompute.planning.plans import Plan, Segment
from perftricks.recompute.planning.profiles import Profile, SegmentProfile
from perftricks.recompute.policies import policy_of
from perftricks.recompute.stacks import generation_of


def profile(
    model: Any,
    *,
    batch_size: int,
    length: Optional[int] = None,
    optimizer: Any = None,
    plan: Optional[Plan] = None,
) -> Profile:
    """Tell where the memory of a training step goes: by what it is for, segment and policy.

    Nothing is computed, and nothing large is allocated: Keras' backend is asked what it would keep
    of tensors that have shapes and no numbers. What a step needs for a while beside that, as the
    workspace of a convolution, is not counted, nor what a framework keeps for itself.

    Args:
        model: A built Functional or Sequential model of Keras 3.
        batch_size: Samples in a batch.
        length: What to take for each other dimension of the inputs that is not known: the tokens of
            a text, the sides of an image.
        optimizer: The optimizer; None for the one that the model is compiled with, if it is.
        plan: The plan whose segments are shown; None for the one that ``apply`` would choose.

    Returns:
        The profile; ``print`` it for a table.

    Raises:
        TypeError: If ``model`` is no Keras model, or ``plan`` is no plan.
        ValueError: If the model is not built, has no graph of layers or is of Keras 2, a dimension
            is not known, or there is nothing to segment.

    Example:
        >>> from perftricks import recompute
        >>> print(recompute.profile(model, batch_size=64))  # doctest: +SKIP
    """
    check(model, "profile")
    if generation_of(model) != 3:
        raise ValueError("profile looks into models of Keras 3; %s is of Keras 2" % model.name)
    for name, value in (("batch_size", batch_size), ("length", length)):
        if value is not None:
            check_count(name, value)
    outlined = Outlined(model)
    graph = outlined.root
    if graph is None:
        raise ValueError(
            "%s has a call of its own and no graph of layers to look into; profile its "
            "Functional or Sequential parts" % model.name
        )
    if plan is None:
        plan = choose(outlined, model, None, None, None, "full")
    elif not isinstance(plan, Plan):
        raise TypeError("plan must be what recompute.plan or Plan.load returns, got %r" % (plan,))
    return _Profiler(model, outlined, graph, batch_size, length).profile(
        plan, getattr(model, "optimizer", None) if optimizer is None else optimizer
    )


class _Profiler:
    def __init__(
        self, model: Any, outlined: Outlined, graph: Graph, batch_size: int, length: Optional[int]
    ) -> None:
        self._model = model
        self._outlined = outlined
        self._graph = graph
        self._batch_size = batch_size
        self._length = length
        self._counted = {id(x) for x in graph.functional.inputs}  # what is kept anyway

    def profile(self, plan: Plan, optimizer: Any) -> Profile:
        """Return the profile under a plan."""
        import keras

        from perftricks.recompute.measure.kept import kept_bytes

        model = self._model
        specs = [self._spec(x, False) for x in self._graph.functional.inputs]
        structure = self._graph.functional._inputs_struct

        def run(tensors: List[Any]) -> List[Any]:
            inputs = keras.tree.pack_sequence_as(structure, tensors)
            return list(keras.tree.flatten(model(inputs, training=True)))

        trained = list(model.trainable_variables)
        return Profile(
            model.name,
            self._batch_size,
            keras.config.backend(),
            sum(map(variable_bytes, model.variables)),
            sum(map(variable_bytes, trained)),
            optimizer_bytes(optimizer, trained),
            sum(spec.nbytes for spec in specs),
            kept_bytes(run, trained, specs),
            tuple(self._segment(segment) for segment in plan.segments if segment.steps),
            plan,
        )

    def _segment(self, segment: Segment) -> SegmentProfile:
        from perftricks.recompute.applying import stages_of_plan
        from perftricks.recompute.keras3 import private
        from perftricks.recompute.measure.kept import kept_bytes
        from perftricks.recompute.stages import segment_function

        graph = self._outlined.graphs[segment.number]
        (stage,) = (
            stage
            for stage in stages_of_plan(self._outlined, graph, [segment])
            if stage.nodes[0] is graph.nodes[segment.steps[0]]  # type: ignore[index]
        )
        symbols = {id(x): x for x in self._outlined.symbols}
        inputs = {id(x) for x in self._graph.functional.inputs}
        specs = [self._spec(symbols[key], key not in inputs) for key in stage.takes]
        kept = {key: s.nbytes for key, s in zip(stage.takes, specs) if key not in self._counted}
        self._counted.update(kept)
        full = sum(kept.values())
        function = segment_function(graph.functional, stage, private.in_training)
        variables = stage.trained_variables
        products = kept_bytes(function, variables, specs, policy_of("save_matmuls"))
        return SegmentProfile(
            segment.name_in(self._model.name),
            full + kept_bytes(function, variables, specs),
            full,
            full + products,
            segment.recomputed,
        )

    def _spec(self, symbol: Any, is_inside: bool) -> Any:
        from perftricks.recompute.measure.kept import spec_of_symbol

        return spec_of_symbol(symbol, self._batch_size, self._length, is_inside)


def variable_bytes(variable: Any) -> int:
    """Return the bytes of a variable."""
    from perftricks.recompute.measure.kept import spec_of

    return spec_of(variable).nbytes


def optimizer_bytes(optimizer: Any, trained: List[Any]) -> int:
    """Return what an optimizer keeps, or would keep once it is built."""
    import keras

    if optimizer is None:
        return 0
    if isinstance(optimizer, str):
        optimizer = keras.optimizers.get(optimizer)
    if not optimizer.built:
        sample: Tuple[Any, ...] = tuple(
            keras.Variable(keras.ops.zeros((1,) * len(v.shape)), dtype=v.dtype) for v in trained
        )
        copy = type(optimizer).from_config(optimizer.get_config())
        copy.build(list(sample))
        slots = (sum(math.prod(v.shape) for v in copy.variables) - 2) / max(1, len(sample))
        return int(slots * sum(map(variable_bytes, trained)))
    return sum(map(variable_bytes, optimizer.variables))
