"""The only home of private imports: every Keras 2, and eager TensorFlow from 1.14 to the newest.

Each function says what it stands for; differences between versions are met here and nowhere else.
For graphs, see ``private_graphs``.
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

from perftricks.recompute.tensorflow_graphs import private as graphs

tape = graphs.record()
v1 = tf.compat.v1


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
