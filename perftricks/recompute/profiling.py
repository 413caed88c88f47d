"""``profile``: where the memory of a training step goes, found out without running one."""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from perftricks.recompute import stages
from perftricks.recompute.choosing import check_count, choose
from perftricks.recompute.hooks import applied
from perftricks.recompute.measure.held import optimizer_bytes, variable_bytes
from perftricks.recompute.models import check
from perftricks.recompute.outlining import Outlined
from perftricks.recompute.planning.planner import NothingToSegmentError
from perftricks.recompute.planning.plans import Plan, Segment
from perftricks.recompute.planning.profiles import Profile, SegmentProfile
from perftricks.recompute.policies import policy_of
from perftricks.recompute.samples import Samples, check_batch
from perftricks.recompute.stacks import generation_of


def profile(
    model: Any,
    *,
    batch_size: int,
    length: Optional[int] = None,
    optimizer: Any = None,
    plan: Optional[Plan] = None,
    x: Any = None,
) -> Profile:
    """Tell where the memory of a training step goes: by what it is for, segment and policy.

    Nothing is computed, and nothing large is allocated: Keras' backend is asked what it would keep
    of tensors that have shapes and no numbers. What a step needs for a while beside that, as the
    workspace of a convolution, is not counted, nor what a framework keeps for itself.

    Args:
        model: A built model of Keras 3; with ``x`` it need not be built, and is then.
        batch_size: Samples in a batch.
        length: What to take for each other dimension of the inputs that is not known: the tokens of
            a text, the sides of an image.
        optimizer: The optimizer; None for the one that the model is compiled with, if it is.
        plan: The plan whose segments are shown; None for the one that ``apply`` would choose.
        x: For a model with a ``call`` of its own: samples of what it is called with, arrays or
            ``keras.Input`` nested as ``fit`` takes them. Only shapes and types are looked at.
            A graph of layers needs none; dimensions that it does not know are taken from them.

    Returns:
        The profile; ``print`` it for a table.

    Raises:
        TypeError: If ``model`` is no Keras model, or ``plan`` is no plan.
        ValueError: If the model is not built or is of Keras 2, what it takes or a dimension is not
            known, or it cannot be traced.

    Example:
        >>> from perftricks import recompute
        >>> print(recompute.profile(model, batch_size=64))  # doctest: +SKIP
    """
    check(model, "profile", x)
    if generation_of(model) != 3:
        raise ValueError(
            "profile looks into models of Keras 3, and %s is of Keras 2; recompute.plan(model) "
            "estimates its segments from shapes, and recompute.verify measures" % model.name
        )
    batch_size = check_count("batch_size", batch_size)
    length = None if length is None else check_count("length", length)
    from perftricks.recompute.keras3.replicas import one_replica

    outlined = Outlined(model)
    check_batch(model, outlined, batch_size)
    if plan is None:
        plan = _default_plan(model, outlined)
    elif not isinstance(plan, Plan):
        raise TypeError("plan must be what recompute.plan or Plan.load returns, got %r" % (plan,))
    samples = Samples(model, outlined, batch_size, length, x)
    if optimizer is None:
        optimizer = getattr(model, "optimizer", None)
    with applied(model, outlined, None), one_replica():
        return _Profiler(model, outlined, samples, batch_size).profile(plan, optimizer)


def _default_plan(model: Any, outlined: Outlined) -> Plan:
    try:
        return choose(outlined, model, None, None, None, "full")
    except NothingToSegmentError:  # the whole is shown, and no segment
        return Plan(model.name, (), None, None, outlined.outline.digest())


class _Run(NamedTuple):
    """What a segment runs: one of its parts, or one of the calls of a layer.

    Attributes:
        keys: The keys of the tensors it takes.
        specs: These, without numbers.
        function: Takes and returns tensors.
    """

    keys: Sequence[int]
    specs: Sequence[Any]
    function: Callable[[List[Any]], Sequence[Any]]


class _Profiler:
    def __init__(self, model: Any, outlined: Outlined, samples: Samples, batch_size: int) -> None:
        self._model = model
        self._outlined = outlined
        self._samples = samples
        self._batch_size = batch_size
        self._traced: Any = None
        self._counted = {id(x) for x in outlined.root.functional.inputs} if outlined.root else set()

    def profile(self, plan: Plan, optimizer: Any) -> Profile:
        """Return the profile under a plan."""
        import keras

        from perftricks.recompute.measure.calls import traced
        from perftricks.recompute.measure.kept import kept_bytes

        model, specs = self._model, self._samples.inputs
        if self._outlined.root is None or any(segment.steps is None for segment in plan.segments):
            self._traced = traced(model, self._outlined, self._samples)
            self._counted.update(self._traced.inputs)  # what is kept anyway

        def run(tensors: List[Any]) -> List[Any]:
            return list(keras.tree.flatten(self._samples.call(tensors)))

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
            tuple(map(self._segment, plan.segments)),
            plan,
        )

    def _segment(self, segment: Segment) -> SegmentProfile:
        from perftricks.recompute.measure.kept import kept_bytes

        if segment.steps is None:
            variables = self._outlined.layers[segment.number].trainable_variables
            runs = self._calls(segment.number)
        else:
            run, variables = self._part(segment, segment.steps)
            runs = [run]
        plain = full = masks = products = 0
        for keys, specs, function in runs:
            kept = {key: s.nbytes for key, s in zip(keys, specs) if key not in self._counted}
            self._counted.update(kept)
            full += sum(kept.values())
            plain += kept_bytes(function, variables, specs)
            masks += kept_bytes(function, variables, specs, policy_of("save_masks"))
            products += kept_bytes(function, variables, specs, policy_of("save_matmuls"))
        return SegmentProfile(
            segment.name_in(self._model.name),
            full + plain,
            full,
            full + masks,
            full + products,
            segment.recomputed,
        )

    def _calls(self, number: int) -> List[_Run]:
        """List the calls of a layer."""
        traced = self._traced
        return [
            _Run(call.takes_and_masks, traced.specs(call.takes_and_masks), call.run_again)
            for call in traced.root.everything
            if call.number == number
        ]

    def _part(self, segment: Segment, steps: Tuple[int, int]) -> Tuple[_Run, List[Any]]:
        """Return a part of a graph, and its trained variables."""
        from perftricks.recompute.keras3 import private

        graph = self._outlined.graphs[segment.number]
        (stage,) = (
            stage
            for stage in stages.of_plan(self._outlined, graph, [segment])
            if stage.nodes[0] is graph.nodes[steps[0]]
        )
        known = {} if self._traced is None else self._traced.symbols
        if self._outlined.root is None:
            keys: Sequence[int] = [known[key] for key in stage.takes]
            specs = self._traced.specs(keys)
        else:
            keys = stage.takes
            symbols = {id(x): x for x in self._outlined.symbols}
            inputs = {id(x) for x in self._outlined.root.functional.inputs}
            specs = [self._samples.spec(symbols[key], key not in inputs) for key in keys]
        function = stages.segment_function(graph.functional, stage, private.in_training)
        return _Run(keys, specs, function), stage.trained_variables
