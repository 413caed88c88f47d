"""The only home of private imports and version checks: what frameworks keep for themselves.

Each function says what it stands for; a newer framework that moves things is met here and nowhere
else. Nothing is imported before a function runs.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from types import ModuleType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Set, Tuple

_reporting = 0  # how many calls have their operations reported, in all threads
_reporting_lock = threading.Lock()


def keras_thread_state() -> Dict[str, Any]:
    """Return the dictionary of this thread in which Keras keeps its scopes and its call context."""
    from keras.src.backend.common import global_state

    state: Dict[str, Any] = vars(global_state.GLOBAL_STATE_TRACKER)
    return state


def keras_backend() -> str:
    """Return the name of the backend of Keras 3."""
    import keras

    name: str = keras.config.backend()
    return name


def get_mask(tensor: Any) -> Any:
    """Return the mask that Keras attached to a tensor, or None."""
    from keras.src import backend

    return backend.get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attach a mask to a tensor, or take it away."""
    from keras.src import backend

    backend.set_keras_mask(tensor, mask)


def hung_on(tensor: Any) -> Dict[str, Any]:
    """Return what Keras, or a program, has hung on a tensor, by name.

    A mask; the logits behind a softmax, which losses read; whatever else was set as an attribute.
    Names with an underscore that are not of Keras are the framework's own.
    """
    found = {
        name: value
        for name, value in getattr(tensor, "__dict__", {}).items()
        if value is not None and (name.startswith("_keras") or not name.startswith("_"))
    }
    mask = get_mask(tensor)  # arrays of JAX have no attributes
    if mask is not None:
        found["_keras_mask"] = mask
    return found


def hang(tensor: Any, attributes: Dict[str, Any]) -> None:
    """Hang these on a tensor, and take away what hangs there under other names.

    What hangs there already is left alone: another thread may be looking at it.
    """
    before = hung_on(tensor)
    for name in before.keys() - attributes.keys():
        if name == "_keras_mask":
            set_mask(tensor, None)
        else:
            delattr(tensor, name)
    for name, value in attributes.items():
        if value is not before.get(name):
            if name == "_keras_mask":
                set_mask(tensor, value)
            else:
                setattr(tensor, name, value)


def is_symbolic() -> bool:
    """Tell whether Keras only infers shapes now: placeholders, meta tensors or abstract tracers."""
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope

    return bool(in_symbolic_scope())


def stateless_scope() -> Any:
    """Return the innermost active StatelessScope, or None."""
    from keras.src.backend.common.stateless_scope import get_stateless_scope

    return get_stateless_scope()


def own_value(variable: Any) -> Any:
    """Return what a Keras variable itself holds: no scope, no cast. None before it is built."""
    return variable._value


def autocast(variable: Any, value: Any) -> Any:
    """Return a value as a variable yields it to the layer that runs now: cast, or as it is."""
    return variable._maybe_autocast(value)


def flat_layers(layer: Any) -> List[Any]:
    """List a layer and all layers below it, each once."""
    layers: List[Any] = layer._flatten_layers()
    return layers


def loss_owner() -> Any:
    """Return the layer whose ``add_loss`` is calling the method that calls this.

    A StatelessScope is handed the loss and not the layer.
    """
    layer = sys._getframe(2).f_locals.get("self")
    if not hasattr(layer, "add_loss"):
        raise RuntimeError(
            "cannot tell which layer added a loss: this version of Keras calls "
            "StatelessScope.add_loss from %s" % sys._getframe(2).f_code.co_name
        )
    return layer


def forget_loss(layer: Any, loss: Any) -> None:
    """Undo that a layer remembers, by its id, a loss that it added in a scope of ours."""
    layer._loss_ids.discard(id(loss))


def tensorflow_record() -> ModuleType:
    """Return TensorFlow's module with ``stop_recording`` and ``VariableWatcher``."""
    from tensorflow.python.eager import record

    return record  # type: ignore[no-any-return]


@contextlib.contextmanager
def tensorflow_operations_reported(callback: Callable[..., Any]) -> Iterator[None]:
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


_unrecorded = threading.local()


@contextlib.contextmanager
def tensorflow_unrecorded(record: Any) -> Iterator[None]:
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


def tensorflow_has_tangents(tensors: Sequence[Any]) -> bool:
    """Tell whether a ForwardAccumulator follows any of some tensors or handles of variables."""
    try:
        from tensorflow.python.eager import forwardprop_util
    except ImportError:  # before TensorFlow 2.2
        return False
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)


def tensorflow_compiles_with_xla(graph: Any) -> bool:
    """Tell whether a graph is being built for ``tf.function(jit_compile=True)``."""
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def tensorflow_captured(graph: Any, x: Any) -> Any:
    """Return what stands in a graph for a tensor of another one; anything else as it is."""
    there = getattr(x, "graph", graph)  # an eager tensor has none
    return x if there is graph or not hasattr(graph, "capture") else graph.capture(x)


@contextlib.contextmanager
def tensorflow_captured_again(
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
            ``tensorflow_outside``. TensorFlow may have put other graphs around it since.
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
        made = {id(y): y for y in (*outside, *tensorflow_outside(begun_in, x))}
        if number < count:
            names.append([stand_in(x, made), *made.values()])
        else:
            others.update(dict.fromkeys(made, (x, made)))

    def again(tensor: Any) -> Any:
        if id(tensor) not in there and id(tensor) in others:
            stand_in(*others[id(tensor)])
        return there.get(id(tensor))

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


def tensorflow_outside(graph: Any, x: Any) -> List[Any]:
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


def tensorflow_stand_ins(graph: Any) -> Set[Any]:
    """Return the placeholders and constants that stand in a graph for tensors from outside."""
    return {x.op for x in getattr(graph, "internal_captures", ())}


def tensorflow_is_in_function(home: Any) -> bool:
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
def tensorflow_stand_in() -> Any:
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


def tensorflow_variable_of(handle: Any) -> Any:
    """Return something that stands for the variable whose handle is an eager tensor, or None."""
    data: Any = getattr(getattr(handle, "_handle_data", None), "shape_and_type", ())
    if len(data) != 1:
        return None  # of a table, say
    import tensorflow as tf

    dtype, shape = tf.as_dtype(data[0].dtype), tf.TensorShape(data[0].shape)
    return tensorflow_stand_in()("of a function", handle, dtype, shape)


def tensorflow_accessed(variable: Any, by_tapes_only: bool = False) -> None:
    """Let TensorFlow know that a variable is used, as reading it does."""
    from tensorflow.python import pywrap_tfe

    pywrap_tfe.TFE_Py_TapeVariableAccessed(variable)
    if not by_tapes_only:
        pywrap_tfe.TFE_Py_VariableWatcherVariableAccessed(variable)


def tensorflow_xla_barrier(tensors: Sequence[Any]) -> Sequence[Any]:
    """Pass tensors through a barrier that XLA neither moves operations across nor merges."""
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops.xla_optimization_barrier(tensors)  # type: ignore[no-any-return]


def tensor_id(tensor: Any) -> int:
    """Return a number that no other tensor of TensorFlow has, before or after."""
    return int(tensor._id)


def tensorflow_function_operations(names: Iterable[str], graph: Any = None) -> Set[str]:
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
            found.add(node.op)
            new = tensorflow_functions_of(node) - seen
            seen |= new
            waiting.extend(new)
    return found


def tensorflow_is_function(name: str) -> bool:
    """Tell whether an operation that runs eagerly is a function."""
    from tensorflow.python.eager import context

    return bool(context.context().has_function(name))


def tensorflow_functions_of(node: Any) -> Set[str]:
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


def tensorflow_replace(tensor: Any, other: Any) -> None:
    """Give another tensor of a graph to all that has been made to take this one."""
    for consumer in tensor.consumers():
        for index, given in enumerate(consumer.inputs):
            if given is tensor:
                consumer._update_input(index, other)


def tensorflow_devices_of_other_replicas() -> Set[str]:
    """Return the devices of the replicas that are built beside the one that is being built now."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    mirrored = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    if context is None or not isinstance(context.strategy, mirrored):
        return set()
    here = set(tf.nest.flatten(context.devices))
    return set(context.strategy.extended.worker_devices) - here


def jax_runs_eagerly() -> bool:
    """Tell whether JAX runs operations at once in this thread, and transforms nothing.

    In ``jax.ensure_compile_time_eval`` it does so although something is transformed; the setting by
    which that works counts only where a scope has it.
    """
    from jax._src import config, core

    at_once = config.eager_constant_folding
    return bool(core.trace_state_clean()) or bool(at_once.value and not at_once.get_global())


def torch_list_of_values(layer: Any) -> Any:
    """Return the module of torch in which a layer of Keras lists its variables' values, or None."""
    return layer._modules.get("_torch_params")


def torch_end_of_recomputation() -> Any:
    """Return the errors by which torch ends a recomputation as soon as it has all it needs."""
    from torch.utils import checkpoint

    return getattr(checkpoint, "_StopRecomputationError", ())


def dynamo_is_tracing() -> bool:
    """Tell whether torch.compile is tracing in this thread."""
    from torch._guards import CompileContext

    return CompileContext.try_get() is not None


def without_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that torch.compile runs as it is, with all that it calls."""
    import torch

    try:
        return torch.compiler.disable(  # type: ignore[no-any-return]
            function,
            reason="perftricks.recompute runs it outside of what is compiled; without "
            "fullgraph=True, what is around it is compiled",
        )
    except TypeError:  # before torch 2.8 it cannot be told why
        return torch.compiler.disable(function)  # type: ignore[no-any-return]


def torch_function_modes() -> List[Any]:
    """List the objects of TorchFunctionMode in force in this thread, the innermost last.

    A ``torch.device`` that is entered, and a default device, are such modes.
    """
    from torch import overrides

    return overrides._get_current_function_mode_stack()  # type: ignore[no-any-return]


def torch_dispatch_modes() -> List[Any]:
    """List the objects of TorchDispatchMode that programs have put in force in this thread.

    Left out are those by which torch itself traces (fake tensors, proxies, functionalization),
    which it keeps apart, and those of its selective checkpoint, which change no number and must see
    each operation of a recomputation once.
    """
    from torch.utils import _python_dispatch

    if not _python_dispatch._len_torch_dispatch_stack():  # nearly always
        return []
    return [
        mode
        for mode in _python_dispatch._get_current_dispatch_mode_stack()
        if getattr(mode, "_mode_key", None) is None
        and type(mode).__module__ != "torch.utils.checkpoint"
    ]


@contextlib.contextmanager
def torch_modes_in_force(function: Sequence[Any], dispatch: Sequence[Any]) -> Iterator[None]:
    """Have these modes in force in this thread, and no others, for a while.

    What a mode does when it is entered is not done: only that of torch's own base class.
    """
    from torch.overrides import TorchFunctionMode
    from torch.utils import _python_dispatch

    with contextlib.ExitStack() as stack:
        now = torch_dispatch_modes()
        if not _same_objects(now, dispatch):
            for _ in now:
                stack.callback(_python_dispatch._push_mode, _python_dispatch._pop_mode())
            for mode in dispatch:
                _enter(stack, _python_dispatch.TorchDispatchMode, mode)
        now = torch_function_modes()
        if not _same_objects(now, function):
            for mode in reversed(now):
                TorchFunctionMode.__exit__(mode, None, None, None)
                stack.callback(TorchFunctionMode.__enter__, mode)
            for mode in function:
                _enter(stack, TorchFunctionMode, mode)
        yield


def _enter(stack: contextlib.ExitStack[Any], base: Any, mode: Any) -> None:
    base.__enter__(mode)
    stack.callback(base.__exit__, mode, None, None, None)


def _same_objects(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others))


# Which kernels torch chooses: ``_C._get_<name>`` tells and ``_C._set_<name>`` changes it. Programs
# do so by the contexts ``flags`` of torch.backends, sdpa_kernel and functions of torch itself.
_TORCH_CHOICES = (
    "cudnn_enabled",
    "cudnn_benchmark",
    "cudnn_deterministic",
    "cudnn_depthwise_kernel",
    "cublas_allow_fp16_reduced_precision_reduction",
    "cublas_allow_bf16_reduced_precision_reduction",
    "cublas_allow_fp16_accumulation",
    "cpu_allow_fp16_reduced_precision_reduction",
    "blas_preferred_backend",
    "linalg_preferred_backend",
    "mkldnn_enabled",
    "mkldnn_deterministic",
    "nnpack_enabled",
    "math_sdp_allow_fp16_bf16_reduction",
    "sdp_priority_order",
)
_TORCH_ATTENTION = ("flash", "mem_efficient", "math", "cudnn", "overrideable", "fa3")
# Of old, and since torch 2.9; of the latter, one that is not set follows from those above it.
_TORCH_TF32 = ("float32_matmul_precision", "cublas_allow_tf32", "cudnn_allow_tf32")
_TORCH_PRECISIONS = (
    ("generic", "all"),
    *((kind, op) for kind in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")),
)


@functools.lru_cache(maxsize=None)
def _torch_settings() -> List[Tuple[Callable[[], Any], Callable[[Any], None]]]:
    """List functions that tell and that change what this version of torch has of settings."""
    import torch

    names = [("_get_" + name, "_set_" + name) for name in (*_TORCH_CHOICES, *_TORCH_TF32)]
    names += [("_get_%s_sdp_enabled" % x, "_set_sdp_use_" + x) for x in _TORCH_ATTENTION]
    of_precision: List[Tuple[Callable[[], Any], Callable[[Any], None]]] = []
    if hasattr(torch._C, "_get_fp32_precision_getter"):
        of_precision = [
            (
                functools.partial(torch._C._get_fp32_precision_getter, *pair),
                functools.partial(torch._C._set_fp32_precision_setter, *pair),
            )
            for pair in _TORCH_PRECISIONS
        ]
    return [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
        *(
            (functools.partial(_listed, hooks), functools.partial(_refill, hooks))
            for hooks in (
                torch.nn.modules.module._global_forward_pre_hooks,
                torch.nn.modules.module._global_forward_hooks,
                torch.nn.modules.module._global_forward_hooks_always_called,
                torch.nn.modules.module._global_forward_hooks_with_kwargs,
            )
        ),
        *(
            (functools.partial(_told, getattr(torch._C, tell)), getattr(torch._C, change))
            for tell, change in (
                *names,
                ("_get_torch_function_state", "_set_torch_function_state"),
            )
            if hasattr(torch._C, tell) and hasattr(torch._C, change)
        ),
        *of_precision,
    ]


_UNTOLD = object()


def _told(tell: Callable[[], Any]) -> Any:
    try:
        return tell()
    except RuntimeError:  # the old setting has no answer where a program has used the new one
        return _UNTOLD


def _listed(hooks: Dict[int, Any]) -> List[Any]:
    return [*hooks.items()]


def _refill(hooks: Dict[int, Any], items: Iterable[Any]) -> None:
    hooks.clear()
    hooks.update(items)


def torch_settings() -> List[Any]:
    """Return the settings of torch by which the same program gives other numbers.

    They hold for all threads, but for those of its function modes; hooks for all modules are such
    a setting too.
    """
    return [tell() for tell, _ in _torch_settings()]


@contextlib.contextmanager
def torch_settings_in_force(then: Sequence[Any]) -> Iterator[None]:
    """Have the settings be what ``torch_settings`` has returned, for a while."""
    now = torch_settings()
    if now != then:
        _set_torch(then)
    try:
        yield
    finally:
        if now != then:
            _set_torch(now)


def _set_torch(values: Sequence[Any]) -> None:
    for (tell, change), value in zip(_torch_settings(), values):
        if value is not _UNTOLD and tell() != value:
            change(*value) if isinstance(value, tuple) else change(value)


class TorchParametrizations:
    """What ``torch.nn.utils.parametrize.cached`` keeps at one moment: computed parameters."""

    def __init__(self) -> None:
        from torch.nn.utils import parametrize

        self._module = parametrize
        self._enabled = parametrize._cache_enabled
        self._cache = dict(parametrize._cache)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Keep what was kept then, for a while."""
        module = self._module
        if not self._enabled and not module._cache_enabled:
            yield
            return
        now = module._cache_enabled, module._cache
        module._cache_enabled, module._cache = self._enabled, dict(self._cache)
        try:
            yield
        finally:
            module._cache_enabled, module._cache = now


def torch_saved_tensors_hooks() -> Any:
    """Return the pair of hooks by which a program has tensors saved; None if they are torch's."""
    import torch

    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)(False)
    ours = top is not None and str(getattr(top[0], "__module__", "")).startswith("torch.")
    return None if ours else top


def torch_is_transformed() -> bool:
    """Tell whether a transformation of torch.func that goes backward, or vmap, is being applied.

    Forward-mode differentiation (jvp) goes along with a call and needs nothing of autograd.
    """
    import torch

    stack = torch._C._functorch.get_interpreter_stack() or ()
    forward = torch._C._functorch.TransformType.Jvp
    return any(level.key() != forward for level in stack)
