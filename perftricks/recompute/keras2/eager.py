"""Keras 2 running eagerly: a call that no tape has seen, called again in the backward pass.

The first call runs unrecorded; afterwards one operation from everything it used to everything it
made is recorded on the tapes. In the backward pass the call runs again, under a tape of its own, as
if it were then: random numbers and what variables gave come out of a log, and the variables that it
assigns, the attributes of layers, the call context of Keras and the seeds are what they were. All
are put back afterwards.
"""

from __future__ import annotations

import weakref
from typing import Any, Callable, Dict, List, Sequence, Tuple

import tensorflow as tf

from perftricks.recompute import references
from perftricks.recompute.generators import Generators
from perftricks.recompute.keras2 import interception, private
from perftricks.recompute.keras2.tensors import Path, Results, hang, hung_on, structures
from perftricks.recompute.python_state import Attributes
from perftricks.recompute.referents import Referents
from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tensorflow_graphs import runtime
from perftricks.recompute.tensorflow_graphs.operations import DRAWS, MOVES, WRITES


def checkpointed(
    call: Callable[..., Any],
    args: Tuple[Any, ...],
    kwargs: Dict[str, Any],
    layers: Sequence[Any],
) -> Any:
    """Return ``call(*args, **kwargs)``, and record that it is to be called again."""
    if not private.may_record():
        return call(*args, **kwargs)
    owner = getattr(call, "__self__", None)
    reached = references.reached([owner, call, layers, args, kwargs], _below)
    layers = [x for x in reached if isinstance(x, tf.Module)]
    modules = private.with_own_state(layers)
    unbuilt = [module for module in modules if not getattr(module, "built", True)]
    if not all(module in _idle for module in unbuilt):
        # Variables that are created in a call cannot be forgotten, so this one runs plainly.
        outputs = call(*args, **kwargs)
        _idle.update(module for module in unbuilt if not module.built)
        return outputs
    outputs = _Call(call, args, kwargs, modules, Generators(reached), Referents(reached)).run()
    late = [module.name for module in unbuilt if module.built]
    if late:
        raise RuntimeError(
            "a call that is recomputed has built %s, which it did not use before; build all layers "
            "first, by a call with recompute_scope(False)" % ", ".join(late)
        )
    return outputs


def _below(x: Any) -> List[Any]:
    """List a layer and all layers below it, each once; nothing for what is no layer."""
    return private.modules_at(x) if isinstance(x, tf.Module) else []


_idle: Any = weakref.WeakSet()  # layers that are there but were not used

# What is not run again: what it gave the first time is given once more.
_ONCE = DRAWS | MOVES


class _Call:
    """One call, ready to be run again."""

    def __init__(
        self,
        call: Callable[..., Any],
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        modules: Sequence[Any],
        generators: Generators,
        referents: Referents,
    ) -> None:
        self._referents = referents
        self._generators = generators
        self._call = call
        self._structure = (args, kwargs)
        self._leaves = structures.flatten(self._structure)
        self._given = {id(x): x for x in self._leaves if _is_tensor(x) and _differentiable(x)}
        self._hung = {key: dict(hung_on(x)) for key, x in self._given.items()}
        self._attributes = Attributes(modules)
        self._scopes = private.Scopes()
        self._drawn: List[Any] = []
        self._before: Dict[int, Tuple[Any, Any]] = {}  # handles and values of what is assigned
        self._read: Dict[int, Any] = {}  # values of what is read, by the ids of the handles
        self._in_functions: Dict[int, Any] = {}  # handles of what functions read

    def run(self) -> Any:
        """Run it for the first time."""
        start = private.newest_tensor()
        used = interception.Used()
        first = runtime.operations_through(
            lambda run, name, inputs: self._first(run, name, inputs, used)
        )
        with private.unrecorded(), first, interception.variables_noted(used):
            outputs = self._call(*self._structure[0], **self._structure[1])
        self._generators.forget_unused()
        self._referents.left_by_call()
        made: Dict[int, Tuple[Path, Any]] = {}  # what an argument has given back is not made
        for path, x in self._results(outputs, self._leaves).items():
            if x._id > start and _differentiable(x):
                made.setdefault(id(x), (path, x))
        # What is also an argument may have been captured besides: the tape adds both parts.
        captured = [x for x in used.tensors.values() if x._id <= start and _differentiable(x)]
        if made:
            paths = [path for path, _ in made.values()]
            variables = list(used.variables.values())
            for variable in variables:
                private.variable_accessed(variable)
            sources = [*self._given.values(), *captured, *(v.handle for v in variables)]
            _check_forward_mode(sources)
            private.record(
                "PerftricksRecompute",
                [x for _, x in made.values()],
                sources,
                lambda *upstream: self._gradient(paths, captured, variables, upstream),
            )
        return outputs

    def _first(self, run: Callable[..., Any], name: str, inputs: Sequence[Any], used: Any) -> Any:
        used.note(inputs)
        if name.startswith("__"):
            _check_function(name)
            for variable in interception.variables_of_function():
                used.note_variable(variable)
                self._in_functions[id(variable.handle)] = variable.handle
                runtime.read_handle(variable.handle)  # which comes here as well
        if name == "ResourceGather":
            runtime.read_handle(inputs[0])
        for variable in runtime.variables_among(inputs):  # the runtime reads them by itself
            runtime.read_handle(variable.handle)
        if name in WRITES and id(inputs[0]) not in self._before:
            self._before[id(inputs[0])] = inputs[0], runtime.read_handle(inputs[0])
        result = run()
        if name in _ONCE:
            self._drawn.append(result)
        if name == "ReadVariableOp":
            self._read.setdefault(id(inputs[0]), result)
        return result

    def _results(self, outputs: Any, given: Sequence[Any]) -> Dict[Path, Any]:
        """List what the call has given, and what it has left in attributes."""
        found = Results(outputs, given).tensors
        for number, change in enumerate(self._attributes.changes()):
            for place, x in enumerate(change.leaves):
                if _is_tensor(x):
                    found["attribute", number, place] = x
        return found

    def _gradient(
        self,
        paths: Sequence[Path],
        captured: Sequence[Any],
        variables: Sequence[Any],
        upstream: Sequence[Any],
    ) -> List[Any]:
        # A jacobian may ask in a graph, for many gradients at once. The call ran outside of it.
        with private.eagerly():
            # Not tf.identity, which in TensorFlow 2.0 may return the tensor itself.
            copies = {key: tf.raw_ops.Identity(input=x) for key, x in self._given.items()}
            for key, x in copies.items():
                hang(x, self._hung[key])
            sources = [*copies.values(), *captured, *variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                again = self._replay([copies.get(id(x), x) for x in self._leaves])
        wanted = [i for i, dy in enumerate(upstream) if dy is not None]
        found: List[Any] = tape.gradient(
            [again[paths[i]] for i in wanted],
            sources,
            output_gradients=[upstream[i] for i in wanted],
        )
        return found

    def _replay(self, leaves: Sequence[Any]) -> Dict[Path, Any]:
        args, kwargs = structures.pack(self._structure, leaves)
        drawn = iter(self._drawn)

        def answer(run: Callable[..., Any], name: str, inputs: Sequence[Any]) -> Any:
            if name in _ONCE:
                return next(drawn)
            if name in private.READ_AGAIN and id(inputs[0]) in known_values:
                return private.read_again(name, inputs, known_values[id(inputs[0])])
            return run(*private.with_values(inputs, known_values))

        self._check_functions()
        known_values = {key: x for key, x in self._read.items() if key not in self._before}
        assigned = list(self._before.values())
        values = [(handle, runtime.read_handle(handle)) for handle, _ in assigned]
        known = self._referents.replayed()
        with self._attributes.replayed(), self._generators.replayed(), known:
            try:
                for handle, old in assigned:
                    runtime.assign_handle(handle, old)
                with self._scopes.entered(), runtime.operations_through(answer):
                    outputs = self._call(*args, **kwargs)
                return self._results(outputs, leaves)
            finally:
                for handle, value in values:
                    runtime.assign_handle(handle, value)

    def _check_functions(self) -> None:
        """Refuse to run a function again that would read other values than it did."""
        for key, handle in self._in_functions.items():
            if key not in self._before and not runtime.is_same(
                runtime.read_handle(handle), self._read[key]
            ):
                raise RuntimeError(
                    "a call that is recomputed eagerly runs a tf.function, and a variable that it "
                    "reads was assigned to before the gradient was taken; take the gradient "
                    "first, or put the tf.function around the training step instead"
                )


def _check_forward_mode(inputs: Sequence[Any]) -> None:
    """Refuse to be followed by a ForwardAccumulator: it would see none of the call."""
    if graphs.has_tangents(inputs):
        raise RuntimeError(
            "a tf.autodiff.ForwardAccumulator follows a call that is recomputed eagerly; run the "
            "call under recompute_scope(False): forward-mode differentiation keeps no activations"
        )


def _check_function(name: str) -> None:
    """Refuse a tf.function inside of the call that cannot be run twice."""
    found = interception.operations_of_function(name) & (_ONCE | WRITES)
    if found:
        raise RuntimeError(
            "a call that is recomputed eagerly runs a tf.function (%s) with random numbers or "
            "assignments (%s), which would happen twice; put the tf.function around the training "
            "step instead" % (name, ", ".join(sorted(found)))
        )


def _is_tensor(x: Any) -> bool:
    return isinstance(x, tf.Tensor)


def _differentiable(x: Any) -> bool:
    return bool(x.dtype.is_floating or x.dtype.is_complex)
