"""The only home of what TensorFlow keeps for itself of graphs, from 1.14 to the newest.

As in ``private``, each function says what it stands for, and differences between versions are met
here.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator, List, Sequence, Set, Tuple

import tensorflow as tf
from tensorflow.python.ops import control_flow_ops

from perftricks.recompute.tensorflow_graphs import private as graphs

v1 = tf.compat.v1
_FAR = 1 << 40


@contextlib.contextmanager
def quiet_ids(graph: Any) -> Iterator[None]:
    """Create operations without shifting the numbers of those that come later.

    Up to TensorFlow 2.1 a random operation without a seed of its own takes its number in the graph.
    """
    if not hasattr(graph, "_next_id_counter"):
        yield
        return
    before = graph._next_id_counter
    graph._next_id_counter = max(_FAR, getattr(graph, "_perftricks_ids", 0))
    try:
        yield
    finally:
        graph._perftricks_ids = graph._next_id_counter
        graph._next_id_counter = before


def differentiate_through(op: Any, stand_ins: Dict[int, Any]) -> None:
    """Let Python take other tensors for the inputs of an operation, as ``tf.gradients`` sees it.

    What a session runs is not changed, so that it may have run the operation already.

    Args:
        op: The operation.
        stand_ins: The other tensors, by the ids of its inputs; none to have its own back.
    """
    op._inputs_val = None
    if stand_ins:
        inputs = op.inputs
        new = [stand_ins.get(id(x), x) for x in inputs]
        op._inputs_val = tuple(new) if isinstance(inputs, tuple) else type(inputs)(new)


def outside(graph: Any, tensors: Sequence[Any]) -> List[Any]:
    """Replace the variables among captured tensors by what a tape knows them as."""
    known = zip(getattr(graph, "internal_captures", ()), getattr(graph, "external_captures", ()))
    handles = {id(inner): outer for inner, outer in known if inner.dtype == tf.resource}
    return [handles.get(id(x), x) for x in tensors]


@contextlib.contextmanager
def gradient_of(graph: Any, kind: str, name: str) -> Iterator[None]:
    """Give the operations of a type that are created inside another gradient.

    Where TensorFlow can, it keeps the gradient in Python, and nothing but a mark is written into
    the graph: one that is saved then has the gradient of the type where it is loaded without us.

    Args:
        graph: The graph.
        kind: The type.
        name: The name under which the gradient is registered.
    """
    if not hasattr(graph, "_gradient_function_map"):  # before TensorFlow 2.1
        with graph.gradient_override_map({kind: name}):
            yield
        return
    before = graph._gradient_function_map
    graph._gradient_function_map = {kind: _registered_gradient(name)}
    try:
        with graphs.attributes(graph, {MARK: graphs.bytes_attribute(name.encode())}):
            yield
    finally:
        graph._gradient_function_map = before


MARK = "_perftricks_gradient"


def _registered_gradient(name: str) -> Any:
    from tensorflow.python.framework import ops

    registry = getattr(ops, "gradient_registry", None) or ops._gradient_registry
    return registry.lookup(name)


def restore_gradients(operations: Sequence[Any]) -> None:
    """Give copies of marked operations the gradients that they were marked for."""
    for op in operations:
        if op.type == "IdentityN":
            mark = op.node_def.attr
            if MARK in mark:
                op._gradient_function = _registered_gradient(mark[MARK].s.decode())


def has_barrier() -> bool:
    """Tell whether this TensorFlow has a barrier for XLA."""
    return _barrier() is not None


def after_barrier(incoming: Sequence[Any], starts: Sequence[Any]) -> Tuple[List[Any], List[Any]]:
    """Pass numbers through a barrier that XLA neither moves operations across nor merges.

    Whole numbers stay outside: XLA wants to know them where they are shapes.
    """
    floats = [i for i, x in enumerate(starts) if x.dtype.is_floating or x.dtype.is_complex]
    with v1.get_default_graph().gradient_override_map({"XlaOptimizationBarrier": _PASSED}):
        after = _barrier()([*[starts[i] for i in floats], *incoming])
    passed = [x if i in floats else tf.identity(x) for i, x in enumerate(starts)]
    for i, x in zip(floats, after):
        passed[i] = x
    return list(after[len(floats) :]), passed


_PASSED = "PerftricksBarrier"


@tf.RegisterGradient(_PASSED)  # type: ignore[untyped-decorator]
def _gradient_of_barrier(operation: Any, *upstream: Any) -> List[Any]:
    return list(upstream)


def _barrier() -> Any:
    try:
        from tensorflow.compiler.tf2xla.ops import gen_xla_ops
    except ImportError:
        return None
    return getattr(gen_xla_ops, "xla_optimization_barrier", None)


def parse_shape(data: bytes) -> Any:
    """Return a shape from the bytes of its message."""
    from tensorflow.core.framework import tensor_shape_pb2

    return tf.TensorShape(tensor_shape_pb2.TensorShapeProto.FromString(data))


def graph_versions(graph: Any) -> Any:
    """Return the versions that a graph is written for."""
    return graph.graph_def_versions


def control_flow(graph: Any) -> Any:
    """Return the context of control flow in which operations are created now."""
    return graph._get_control_flow_context()


def control_flow_of(op: Any) -> Any:
    """Return the context of control flow that an operation belongs to, or None."""
    return op._get_control_flow_context()


def is_known(context: Any) -> bool:
    """Tell whether a context is that of a branch or of a loop."""
    return isinstance(context, (control_flow_ops.CondContext, control_flow_ops.WhileContext))


def is_loop(context: Any) -> bool:
    """Tell whether a context is that of a loop."""
    return isinstance(context, control_flow_ops.WhileContext)


def is_in_loop(graph: Any) -> bool:
    """Tell whether operations are created in a loop of TensorFlow 1 now."""
    context = control_flow(graph)
    while context is not None and not is_loop(context):
        context = context.outer_context
    return context is not None


def merge_out_of(context: Any, tensor: Any) -> Any:
    """Lead a tensor out of a branch; if the other branch is taken it is just something."""
    outer = context.outer_context
    graph = tensor.graph
    now = graph._get_control_flow_context()
    graph._set_control_flow_context(outer)
    try:
        with tf.control_dependencies(None):
            graph._set_control_flow_context(outer)
            nothing = tf.zeros([], tensor.dtype.base_dtype)
            other = control_flow_ops.switch(nothing, context.pred)[1 - context.branch]
            merged = control_flow_ops.merge([other, tensor])[0]
    finally:
        graph._set_control_flow_context(now)
    merged.set_shape(tensor.shape)
    return merged


def context_proto(context: Any, names: Set[str]) -> Any:
    """Write down a context and those inside, as far as they are about given operations."""
    from tensorflow.core.protobuf import control_flow_pb2

    proto = control_flow_pb2.ControlFlowContextDef()
    context.to_control_flow_context_def(proto)
    _limit(proto, names)
    return proto


def restore_context(written: bytes, prefix: str) -> None:
    """Make a context of what ``context_proto`` wrote down, for operations below a prefix."""
    from tensorflow.core.protobuf import control_flow_pb2

    proto = control_flow_pb2.ControlFlowContextDef.FromString(written)
    control_flow_ops.from_control_flow_context_def(proto, import_scope=prefix)


def _limit(proto: Any, names: Set[str]) -> None:
    definition = getattr(proto, proto.WhichOneof("ctxt"))
    values = definition.values_def
    external = {
        key: value
        for key, value in values.external_values.items()
        if value.partition(":")[0] in names
    }
    inside = [v for v in values.values if v.partition(":")[0] in names]
    del values.values[:]
    values.values.extend(inside)
    values.external_values.clear()
    for key, value in external.items():
        values.external_values[key] = value
    is_while = proto.WhichOneof("ctxt") == "while_ctxt"
    if is_while and definition.maximum_iterations_name.partition(":")[0] not in names:
        definition.ClearField("maximum_iterations_name")
    kept = []
    for nested in definition.nested_contexts:
        inner = getattr(nested, nested.WhichOneof("ctxt"))
        if inner.pivot_name.partition(":")[0] in names:
            _limit(nested, names)
            kept.append(nested)
    del definition.nested_contexts[:]
    definition.nested_contexts.extend(kept)


def gradient_name(op: Any) -> Any:
    """Return the name under which the gradient of the call of a function is registered, or None."""
    function = getattr(op, "_gradient_function", None)
    if function is None:
        try:
            return op.get_attr("_gradient_op_type")
        except ValueError:
            return None
    if function not in _registered:
        _registered[function] = "PerftricksCall%d" % len(_registered)
        tf.RegisterGradient(_registered[function])(function)
    return _registered[function]


_registered: Dict[Any, str] = {}


def op_def(name: str) -> Any:
    """Return what TensorFlow knows of a type of operations, or None."""
    from tensorflow.python.framework import op_def_registry

    if hasattr(op_def_registry, "get"):
        return op_def_registry.get(name)
    return op_def_registry.get_registered_ops().get(name)


def function_def(graph: Any, name: str) -> Any:
    """Return the definition of a function that a graph can call, or None."""
    while graph is not None:
        function = graph._functions.get(name)
        if function is not None:
            found = getattr(function, "definition", None)
            return function.cached_definition if found is None else found
        graph = getattr(graph, "outer_graph", None)
    return None


def branch_graphs(op: Any) -> List[Any]:
    """Return the graphs of the branches of a functional ``If``."""
    from tensorflow.python.ops import cond_v2

    return list(cond_v2.get_func_graphs(op))


def add_outputs(op: Any, graphs: Sequence[Any], further: Sequence[Sequence[Any]]) -> None:
    """Give a functional ``If`` further outputs, as TensorFlow itself does for gradients.

    Args:
        op: The operation; no session may have run it.
        graphs: The graphs of its branches.
        further: For each further output, the tensors of the branches.
    """
    from tensorflow.python.ops import control_flow_util_v2

    if not further:
        return
    for attribute, graph, tensors in zip(("then_branch", "else_branch"), graphs, zip(*further)):
        graph.outputs.extend(tensors)
        graph.name += "_divided"
        op._set_func_attr(attribute, control_flow_util_v2.create_new_tf_function(graph))
    types = [first.dtype for first, _ in further]
    shapes = [
        first.shape
        if first.shape.as_list() == second.shape.as_list()
        else tf.TensorShape([None] * first.shape.rank)
        for first, second in further
    ]
    op._set_type_list_attr("Tout", [*(x.dtype for x in op.outputs), *types])
    op._set_shape_list_attr("output_shapes", [*(x.shape for x in op.outputs), *shapes])
    op._add_outputs(types, shapes)


def new_function(
    name: str, takes: Sequence[Any], compute: Callable[[Sequence[Any]], Sequence[Any]]
) -> str:
    """Make a function that operations can call; return its name.

    Args:
        name: How the name begins.
        takes: Tensors that are like its inputs.
        compute: Returns its outputs from its inputs.
    """
    from tensorflow.python.framework import func_graph
    from tensorflow.python.ops import control_flow_util_v2

    graph = func_graph.FuncGraph(control_flow_util_v2.unique_fn_name("", name))
    with graph.as_default():
        graph.inputs.extend(v1.placeholder(x.dtype.base_dtype, x.shape) for x in takes)
        graph.outputs.extend(compute(list(graph.inputs)))
    return str(control_flow_util_v2.create_new_tf_function(graph))


def name_functions(op: Any) -> None:
    """Let the copy of a functional loop or branch have functions with names of their own.

    The gradient gives a function further outputs, and a name that follows from its own: those of
    two copies, or of a copy and what it was made from, would clash. TensorFlow before 2.1 does not
    keep them.
    """
    from tensorflow.python.ops import cond_v2, control_flow_util_v2, while_v2

    if while_v2._get_graph.__code__.co_argcount < 3:
        return
    if op.type.endswith("While"):
        names = ["_cond_graph", "_body_graph"]
        graphs = [while_v2._get_graph(op, *x) for x in zip(("cond", "body"), names)]
    else:
        graphs = list(cond_v2.get_func_graphs(op))
        names = ["_branch_graph_%d" % number for number in range(len(graphs))]
        if op.type.endswith("If"):
            names = ["_true_graph", "_false_graph"]
    for name, graph in zip(names, graphs):
        restore_gradients(graph.get_operations())
        graph.name = control_flow_util_v2.unique_fn_name("", graph.name)
        setattr(op, name, graph)


def replace_shape(tensor: Any, shape: Any) -> None:
    """Give a shape to all that has been made to take the shape of a tensor of a graph."""
    for consumer in tensor.consumers():
        if consumer.type == "Shape":
            graphs.replace(consumer.outputs[0], tf.cast(shape, consumer.outputs[0].dtype))


def is_read(tensor: Any) -> bool:
    """Tell whether a tensor is the value of a variable, or a variable itself."""
    if tensor.dtype == tf.resource or tensor.op.type == "ReadVariableOp":
        return True
    return any(x.dtype != x.dtype.base_dtype for x in [*tensor.op.inputs, tensor])
