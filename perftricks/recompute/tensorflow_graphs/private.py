"""The only home of what both Keras need of TensorFlow's private parts."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from types import ModuleType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Set, Tuple

_reporting = 0  # how many calls have their operations reported, in all threads
_reporting_lock = threading.Lock()


def record() -> ModuleType:
    """Return TensorFlow's module with ``stop_recording`` and ``VariableWatcher``."""
    try:
        from tensorflow.python.eager import record
    except ImportError:  # before TensorFlow 2.11
        from tensorflow.python.eager import tape as record
    return record  # type: ignore[no-any-return]


@contextlib.contextmanager
def operations_reported(callback: Callable[..., Any]) -> Iterator[None]:
    """Have each operation that runs eagerly in this thread reported to a function.

    TensorFlow's own ``add_op_callback`` does this as well, but replaces a function of the process,
    which the first thread that is done takes away from all others; here the last one does.
    """
    global _reporting
    from tensorflow.python.eager import context, execute

    with _reporting_lock:
        _reporting += 1
        execute.execute = execute.execute_with_callbacks
    context.context().add_op_callback(callback)
    try:
        yield
    finally:
        context.context().remove_op_callback(callback)
        with _reporting_lock:
            _reporting -= 1
            if not _reporting and not context.context().op_callbacks:
                execute.execute = execute.quick_execute


@contextlib.contextmanager
def outside_of_strategies() -> Iterator[None]:
    """Leave the scopes of ``tf.distribute.Strategy`` that this thread is in, for a while.

    A scope is two things in a graph, or in what stands for one where operations run eagerly: which
    strategy is in force, and functions that make variables. There is no way to leave a scope early
    by itself.
    """
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    before = graph._distribution_strategy_stack, graph._variable_creator_stack
    graph._distribution_strategy_stack, graph._variable_creator_stack = [], []
    try:
        yield
    finally:
        graph._distribution_strategy_stack, graph._variable_creator_stack = before


_unrecorded = threading.local()


@contextlib.contextmanager
def unrecorded(record: Any) -> Iterator[None]:
    """Hide what runs inside from the tapes that record now; those begun inside see it.

    TensorFlow can only stop all tapes of a thread, so that of a tape begun inside switches them on
    again while it records. The others then record as well, but nothing that leads to a result.

    Args:
        record: TensorFlow's module with ``stop_recording``.
    """
    _watch_tapes(record)
    before = getattr(_unrecorded, "tapes", None)
    with record.stop_recording():
        _unrecorded.tapes = 0
        try:
            yield
        finally:
            _unrecorded.tapes = before


@functools.lru_cache(maxsize=None)  # once
def _watch_tapes(record: Any) -> None:
    import tensorflow as tf

    runtime = record.pywrap_tfe if hasattr(record, "pywrap_tfe") else record.pywrap_tensorflow
    _watch(tf.GradientTape, "_push_tape", "_pop_tape", runtime)
    if hasattr(tf, "autodiff"):
        accumulator = tf.autodiff.ForwardAccumulator
        _watch(accumulator, "_push_accumulator", "_pop_accumulator", runtime)


def _watch(kind: Any, begin: str, end: str, runtime: Any) -> None:
    begin_it, end_it = getattr(kind, begin), getattr(kind, end)

    def begun(recorder: Any) -> None:
        begin_it(recorder)
        if getattr(_unrecorded, "tapes", None) is not None:
            _unrecorded.tapes += 1
            if _unrecorded.tapes == 1:
                runtime.TFE_Py_TapeSetRestartOnThread()

    def ended(recorder: Any) -> None:
        end_it(recorder)
        if getattr(_unrecorded, "tapes", None):
            _unrecorded.tapes -= 1
            if _unrecorded.tapes == 0:
                runtime.TFE_Py_TapeSetStopOnThread()

    setattr(kind, begin, begun)
    setattr(kind, end, ended)


def has_tangents(tensors: Sequence[Any]) -> bool:
    """Tell whether a ForwardAccumulator follows any of some tensors or handles of variables."""
    try:
        from tensorflow.python.eager import forwardprop_util
    except ImportError:  # before TensorFlow 2.2
        return False
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)


def compiles_with_xla(graph: Any) -> bool:
    """Tell whether a graph is being built for ``tf.function(jit_compile=True)``."""
    from tensorflow.python.ops import control_flow_util

    inside = getattr(control_flow_util, "GraphOrParentsInXlaContext", None)
    return inside is not None and bool(inside(graph))


def captured(graph: Any, x: Any) -> Any:
    """Return what stands in a graph for a tensor of another one or an eager one."""
    there = getattr(x, "graph", None)  # an eager tensor has none
    return x if there is graph or not hasattr(graph, "capture") else graph.capture(x)


def is_vectorized() -> bool:
    """Tell whether what is created now is the body of ``tf.vectorized_map`` or another ``pfor``.

    It makes new operations of those of the body, and knows of no gradients but those of TensorFlow.
    """
    from tensorflow.python.ops.parallel_for import control_flow_ops

    body = control_flow_ops._pfor_impl.__code__
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code is not body:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def captured_again(
    graph: Any, begun_in: Any, tensors: Sequence[Sequence[Any]], count: int
) -> Iterator[List[List[Any]]]:
    """Let a call that is run again in the graph of a backward pass see what it saw at first.

    The gradients of loops and branches are graphs of their own. TensorFlow's gradients refer there
    to the placeholders of the forward graph; a function that is run again refers to the tensors
    these stand for. A graph must not capture both: only one of them would get a value. For a tape,
    a tf.function takes what it captures, and any other operation the placeholder.

    Args:
        graph: The graph, or None when it is run eagerly.
        begun_in: The forward graph.
        tensors: What the call has taken there from outside, each with what it stood for then; see
            ``outer_tensors``. TensorFlow may have put other graphs around it since.
        count: How many of them, the first ones, must be known now. The others are captured where
            the second run uses them: most are handles of variables, of which it is given the
            values, and a saved gradient function may only capture what is saved with it.

    Yields:
        For each of the first ones, all that operations of the second run may refer to it by.
    """
    if not hasattr(graph, "capture"):
        yield [[x] for x, *_ in tensors[:count]]
        return
    if graph is begun_in:
        tensors = tensors[:count]  # a handle of a variable is captured as ever: tapes must notice
    known = graph._function_captures._by_val_internal
    names: List[List[Any]] = []
    others: Dict[int, Tuple[Any, Any]] = {}
    there: Dict[int, Any] = {}

    def stand_in(x: Any, made: Dict[int, Any]) -> Any:
        found = next((known[name] for name in made if name in known), None)
        found = graph.capture(x) if found is None else found
        there.update(dict.fromkeys(made, found))
        return found

    for number, (x, *outside) in enumerate(tensors):
        made = {id(y): y for y in (*outside, *outer_tensors(begun_in, x))}
        if number < count:
            names.append([stand_in(x, made), *made.values()])
        else:
            others.update(dict.fromkeys(made, (x, made)))

    def again(tensor: Any) -> Any:
        if id(tensor) not in there and id(tensor) in others:
            stand_in(*others[id(tensor)])
        found = there.get(id(tensor))
        if found is not None and id(tensor) in others:  # a gather of rows tells no tape itself
            record().record_operation("captured_value", [found], [tensor], lambda x: [x])
        return found

    with _captures_through(graph, again):
        yield names


_capturing = threading.local()
_capturing_lock = threading.Lock()


@contextlib.contextmanager
def _captures_through(graph: Any, answer: Callable[[Any], Any]) -> Iterator[None]:
    """Let a function say what stands in a graph for a tensor, or None, in this thread.

    Replicas are built in one graph by a thread each, and take turns.
    """
    answers: List[Any] = vars(_capturing).setdefault("answers", [])
    with _capturing_lock:
        if not hasattr(graph.capture, "users"):
            graph.capture = _capture(graph)
        graph.capture.users += 1
    answers.append((graph, answer))
    try:
        yield
    finally:
        answers.pop()
        with _capturing_lock:
            graph.capture.users -= 1
            if not graph.capture.users:
                del graph.capture


def _capture(graph: Any) -> Any:
    plain = graph.capture

    def capture(tensor: Any, name: Any = None, **more: Any) -> Any:
        for where, answer in reversed(vars(_capturing).get("answers", ())):
            found = answer(tensor) if where is graph else None
            if found is not None:
                return found
        return plain(tensor, name, **more)

    capture.users = 0  # type: ignore[attr-defined]
    return capture


def outer_tensors(graph: Any, x: Any) -> List[Any]:
    """List what a placeholder in a graph stands for: in the graph around it, and so on outwards."""
    stood_for: List[Any] = []
    while graph is not None:
        found = [outer for outer, inner in getattr(graph, "captures", ()) if inner is x]
        if not found:
            break
        x = found[0]
        stood_for.append(x)
        graph = getattr(graph, "outer_graph", None)
    return stood_for


def stand_ins(graph: Any) -> Set[Any]:
    """Return the placeholders and constants that stand in a graph for tensors from outside."""
    return {x.op for x in getattr(graph, "internal_captures", ())}


def is_in_function(home: Any) -> bool:
    """Tell whether a tf.function is being traced, below a graph or below eager execution.

    Branches and bodies of loops are graphs of other classes.
    """
    import tensorflow as tf
    from tensorflow.python.framework.func_graph import FuncGraph

    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    while graph is not None and graph is not home:
        if type(graph) is FuncGraph:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


@functools.lru_cache(maxsize=None)  # once
def stand_in() -> Any:
    """Return a class that stands for a variable, with another handle or where only that is known.

    The second run of a call is given values of variables, tensors. ``tf.custom_gradient`` inside of
    it gives gradients to variables that it has seen; it takes an instance for one whose handle is
    the tensor, so that the gradient becomes that of the tensor.

    Args:
        name: The name of the variable.
        handle: The value, or the handle.
        dtype: The type of its numbers.
        shape: Its shape.
    """
    from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable

    class StandIn(BaseResourceVariable):  # type: ignore[misc]
        def __init__(self, name: str, handle: Any, dtype: Any, shape: Any) -> None:
            self._tensor, self._named, self._type, self._size = handle, name, dtype, shape
            self._unique_id = self._handle_name = "perftricks_%d" % handle._id
            self._trainable, self._in_graph_mode = True, True

        handle = property(lambda self: self._tensor)
        name = property(lambda self: self._named)
        dtype = property(lambda self: self._type)
        shape = property(lambda self: self._size)

        def value(self) -> Any:
            return self._tensor

        read_value = value

        def __tf_tensor__(self, dtype: Any = None, name: Any = None) -> Any:
            return self._tensor

        def __repr__(self) -> str:
            return "<stands for the variable %s in a call that is recomputed>" % self._named

    return StandIn


def variable_of(handle: Any) -> Any:
    """Return something that stands for the variable whose handle is an eager tensor, or None."""
    data: Any = getattr(getattr(handle, "_handle_data", None), "shape_and_type", ())
    if len(data) != 1:
        return None  # of a table, say
    import tensorflow as tf

    dtype, shape = tf.as_dtype(data[0].dtype), tf.TensorShape(data[0].shape)
    return stand_in()("of a function", handle, dtype, shape)


def accessed(variable: Any, by_tapes_only: bool = False) -> None:
    """Let TensorFlow know that a variable is used, as reading it does."""
    from tensorflow.python import pywrap_tfe

    pywrap_tfe.TFE_Py_TapeVariableAccessed(variable)
    if not by_tapes_only:
        pywrap_tfe.TFE_Py_VariableWatcherVariableAccessed(variable)


def xla_barrier(tensors: Sequence[Any]) -> Sequence[Any]:
    """Pass tensors through a barrier that XLA neither moves operations across nor merges."""
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops.xla_optimization_barrier(tensors)  # type: ignore[no-any-return]


def tensor_id(tensor: Any) -> int:
    """Return a number that no other tensor of TensorFlow has, before or after."""
    return int(tensor._id)


def function_operations(names: Iterable[str], graph: Any = None) -> Set[str]:
    """Return the types of the operations in functions of TensorFlow, and in those they call.

    Args:
        names: What the runtime calls the functions: bodies of loops and branches, tf.functions.
            Names of anything else are passed over.
        graph: The graph that uses them; without one they are looked up where they run eagerly.
    """
    found: Set[str] = set()
    seen, waiting = set(names), list(names)
    while waiting:
        definition = _tensorflow_function(waiting.pop(), graph)
        for node in () if definition is None else definition.node_def:
            found.add(kind_of(node))
            new = functions_of(node) - seen
            seen |= new
            waiting.extend(new)
    return found


def kind_of(node: Any) -> str:
    """Return the type of an operation, a NodeDef, and say so if it is one made deterministic."""
    is_so = "deterministic" in node.attr and node.attr["deterministic"].b
    return node.op + _DETERMINISTIC if is_so else str(node.op)


def eager_kind(name: str, attributes: Sequence[Any]) -> str:
    """Return the same of one that runs eagerly; after each attribute's name comes its value."""
    pairs = dict(zip(attributes[::2], attributes[1::2]))
    return name + _DETERMINISTIC if pairs.get("deterministic") else name


_DETERMINISTIC = " (deterministic)"


def is_function(name: str) -> bool:
    """Tell whether an operation that runs eagerly is a function."""
    from tensorflow.python.eager import context

    return bool(context.context().has_function(name))


def functions_of(node: Any) -> Set[str]:
    """Return the names of the functions that a NodeDef refers to."""
    attributes = node.attr.values()
    return {f.name for value in attributes for f in (value.func, *value.list.func) if f.name}


def _tensorflow_function(name: str, graph: Any) -> Any:
    from tensorflow.python.eager import context

    while graph is not None:
        function = graph._get_function(name)
        if function is not None:
            return function.cached_definition
        graph = getattr(graph, "outer_graph", None)
    if context.context().has_function(name):
        return context.context().get_function_def(name)
    return None


def replace(tensor: Any, other: Any) -> None:
    """Give another tensor of a graph to all that has been made to take this one."""
    for consumer in tensor.consumers():
        for index, given in enumerate(consumer.inputs):
            if given.name == tensor.name:
                consumer._update_input(index, other)


def add_edges(before: Sequence[Any], op: Any) -> None:
    """Let an operation of a graph run only after others; there must be no circle then."""
    if before:
        op._add_control_inputs(before)


def attributes(graph: Any, values: Dict[str, Any]) -> Any:
    """Give the operations that are created inside additional attributes."""
    return graph._attr_scope(values)


def bytes_attribute(value: bytes) -> Any:
    """Return an attribute of an operation that holds bytes."""
    import tensorflow as tf

    return tf.compat.v1.AttrValue(s=value)


def devices_of_other_replicas() -> Set[str]:
    """Return the devices of the replicas that are built beside the one that is being built now."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    mirrored = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    if context is None or not isinstance(context.strategy, mirrored):
        return set()
    here = set(tf.nest.flatten(context.devices))
    return set(context.strategy.extended.worker_devices) - here


def read(handle: Any, dtype: Any) -> Any:
    """Read a variable, by its handle and the type of its numbers."""
    from tensorflow.python.ops import gen_resource_variable_ops

    return gen_resource_variable_ops.read_variable_op(handle, dtype)


def is_read_by_runtime(x: Any) -> bool:
    """Tell whether the runtime reads something by itself when an operation is given it."""
    from tensorflow.python.ops import resource_variable_ops

    return type(x) is resource_variable_ops.ResourceVariable


_installed: List[Any] = []


def answer_operations(answer_of_thread: Callable[[], Any]) -> None:
    """Put a function where TensorFlow enters its runtime eagerly, for the rest of the process.

    Args:
        answer_of_thread: Returns what stands between this thread and its operations, see
            ``runtime.operations_through``; None where they go straight on.
    """
    import tensorflow as tf
    from tensorflow.python.eager import execute
    from tensorflow.python.ops import gen_math_ops

    if _installed:
        return
    newer = hasattr(gen_math_ops, "pywrap_tfe")  # from TensorFlow 2.2 on
    runtime = gen_math_ops.pywrap_tfe if newer else gen_math_ops._pywrap_tensorflow
    fast = runtime.TFE_Py_FastPathExecute

    def fast_path(*args: Any) -> Any:
        answer = answer_of_thread()
        if answer is None:
            return fast(*args)
        at, first = (1, 3) if newer else (2, 5)  # where the type is, and the first input
        return answer(
            lambda *new: fast(*args[:first], *(new or args[first:])), args[at], args[first:]
        )

    def slow_path(slow: Any) -> Any:
        @functools.wraps(slow)
        def path(op_name: Any, num_outputs: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            answer = answer_of_thread()
            name = op_name if isinstance(op_name, str) else op_name.decode()
            if answer is None:
                return slow(op_name, num_outputs, inputs, *rest, **more)
            result = answer(
                lambda *new: _single(
                    slow(op_name, num_outputs, list(new or inputs), *rest, **more)
                ),
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
