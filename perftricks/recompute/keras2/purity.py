"""Which operations of a graph may be copied: those without state, functions they call included."""

from __future__ import annotations

from typing import AbstractSet, Any, Set, Tuple

import tensorflow as tf

from perftricks.recompute.keras2 import private_graphs
from perftricks.recompute.tensorflow_graphs import operations

BRANCHES = {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}
FUNCTIONS = {"PartitionedCall", "StatefulPartitionedCall"}
READS = operations.READS | {"VariableShape"}
_CALLS = {"If", "While", "Case", *FUNCTIONS}


def uses_references(op: Any) -> bool:
    """Tell whether an operation reads or writes through a reference, as TensorFlow 1 does."""
    definition = op.op_def
    if definition is None:
        return False
    return any(arg.is_ref for arg in [*definition.input_arg, *definition.output_arg])


def may_write(op: Any) -> bool:
    """Tell whether an operation that takes a variable, or a function that it calls, may assign."""
    if op.type in BRANCHES or op.type in FUNCTIONS:
        return not _is_pure(op.graph, op.node_def, op.op_def, READS, (), set())
    plain = op.type in READS or op.type == "Identity"
    return not plain and (op.op_def is None or bool(op.op_def.is_stateful))


def is_pure(op: Any, reads: AbstractSet[str], of_loops: Tuple[str, ...]) -> bool:
    """Tell whether an operation, and every function that it calls, has no state.

    Args:
        op: The operation.
        reads: Types of operations that may be inside of functions all the same.
        of_loops: How the names of other such types begin.
    """
    if op.type in FUNCTIONS and private_graphs.gradient_name(op) is None:
        return False  # only a tape knows its gradient
    if op.type in BRANCHES and any(x.dtype == tf.resource for x in op.inputs):
        return False  # the gradients of variables that are read inside get lost in a plain copy
    return _is_pure(op.graph, op.node_def, op.op_def, reads, of_loops, set())


def _is_pure(
    graph: Any, node: Any, definition: Any, reads: AbstractSet[str], of_loops: Any, seen: Set[str]
) -> bool:
    if definition is not None and definition.is_stateful and node.op not in _CALLS:
        return False
    called = [node.op] if definition is None else []
    for attribute in node.attr.values():
        called.extend([attribute.func.name] if attribute.HasField("func") else [])
        called.extend(f.name for f in attribute.list.func)
    return all(_is_pure_function(graph, name, reads, of_loops, seen) for name in called)


def _is_pure_function(
    graph: Any, name: str, reads: AbstractSet[str], of_loops: Any, seen: Set[str]
) -> bool:
    if name in seen:
        return True
    seen.add(name)
    body = private_graphs.function_def(graph, name)
    if body is None:
        return False
    for node in body.node_def:
        if node.op in reads or node.op.startswith(of_loops):
            continue
        if node.op == "Placeholder" or has_custom_gradient(node):
            return False
        if not _is_pure(graph, node, private_graphs.op_def(node.op), reads, of_loops, seen):
            return False
    return True


def has_custom_gradient(node: Any) -> bool:
    """Tell whether an operation's gradient is that of a tf.custom_gradient.

    It may refer to tensors of the graph in which it was made, and to no copies of them.
    """
    attribute = "_gradient_op_type"
    return attribute in node.attr and node.attr[attribute].s.startswith(b"CustomGradient")
