"""Private parts of TensorFlow 1.14 to the newest, and of every Keras 2, that the engine needs.

Each function says what it stands for; differences between versions are met here and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, Sequence, Set, Tuple

import tensorflow as tf
from tensorflow.python.ops import control_flow_ops

from perftricks.recompute.tensorflow_graphs import private as graphs

try:
    from tensorflow.python.eager import record as tape
except ImportError:  # before TensorFlow 2.11
    from tensorflow.python.eager import tape

v1 = tf.compat.v1
_FAR = 1 << 40


def is_symbol(x: Any) -> bool:
    """Tell whether ``x`` is a KerasTensor, of which only the shape is known."""
    return type(x).__name__.endswith("KerasTensor")


def is_in_graph_of_symbols(x: Any) -> bool:
    """Tell whether ``x`` is a tensor of the graph that is the symbols of Keras up to TF 2.3."""
    return getattr(getattr(x, "graph", None), "name", None) == "keras_graph"


def converted(call: Any) -> Any:
    """Let AutoGraph convert a function where it would have converted the plain call."""
    try:
        from tensorflow.python.autograph.core import ag_ctx
        from tensorflow.python.autograph.impl import api
    except ImportError:  # pragma: no cover
        return call
    if ag_ctx.control_status_ctx().status != ag_ctx.Status.ENABLED:
        return call
    if hasattr(api, "tf_convert"):
        return api.tf_convert(call, ag_ctx.control_status_ctx())
    return api.convert(recursive=True)(call)


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


def is_standalone(layer: Any) -> bool:
    """Tell whether a layer is one of keras 2.3.1, which knows no eager execution."""
    mine = any(kind.__module__.partition(".")[0] == "keras" for kind in type(layer).__mro__)
    return mine and not hasattr(sys.modules["keras"], "__internal__")


def eager_outside_functions() -> bool:
    """Tell whether TensorFlow runs eagerly where no function is being traced."""
    from tensorflow.python.framework import ops

    return bool(ops.executing_eagerly_outside_functions())


def session_of(backend: Any) -> Any:
    """Return the session of a Keras, by its ``backend`` module; None where there is none."""
    if eager_outside_functions():
        return None
    if hasattr(backend, "get_session"):
        return backend.get_session()
    if backend.__name__.startswith("tf_keras"):
        return importlib.import_module("tf_keras.api._v1.keras").backend.get_session()
    return v1.keras.backend.get_session()


def is_saving() -> bool:
    """Tell whether a Keras is writing a SavedModel."""
    return any(getattr(context, "saving", False) for context in _call_contexts())


def is_only_inference(graph: Any) -> bool:
    """Tell whether nobody is going to differentiate what is traced now: a prediction, an export.

    A layer around says that this is no training, no tape is active, and there are no sessions, in
    which one graph serves for both.
    """
    if may_record() or not graph.building_function or not eager_outside_functions():
        return False
    return any(
        context.in_call and getattr(context, "training", None) is False
        for context in _call_contexts()
    )


def is_of_no_layer(leaves: Sequence[Any]) -> bool:
    """Tell whether tensors are symbols of a Keras whose models call layers, and no layer is called.

    Up to TensorFlow 2.3 symbols are tensors of a graph that is used for nothing else.
    """
    if any(map(is_symbol, leaves)):
        return True
    # The symbols of keras 2.3.1 are in such a graph, too, but it is the one that a session runs.
    named = [x for x in leaves if hasattr(getattr(x, "_keras_history", None), "layer")]
    return any(map(is_in_graph_of_symbols, named)) and not any(
        context.in_call for context in _call_contexts()
    )


def complete_history(symbol: Any) -> None:
    """Have a plain operation on symbols known as the call of a layer, as models do with outputs.

    Up to TensorFlow 2.3; later every operation on symbols is.
    """
    for prefix in _ENGINES:
        base: Any = sys.modules.get(prefix + "engine.base_layer_utils")
        if hasattr(base, "create_keras_history") and not hasattr(symbol, "_keras_history"):
            base.create_keras_history([symbol])


def graph_classes(method: str) -> List[Any]:
    """List the classes for graphs of layers that have a method, one for each Keras there is."""
    modules = [
        (sys.modules.get(prefix + name), kind)
        for prefix in ("keras.", *_ENGINES)
        for name, kind in (("engine.network", "Network"), ("engine.functional", "Functional"))
    ]
    found = [getattr(module, kind, None) for module, kind in modules]
    return [kind for kind in found if hasattr(kind, method)]


def _call_contexts() -> List[Any]:
    modules: List[Any] = [
        sys.modules.get(prefix + "engine.base_layer_utils") for prefix in _ENGINES
    ]
    return [base.call_context() for base in modules if hasattr(base, "call_context")]


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


def stop_recording() -> Any:
    """Let no tape record."""
    return tape.stop_recording()


def unrecorded() -> Any:
    """Let no tape record but those that begin inside."""
    return graphs.unrecorded(tape)


def record(name: str, outputs: Sequence[Any], inputs: Sequence[Any], backward: Any) -> None:
    """Tell all tapes of an operation.

    Args:
        name: Its name.
        outputs: What it gives.
        inputs: What it takes.
        backward: Returns the gradients of the inputs, given those of the outputs: None for what
            has none. A tape would make zeros of that, which become gradients where there is none
            in a plain run, and are not numbers any more when they meet an infinite one.
    """
    outputs, inputs = list(outputs), list(inputs)
    if len(outputs) == 1:
        tape.record_operation(name, outputs, inputs, backward)
        return
    there: Set[int] = set()

    def gate(number: int) -> Any:
        def passed(dy: Any) -> List[Any]:
            there.add(number)
            return [dy]

        return passed

    def behind_the_gates(*upstream: Any) -> Any:
        # A ForwardAccumulator goes through no gate before it gets here.
        known = [dy if not there or n in there else None for n, dy in enumerate(upstream)]
        there.clear()
        return backward(*known)

    with stop_recording():
        made = [tf.raw_ops.Identity(input=x) for x in outputs]
    tape.record_operation(name, made, inputs, behind_the_gates)
    for number, (x, output) in enumerate(zip(made, outputs)):
        tape.record_operation("PerftricksGate", [output], [x], gate(number))


def outside(graph: Any, tensors: Sequence[Any]) -> List[Any]:
    """Replace the variables among captured tensors by what a tape knows them as."""
    known = zip(getattr(graph, "internal_captures", ()), getattr(graph, "external_captures", ()))
    handles = {id(inner): outer for inner, outer in known if inner.dtype == tf.resource}
    return [handles.get(id(x), x) for x in tensors]


def attributes(graph: Any, values: Dict[str, Any]) -> Any:
    """Give the operations that are created inside additional attributes."""
    return graph._attr_scope(values)


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
        with attributes(graph, {_MARK: bytes_attribute(name.encode())}):
            yield
    finally:
        graph._gradient_function_map = before


_MARK = "_perftricks_gradient"


def _registered_gradient(name: str) -> Any:
    from tensorflow.python.framework import ops

    registry = getattr(ops, "gradient_registry", None) or ops._gradient_registry
    return registry.lookup(name)


def _restore_gradients(operations: Sequence[Any]) -> None:
    """Give copies of marked operations the gradients that they were marked for."""
    for op in operations:
        if op.type == "IdentityN":
            mark = op.node_def.attr
            if _MARK in mark:
                op._gradient_function = _registered_gradient(mark[_MARK].s.decode())


def bytes_attribute(value: bytes) -> Any:
    """Return an attribute of an operation that holds bytes."""
    return v1.AttrValue(s=value)


def compiles_with_xla(graph: Any) -> bool:
    """Tell whether a graph is being built for ``tf.function(jit_compile=True)``."""
    from tensorflow.python.ops import control_flow_util

    inside = getattr(control_flow_util, "GraphOrParentsInXlaContext", None)
    return inside is not None and bool(inside(graph))


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


def uses_references(op: Any) -> bool:
    """Tell whether an operation reads or writes through a reference, as TensorFlow 1 does."""
    definition = op.op_def
    if definition is None:
        return False
    return any(arg.is_ref for arg in [*definition.input_arg, *definition.output_arg])


def is_pure(op: Any, reads: Set[str], of_loops: Tuple[str, ...]) -> bool:
    """Tell whether an operation, and every function that it calls, has no state.

    Args:
        op: The operation.
        reads: Types of operations that may be inside of functions all the same.
        of_loops: How the names of other such types begin.
    """
    if op.type in _FUNCTIONS and gradient_name(op) is None:
        return False  # only a tape knows its gradient
    if op.type in _BRANCHES and any(x.dtype == tf.resource for x in op.inputs):
        return False  # the gradients of variables that are read inside get lost in a plain copy
    return _is_pure(op.graph, op.node_def, op.op_def, reads, of_loops, set())


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
_BRANCHES = {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}
_FUNCTIONS = {"PartitionedCall", "StatefulPartitionedCall"}
_CALLS = {"If", "While", "Case", "PartitionedCall", "StatefulPartitionedCall"}


def _is_pure(
    graph: Any, node: Any, definition: Any, reads: Set[str], of_loops: Any, seen: Set[str]
) -> bool:
    if definition is not None and definition.is_stateful and node.op not in _CALLS:
        return False
    called = [node.op] if definition is None else []
    for attribute in node.attr.values():
        called.extend([attribute.func.name] if attribute.HasField("func") else [])
        called.extend(f.name for f in attribute.list.func)
    return all(_is_pure_function(graph, name, reads, of_loops, seen) for name in called)


def _is_pure_function(
    graph: Any, name: str, reads: Set[str], of_loops: Any, seen: Set[str]
) -> bool:
    if name in seen:
        return True
    seen.add(name)
    body = function_def(graph, name)
    if body is None:
        return False
    for node in body.node_def:
        if node.op in reads or node.op.startswith(of_loops):
            continue
        if node.op == "Placeholder" or has_custom_gradient(node):
            return False
        if not _is_pure(graph, node, _op_def(node.op), reads, of_loops, seen):
            return False
    return True


def has_custom_gradient(node: Any) -> bool:
    """Tell whether an operation's gradient is that of a tf.custom_gradient.

    It may refer to tensors of the graph in which it was made, and to no copies of them.
    """
    attribute = "_gradient_op_type"
    return attribute in node.attr and node.attr[attribute].s.startswith(b"CustomGradient")


def _op_def(name: str) -> Any:
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


class Recipe:
    """How to copy some operations, as something that can be an attribute of an operation.

    Attributes:
        starts: The names of the tensors that stand for what is not copied.
        outputs: The names of the tensors that are wanted.
        waits: The names of operations that start from nothing, and have to wait all the same.
        kept: The names of tensors that the first run gives in the place of the copy.
        measured: Likewise of tensors whose shapes it gives.

    Args:
        versions: The versions of the graph.
    """

    def __init__(self, versions: Any) -> None:
        self.starts: List[str] = []
        self.outputs: List[str] = []
        self.waits: List[str] = []
        self.kept: List[str] = []
        self.measured: List[str] = []
        self.graph_def = v1.GraphDef()
        self.graph_def.versions.CopyFrom(versions)
        self.contexts: List[bytes] = []
        self.shapes: Dict[str, Any] = {}

    def add(self, op: Any, control: Sequence[str], renamed: Dict[str, str], waits: bool) -> None:
        """Add an operation.

        Args:
            op: The operation.
            control: The names of those it waits for.
            renamed: The names of inputs that have others in the copy, by their names in the graph.
            waits: Whether it starts from nothing.
        """
        node = self.graph_def.node.add()
        node.CopyFrom(op.node_def)
        data = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(renamed.get(name if ":" in name else name + ":0", name) for name in data)
        node.input.extend("^" + name for name in control)
        if waits:
            self.waits.append(op.name)
        if op.type in _FUNCTIONS:
            node.attr["_gradient_op_type"].s = tf.compat.as_bytes(gradient_name(op))
        if "_class" in node.attr:
            del node.attr["_class"]
        for tensor in op.outputs:
            self.shapes[tensor.name] = tensor.shape

    def divide(
        self, op: Any, functions: Sequence[str], used: Sequence[int], takes: Sequence[Any]
    ) -> None:
        """Let the functional ``If`` that was added last call other functions, without state.

        Args:
            op: What it is in the graph.
            functions: The names of the other branches.
            used: The numbers of its outputs that they give.
            takes: What it takes now: the predicate and the inputs of the branches.
        """
        node = self.graph_def.node[-1]
        node.op = "StatelessIf"
        names = dict(zip((x.name for x in op.inputs), node.input))
        control = [name for name in node.input if name.startswith("^")]
        del node.input[:]
        node.input.extend([*(names.get(x.name, x.name) for x in takes), *control])
        node.attr.pop("_read_only_resource_inputs", None)
        for attribute, function in zip(("then_branch", "else_branch"), functions):
            node.attr[attribute].func.name = function
        for output in op.outputs:
            self.shapes.pop(output.name, None)
        taken, given = node.attr["Tin"].list, node.attr["Tout"].list
        shapes = node.attr["output_shapes"].list
        del taken.type[:], given.type[:], shapes.shape[:]
        taken.type.extend(x.dtype.as_datatype_enum for x in takes[1:])
        for position, number in enumerate(used):
            output = op.outputs[number]
            given.type.append(output.dtype.as_datatype_enum)
            shapes.shape.add().CopyFrom(output.shape.as_proto())
            self.shapes["%s:%d" % (op.name, position)] = output.shape

    def add_switch(self, name: str, source: str, predicate: str, dtype: Any) -> None:
        """Add a switch that leads a tensor into a branch."""
        node = self.graph_def.node.add()
        node.name = name
        node.op = "Switch"
        node.input.extend([source, predicate])
        node.attr["T"].type = dtype.base_dtype.as_datatype_enum

    def add_context(self, proto: Any) -> None:
        """Add a context of control flow."""
        self.contexts.append(proto.SerializeToString())

    def SerializeToString(self) -> bytes:  # noqa: N802, the name that messages have
        """Return it as bytes."""
        message = v1.MetaGraphDef()
        message.graph_def.CopyFrom(self.graph_def)
        collections = message.collection_def
        collections["starts"].node_list.value.extend(self.starts)
        collections["outputs"].node_list.value.extend(self.outputs)
        collections["shaped"].node_list.value.extend(self.shapes)
        collections["shapes"].bytes_list.value.extend(
            shape.as_proto().SerializeToString() for shape in self.shapes.values()
        )
        collections["contexts"].bytes_list.value.extend(self.contexts)
        collections["waits"].node_list.value.extend(self.waits)
        collections["kept"].node_list.value.extend(self.kept)
        collections["measured"].node_list.value.extend(self.measured)
        return bytes(message.SerializeToString())


def parse_recipe(data: bytes) -> Recipe:
    """Return a recipe from bytes."""
    from tensorflow.core.framework import tensor_shape_pb2

    message = v1.MetaGraphDef.FromString(data)
    recipe = Recipe(message.graph_def.versions)
    recipe.graph_def = message.graph_def
    collections = message.collection_def
    recipe.starts.extend(collections["starts"].node_list.value)
    recipe.outputs.extend(collections["outputs"].node_list.value)
    recipe.contexts.extend(collections["contexts"].bytes_list.value)
    recipe.waits.extend(collections["waits"].node_list.value)
    recipe.kept.extend(collections["kept"].node_list.value)
    recipe.measured.extend(collections["measured"].node_list.value)
    shapes = [
        tf.TensorShape(tensor_shape_pb2.TensorShapeProto.FromString(data))
        for data in collections["shapes"].bytes_list.value
    ]
    recipe.shapes.update(zip(collections["shaped"].node_list.value, shapes))
    return recipe


def import_recipe(graph: Any, recipe: Recipe, starts: Sequence[Any]) -> List[Any]:
    """Copy operations into a graph; return the outputs, and copies of what is kept or measured.

    Args:
        graph: The graph.
        recipe: The recipe.
        starts: What they start from.
    """
    wanted = [*recipe.outputs, *recipe.kept, *recipe.measured]
    names = [*wanted, *recipe.shapes]
    inputs = dict(zip(recipe.starts, starts))
    # TensorFlow 1 tells the gradients of TensorArrays apart by the last "gradients" in their names,
    # so there must be none in the names of what is differentiated.
    with v1.name_scope(None):
        tensors = tf.import_graph_def(
            recipe.graph_def, input_map=inputs, return_elements=names, name="recompute"
        )
    for tensor, shape in zip(tensors[len(wanted) :], recipe.shapes.values()):
        tensor.set_shape(shape)
    prefix = tensors[0].name[: -len(names[0]) - 1]
    for name in recipe.waits:
        graph.get_operation_by_name("%s/%s" % (prefix, name))._add_control_input(starts[0].op)
    for data in recipe.contexts:
        from tensorflow.core.protobuf import control_flow_pb2

        proto = control_flow_pb2.ControlFlowContextDef.FromString(data)
        control_flow_ops.from_control_flow_context_def(proto, import_scope=prefix)
    for node in recipe.graph_def.node:
        if node.op in _BRANCHES:
            _name_functions(graph.get_operation_by_name("%s/%s" % (prefix, node.name)))
        if _MARK in node.attr:
            _restore_gradients([graph.get_operation_by_name("%s/%s" % (prefix, node.name))])
    return list(tensors[: len(wanted)])


def _name_functions(op: Any) -> None:
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
        _restore_gradients(graph.get_operations())
        graph.name = control_flow_util_v2.unique_fn_name("", graph.name)
        setattr(op, name, graph)


def replace(tensor: Any, other: Any) -> None:
    """Give another tensor of a graph to all that has been made to take this one."""
    for consumer in tensor.consumers():
        for index, given in enumerate(consumer.inputs):
            if given.name == tensor.name:
                consumer._update_input(index, other)


def replace_shape(tensor: Any, shape: Any) -> None:
    """Give a shape to all that has been made to take the shape of a tensor of a graph."""
    for consumer in tensor.consumers():
        if consumer.type == "Shape":
            replace(consumer.outputs[0], tf.cast(shape, consumer.outputs[0].dtype))


def is_read(tensor: Any) -> bool:
    """Tell whether a tensor is the value of a variable, or a variable itself."""
    if tensor.dtype == tf.resource or tensor.op.type == "ReadVariableOp":
        return True
    return any(x.dtype != x.dtype.base_dtype for x in [*tensor.op.inputs, tensor])


def may_record() -> bool:
    """Tell whether a tape is active."""
    return bool(tape.could_possibly_record())


def variable_accessed(variable: Any) -> None:
    """Let the tapes watch a variable, as reading it does."""
    from tensorflow.python.ops import resource_variable_ops

    resource_variable_ops.variable_accessed(variable)


def newest_tensor() -> int:
    """Return the number of a tensor made just now; those made later have larger ones."""
    return int(tf.constant(0.0)._id)


def read_handle(handle: Any) -> Any:
    """Return the value of a variable, by its handle."""
    dtype = handle._handle_data.shape_and_type[0].dtype
    with stop_recording():
        return read(handle, tf.as_dtype(dtype))


def read(handle: Any, dtype: Any) -> Any:
    """Read a variable, by its handle and the type of its numbers."""
    from tensorflow.python.ops import gen_resource_variable_ops

    return gen_resource_variable_ops.read_variable_op(handle, dtype)


def assign_handle(handle: Any, value: Any) -> None:
    """Set the value of a variable, by its handle."""
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def with_own_state(modules: Sequence[Any]) -> List[Any]:
    """List layers, and the objects in which some of them keep state besides."""
    held = [getattr(module, name, None) for module in modules for name in _OWN_STATE]
    found = {id(x): x for x in [*modules, *(x for x in held if hasattr(x, "__dict__"))]}
    return list(found.values())


# The losses of eager calls, per thread; random numbers with a seed, which counts up.
_OWN_STATE = ("_thread_local", "_random_generator")


def modules_at(module: Any) -> List[Any]:
    """List a module and all below it; newer layers keep things that tf.Module cannot look into."""
    if hasattr(module, "_flatten_modules"):
        return list(module._flatten_modules())
    try:
        return [module, *module.submodules]
    except TypeError:  # a compiled model of TensorFlow 2.0 or 2.1, in which layers are keys
        below = [x for each in module._layers for x in getattr(each, "layers", [each])]
        return [module, *(x for layer in below for x in modules_at(layer))]


class Used:
    """The tensors and the variables that a call uses, by their ids."""

    def __init__(self) -> None:
        self.tensors: Dict[int, Any] = {}
        self.variables: Dict[int, Any] = {}

    def note(self, inputs: Sequence[Any]) -> None:
        """Note what an operation takes."""
        for x in inputs:
            if isinstance(x, (list, tuple)):
                self.note(x)
            elif isinstance(x, tf.Variable):
                self.note_variable(x)
            elif isinstance(x, tf.Tensor):
                self.tensors[id(x)] = x

    def note_variable(self, variable: Any) -> None:
        """Note a variable that is to be watched."""
        if variable.trainable:
            self.variables[id(variable)] = variable


_through = threading.local()


@contextlib.contextmanager
def operations_through(
    answer: Callable[[Callable[[], Any], str, Sequence[Any]], Any],
) -> Iterator[None]:
    """Let a function stand between this thread and the operations that it runs eagerly.

    Args:
        answer: Takes a function that runs the operation, its type and its inputs (and, after them,
            its attributes); returns the result.
    """
    _install()
    before = getattr(_through, "answer", None)
    _through.answer = answer if before is None else _both(before, answer)
    try:
        yield
    finally:
        _through.answer = before


def _both(outer: Any, inner: Any) -> Any:
    return lambda run, name, inputs: inner(lambda: outer(run, name, inputs), name, inputs)


_installed: List[Any] = []


def _install() -> None:
    """Put ourselves where TensorFlow enters its runtime; other threads go straight on."""
    from tensorflow.python.eager import execute
    from tensorflow.python.ops import gen_math_ops

    if _installed:
        return
    newer = hasattr(gen_math_ops, "pywrap_tfe")  # from TensorFlow 2.2 on
    runtime = gen_math_ops.pywrap_tfe if newer else gen_math_ops._pywrap_tensorflow
    fast = runtime.TFE_Py_FastPathExecute

    def fast_path(*args: Any) -> Any:
        answer = getattr(_through, "answer", None)
        if answer is None:
            return fast(*args)
        at, first = (1, 3) if newer else (2, 5)  # where the type is, and the first input
        return answer(lambda: fast(*args), args[at], args[first:])

    def slow_path(slow: Any) -> Any:
        @functools.wraps(slow)
        def path(op_name: Any, num_outputs: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            answer = getattr(_through, "answer", None)
            name = op_name if isinstance(op_name, str) else op_name.decode()
            if answer is None:
                return slow(op_name, num_outputs, inputs, *rest, **more)
            result = answer(
                lambda: _single(slow(op_name, num_outputs, inputs, *rest, **more)),
                name,
                list(inputs),
            )
            return [result] if isinstance(result, tf.Tensor) else result

        return path

    runtime.TFE_Py_FastPathExecute = fast_path
    # Not ``execute`` alone: TensorFlow puts one of these there, as callbacks come and go.
    plain = execute.quick_execute
    execute.quick_execute = slow_path(plain)
    if hasattr(execute, "execute_with_cancellation"):
        execute.execute_with_cancellation = slow_path(execute.execute_with_cancellation)
    if execute.execute is plain:
        execute.execute = execute.quick_execute
    _installed.append(fast)


def _single(results: Any) -> Any:
    """Return a single result as the fast way does, which may be the one that is taken next time."""
    return results[0] if isinstance(results, (list, tuple)) and len(results) == 1 else results


def operations_of_function(name: str) -> Set[str]:
    """Return the types of the operations in a function that runs eagerly, and in those it calls.

    Called from the ``answer`` of ``operations_through``. An operation that is no function, or has
    been garbage collected, has none.
    """
    from tensorflow.python.eager import context

    if not hasattr(context.Context, "get_function_def"):  # up to TensorFlow 2.1
        running = _graph_of_function()
        graph = None if running is None else running.as_graph_def()
        nodes = [] if graph is None else [graph.node, *(f.node_def for f in graph.library.function)]
        return {node.op for listed in nodes for node in listed}
    return graphs.function_operations([name])


def variables_of_function() -> List[Any]:
    """List the variables of a function that runs eagerly, called as ``operations_of_function`` is.

    A function that has been traced before tells nobody of them unless a tape records.
    """
    return list(getattr(_graph_of_function(), "variables", ()))


def _graph_of_function() -> Any:
    """Return the graph of the function that is run by one of the callers, or None."""
    frame: Any = sys._getframe(1)
    while frame is not None and not hasattr(frame.f_locals.get("self"), "graph"):
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"].graph


@contextlib.contextmanager
def variables_noted(used: Used) -> Iterator[None]:
    """Note the variables that are read inside, in this thread."""
    if hasattr(getattr(tape, "VariableWatcher", None), "__enter__"):
        with tape.VariableWatcher() as watcher:
            yield
        for variable in watcher.watched_variables():
            used.note_variable(variable)
        return
    _install_noting()
    before = getattr(_through, "used", None)
    _through.used = used
    try:
        yield
    finally:
        _through.used = before


def _install_noting() -> None:
    """Put ourselves where TensorFlow tells its tapes of a variable."""
    from tensorflow.python.ops import resource_variable_ops

    plain = resource_variable_ops.variable_accessed
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def noted(variable: Any) -> None:
        used = getattr(_through, "used", None)
        if used is not None:
            used.note_variable(variable)
        plain(variable)

    resource_variable_ops.variable_accessed = noted


class Scopes:
    """What Keras and TensorFlow keep per thread at one moment: call context, precision, seeds."""

    def __init__(self) -> None:
        self._namespaces = [(space, _copied(space)) for space in _namespaces()]
        self._seeds = _seeds()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be back at that moment."""
        now = Scopes()
        self._apply()
        try:
            yield
        finally:
            now._apply()

    def _apply(self) -> None:
        for space, values in self._namespaces:
            space.clear()
            space.update({k: dict(v) if isinstance(v, dict) else v for k, v in values.items()})
        for setter, state in self._seeds:
            setter(state)


def _copied(space: Dict[str, Any]) -> Dict[str, Any]:
    return {k: dict(v) if isinstance(v, dict) else v for k, v in space.items()}


_ENGINES = (
    "tf_keras.src.",
    "keras.src.",
    "tensorflow.python.keras.",
    "tensorflow_core.python.keras.",
)


def _namespaces() -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = []
    for prefix in _ENGINES:
        base: Any = sys.modules.get(prefix + "engine.base_layer_utils")
        if hasattr(base, "call_context"):
            found.append(base.call_context().__dict__)
        for name in ("mixed_precision", "mixed_precision.experimental"):
            precision = sys.modules.get(prefix + name + ".autocast_variable")
            dtype = getattr(precision, "_autocast_dtype", None)
            if dtype is not None:
                found.append(dtype.__dict__)
    return found


def _seeds() -> List[Tuple[Any, Any]]:
    import numpy as np
    from tensorflow.python.eager import context

    generators = [random, getattr(context.context(), "_rng", None)]
    for prefix in _ENGINES:
        backend = sys.modules.get(prefix + "backend")
        generators.append(getattr(getattr(backend, "_SEED_GENERATOR", None), "generator", None))
    found: List[Tuple[Any, Any]] = [(np.random.set_state, np.random.get_state())]
    found.extend((g.setstate, g.getstate()) for g in generators if g is not None)
    return found
