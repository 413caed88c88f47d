"""TensorFlow: a custom gradient around a call that no tape has seen.

The call runs while recording is stopped. Afterwards its result is attached, as the output of one
operation, to everything it used: arguments, variables, and tensors captured from outside, which
are found by watching the operations. The gradient function runs the call again under a tape of its
own, and not before the incoming gradient exists: a graph orders it by control dependencies; XLA
ignores those, so there the inputs pass an optimization barrier together with the gradient.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Sequence, Set

import numpy as np
import tensorflow as tf

from perftricks.recompute.engines import compat
from perftricks.recompute.engines.operations import DRAWS, WRITES
from perftricks.recompute.engines.ordering import in_order
from perftricks.recompute.engines.tensorflow_reuse import count, operations_since, reuse

if TYPE_CHECKING:
    from perftricks.recompute.engines.keras3 import PureCall


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is a dense tensor; variables and the parts of others are found in use."""
    return isinstance(x, tf.Tensor)


def check_output(x: Any) -> None:
    """Refuse an output whose gradient would be lost without a word."""
    if isinstance(x, (tf.SparseTensor, tf.RaggedTensor, tf.IndexedSlices, tf.TensorArray)):
        raise TypeError(
            "a call that is to be recomputed returned a %s; it can return dense tensors only: "
            "convert it, for example by tf.sparse.to_dense" % type(x).__name__
        )


def is_recording() -> bool:
    """Tell whether a tape is active; a graph may be differentiated without one."""
    recording: bool = compat.tensorflow_record().could_possibly_record()
    return recording or not tf.executing_eagerly()


def prepare(call: Callable[..., Any]) -> Callable[..., Any]:
    """Let AutoGraph convert a function where it would have converted the plain call."""
    autograph = tf.__internal__.autograph
    converted: Callable[..., Any] = autograph.tf_convert(call, autograph.control_status_ctx())
    return converted


def modules(reached: Sequence[Any]) -> List[Any]:
    """Return nothing: this framework has no modules whose state Keras does not know."""
    return []


def home() -> Any:
    """Return the graph in which the call begins, or None when it runs eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def check_read(variable: Any, home: Any) -> None:
    """Refuse a variable read in a tf.function: the function would keep this value for ever."""
    if compat.tensorflow_is_in_function(home):
        raise RuntimeError(
            "a call that is to be recomputed runs a tf.function that reads the variable %s, whose "
            "gradient would be lost; put the tf.function around the training step, or take it away"
            % variable.path
        )


def read(value: Any, home: Any) -> Any:
    """Return the value of a variable as a tensor that is valid in the whole call."""
    with tf.init_scope() if home is None else home.as_default():
        return tf.convert_to_tensor(value)


def keep(value: Any) -> Any:
    """Return the value as it is: tensors do not change."""
    return value


def takes_effect(variable: Any) -> bool:
    """Say yes: assignments do not depend on the precision that is in force."""
    return True


@tf.custom_gradient  # type: ignore[untyped-decorator]
def written(new: Any, old: Any) -> Any:
    """Return the new value as a leaf would be: its gradient is the variable's.

    In mixed precision, Keras up to 3.12 hands over what it assigns in the lower one.
    """
    results = [tf.identity(tf.cast(new, old.dtype))]
    if not tf.executing_eagerly():
        results = in_order(results, [old], ())
    return results[0], lambda gradient: (None, gradient)


def checkpoint(pure: PureCall) -> List[Any]:
    """Run a call; the gradient function runs it again."""
    record = compat.tensorflow_record()
    watcher = record.VariableWatcher()
    # In a loop or a branch, a tape knows what stands there for a tensor from outside.
    given = [compat.tensorflow_captured(home(), x) for x in pure.tensors]
    unrecorded = compat.tensorflow_unrecorded(record)
    with unrecorded, watcher, _Operations.watched() as operations:
        # Copies by name only: a tensor that is also captured must be found as captured.
        copies = [tf.identity(x) for x in given]
        operations.begin()
        results = pure.run(*copies)
    operations.check()
    _check_objects(pure.objects, operations)
    attached = [i for i, y in enumerate(results) if operations.made(y) and _differentiable(y)]
    if not attached:
        return results
    variables = [variable for variable, _ in pure.reads.values()]
    owned = [compat.own_value(variable) for variable in variables]
    known = {id(x) for value in owned for x in (value, *getattr(value, "values", ()))}
    raw = [v for v in watcher.watched_variables() if id(v) not in known]
    values = [tf.convert_to_tensor(pure.current(variable)) for variable in variables]
    inputs = [*given, *values]
    captured, begun_in = operations.captured, home()
    taken = [
        [x, *compat.tensorflow_outside(begun_in, x)] for x in (*captured, *operations.others_taken)
    ]
    for outside in [x[1] for x in taken[: len(captured)] if len(x) > 1]:
        begun_in.capture(outside)  # once more, so that the tapes notice

    def gradient(*upstream: Any) -> List[Any]:
        graph = home()
        upstream = tuple(tf.convert_to_tensor(dy) for dy in upstream)
        seen = compat.tensorflow_captured_again(graph, begun_in, taken)
        with _after(upstream, inputs) as (upstream, copies), seen as names:
            seen_as = [*([x] for x in copies), *names[: len(captured)], *([v] for v in raw)]
            sources = [x for group in seen_as for x in group if _differentiable(x)]
            start = count(graph)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                tensors, values = copies[: len(pure.tensors)], copies[len(pure.tensors) :]
                again = pure.replay(tensors, values)
            middle = count(graph)
            found = iter(tape.gradient([again[i] for i in attached], sources, upstream))
            gradients = [
                _sum([next(found) for x in group if _differentiable(x)]) for group in seen_as
            ]
            second = _of_this_replica(operations_since(graph, start, middle))
            backward = _of_this_replica(operations_since(graph, middle))
            reuse(operations.created, second, backward, gradients, given)
        return gradients

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def attach(*sources: Any) -> Any:
        found = [results[i] for i in attached]
        if not tf.executing_eagerly():
            between = [*(x.op for x in copies), *operations.created]
            found = in_order(found, sources, between)
        return found, gradient

    outputs = list(results)
    sources = [*inputs, *captured, *[tf.convert_to_tensor(v) for v in raw]]
    if compat.tensorflow_has_tangents(sources):
        # Forward-mode differentiation goes along with the call, and needs nothing of it later.
        return pure.replay(given, values)
    for i, y in zip(attached, attach(*sources)):
        outputs[i] = y
    return outputs


@contextlib.contextmanager
def _after(upstream: Sequence[Any], inputs: Sequence[Any]) -> Iterator[Any]:
    """Give copies of the inputs, by name only, that are there once the incoming gradient is."""
    if tf.executing_eagerly():
        yield upstream, [tf.identity(x) for x in inputs]
    elif compat.tensorflow_compiles_with_xla(tf.compat.v1.get_default_graph()):
        after = _barrier(*inputs, *upstream)
        yield after[len(inputs) :], after[: len(inputs)]
    else:
        with tf.control_dependencies(upstream):
            yield upstream, [tf.identity(x) for x in inputs]


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _barrier(*tensors: Any) -> Any:
    def gradient(*upstream: Any) -> List[Any]:
        return [dy if _differentiable(x) else None for x, dy in zip(tensors, upstream)]

    return compat.tensorflow_xla_barrier(tensors), gradient


def _differentiable(x: Any) -> bool:
    """Tell whether a tensor may have a gradient; one of type variant may be a list of others."""
    dtype = tf.as_dtype(x.dtype)
    return bool(dtype.is_floating or dtype.is_complex or dtype == tf.variant)


def _sum(gradients: Sequence[Any]) -> Any:
    """Add the gradients of one tensor under several names; None if there is none."""
    found = [dx for dx in gradients if dx is not None]
    return found[0] if len(found) == 1 else tf.add_n(found) if found else None


def _check_objects(objects: Sequence[Any], operations: _Operations) -> None:
    """Refuse objects of other classes with tensors in them: no gradient would get through."""
    for x in objects:
        if any(operations.made(tensor) for tensor in _tensors_in(x) if _differentiable(tensor)):
            raise TypeError(
                "a call that is to be recomputed returned, or keeps in an attribute, a %s with "
                "tensors inside, whose gradient would be lost; use tuples, lists or dicts of "
                "tensors, or register the class with optree.register_pytree_node (namespace "
                "'keras')" % type(x).__name__
            )


def _tensors_in(x: Any) -> Iterator[Any]:
    """Find the tensors that an object holds, however deep; not those of layers and modules."""
    waiting, seen = [x], set()
    while waiting:
        x = waiting.pop()
        if isinstance(x, tf.Tensor):
            yield x
        if id(x) in seen or isinstance(x, (*_PLAIN, tf.Tensor, tf.Variable, tf.Module)):
            continue
        seen.add(id(x))
        waiting.extend(_held_by(x))


_PLAIN = (type(None), str, bytes, bool, int, float, complex, type, np.ndarray, np.generic)


def _held_by(x: Any) -> List[Any]:
    """List what an object refers to directly: items, attributes, what a function captures."""
    if isinstance(x, dict):
        return [*x.values()]
    if isinstance(x, (list, tuple, set, frozenset)):
        return [*x]
    if type(x).__module__.partition(".")[0] in ("tensorflow", "keras"):
        return []
    slots = [getattr(kind, "__slots__", ()) for kind in type(x).__mro__]
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    held = [getattr(x, name) for name in names if hasattr(x, name)]
    for cell in getattr(x, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            held.append(cell.cell_contents)
    return [*held, *getattr(x, "__dict__", {}).values()]


def _of_this_replica(operations: Sequence[Any]) -> List[Any]:
    """Leave out what another replica has created, where a strategy builds several in one graph.

    Each is built by a thread of its own, and they take turns where they exchange something, as a
    synchronized batch normalization does.
    """
    others = compat.tensorflow_devices_of_other_replicas()
    return [op for op in operations if op.device not in others]


def _text(name: Any) -> str:
    return name if isinstance(name, str) else str(name.decode())


class _Operations:
    """The operations of a call: which tensors they made, and which they took from outside."""

    def __init__(self) -> None:
        self._types: Set[str] = set()
        self._functions: Set[Any] = set()  # operations that have been looked into
        self._made: Set[int] = set()
        self._taken: Dict[int, Any] = {}
        self._others: Dict[int, Any] = {}
        self._begin = 0
        self.created: List[Any] = []

    def begin(self) -> None:
        """The call begins; what has been created before is not a part of it."""
        self._begin = count(home())

    @classmethod
    @contextlib.contextmanager
    def watched(cls) -> Iterator[_Operations]:
        """Watch the operations that run or are created inside."""
        operations = cls()
        if tf.executing_eagerly():
            with compat.tensorflow_operations_reported(operations._ran):
                yield operations
        else:
            graph = tf.compat.v1.get_default_graph()
            start = count(graph)
            yield operations
            operations.created = _of_this_replica(operations_since(graph, operations._begin))
            since = operations_since(graph, start)
            stand_ins = compat.tensorflow_stand_ins(graph)
            for op in since:
                operations._note(op.inputs, () if op in stand_ins else op.outputs, others=True)
            for op in _of_this_replica(since):
                operations._types.add(op.type)
                functions = compat.tensorflow_functions_of(op.node_def)
                operations._types |= compat.tensorflow_function_operations(functions, graph)

    def _ran(
        self,
        op_type: Any,
        inputs: Any,
        attrs: Any,
        outputs: Any,
        op_name: Any = None,
        graph: Any = None,
    ) -> None:
        if graph is None:
            self._note(inputs, outputs)
            self._types.add(_text(op_type))
            if op_type not in self._functions:  # a function runs under its own name
                self._functions.add(op_type)
                self._types |= compat.tensorflow_function_operations([_text(op_type)])

    def _note(self, inputs: Sequence[Any], outputs: Sequence[Any], others: bool = False) -> None:
        for x in inputs:
            if compat.tensor_id(x) not in self._made:
                if _differentiable(x):
                    self._taken[compat.tensor_id(x)] = x
                elif others:
                    self._others[compat.tensor_id(x)] = x
        self._made.update(compat.tensor_id(y) for y in outputs)

    @property
    def captured(self) -> List[Any]:
        """The tensors from outside that may have a gradient."""
        return list(self._taken.values())

    @property
    def others_taken(self) -> List[Any]:
        """In a graph, the others from outside: numbers, handles of variables."""
        return list(self._others.values())

    def made(self, tensor: Any) -> bool:
        """Tell whether a tensor was made by these operations."""
        return compat.tensor_id(tensor) in self._made

    def check(self) -> None:
        """Refuse what cannot be run twice."""
        if self._types & WRITES:
            raise RuntimeError(
                "a call that is to be recomputed assigns a tf.Variable (%s), which would happen "
                "twice; make it a weight of the layer, by self.add_weight"
                % ", ".join(sorted(self._types & WRITES))
            )
        if self._types & DRAWS:
            raise RuntimeError(
                "a call that is to be recomputed draws random numbers of TensorFlow (%s), which "
                "come out differently when it is run again; use keras.random with a SeedGenerator, "
                "or tf.random.stateless_*" % ", ".join(sorted(self._types & DRAWS))
            )
