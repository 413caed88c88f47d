"""A plan for a budget: the least time whose whole training step fits into some memory.

::

    graph ──▶ units: bytes kept, seconds ──▶ solver ──▶ choices, from the least memory to plain
                                                          │ the fastest that seems to fit
                     peak of a step under it, not run ◀───┘ corrects what the others seem to need

The bytes of units add up to what a step needs only about: XLA fuses, kernels need room. So what the
sums promise is corrected by the peaks of whole steps: of the one that needs least, one in the
middle, the plain one, and those around the one that is chosen, which fits by its own.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from perftricks.recompute.hooks import applied
from perftricks.recompute.measure.held import optimizer_bytes, variable_bytes
from perftricks.recompute.outlining import Outlined
from perftricks.recompute.planning import solver
from perftricks.recompute.planning.plans import BudgetError, Plan, Point, Segment, readable_size
from perftricks.recompute.samples import Samples, check_batch
from perftricks.recompute.units import CallUnits, Units

# Seconds that the engine takes to begin and end a call, and its backward pass.
_CALL = {"torch": 4e-3, "jax": 0.0, "tensorflow": 0.0}
# How many times as long torch takes to begin an operation where a policy watches both runs.
_WATCHED = 2.2
_TRIES = 6  # steps that are looked at to find the one that fits, beside three in any case


class Setting(NamedTuple):
    """What a step is made of, beside the model.

    Attributes:
        batch_size: Samples in a batch.
        length: What stands for dimensions that are not known; None if there are none.
        loss: As the caller gave it; None for that of the model, if it is compiled.
        optimizer: The optimizer; None for that of the model, if it is compiled.
        x: Samples of what the model is called with; None if it is a graph, which knows.
        y: Samples of the targets; None for what goes with the outputs and the loss.
    """

    batch_size: int
    length: Optional[int]
    loss: Any
    optimizer: Any
    x: Any = None
    y: Any = None


def plan_for(model: Any, outlined: Outlined, budget: int, setting: Setting) -> Plan:
    """Return the plan with the least time whose training step fits.

    Args:
        model: A model of Keras 3.
        outlined: What planning sees of it.
        budget: Bytes.
        setting: What a step is made of.

    Raises:
        ValueError: If none fits, or what the step does is not known.
    """
    from perftricks.recompute.keras3.replicas import one_replica

    check_batch(model, outlined, setting.batch_size)
    # A plan that is in force is none of what there is to choose from.
    with applied(model, outlined, None), one_replica():
        return Budgeting(model, outlined, setting).plan(budget)


class Budgeting:
    """What a model can be made to need.

    Args:
        model: A built model of Keras 3.
        outlined: What planning sees of it.
        setting: What a step is made of.
    """

    def __init__(self, model: Any, outlined: Outlined, setting: Setting) -> None:
        from perftricks.recompute.measure.calls import traced
        from perftricks.recompute.measure.work import ceilings

        self._model = model
        self._outlined = outlined
        self._setting = setting
        self._ceilings = ceilings()
        samples = Samples(model, outlined, setting.batch_size, setting.length, setting.x, setting.y)
        self._parts: Units
        if outlined.root is None:
            call = traced(model, outlined, samples)
            self._parts = CallUnits(outlined, call, samples)
            outputs = call.specs(call.root.gives)
            names = call.outputs
        else:
            self._parts = Units(outlined, samples)
            functional = outlined.root.functional
            outputs = [samples.spec(x) for x in functional.outputs]
            names = functional._outputs_struct
        self._units = self._parts.units
        self._plain_seconds = 0.0
        self._problem = self._make_problem()
        self._peaks: Dict[Any, int] = {}
        self._step = self._make_step(samples, outputs, names)

    # What there is to choose from.

    def _make_problem(self) -> solver.Problem:
        import keras

        backend = keras.backend.backend()
        parts = self._parts
        units: List[solver.Unit] = []
        made: Dict[int, int] = {}
        last: Dict[int, int] = {}
        seen: Set[int] = set()
        wanted: Set[int] = set()
        for number, (unit, cost) in enumerate(zip(self._units, parts.costs())):
            for key in map(parts.origin, unit.takes):
                last[key] = number
                if key not in parts.inputs and number:
                    # What is made beside all units is made after the one before.
                    made.setdefault(key, number - 1)
                if parts.is_trained(key) or unit.variables:
                    wanted.add(key)
            for key in map(parts.origin, unit.gives):
                made.setdefault(key, number)
            # What begins operations of a backward pass is no Python.
            step = cost.work.plus(cost.backward._replace(operations=0.0))
            self._plain_seconds += step.seconds(self._ceilings)
            again = cost.work
            if backend == "tensorflow":  # whose second run takes masks from the first
                again = again._replace(draws=0.0)
            without_masks = cost.work._replace(
                draws=0.0, operations=_WATCHED * cost.work.operations
            )
            rest = {
                "save_masks": without_masks,
                "save_matmuls": without_masks._replace(products=0.0),
            }
            gradients = sum(variable_bytes(v) for v in unit.variables if id(v) not in seen)
            seen.update(map(id, unit.variables))
            units.append(
                solver.Unit(
                    cost.inner,
                    again.seconds(self._ceilings),
                    cost.kept,
                    tuple(rest[policy].seconds(self._ceilings) for policy in solver.SAVING),
                    gradients,
                    unit.joins,
                    unit.alone,
                )
            )
        tensors = [
            solver.Between(made[key], number, parts.spec(key).nbytes)
            for key, number in last.items()
            if key in made and key in wanted and number > made[key]
        ]
        # Keras on torch has the gradients of the step before until the forward pass has ended.
        at_end = sum(unit.gradients for unit in units) if backend == "torch" else 0
        return solver.Problem(units, tensors, _CALL[backend], at_end, parts.spans)

    # From choices to plans.

    def plan(self, budget: int) -> Plan:
        """Return the fastest plan whose step fits.

        Args:
            budget: Bytes of a whole step.

        Raises:
            ValueError: If none does.
        """
        import keras

        allowed = self._parts.variants()
        curve = self._problem.curve(allowed=allowed)
        least = self._least(curve)
        if least > budget:
            raise BudgetError(self._too_little(budget, least), least)
        number = self._fastest(curve, budget)
        # Elsewhere it takes long to look at a step, which is traced or compiled.
        if keras.backend.backend() == "torch" and number + 1 < len(curve):
            curve = self._problem.finer(curve, number, allowed)
            number = self._fastest(curve, budget)
        points = [
            Point(max(peak, least), self._plain_seconds + choice.time)
            for choice, peak in zip(curve, self._expected(curve))
        ]
        plan = self._plan_of(curve[number])
        return plan._replace(
            batch_size=self._setting.batch_size,
            budget=budget,
            step_peak=self._peak(curve[number]),
            step_time=self._plain_seconds + curve[number].time,
            curve=_undominated(points),
        )

    def _least(self, curve: Sequence[solver.Choice]) -> int:
        """Return the peak of the choice that needs least, whatever the budget."""
        for anchor in (curve[0], curve[len(curve) // 2], curve[-1]):
            self._peak(anchor)
        while True:
            peaks = self._expected(curve)
            number = peaks.index(min(peaks))
            # Where the sums are far out, the choice that comes next needs less.
            new = self._unknown(curve[number : number + 2])
            if not new:
                return peaks[number]
            self._peak(new[0])

    def _fastest(self, curve: Sequence[solver.Choice], budget: int) -> int:
        """Return the number of the fastest choice whose step fits; the least does.

        A step of each would take too long: those are looked at that seem to need what there is.
        """
        for _ in range(_TRIES):
            peaks = self._expected(curve)
            number = max(i for i, peak in enumerate(peaks) if peak <= budget)
            # The sums may have promised too little: the next one is looked at as well.
            new = self._unknown(curve[number : number + 2])
            if not new:
                break
            self._peak(new[0])
        known = [i for i, choice in enumerate(curve) if choice.pieces in self._peaks]
        return max(i for i in known if self._peak(curve[i]) <= budget)

    def _unknown(self, choices: Sequence[solver.Choice]) -> List[solver.Choice]:
        return [choice for choice in choices if choice.pieces not in self._peaks]

    def _expected(self, curve: Sequence[solver.Choice]) -> List[int]:
        """Correct what the sums promise by the peaks of the whole steps that are known."""
        known = [choice for choice in curve if choice.pieces in self._peaks]
        sums = [choice.peak for choice in known]
        errors = [self._peak(choice) - choice.peak for choice in known]
        found = []
        for choice in curve:
            guess = choice.peak + round(_between(choice.peak, sums, errors))
            found.append(self._peaks.get(choice.pieces, guess))
        return found

    def _peak(self, choice: solver.Choice) -> int:
        """Return the peak of a whole step under a choice."""
        from perftricks.recompute.measure.steps import peak_bytes

        if choice.pieces not in self._peaks:
            plan = self._plan_of(choice)
            wanted = plan if any(s.recomputed for s in plan.segments) else None
            with applied(self._model, self._outlined, wanted):
                self._peaks[choice.pieces] = peak_bytes(self._step)
        return self._peaks[choice.pieces]

    def _make_step(self, samples: Samples, outputs: Sequence[Any], names: Any) -> Any:
        from perftricks.recompute.measure.steps import Step

        model, setting = self._model, self._setting
        optimizer = setting.optimizer or getattr(model, "optimizer", None)
        own = _own_step(model)
        if own and setting.loss is None:
            raise ValueError(
                "%s has a %s of its own, so what a step takes is not known; give loss= to plan for "
                "a step with that loss" % (model.name, own)
            )
        targets, loss = loss_of(model, setting.loss, samples, outputs, names)
        return Step(
            model,
            samples.inputs,
            targets,
            loss,
            optimizer,
            optimizer_bytes(optimizer, list(model.trainable_variables)),
        )

    def _too_little(self, budget: int, least: int) -> str:
        step = self._step
        constant = step.idle + sum(variable_bytes(v) for v in self._model.trainable_variables)
        each = max(1.0, (least - constant) / self._setting.batch_size)
        fits = int((budget - constant) // each)
        hint = "a batch of about %d would fit" % fits if fits > 0 else "no batch would fit"
        return "a step of %s with a batch of %d takes at least %s, and the budget is %s; %s" % (
            self._model.name,
            self._setting.batch_size,
            readable_size(least),
            readable_size(budget),
            hint,
        )

    def _plan_of(self, choice: solver.Choice) -> Plan:
        segments = [
            segment
            for piece in choice.pieces
            for segment in [self._segment(piece)]
            if segment is not None
        ]
        plain = sum(self._problem.plain_bytes(piece) for piece in choice.pieces)
        return Plan(
            self._model.name,
            tuple(_joined(segments)),
            plain // self._setting.batch_size,
            self._problem.activations(choice.pieces) // self._setting.batch_size,
            self._outlined.outline.digest(),
        )

    def _segment(self, piece: solver.Piece) -> Optional[Segment]:
        """Return a segment; None for what a call does beside those in it."""
        first, last = self._units[piece.start], self._units[piece.stop - 1]
        is_plain = piece.policy == solver.PLAIN
        keeps, _ = self._problem.bytes_of(piece)
        call = self._parts.spans.get((piece.start, piece.stop), first.call)
        of_call = piece.stop == piece.start + 1 or (piece.start, piece.stop) in self._parts.spans
        steps: Optional[Tuple[int, int]] = None
        if first.graph is not None and not (of_call and call is not None):
            nodes = first.graph.nodes[first.start : last.stop]
            model, number = first.graph.outline.model, first.graph.outline.number
            names = tuple(dict.fromkeys(node.operation.name for node in nodes))
            steps = first.start, last.stop
        elif call is not None:
            model, number, names = self._model.name, call.number, (call.layer.name,)
        else:
            return None
        return Segment(
            model,
            names,
            self._problem.plain_bytes(piece) // self._setting.batch_size,
            keeps // self._setting.batch_size,
            not is_plain,
            number,
            steps,
            "full" if is_plain else piece.policy,
        )


def _undominated(points: Sequence[Point]) -> Tuple[Point, ...]:
    """Leave out those that take more memory than a faster one; the slowest come first."""
    found: List[Point] = []
    for point in reversed(points):
        if not found or point.peak < found[-1].peak:
            found.append(point)
    return tuple(reversed(found))


def _between(x: int, xs: Sequence[int], ys: Sequence[int]) -> float:
    """Return the value at a place of a line through points, which are in order."""
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:]):
        if x <= x1 and x1 > x0:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return ys[-1]


def _joined(segments: Sequence[Segment]) -> List[Segment]:
    """Make one of plain segments that follow each other, and of the calls of a layer."""
    found: List[Segment] = []
    for segment in segments:
        if segment.steps is None:
            same = [i for i, one in enumerate(found) if one[5:] == segment[5:]]
            if same:
                found[same[0]] = _sum(found[same[0]], segment)
                continue
        before = found[-1] if found else None
        if (
            before is None
            or before.recomputed
            or segment.recomputed
            or before.number != segment.number
            or before.steps is None
            or segment.steps is None
            or before.steps[1] != segment.steps[0]
        ):
            found.append(segment)
            continue
        found[-1] = _sum(before, segment)._replace(steps=(before.steps[0], segment.steps[1]))
    return found


def _sum(one: Segment, other: Segment) -> Segment:
    return one._replace(
        layers=tuple(dict.fromkeys([*one.layers, *other.layers])),
        plain=(one.plain or 0) + (other.plain or 0),
        kept=(one.kept or 0) + (other.kept or 0),
    )


def loss_of(
    model: Any, loss: Any, samples: Samples, outputs: Sequence[Any], names: Any
) -> Tuple[List[Any], Callable[[List[Any], List[Any]], Tuple[Any, Any]]]:
    """Return the targets of a step, and its loss as a function of inputs and targets.

    The function returns what the model returned, too.

    Args:
        model: The model.
        loss: As the caller gave it.
        samples: What it is called with, and targets if the caller gave some.
        outputs: What it returns, without numbers.
        names: The structure in which it returns them.

    Raises:
        ValueError: If losses, outputs and targets do not go together.
    """
    import keras

    is_compiled = bool(getattr(model, "compiled", False))
    if loss is None:
        loss = model.loss if is_compiled else keras.losses.mean_squared_error
        if loss is None:
            loss = [None] * len(outputs)
    if isinstance(loss, dict):
        known = _names_of(model, names)
        unknown = sorted(map(str, set(loss) - set(known)))
        if unknown:
            raise ValueError(
                "there is a loss for %s, and %s returns %s"
                % (", ".join(unknown), model.name, ", ".join(known) or "no tensors with names")
            )
        loss = [loss.get(name) for name in known]
    given = keras.tree.flatten(loss) if isinstance(loss, (list, tuple)) else [loss] * len(outputs)
    if len(given) != len(outputs):
        raise ValueError(
            "%s returns %d tensors, and there are %d losses"
            % (model.name, len(outputs), len(given))
        )
    functions = [keras.losses.get(one) if one is not None else None for one in given]
    if samples.targets is not None:
        targets = samples.targets
        if len(targets) != len(outputs):
            raise ValueError(
                "%s returns %d tensors, and y has %d" % (model.name, len(outputs), len(targets))
            )
    else:
        targets = [
            spec._replace(shape=spec.shape[:-1], dtype="int32") if _is_sparse(one) else spec
            for one, spec in zip(functions, outputs)
        ]
    targets = [spec._replace(is_trained=False) for spec in targets]

    def compute(inputs: List[Any], wanted: List[Any]) -> Any:
        results = samples.call(inputs)
        total: Any = 0.0
        for one, result, target in zip(functions, keras.tree.flatten(results), wanted):
            if one is not None:
                total = total + keras.ops.mean(keras.ops.cast(one(target, result), "float32"))
        added = model.losses
        if not added and not any(functions):
            raise ValueError(
                "%s is compiled without a loss and adds none itself (add_loss): give loss="
                % model.name
            )
        return sum((keras.ops.sum(more) for more in added), total), results

    return targets, compute


def _own_step(model: Any) -> str:
    """Return the name of a method by which a model makes a step another one; "" if it does not."""
    for name in ("train_step", "compute_loss"):
        if not getattr(type(model), name).__module__.startswith("keras."):
            return name
    return ""


def _names_of(model: Any, names: Any) -> Sequence[str]:
    """Return the names of what a model returns, in the order of its tensors."""
    import keras

    if isinstance(names, dict):
        return keras.tree.flatten({name: name for name in names})  # type: ignore[no-any-return]
    found: Sequence[str] = getattr(model, "output_names", ())
    return found


def _is_sparse(loss: Any) -> bool:
    name = getattr(loss, "__name__", None) or type(loss).__name__
    return "sparse" in str(name).lower()
