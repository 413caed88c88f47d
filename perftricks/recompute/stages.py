"""Running a graph of layers of Keras 3 in stages, of which some are recomputed as a whole.

::

    a ── b ── c ── d ── e      the calls of layers in a graph, in an order in which they can run
    [a   b]  [c    d]  [e]     stages: each takes tensors, runs its calls, gives tensors

``apply`` makes stages of a plan; ``blocks`` of the decorated functions that a graph was built with.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from perftricks.recompute import stacks
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.outlining import Graph, Outlined
from perftricks.recompute.planning.plans import Segment
from perftricks.recompute.policies import Given, Policy, policy_of


class Stage(NamedTuple):
    """Some calls of a graph that follow each other.

    Attributes:
        nodes: The calls.
        takes: The keys (ids of symbolic tensors) of what they take from outside.
        gives: The keys of what is used after them.
        policy: What is kept of them, if they are recomputed as a whole; None if they are not.
    """

    nodes: Sequence[Any]
    takes: Tuple[int, ...]
    gives: Tuple[int, ...]
    policy: Optional[Policy]

    @property
    def trained_variables(self) -> List[Any]:
        """The trained variables of its layers, each once."""
        layers = {id(node.operation): node.operation for node in self.nodes}
        found = [v for layer in layers.values() for v in getattr(layer, "trainable_variables", ())]
        return list({id(v): v for v in found}.values())

    @property
    def recomputed(self) -> bool:
        """Whether they are recomputed as a whole."""
        return self.policy is not None


def of_plan(
    outlined: Outlined,
    graph: Graph,
    segments: Sequence[Segment],
    policy: Callable[[Given], Policy] = policy_of,
) -> List[Stage]:
    """Return all calls of a graph in stages: its segments, and what is between them.

    Args:
        outlined: The model.
        graph: The graph.
        segments: The segments.
        policy: Makes the policy of a segment of what a plan says.
    """
    policies = {
        s.steps[0]: policy(s.policy) for s in segments if s.steps is not None and s.recomputed
    }
    ends = {place for s in segments if s.steps is not None for place in s.steps}
    cuts = [place - 1 for place in ends if 0 < place < len(graph.nodes)]
    return [
        stage._replace(policy=policies.get(start))
        for start, _, stage in between(outlined, graph, cuts)
    ]


def between(outlined: Outlined, graph: Graph, cuts: Sequence[int]) -> List[Tuple[int, int, Stage]]:
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


def passing_on(stages: Sequence[Stage], outputs: Sequence[int]) -> List[Stage]:
    """Let each stage that is recomputed also give what it takes and what is used after it.

    Then the gradient of all later uses enters the stage, and those of the uses inside are added to
    it one by one: in the order of the plain run. Else those inside would be added up first, and
    with three or more of them the last bits could differ.

    Args:
        stages: All stages of a graph, in order.
        outputs: The keys of what the graph returns.
    """
    needed = set(outputs)
    found = []
    for stage in reversed(stages):
        if stage.recomputed:
            passed = [x for x in stage.takes if x in needed and x not in stage.gives]
            found.append(stage._replace(gives=(*stage.gives, *passed)))
        else:
            found.append(stage)
        needed.update(stage.takes)
    return found[::-1]


def run(
    functional: Any, stages: Sequence[Stage], inputs: Any, operation: Callable[[Any], Any]
) -> Any:
    """Run a graph in stages; return what it returns.

    Args:
        functional: The model.
        stages: All its calls.
        inputs: What it is called with.
        operation: Gives what to call for a layer.
    """
    import keras

    values = dict(zip(map(id, functional.inputs), keras.tree.flatten(inputs)))
    for stage in stages:
        if stage.policy is None:
            keras3.run_nodes(functional, stage.nodes, values, operation)
            continue
        operations = {id(node.operation): node.operation for node in stage.nodes}
        layers = [x for x in operations.values() if keras3.is_layer(x)]
        tensors = [values[key] for key in stage.takes]
        segment = segment_function(functional, stage, operation)
        given = stacks.recompute(
            segment, (tensors,), {}, layers, of=functional, policy=stage.policy
        )
        values.update(zip(stage.gives, given))
    outputs = [values[id(symbol)] for symbol in functional.outputs]
    return keras.tree.pack_sequence_as(keras3.outputs_struct(functional), outputs)


def segment_function(
    functional: Any, stage: Stage, operation: Callable[[Any], Any]
) -> Callable[..., Any]:
    """Return a function from the tensors that a stage takes to those it gives."""

    def segment(tensors: Sequence[Any]) -> List[Any]:
        values: Dict[int, Any] = dict(zip(stage.takes, tensors))
        keras3.run_nodes(functional, stage.nodes, values, operation)
        return [values[key] for key in stage.gives]

    segment.autograph_info__ = {}  # type: ignore[attr-defined]
    segment.__qualname__ = "the segment %s .. %s of %s" % (
        stage.nodes[0].operation.name,
        stage.nodes[-1].operation.name,
        functional.name,
    )
    return segment
