"""The only home of private imports: TensorFlow 1.14 to the newest, and every Keras 2.

Each function says what it stands for; differences between versions are met here and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
import sys
from typing import Any, Callable, Dict, Iterator, List, Sequence, Set, Tuple

import tensorflow as tf
from tensorflow.python.framework.composite_tensor import CompositeTensor as CompositeTensor
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
    return is_graph_of_symbols(getattr(x, "graph", None))


def is_graph_of_symbols(graph: Any) -> bool:
    """Tell whether a graph is that of the symbols of Keras up to TensorFlow 2.3."""
    return getattr(graph, "name", None) == "keras_graph"


def converted(call: Any) -> Any:
    """Let AutoGraph convert a function where it would have converted the plain call."""
    try:
        from tensorflow.python.autograph.core import ag_ctx
        from tensorflow.python.autograph.impl import api
    except ImportError:  # pragma: no cover
        return call
    if hasattr(call, "get_concrete_function"):
        return call  # a tf.function, which sees to that itself
    status = ag_ctx.control_status_ctx().status
    # Where nothing is said, Keras converts calls of layers all the same, on symbols for example.
    converts = status == ag_ctx.Status.UNSPECIFIED and _was_called_by(api.__name__)
    if status != ag_ctx.Status.ENABLED and not converts:
        return call
    if hasattr(api, "tf_convert"):
        return api.tf_convert(call, ag_ctx.control_status_ctx())
    return api.convert(recursive=True)(call)


def _was_called_by(module: str) -> bool:
    """Tell whether it is a function of this module that has called the first one of ours."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == module


_PACKAGE = "perftricks.recompute."


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
        getattr(context, "in_call", False) and getattr(context, "training", None) is False
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
        getattr(context, "in_call", False) for context in _call_contexts()
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
    found: List[Any] = []
    for base in modules:
        if hasattr(base, "is_in_call_context"):  # TensorFlow 1.14
            found.append(base._call_context)
        elif hasattr(base, "call_context"):
            found.append(base.call_context())
    return found


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


def eagerly() -> Any:
    """Run operations eagerly, also where a graph is being built; tapes record as they did."""
    from tensorflow.python.eager import context

    return context.eager_mode()


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


READ_AGAIN = {"ReadVariableOp", "ResourceGather"}


def read_again(name: str, inputs: Sequence[Any], value: Any) -> Any:
    """Return what an operation that reads a variable gives for a value that it had before.

    Args:
        name: The type of the operation, one of ``READ_AGAIN``.
        inputs: What it takes, the handle first.
        value: The value.
    """
    handle = inputs[0]
    if name == "ReadVariableOp":
        with stop_recording():
            result = tf.raw_ops.Identity(input=value)
        record(name, [result], [handle], lambda dy: [dy])
        return result
    indices = tf.convert_to_tensor(inputs[1])
    with stop_recording():
        rows = tf.gather(value, indices)

    def backward(dy: Any) -> List[Any]:
        flat = tf.reshape(dy, tf.concat([[-1], tf.shape(value)[1:]], 0))
        return [tf.IndexedSlices(flat, tf.reshape(indices, [-1]), tf.shape(value)), None]

    record(name, [rows], [handle, indices], backward)
    return rows


def with_values(inputs: Sequence[Any], values: Dict[int, Any]) -> List[Any]:
    """Put values in the place of variables that the runtime would read, by their handles' ids."""
    found = list(inputs)
    for number, x in enumerate(found):
        if isinstance(x, (list, tuple)):
            found[number] = with_values(x, values)
        elif graphs.is_read_by_runtime(x) and id(x.handle) in values:
            variable_accessed(x)
            found[number] = read_again("ReadVariableOp", [x.handle], values[id(x.handle)])
    return found


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


def knows_functions() -> bool:
    """Tell whether TensorFlow gives the definitions of functions that run eagerly: from 2.2 on."""
    from tensorflow.python.eager import context

    return hasattr(context.Context, "get_function_def")


def variable_watcher() -> Any:
    """Return a new VariableWatcher, which is a context manager; None before TensorFlow 2.2."""
    watcher: Any = getattr(tape, "VariableWatcher", None)
    return watcher() if hasattr(watcher, "__enter__") else None


def note_variables(note_of_thread: Callable[[], Any]) -> None:
    """Put a function where TensorFlow tells its tapes of a variable, for the rest of the process.

    Args:
        note_of_thread: Returns what is told of the variables of this thread; None for nothing.
    """
    from tensorflow.python.ops import resource_variable_ops

    plain = resource_variable_ops.variable_accessed
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def noted(variable: Any) -> None:
        note = note_of_thread()
        if note is not None:
            note(variable)
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
    found.extend(context.__dict__ for context in _call_contexts())
    for prefix in _ENGINES:
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
