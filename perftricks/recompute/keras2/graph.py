"""Keras 2 in a graph: a call runs as it is, and what it has computed is differentiated again.

::

    call ──operations──▶ Slice ──attachment──▶ what stands for the outputs
                           └─────static──────▶ a segment of the model that symbols will build
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Set, Tuple

import tensorflow as tf

from perftricks.recompute.keras2 import built, private, private_graphs, static
from perftricks.recompute.keras2.attachment import attach, is_differentiable
from perftricks.recompute.keras2.slice import Slice
from perftricks.recompute.keras2.tensors import Results, beneath, once_more, structures
from perftricks.recompute.policies import Policy, active
from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs.kept import marked


def checkpointed(
    call: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any], policy: Policy
) -> Any:
    """Return ``call(*args, **kwargs)``, in the graph that is being built."""
    graph = tf.compat.v1.get_default_graph()
    start = len(graph.get_operations())
    with active(policy, marked) as names:
        outputs = call(*args, **kwargs)
    if policy.traced is not None:
        policy.traced(names, frozenset)
    if tf.compat.v1.get_default_graph() is not graph:
        return outputs
    results = Results(outputs, structures.flatten((args, kwargs)))
    with private_graphs.quiet_ids(graph):
        from_outside = graphs.stand_ins(graph)
        operations = [op for op in graph.get_operations()[start:] if op not in from_outside]
        ends = _ends(graph, results, set(operations))
        found = Slice.leading_to(
            list({id(end): end for _, end in ends}.values()),
            operations,
            may_add_outputs=not (private.may_record() or graphs.compiles_with_xla(graph)),
            policy=policy,
        )
        if found is not None and _has_called_layers(call, args, operations, outputs):
            static.block(graph, found, operations)
            return outputs
        new = {} if found is None else attach(graph, found, start=start)
        if built.lasts(graph):
            built.note(graph, call, args, list(new.values()))
        for x, end in ends:
            if x is not end and id(end) in new:
                new[id(x)] = once_more(x.op, new[id(end)])
    return results.replaced(new)


def _has_called_layers(
    call: Callable[..., Any], args: Tuple[Any, ...], operations: Sequence[Any], outputs: Any
) -> bool:
    """Tell whether a model is going to be built of what layers have given in a call of no layer.

    Then Keras knows the tensors that they gave, and no others in their place.
    """
    if any(hasattr(x, "_inbound_nodes") for x in (getattr(call, "__self__", None), *args[:1])):
        return False
    made = {x for op in operations for x in map(id, op.outputs)}
    return any(hasattr(x, "_keras_history") and id(x) in made for x in structures.flatten(outputs))


def _ends(graph: Any, results: Results, operations: Set[Any]) -> List[Tuple[Any, Any]]:
    """List the results that may have a gradient, each with the tensor that is recomputed for it."""
    tensors = {id(x): x for x in results.tensors.values()}
    here = [x for x in tensors.values() if getattr(x, "graph", None) is graph]
    ends = [(x, beneath(x)) for x in here if x.op in operations and is_differentiable(x)]
    return [(x, end) for x, end in ends if end.op in operations]
