"""TensorFlow: a custom gradient around a call that no tape has seen.

The call runs while recording is stopped. Afterwards its result is attached, as the output of one
operation, to everything it used: arguments, variables, and tensors captured from outside, which
are found by watching the operations. The gradient function runs the call again under a tape of its
own, and not before the incoming gradient exists: a graph orders it by control dependencies; XLA
ignores those, so there the inputs pass an optimization barrier together with the gradient.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
import tensorflow as tf

from perftricks.recompute.keras3.dense import other_names as other_names
from perftricks.recompute.keras3.pure import PureCall
from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs import runtime
from perftricks.recompute.tensorflow_graphs.between import Values, read_as_before
from perftricks.recompute.tensorflow_graphs.kept import marked
from perftricks.recompute.tensorflow_graphs.operations import DRAWS, MOVES, POOLS, WRITES
from perftricks.recompute.tensorflow_graphs.ordering import in_order, weights_first
from perftricks.recompute.tensorflow_graphs.reuse import count, operations_since, reuse

CHANGEABLE: Tuple[type, ...] = ()


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is a dense tensor; variables and the parts of others are found in use."""
    return isinstance(x, tf.Tensor)


def parts(x: Any) -> Optional[List[Any]]:
    """Return the tensors that a ragged or sparse tensor, or the like, is made of; else None."""
    if not isinstance(x, _COMPOSITE) or isinstance(x, (tf.Tensor, tf.Variable, tf.TensorArray)):
        return None
    return list(tf.nest.flatten(x, expand_composites=True))


def outline(x: Any) -> Any:
    """Return the tensor itself."""
    return x


def whole(outline: Any, parts: Sequence[Any]) -> Any:
    """Return a ragged or sparse tensor like this one that is made of other tensors."""
    return tf.nest.pack_sequence_as(outline, list(parts), expand_composites=True)


_COMPOSITE = tf.__internal__.CompositeTensor


def check_output(x: Any) -> None:
    """Refuse an output whose gradient would be lost without a word."""
    if isinstance(x, tf.TensorArray):
        raise TypeError(
            "a call that is to be recomputed returned a TensorArray, whose gradient would be lost; "
            "return a tensor, for example by its stack()"
        )


def is_recording() -> bool:
    """Tell whether a tape is active; a graph may be differentiated without one."""
    recording: bool = graphs.record().could_possibly_record()
    return recording or not tf.executing_eagerly()


def is_empty(x: Any) -> bool:
    """Tell whether a tensor of a graph is known to have no elements.

    Grappler divides by their number where it looks into a batch normalization of what is computed
    twice, and the process ends: https://github.com/tensorflow/tensorflow has no fix.
    """
    return not tf.executing_eagerly() and x.shape.num_elements() == 0


def is_vectorized() -> bool:
    """Tell whether the body of a ``tf.vectorized_map`` is traced: it drops custom gradients."""
    return not tf.executing_eagerly() and graphs.is_vectorized()


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


def is_in_function(home: Any) -> bool:
    """Tell whether a tf.function is being traced inside of the call."""
    return graphs.is_in_function(home)


def may_assign(home: Any) -> bool:
    """Tell whether no loop, branch or function inside of the call is being traced."""
    return tf.executing_eagerly() or tf.compat.v1.get_default_graph() is home


def noticed(variable: Any, value: Any) -> None:
    """Let tapes and a ``tf.custom_gradient`` inside of the call know that it uses a variable."""
    if variable.trainable and isinstance(value, tf.Tensor):
        stand_in = graphs.stand_in()
        graphs.accessed(stand_in(variable.path, value, value.dtype, value.shape))


def read(value: Any, home: Any) -> Any:
    """Return the value of a variable as a tensor that is valid in the whole call."""
    with _Watcher.paused(), tf.init_scope() if home is None else home.as_default():
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


def mark(x: Any, name: str) -> Any:
    """Return a tensor of a graph with a name written on it; elsewhere nothing can be kept."""
    return marked(x, name)


def checkpoint(pure: PureCall) -> List[Any]:
    """Run a call; the gradient function runs it again."""
    watcher = _Watcher()
    # In a loop or a branch, a tape knows what stands there for a tensor from outside.
    given = [graphs.captured(home(), x) for x in pure.tensors]
    unrecorded = graphs.unrecorded(graphs.record())
    with unrecorded, watcher, _Operations.watched() as operations:
        # Copies by name only: a tensor that is also captured must be found as captured.
        copies = [tf.identity(x) for x in given]
        operations.begin(copies)
        results = pure.run(*copies)
    operations.check()
    _check_objects(pure.objects, operations)
    _check_left_outside(pure.left_outside, operations)
    pure.left_outside.clear()
    ends = [_beneath(y, operations) for y in results]
    attached = list({graphs.tensor_id(y): i for i, y in enumerate(ends)}.values())
    attached = [i for i in attached if operations.made(ends[i]) and _differentiable(ends[i])]
    if not attached:
        return results
    variables = [variable for variable, _ in pure.reads.values()]
    raw = watcher.variables
    for variable in operations.variables_but(raw):
        graphs.accessed(variable, by_tapes_only=True)
        raw.append(variable)
    values = [tf.convert_to_tensor(pure.current(variable)) for variable in variables]
    inputs = [*given, *values]
    captured, begun_in = operations.captured, home()
    taken = [[x, *graphs.outer_tensors(begun_in, x)] for x in (*captured, *operations.others_taken)]
    for outside in [x[1] for x in taken[: len(captured)] if len(x) > 1]:
        begun_in.capture(outside)  # once more, so that the tapes notice
    asked_for: Set[int] = set()

    def gradient(*upstream: Any) -> List[Any]:
        graph = home()
        upstream = tuple(tf.convert_to_tensor(dy) for dy in upstream)
        # TensorFlow hands over zeros for what nobody uses. They would become gradients where there
        # is none in a plain run, and not numbers where they meet an infinite one.
        pairs = [(i, dy) for i, dy in zip(attached, upstream) if not asked_for or i in asked_for]
        used, upstream = [i for i, _ in pairs], tuple(dy for _, dy in pairs)
        asked_for.clear()
        seen = graphs.captured_again(graph, begun_in, taken, len(captured))
        as_before = watcher.values.put_back()
        with as_before, _after(upstream, inputs) as (upstream, copies), seen as names:
            seen_as = [*([x] for x in copies), *names, *([v] for v in raw)]
            sources = [x for group in seen_as for x in group if _differentiable(x)]
            start = count(graph)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                tensors, values = copies[: len(pure.tensors)], copies[len(pure.tensors) :]
                again = pure.replay(tensors, values)
            middle = count(graph)
            ends_again = [
                _beneath(again[i]) if ends[i] is not results[i] else again[i] for i in used
            ]
            with pure.replaying(values):  # a gradient inside may run a part of the call once more
                found = iter(tape.gradient(ends_again, sources, upstream))
            gradients = [
                _sum([next(found) for x in group if _differentiable(x)]) for group in seen_as
            ]
            second = _of_this_replica(operations_since(graph, start, middle))
            backward = _of_this_replica(operations_since(graph, middle))
            reuse(operations.created, second, backward, gradients, given, pure.policy)
            since = operations_since(begun_in, operations.begun_at)
            again = [*second, *backward]
            gradients = read_as_before(operations.created, again, gradients, graph, since)
        if graph is None:
            return gradients
        of_weights = [False] * len(given) + [True] * len(values)
        of_weights += [False] * len(captured) + [True] * len(raw)
        return weights_first(gradients, of_weights, backward)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def attach(*sources: Any) -> Any:
        found = [ends[i] for i in attached]
        if not tf.executing_eagerly():
            between = [*(x.op for x in copies), *operations.created]
            found = in_order(found, sources, between)
        return found, gradient

    sources = [*inputs, *captured, *[tf.convert_to_tensor(v) for v in raw]]
    if graphs.has_tangents(sources):
        # Forward-mode differentiation goes along with the call, and needs nothing of it later.
        return pure.replay(given, values)
    found = dict(zip(attached, attach(*sources)))
    if len(found) > 1:
        found = {i: _gated(y, functools.partial(asked_for.add, i)) for i, y in found.items()}
    by_id = {graphs.tensor_id(ends[i]): y for i, y in found.items()}
    outputs = []
    for y, end in zip(results, ends):
        new = by_id.get(graphs.tensor_id(end), end)
        outputs.append(new if end is y else _once_more(y.op, new))
    return outputs


def _gated(y: Any, asked: Callable[[], None]) -> Any:
    """Return a tensor, and say so when there is a gradient for it."""

    def gradient(dy: Any) -> Any:
        asked()
        return dy

    return tf.custom_gradient(lambda y: (tf.identity(y), gradient))(y)


class _Watcher:
    """Notes the variables that a call reads itself, and none of those that are read for it."""

    _all = threading.local()

    def __init__(self) -> None:
        self._found: Dict[int, Any] = {}
        self._is_on = False
        self._through = contextlib.ExitStack()
        self.values = Values()  # of all that are read, eagerly

    def __enter__(self) -> None:
        self._active.append(self)
        self._begin()
        if tf.executing_eagerly():
            self._through.enter_context(runtime.operations_through(self._answer))

    def __exit__(self, *error: Any) -> None:
        self._through.close()
        self._end()
        self._active.remove(self)

    def _answer(self, run: Callable[..., Any], name: str, inputs: Sequence[Any]) -> Any:
        on = self._is_on and tf.executing_eagerly()
        return self.values.note(run, name, inputs) if on else run()

    @property
    def variables(self) -> List[Any]:
        """The variables, each once."""
        return [v for v in self._found.values() if not isinstance(v, graphs.stand_in())]

    @property
    def _active(self) -> List[_Watcher]:
        found: List[_Watcher] = vars(self._all).setdefault("active", [])
        return found

    def _begin(self) -> None:
        self._watcher = graphs.record().VariableWatcher()
        self._watcher.__enter__()
        self._is_on = True

    def _end(self) -> None:
        self._is_on = False
        self._found.update((id(v), v) for v in self._watcher.watched_variables())
        self._watcher.__exit__(None, None, None)

    @classmethod
    @contextlib.contextmanager
    def paused(cls) -> Iterator[None]:
        """Let no call of this thread note what is read inside."""
        watchers = list(vars(cls._all).get("active", ()))
        for watcher in watchers:
            watcher._end()
        try:
            yield
        finally:
            for watcher in watchers:
                watcher._begin()


_HEADS = {"Softmax": "logits", "Sigmoid": "x"}


def _beneath(y: Any, operations: Optional[_Operations] = None) -> Any:
    """Return what a softmax or sigmoid of a graph was made of; anything else as it is.

    Keras' losses look for these operations at the end of a model, and go on with what they were
    made of. So the call is recomputed up to there, and the last operation comes after it.

    Args:
        y: A tensor.
        operations: Those of the call, of which it must be one.
    """
    if tf.executing_eagerly() or y.op.type not in _HEADS:
        return y
    x = y.op.inputs[0]
    return x if operations is None or operations.made(x) else y


def _once_more(op: Any, x: Any) -> Any:
    """Return what an operation of one input gives for another input."""
    return getattr(tf.raw_ops, op.type)(**{_HEADS[op.type]: x})


@contextlib.contextmanager
def _after(upstream: Sequence[Any], inputs: Sequence[Any]) -> Iterator[Any]:
    """Give copies of the inputs, by name only, that are there once the incoming gradient is."""
    if tf.executing_eagerly():
        yield upstream, [tf.identity(x) for x in inputs]
    elif graphs.compiles_with_xla(tf.compat.v1.get_default_graph()):
        after = _barrier(*inputs, *upstream)
        yield after[len(inputs) :], after[: len(inputs)]
    else:
        with tf.control_dependencies(upstream):
            yield upstream, [tf.identity(x) for x in inputs]


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _barrier(*tensors: Any) -> Any:
    def gradient(*upstream: Any) -> List[Any]:
        return [dy if _differentiable(x) else None for x, dy in zip(tensors, upstream)]

    return graphs.xla_barrier(tensors), gradient


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


def _check_left_outside(objects: Sequence[Any], operations: _Operations) -> None:
    """Refuse tensors in variables of closures and globals: no gradient would get through."""
    for x in objects:
        found = filter(_differentiable, _tensors_in(x))
        if any(map(operations.made_of_arguments, found)):
            raise TypeError(
                "a call that is to be recomputed keeps a %s in a variable of a closure, a global, "
                "or a list or dict there: its gradient would be lost. Return it as well, keep it "
                "in an attribute of the layer, or put tf.stop_gradient of what is returned there"
                % type(x).__name__
            )


def _tensors_in(x: Any) -> Iterator[Any]:
    """Find the tensors that an object holds, however deep; not those of layers and modules."""
    waiting, seen = [x], set()
    while waiting:
        x = waiting.pop()
        if isinstance(x, tf.Tensor):
            yield x
        if isinstance(x, _COMPOSITE):
            yield from tf.nest.flatten(x, expand_composites=True)
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
    others = graphs.devices_of_other_replicas()
    return [op for op in operations if op.device not in others]


def _text(name: Any) -> str:
    return name if isinstance(name, str) else str(name.decode())


class _Operations:
    """The operations of a call: which tensors they made, and which they took from outside."""

    def __init__(self) -> None:
        self._types: Set[str] = set()
        self._functions: Set[Any] = set()  # operations that have been looked into
        self._made: Set[int] = set()
        self._of_arguments: Set[int] = set()
        self._taken: Dict[int, Any] = {}
        self._others: Dict[int, Any] = {}
        self._handles: Dict[int, Any] = {}
        self.begun_at = 0
        self.created: List[Any] = []

    def begin(self, arguments: Sequence[Any]) -> None:
        """The call begins; what has been created before is not a part of it."""
        self.begun_at = count(home())
        self._of_arguments.update(map(graphs.tensor_id, arguments))

    @classmethod
    @contextlib.contextmanager
    def watched(cls) -> Iterator[_Operations]:
        """Watch the operations that run or are created inside."""
        operations = cls()
        if tf.executing_eagerly():
            with graphs.operations_reported(operations._ran):
                yield operations
        else:
            graph = tf.compat.v1.get_default_graph()
            start = count(graph)
            yield operations
            operations.created = _of_this_replica(operations_since(graph, operations.begun_at))
            since = operations_since(graph, start)
            stand_ins = graphs.stand_ins(graph)
            for op in since:
                outputs = () if op in stand_ins else op.outputs
                operations._note(op.type, op.inputs, outputs, others=True)
            for op in _of_this_replica(since):
                operations._note_kind(graphs.kind_of(op.node_def), op.inputs)
                functions = graphs.functions_of(op.node_def)
                operations._types |= graphs.function_operations(functions, graph)

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
            name = _text(op_type)
            self._note_kind(graphs.eager_kind(name, attrs), inputs)
            self._note(name, inputs, outputs)
            if op_type not in self._functions:  # a function runs under its own name
                self._functions.add(op_type)
                self._types |= graphs.function_operations([name])
            if graphs.is_function(name):
                self._handles.update((x._id, x) for x in inputs if x.dtype == tf.resource)

    def _note_kind(self, kind: str, inputs: Sequence[Any]) -> None:
        # What the call itself has made, an iterator of a dataset for one, begins anew.
        if kind not in MOVES or graphs.tensor_id(inputs[0]) not in self._made:
            self._types.add(kind)

    def _note(
        self, kind: str, inputs: Sequence[Any], outputs: Sequence[Any], others: bool = False
    ) -> None:
        depends = not self._of_arguments.isdisjoint(map(graphs.tensor_id, inputs))
        if depends and kind != "StopGradient":
            self._of_arguments.update(map(graphs.tensor_id, outputs))
        for x in inputs:
            if graphs.tensor_id(x) not in self._made:
                if _differentiable(x):
                    self._taken[graphs.tensor_id(x)] = x
                elif others:
                    self._others[graphs.tensor_id(x)] = x
        self._made.update(graphs.tensor_id(y) for y in outputs)

    @property
    def captured(self) -> List[Any]:
        """The tensors from outside that may have a gradient."""
        return list(self._taken.values())

    @property
    def others_taken(self) -> List[Any]:
        """In a graph, the others from outside: numbers, handles of variables."""
        return list(self._others.values())

    def variables_but(self, known: Sequence[Any]) -> List[Any]:
        """List what stands for variables that functions have read, other than some.

        No watcher is told, where such a function has been traced before and is run eagerly.
        """
        handles = {v.handle._id for v in known if tf.executing_eagerly()}
        left = [handle for number, handle in self._handles.items() if number not in handles]
        found = map(graphs.variable_of, left)
        return [variable for variable in found if variable is not None]

    def made(self, tensor: Any) -> bool:
        """Tell whether a tensor was made by these operations."""
        return graphs.tensor_id(tensor) in self._made

    def made_of_arguments(self, tensor: Any) -> bool:
        """Tell whether a tensor was made of what the call is given, and has a gradient."""
        return graphs.tensor_id(tensor) in self._of_arguments and self.made(tensor)

    def check(self) -> None:
        """Refuse what cannot be run twice."""
        if self._types & WRITES:
            raise RuntimeError(
                "a call that is to be recomputed assigns a tf.Variable (%s), which would happen "
                "twice; make it a weight of the layer, by self.add_weight"
                % ", ".join(sorted(self._types & WRITES))
            )
        if self._types & MOVES:
            raise RuntimeError(
                "a call that is to be recomputed takes from, or puts into, a table, a queue or an "
                "iterator (%s), which would happen twice; do that outside, and give the call what "
                "it needs of it" % ", ".join(sorted(self._types & MOVES))
            )
        drawn = self._types & (DRAWS | POOLS)
        if drawn:
            raise RuntimeError(
                "a call that is to be recomputed draws random numbers of TensorFlow (%s), which "
                "come out differently when it is run again; use keras.random with a SeedGenerator, "
                "or tf.random.stateless_*, or draw outside of the call" % ", ".join(sorted(drawn))
            )
