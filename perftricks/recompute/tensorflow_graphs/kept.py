"""In a graph, what a policy has the second run of a call take from the first."""

from __future__ import annotations

from typing import Any, Collection, List, Sequence, Set

import tensorflow as tf

from perftricks.recompute.policies import CONVOLUTION, MATMUL, NAMED, Policy
from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs.products import CONVOLUTIONS, PRODUCTS, Kept, followed

_NAME = "_perftricks_name"


def marked(x: Any, name: str) -> Any:
    """Return a tensor of a graph with a name written on it; anything else as it is."""
    if tf.executing_eagerly() or not isinstance(x, tf.Tensor):
        return x
    attribute = graphs.bytes_attribute(name.encode("utf-8"))
    with graphs.attributes(x.graph, {_NAME: attribute}):
        return tf.identity(x)


def wanted(policy: Policy, operations: Collection[Any], outputs: Sequence[Any]) -> List[Kept]:
    """Return what a policy has kept of what some operations compute.

    Args:
        policy: The policy.
        operations: What would be computed again.
        outputs: What the call returns.
    """
    if policy.is_full:
        return []
    there = {t.name for t in outputs}
    found = {}
    for op in operations:
        if op.type in PRODUCTS or op.type in CONVOLUTIONS:
            if policy.keeps(MATMUL if op.type in PRODUCTS else CONVOLUTION):
                product = op.outputs[0]
                kept = followed(product, operations, there) or Kept(product, [])
                found[kept.tensor.name] = kept
        elif _is_named(op) and policy.keeps(NAMED, _name_on(op)):
            found[op.outputs[0].name] = Kept(op.outputs[0], [])
    return list(found.values())


def names_on(operations: Collection[Any]) -> Set[str]:
    """Return the names that ``marked`` has written on some operations."""
    return {_name_on(op) for op in operations if _is_named(op)}


def _is_named(op: Any) -> bool:
    return op.type == "Identity" and _NAME in op.node_def.attr


def _name_on(op: Any) -> str:
    return str(op.get_attr(_NAME).decode("utf-8"))
