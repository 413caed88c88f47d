"""A plan for a budget: the least time whose whole training step fits into some memory.

::

    graph ──▶ units: bytes kept, seconds ──▶ solver ──▶ choices, from the least memory to plain
                                                          │ the fastest that seems to fit
                     peak of a step under it, not run ◀───┘ fits: it; else the next that needs less

The bytes of units add up to what a step needs only about: XLA fuses, kernels need room. So what the
sums promise is corrected by the peaks of three whole steps, from the one that needs least to the
plain one, and the choice is checked by its own.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from perftricks.recompute import stages
from perftricks.recompute.applying import applied, stages_between
from perftricks.recompute.outlining import Graph, Outlined
from perftricks.recompute.planning import outline as planning
from perftricks.recompute.planning import solver
from perftricks.recompute.planning.plans import BudgetError, Plan, Point, Segment, readable_size
from perftricks.recompute.policies import FULL, policy_of
from perftricks.recompute.profiling import optimizer_bytes, variable_bytes

# Seconds that the engine takes to begin and end a call, and its backward pass.
_CALL = {"torch": 4e-3, "jax": 0.0, "tensorflow": 0.0}
# How many times as long torch takes to begin an operation where a policy watches both runs.
_WATCHED = 2.2
_MOST_UNITS = 64


class Setting(NamedTuple):
    """What a step is made of, beside the model.

    Attributes:
        batch_size: Samples in a batch.
        length: What stands for dimensions that are not known; None if there are none.
        loss: As the caller gave it; None for that of the model, if it is compiled.
        optimizer: The optimizer; None for that of the model, if it is compiled.
    """

    batch_size: int
    length: Optional[int]
    loss: Any
    optimizer: Any


class _Unit(NamedTuple):
    """A part of a graph between two places where it may be cut.

    Attributes:
        graph: The graph.
        start: The number of its first call.
        stop: The number after its last.
        stage: Its calls.
    """

    graph: Graph
    start: int
    stop: int
    stage: stages.Stage


def plan_for(model: Any, outlined: Outlined, budget: int, setting: Setting) -> Plan:
    """Return the plan with the least time whose training step fits.

    Args:
        model: A model of Keras 3.
        outlined: What planning sees of it.
        budget: Bytes.
        setting: What a step is made of.

    Raises:
        ValueError: If none fits, or the model has no graph of layers.
    """
    graph = outlined.root
    if graph is None:
        raise ValueError(
            "%s has a call of its own and no graph of layers; plan its Functional or Sequential "
            "parts, or use layers=[names or classes of layers]" % model.name
        )
    return Budgeting(model, outlined, graph, setting).plan(budget)


class Budgeting:
    """What a model can be made to need.

    Args:
        model: A built Functional or Sequential model of Keras 3.
        outlined: What planning sees of it.
        graph: Its graph.
        setting: What a step is made of.
    """

    def __init__(self, model: Any, outlined: Outlined, graph: Graph, setting: Setting) -> None:
        from perftricks.recompute.measure.work import ceilings

        self._model = model
        self._outlined = outlined
        self._graph = graph
        self._setting = setting
        self._symbols = {id(x): x for x in outlined.symbols}
        self._same: Dict[int, int] = {}  # tensors of a nested graph -> those of the one around it
        self._costs: Dict[str, Tuple[int, Tuple[int, ...], Any, Any]] = {}
        self._ceilings = ceilings()
        self._units = self._units_of(graph)
        self._trained = self._trained_tensors()
        self._plain_seconds = 0.0
        self._problem = self._make_problem()
        self._peaks: Dict[Any, int] = {}
        self._step = self._make_step()

    # What there is to choose from.

    def _units_of(self, graph: Graph) -> List[_Unit]:
        chain = graph.chain
        places = set(_places(chain))
        nested = self._nested(graph)
        for number in nested:
            places.update((number - 1, number))
        found: List[_Unit] = []
        for start, stop, stage in stages_between(self._outlined, graph, sorted(places)):
            inner = nested.get(start)
            if inner is None:
                found.append(_Unit(graph, start, stop, stage))
                continue
            node = graph.nodes[start]
            self._same.update(zip(map(id, inner.functional.inputs), map(id, node.input_tensors)))
            self._same.update(zip(map(id, node.outputs), map(id, inner.functional.outputs)))
            found.extend(self._units_of(inner))
        return found

    def _nested(self, graph: Graph) -> Dict[int, Graph]:
        """Return the graphs of nested models that are called once and hold much, by their call."""
        calls = graph.outline.calls
        numbers = [call.number for call in calls]
        found = {}
        for number, call in enumerate(calls):
            inner = call.nested if isinstance(call.nested, planning.Graph) else None
            is_large = 4 * call.step.bytes > graph.outline.bytes
            if inner is not None and is_large and numbers.count(call.number) == 1:
                found[number] = self._outlined.graphs[inner.number]
        return found

    def _origin(self, key: int) -> int:
        while key in self._same:
            key = self._same[key]
        return key

    def _trained_tensors(self) -> Dict[int, bool]:
        """Tell which tensors depend on weights that are trained."""
        found: Dict[int, bool] = {}
        for unit in self._units:
            for node in unit.stage.nodes:
                is_trained = bool(getattr(node.operation, "trainable_variables", ())) or any(
                    found.get(self._origin(id(x)), False) for x in node.input_tensors
                )
                found.update((self._origin(id(x)), is_trained) for x in node.outputs)
        return found

    def _is_trained(self, unit: _Unit) -> bool:
        """Tell whether gradients flow through a unit."""
        return any(self._trained.get(self._origin(key), False) for key in unit.stage.gives)

    def _make_problem(self) -> solver.Problem:
        import keras

        backend = keras.backend.backend()
        units: List[solver.Unit] = []
        made: Dict[int, int] = {}
        last: Dict[int, int] = {}
        seen: Set[int] = set()
        inputs = {id(x) for x in self._graph.functional.inputs}
        sizes: Dict[int, int] = {}
        wanted: Set[int] = set()
        for number, unit in enumerate(self._units):
            variables = unit.stage.trained_variables
            for key in map(self._origin, unit.stage.takes):
                last[key] = number
                if self._trained.get(key) or variables:
                    wanted.add(key)
            for key in unit.stage.gives:
                origin = self._origin(key)
                made.setdefault(origin, number)
                sizes[origin] = self._spec(key).nbytes
            inner, kept, work, backward = self._cost(unit)
            # What begins operations of a backward pass is no Python.
            step = work.plus(backward._replace(operations=0.0))
            self._plain_seconds += step.seconds(self._ceilings)
            again = work
            if backend == "tensorflow":  # whose second run takes masks from the first
                again = work._replace(draws=0.0)
            without_masks = work._replace(draws=0.0, operations=_WATCHED * work.operations)
            rest = {
                "save_masks": without_masks,
                "save_matmuls": without_masks._replace(products=0.0),
            }
            follows = self._units[number + 1 : number + 2]
            gradients = sum(variable_bytes(v) for v in variables if id(v) not in seen)
            seen.update(map(id, variables))
            units.append(
                solver.Unit(
                    inner,
                    again.seconds(self._ceilings),
                    kept,
                    tuple(rest[policy].seconds(self._ceilings) for policy in solver.SAVING),
                    gradients,
                    # Nothing before the first trained weight is computed again.
                    bool(follows) and follows[0].graph is unit.graph and self._is_trained(unit),
                )
            )
        tensors = [
            solver.Between(made[key], number, sizes[key])
            for key, number in last.items()
            if key in made and key in wanted and key not in inputs and number > made[key]
        ]
        # Keras on torch has the gradients of the step before until the forward pass has ended.
        at_end = sum(unit.gradients for unit in units) if backend == "torch" else 0
        return solver.Problem(units, tensors, _CALL[backend], at_end)

    def _cost(self, unit: _Unit) -> Tuple[int, Tuple[int, ...], Any, Any]:
        """Return bytes kept plainly and by policy, and the work of both passes.

        Units that are alike are counted once.
        """
        from perftricks.recompute.keras3 import private
        from perftricks.recompute.measure.kept import kept_bytes
        from perftricks.recompute.measure.work import work_of

        specs = [self._spec(key) for key in unit.stage.takes]
        likeness = _likeness(unit.stage, specs)
        if likeness is None or likeness not in self._costs:
            function = stages.segment_function(
                unit.graph.functional, unit.stage, private.in_training
            )
            variables = unit.stage.trained_variables
            costs = (
                kept_bytes(function, variables, specs, FULL, with_results=False),
                tuple(
                    kept_bytes(function, variables, specs, policy_of(name), with_results=False)
                    for name in solver.SAVING
                ),
                *work_of(function, variables, specs),
            )
            if likeness is None:
                return costs
            self._costs[likeness] = costs
        return self._costs[likeness]

    def _spec(self, key: int) -> Any:
        return self._spec_of(self._symbols[key], self._trained.get(self._origin(key), False))

    def _spec_of(self, symbol: Any, is_trained: bool) -> Any:
        from perftricks.recompute.measure.kept import spec_of_symbol

        return spec_of_symbol(symbol, self._setting.batch_size, self._setting.length, is_trained)

    # From choices to plans.

    def plan(self, budget: int) -> Plan:
        """Return the fastest plan whose step fits.

        Args:
            budget: Bytes of a whole step.

        Raises:
            ValueError: If none does.
        """
        curve = self._problem.curve()
        peaks = self._expected(curve)
        number = max((i for i, peak in enumerate(peaks) if peak <= budget), default=0)
        while number and self._peak(curve[number]) > budget:
            number -= 1
        # The sums may have promised too little.
        while number + 1 < len(curve) and self._peak(curve[number + 1]) <= budget:
            number += 1
        found = self._peak(curve[number])
        if found > budget:
            raise BudgetError(self._too_little(budget, found), found)
        points = [
            Point(self._peaks.get(choice.pieces, peak), self._plain_seconds + choice.time)
            for choice, peak in zip(curve, peaks)
        ]
        plan = self._plan_of(curve[number])
        return plan._replace(
            batch_size=self._setting.batch_size,
            budget=budget,
            step_peak=found,
            step_time=self._plain_seconds + curve[number].time,
            curve=_undominated(points),
        )

    def _expected(self, curve: Sequence[solver.Choice]) -> List[int]:
        """Correct what the sums promise by the peaks of three whole steps."""
        anchors = [curve[0], curve[len(curve) // 2], curve[-1]]
        sums = [choice.peak for choice in anchors]
        errors = [self._peak(choice) - choice.peak for choice in anchors]
        return [choice.peak + int(_between(choice.peak, sums, errors)) for choice in curve]

    def _peak(self, choice: solver.Choice) -> int:
        """Return the peak of a whole step under a choice."""
        from perftricks.recompute.measure.steps import peak_bytes

        if choice.pieces not in self._peaks:
            plan = self._plan_of(choice)
            with applied(self._model, plan if any(s.recomputed for s in plan.segments) else None):
                self._peaks[choice.pieces] = peak_bytes(self._step)
        return self._peaks[choice.pieces]

    def _make_step(self) -> Any:
        from perftricks.recompute.measure.steps import Step

        model, setting = self._model, self._setting
        functional = self._graph.functional
        inputs = [self._spec_of(x, False) for x in functional.inputs]
        outputs = [self._spec_of(x, False) for x in functional.outputs]
        optimizer = setting.optimizer or getattr(model, "optimizer", None)
        targets, loss = loss_of(model, setting.loss, functional, outputs)
        return Step(
            model,
            inputs,
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
        segments: List[Segment] = []
        for piece in choice.pieces:
            first, last = self._units[piece.start], self._units[piece.stop - 1]
            is_plain = piece.policy == solver.PLAIN
            keeps, _ = self._problem.bytes_of(piece)
            plain = self._problem.plain_bytes(piece)
            nodes = first.graph.nodes[first.start : last.stop]
            segment = Segment(
                first.graph.outline.model,
                tuple(dict.fromkeys(node.operation.name for node in nodes)),
                plain // self._setting.batch_size,
                keeps // self._setting.batch_size,
                not is_plain,
                first.graph.outline.number,
                (first.start, last.stop),
                "full" if is_plain else piece.policy,
            )
            segments.append(segment)
        return Plan(
            self._model.name,
            tuple(_joined(segments)),
            sum(s.plain or 0 for s in segments),
            self._problem.activations(choice.pieces) // self._setting.batch_size,
            self._outlined.outline.digest(),
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
    """Make one of plain segments that follow each other."""
    found: List[Segment] = []
    for segment in segments:
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
        found[-1] = before._replace(
            layers=tuple(dict.fromkeys([*before.layers, *segment.layers])),
            plain=(before.plain or 0) + (segment.plain or 0),
            kept=(before.kept or 0) + (segment.kept or 0),
            steps=(before.steps[0], segment.steps[1]),
        )
    return found


def _places(chain: Any) -> List[int]:
    """List after which steps a graph may be cut: at most so many that solving takes seconds."""
    narrow = chain.cut_points()
    cuts = chain.best_cuts()
    places = narrow if set(cuts) <= set(narrow) else list(range(len(chain.steps) - 1))
    if len(places) <= _MOST_UNITS:
        return places
    # Of places that follow each other, those that least flows across.
    width = -(-len(places) // _MOST_UNITS)
    return [
        min(places[i : i + width], key=chain.crossing_bytes) for i in range(0, len(places), width)
    ]


def _likeness(stage: Any, specs: Sequence[Any]) -> Optional[str]:
    """Return a text that only stages have in common that cost the same; None if that is unknown."""
    from perftricks.recompute.keras3 import layers as keras3

    numbers: Dict[int, int] = {key: i for i, key in enumerate(stage.takes)}
    calls = []
    for node in stage.nodes:
        operation = node.operation
        if keras3.is_layer(operation) and operation._layers:
            own = type(operation).__module__.startswith("keras.")
            if not own:
                return None
        try:
            config = operation.get_config() if hasattr(operation, "get_config") else {}
            text = json.dumps({**config, "name": ""}, sort_keys=True, default=repr)
        except Exception:
            return None
        for x in node.outputs:
            numbers.setdefault(id(x), len(numbers))
        calls.append(
            (
                type(operation).__qualname__,
                text,
                [numbers.get(id(x)) for x in node.input_tensors],
                repr([x for x in node.arguments.args if not hasattr(x, "shape")]),
                [tuple(v.shape) for v in getattr(operation, "trainable_variables", ())],
            )
        )
    return repr((calls, list(specs), [numbers.get(key) for key in stage.gives]))


def loss_of(
    model: Any, loss: Any, functional: Any, outputs: Sequence[Any]
) -> Tuple[List[Any], Callable[[List[Any], List[Any]], Any]]:
    """Return the targets of a step, and its loss as a function of inputs and targets."""
    import keras

    if loss is None and getattr(model, "compiled", False):
        loss = model.loss
    if isinstance(loss, dict):
        loss = [loss.get(name) for name in model.output_names]
    given = keras.tree.flatten(loss) if isinstance(loss, (list, tuple)) else [loss] * len(outputs)
    if len(given) != len(outputs):
        raise ValueError(
            "%s returns %d tensors, and there are %d losses"
            % (model.name, len(outputs), len(given))
        )
    functions = [keras.losses.get(one) if one is not None else None for one in given]
    targets = [
        spec._replace(shape=spec.shape[:-1], dtype="int32") if _is_sparse(one) else spec
        for one, spec in zip(functions, outputs)
    ]
    structure = functional._inputs_struct

    def compute(inputs: List[Any], wanted: List[Any]) -> Any:
        results = model(keras.tree.pack_sequence_as(structure, inputs), training=True)
        total: Any = 0.0
        for one, result, target in zip(functions, keras.tree.flatten(results), wanted):
            if one is None:
                one = keras.losses.mean_squared_error
            total = total + keras.ops.mean(keras.ops.cast(one(target, result), "float32"))
        return sum((keras.ops.sum(more) for more in model.losses), total)

    return targets, compute


def _is_sparse(loss: Any) -> bool:
    name = getattr(loss, "__name__", None) or type(loss).__name__
    return "sparse" in str(name).lower()
