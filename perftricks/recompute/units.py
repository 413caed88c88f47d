"""What a plan for a budget chooses from: the units of a model, and what each of them costs.

::

    a graph of layers     [a  b] [c  d  e] [f]          between places where it may be cut
    a ``call`` of its own [embed] [block] [block] [head]     calls of its layers, as it was traced
                                  └ [attention] [dense] [rest]   where one is much of the model

A unit is asked for once: of those that are alike, one is.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from perftricks.recompute import stages
from perftricks.recompute.likeness import text_of_call
from perftricks.recompute.measure.unmeasurable import first_line
from perftricks.recompute.outlining import Graph, Outlined
from perftricks.recompute.planning import outline as planning
from perftricks.recompute.planning.solver import FULL as RECOMPUTED
from perftricks.recompute.planning.solver import PLAIN, SAVING, Piece
from perftricks.recompute.policies import FULL, policy_of

if TYPE_CHECKING:
    from perftricks.recompute.measure.calls import Call, Traced
    from perftricks.recompute.measure.kept import Spec
    from perftricks.recompute.measure.work import Work
    from perftricks.recompute.samples import Samples

_MOST_UNITS = 64  # of a graph
_MOST_SHARED = 2  # layers that are called several times, each with a choice of its own
_MUCH = 4  # what keeps more than this part of all is looked into


class Cost(NamedTuple):
    """What a unit costs.

    Attributes:
        inner: Bytes that a plain run keeps of it, beside what it takes and what it gives.
        kept: Bytes of these that each policy of ``SAVING`` keeps.
        work: What it computes.
        backward: What its backward pass computes.
    """

    inner: int
    kept: Tuple[int, ...]
    work: Work
    backward: Work

    def less(self, parts: Sequence[Cost], between: int) -> Cost:
        """Return what is left without some parts.

        Args:
            parts: The parts.
            between: Bytes of the tensors that go from one of them to another.
        """
        work, backward = self.work, self.backward
        for part in parts:
            work, backward = work.less(part.work), backward.less(part.backward)
        inner = self.inner - between - sum(part.inner for part in parts)
        kept = (
            of_all - sum(part.kept[number] for part in parts)
            for number, of_all in enumerate(self.kept)
        )
        return Cost(max(0, inner), tuple(max(0, size) for size in kept), work, backward)


class Unit(NamedTuple):
    """A part of a model that the solver chooses for.

    Attributes:
        takes: The keys of the tensors it takes from outside.
        gives: The keys of those that it makes and that are used after it.
        variables: The trained variables that it uses.
        graph: The graph that it is a part of; None for a call of a layer.
        start: The number of its first call in the graph.
        stop: The number after its last.
        stage: Its calls in the graph; None for a call of a layer.
        call: The call; None for a part of a graph, and for what a call does beside those in it.
        joins: Whether a segment may go on from it to the next unit.
        alone: Whether it may be a segment of its own.
    """

    takes: Tuple[int, ...]
    gives: Tuple[int, ...]
    variables: Sequence[Any]
    graph: Optional[Graph] = None
    start: int = 0
    stop: int = 0
    stage: Optional[stages.Stage] = None
    call: Optional[Call] = None
    joins: bool = False
    alone: bool = True


class Units:
    """The units of a model that is a graph of layers.

    Attributes:
        units: The units, in the order they run.
        inputs: The keys of the tensors that the model takes.
        spans: Calls that are looked into, by their first unit and the one after their last: each
            may be a segment, too.

    Args:
        outlined: What planning sees of the model.
        samples: What it is called with.
    """

    def __init__(self, outlined: Outlined, samples: Samples) -> None:
        self.spans: Dict[Tuple[int, int], Call] = {}
        self.inputs: Set[int] = set()
        self.units: List[Unit] = []
        self._outlined = outlined
        self._samples = samples
        self._symbols = {id(x): x for x in outlined.symbols}
        self._same: Dict[int, int] = {}  # tensors of a nested graph -> those of what is around it
        self._tensors: Set[int] = set()  # of the graphs that are looked into
        self._trained: Dict[int, bool] = {}
        self._costs: Dict[str, Cost] = {}
        self._cost_of_all: Optional[Cost] = None
        self._list()

    def _list(self) -> None:
        graph = self._outlined.root
        assert graph is not None
        self.inputs = {id(x) for x in graph.functional.inputs}
        self._tensors = _tensors(graph)
        found = self._of_graph(graph)
        self._trained = self._trained_tensors(found)
        self.units = [
            unit._replace(
                # Nothing before the first trained weight is computed again.
                joins=after is not None and after.graph is unit.graph and self._is_trained(unit)
            )
            for unit, after in itertools.zip_longest(found, found[1:])
        ]

    def _of_graph(self, graph: Graph) -> List[Unit]:
        places = set(_places(graph.chain))
        nested = {
            number: inner
            for number, inner in _nested(self._outlined, graph).items()
            if self._is_apart(inner, graph.nodes[number].input_tensors)
        }
        for number in nested:
            places.update((number - 1, number))
        found: List[Unit] = []
        for start, stop, stage in stages.between(self._outlined, graph, sorted(places)):
            inner = nested.get(start)
            if inner is None:
                variables = stage.trained_variables
                found.append(Unit(stage.takes, stage.gives, variables, graph, start, stop, stage))
                continue
            node = graph.nodes[start]
            self._equate(inner.functional.inputs, node.input_tensors)
            self._equate(node.outputs, inner.functional.outputs)
            found.extend(self._of_graph(inner))
        return found

    def _is_apart(self, graph: Graph, given: Sequence[Any] = ()) -> bool:
        """Tell whether the tensors of a graph mean one thing each, and note that they do.

        Models may be made of the same tensors, or of those around them, and called with others.

        Args:
            graph: The graph of a model that is called.
            given: What it is called with, if that is a part of another graph.
        """
        own = {id(x) for x, value in zip(graph.functional.inputs, given) if x is value}
        tensors = _tensors(graph)
        if not self._tensors.isdisjoint(tensors - own):
            return False
        self._tensors |= tensors
        return True

    def _equate(self, tensors: Iterable[Any], origins: Iterable[Any]) -> None:
        """Have tensors go by the keys of others; a model may be called with its own inputs."""
        pairs = zip(map(id, tensors), map(id, origins))
        self._same.update((key, origin) for key, origin in pairs if key != origin)

    def _trained_tensors(self, units: Sequence[Unit]) -> Dict[int, bool]:
        """Tell which tensors of graphs depend on weights that are trained."""
        found: Dict[int, bool] = {}
        for unit in units:
            for node in unit.stage.nodes if unit.stage is not None else ():
                is_trained = bool(getattr(node.operation, "trainable_variables", ())) or any(
                    found.get(self.origin(id(x)), False) for x in node.input_tensors
                )
                found.update((self.origin(id(x)), is_trained) for x in node.outputs)
        return found

    def _is_trained(self, unit: Unit) -> bool:
        """Tell whether gradients flow through a unit."""
        return any(map(self.is_trained, unit.gives))

    def origin(self, key: int) -> int:
        """Return the key of a tensor that goes by several."""
        while key in self._same:
            key = self._same[key]
        return key

    def is_trained(self, key: int) -> bool:
        """Tell whether a tensor depends on weights that are trained."""
        return self._trained.get(self.origin(key), False)

    def spec(self, key: int) -> Spec:
        """Return a tensor without numbers."""
        return self._samples.spec(self._symbols[key], self.is_trained(key))

    def costs(self) -> List[Cost]:
        """Return what each unit costs."""
        return [self._cost_of_stage(unit, unit.stage) for unit in self.units if unit.stage]

    def _cost_of_stage(
        self, unit: Unit, stage: stages.Stage, operation: Any = None, around: Any = None
    ) -> Cost:
        from perftricks.recompute.keras3 import private

        assert unit.graph is not None
        specs = [self.spec(key) for key in stage.takes]
        likeness = _likeness(stage, specs)
        if likeness is not None and likeness in self._costs:
            return self._costs[likeness]
        function = stages.segment_function(
            unit.graph.functional, stage, operation or private.in_training
        )
        found = cost_of(function if around is None else around(function), unit.variables, specs)
        if likeness is not None:
            self._costs[likeness] = found
        return found

    def variants(self) -> List[Callable[[Piece], bool]]:
        """List what may be chosen together, each as a test of segments; none if all may."""
        return []


class CallUnits(Units):
    """The units of a model with a ``call`` of its own, of which one has been traced.

    Args:
        outlined: What planning sees of the model.
        traced: The call.
        samples: What it was called with.
    """

    def __init__(self, outlined: Outlined, traced: Traced, samples: Samples) -> None:
        self._traced = traced
        self._of_calls: Dict[int, Cost] = {}
        self._rests: List[Tuple[int, Call, Tuple[int, int]]] = []
        self._in_graphs: Dict[int, Call] = {}  # the call that runs the graph of a unit
        self._shared: List[List[int]] = []
        self._times = collections.Counter(call.number for call in traced.root.everything)
        super().__init__(outlined, samples)

    def _list(self) -> None:
        traced = self._traced
        self.inputs = set(map(_key, traced.inputs))
        self._look_into(traced.root)
        at_units: Dict[int, List[int]] = {}
        for place, unit in enumerate(self.units):
            if unit.call is not None:
                at_units.setdefault(unit.call.number, []).append(place)
        for number, places in at_units.items():
            if len(places) < self._times[number]:  # it is called out of sight, too
                for place in places:
                    self.units[place] = self.units[place]._replace(alone=False)
            elif len(places) > 1:
                self._shared.append(places)

    def _look_into(self, call: Call) -> None:
        """Add the calls in a call as units, and what it does beside them."""
        start = len(self.units)
        graph = self._graph_of(call)
        if graph is not None:
            self._add_graph(call, graph)
        for inner in call.inside if graph is None else ():
            if self._is_much(inner):
                self._look_into(inner)
                continue
            gives = tuple(map(_key, inner.gives))
            self.units.append(
                Unit(
                    tuple(map(_key, inner.takes_and_masks)),
                    gives,
                    inner.variables,
                    call=inner,
                    alone=any(map(self.is_trained, gives)),
                )
            )
        place = len(self.units)
        gives = tuple(map(_key, call.gives))
        self.units.append(Unit((), gives, (), alone=False))
        self._rests.append((place, call, (start, place)))
        if call is not self._traced.root:
            self.spans[start, place + 1] = call

    def _is_much(self, call: Call) -> bool:
        """Tell whether a call is so much of the model that it is looked into."""
        from perftricks.recompute.keras3 import layers as keras3

        is_own = not type(call.layer).__module__.startswith("keras.")
        if not call.inside or self._times[call.number] > 1:
            return False
        if not is_own and keras3.graph_of(call.layer) is None:
            return False
        return _MUCH * self._cost_of_call(call).inner > self._whole.inner

    def _graph_of(self, call: Call) -> Optional[Graph]:
        """Return the graph that a call runs, if it may be cut."""
        graphs = self._outlined.graphs.values()
        graph = next((g for g in graphs if g.functional is call.graph), None)
        return graph if graph is not None and self._is_apart(graph) else None

    def _add_graph(self, call: Call, graph: Graph) -> None:
        for one in call.everything:
            self._same.update((symbol, _key(key)) for symbol, key in one.symbols.items())
        found = self._of_graph(graph)
        place = len(self.units)
        for unit, after in itertools.zip_longest(found, found[1:]):
            joins = after is not None and after.graph is unit.graph and self._is_trained(unit)
            self.units.append(unit._replace(joins=joins))
        self._in_graphs.update(dict.fromkeys(range(place, len(self.units)), call))

    def is_trained(self, key: int) -> bool:
        """Tell whether a tensor depends on weights that are trained."""
        return self.spec(key).is_trained

    def spec(self, key: int) -> Spec:
        """Return a tensor without numbers."""
        return self._traced.spec(_key(self.origin(key)))

    def costs(self) -> List[Cost]:
        """Return what each unit costs; what a call does beside those in it is the difference."""
        found: Dict[int, Cost] = {}
        for place, unit in enumerate(self.units):
            if unit.stage is not None:
                state = self._in_graphs[place].in_its_state
                found[place] = self._cost_of_stage(unit, unit.stage, _itself, state)
            elif unit.call is not None:
                found[place] = self._cost_of_call(unit.call)
        for place, call, (start, stop) in self._rests:  # the innermost come first
            parts = [found[i] for i in range(start, stop)]
            whole = self._whole if call is self._traced.root else self._cost_of_call(call)
            found[place] = whole.less(parts, self._between(start, stop))
        return [found[place] for place in range(len(self.units))]

    def _between(self, start: int, stop: int) -> int:
        """Return the bytes of what goes from one of some units to another."""
        units = self.units[start:stop]
        made = {self.origin(key) for unit in units for key in unit.gives}
        taken = {self.origin(key) for unit in units for key in unit.takes}
        return sum(self.spec(key).nbytes for key in made & taken)

    @property
    def _whole(self) -> Cost:
        if self._cost_of_all is None:
            root = self._traced.root
            specs = self._traced.specs(root.takes)
            self._cost_of_all = cost_of(self._traced.run, root.variables, specs)
        return self._cost_of_all

    def _cost_of_call(self, call: Call) -> Cost:
        if id(call) not in self._of_calls:
            specs = self._traced.specs(call.takes_and_masks)
            likeness = text_of_call(call, specs)
            try:
                if likeness not in self._costs:
                    self._costs[likeness] = cost_of(call.run_again, call.variables, specs)
            except Exception as error:  # of a layer that needs what another one has left behind
                raise ValueError(
                    "the layer %s cannot be measured on its own, as a segment of a plan must be: "
                    "%s: %s" % (call.layer.name, type(error).__name__, first_line(error))
                ) from error
            self._of_calls[id(call)] = self._costs[likeness]
        return self._of_calls[id(call)]

    def variants(self) -> List[Callable[[Piece], bool]]:
        """List what may be chosen together: a layer is recomputed at each of its calls, or none.

        Of more than a few such layers, all are treated alike.
        """
        groups = self._shared
        if len(groups) > _MOST_SHARED:
            groups = [[place for places in groups for place in places]]
        if not groups:
            return []
        choices = itertools.product((PLAIN, RECOMPUTED, *SAVING), repeat=len(groups))
        return [functools.partial(_allowed, groups, policies) for policies in choices]


def _allowed(groups: Sequence[Sequence[int]], policies: Sequence[str], piece: Piece) -> bool:
    """Tell whether a segment goes with policies for units that have the same one."""
    for places, policy in zip(groups, policies):
        inside = [place for place in places if piece.start <= place < piece.stop]
        is_one = piece.stop == piece.start + 1
        # What is recomputed on its own is not recomputed as a part of something else.
        if inside and (piece.policy != policy if is_one else policy != PLAIN):
            return False
    return True


def cost_of(function: Any, variables: Sequence[Any], specs: Sequence[Spec]) -> Cost:
    """Return what a function of tensors costs.

    Args:
        function: Takes and returns tensors.
        variables: The trained variables that it uses.
        specs: What it takes.
    """
    from perftricks.recompute.measure.kept import kept_bytes
    from perftricks.recompute.measure.work import work_of

    inner, *kept = (
        kept_bytes(function, variables, specs, policy, with_results=False)
        for policy in (FULL, *map(policy_of, SAVING))
    )
    return Cost(inner, tuple(kept), *work_of(function, variables, specs))


def _key(key: int) -> int:
    """Return the key of a tensor of a trace, apart from ids of symbols; and that of such a key."""
    return -1 - key


def _itself(layer: Any) -> Any:
    return layer


def _nested(outlined: Outlined, graph: Graph) -> Dict[int, Graph]:
    """Return the graphs of nested models that are called once and hold much, by their call."""
    calls = graph.outline.calls
    numbers = [call.number for call in calls]
    found = {}
    for number, call in enumerate(calls):
        inner = call.nested if isinstance(call.nested, planning.Graph) else None
        is_much = _MUCH * call.step.bytes > graph.outline.bytes
        if inner is not None and is_much and numbers.count(call.number) == 1:
            found[number] = outlined.graphs[inner.number]
    return found


def _tensors(graph: Graph) -> Set[int]:
    """Return the keys of the tensors of a graph."""
    made = (x for node in graph.nodes for x in node.outputs)
    return {id(x) for x in itertools.chain(graph.functional.inputs, made)}


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
