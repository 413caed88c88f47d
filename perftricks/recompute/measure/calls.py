"""Which layers a model of Keras 3 calls in training, and with what, without computing anything.

::

    model(x) ──traced──▶ embedding ──▶ block ──▶ block ──▶ head     calls of layers, in order
                                        ├ attention                 and what they call
                                        └ dense

A model with a ``call`` of its own is Python: nobody knows what it does before it is run. So it is
run once, of tensors that have shapes and no numbers, and each call of a layer notes what it was
given. Each call can then be run again on its own, to be asked what it costs.
"""

from __future__ import annotations

import contextlib
import functools
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import keras

from perftricks.recompute import switch
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.keras3 import private
from perftricks.recompute.keras3.call import current_framework
from perftricks.recompute.keras3.pure import structures
from perftricks.recompute.measure.kept import (
    Function,
    Spec,
    jax_forward,
    tensorflow_step,
    torch_forward,
)
from perftricks.recompute.measure.unmeasurable import UnmeasurableError, first_line
from perftricks.recompute.outlining import Outlined
from perftricks.recompute.samples import Samples

if TYPE_CHECKING:
    from perftricks.recompute.contracts import Framework

_HOLE = object()  # where a tensor was


def _framework() -> Framework:
    framework = current_framework()
    assert framework is not None
    return framework


def _is_tensor(x: Any) -> bool:
    return _framework().is_tensor(x)


def _tensors(structure: Any) -> List[Any]:
    """List the tensors in a structure."""
    return list(filter(_is_tensor, structures.flatten(structure)))


class Call:
    """One call of a layer.

    Attributes:
        layer: The layer.
        number: Its number among everything in the model.
        takes: The keys of the tensors it was given, in order; one may be there twice.
        gives: The keys of the tensors it returned.
        inside: The calls of layers that it made, in order.
        symbols: If it ran a graph of layers that planning knows: the keys of the tensors of that,
            by the ids of their symbols; else empty.
        graph: The graph; None if it ran none.
        arguments: What it was given, with something else in the place of tensors.
        state: What decided how it ran: in training or not, precision.
    """

    def __init__(self, layer: Any, number: int, run: Callable[..., Any]) -> None:
        self.layer = layer
        self.number = number
        self.takes: Tuple[int, ...] = ()
        self.gives: Tuple[int, ...] = ()
        self.inside: List[Call] = []
        self.symbols: Dict[int, int] = {}
        self.graph: Any = None
        self._run = run
        self.arguments: Any = ((), {})
        self._masks: Tuple[Optional[int], ...] = ()
        self.state: Dict[str, Any] = {}

    @property
    def variables(self) -> List[Any]:
        """The trained variables of the layer."""
        return list(self.layer.trainable_variables)

    @property
    def everything(self) -> Iterator[Call]:
        """This call and those in it."""
        yield self
        for call in self.inside:
            yield from call.everything

    @property
    def takes_and_masks(self) -> Tuple[int, ...]:
        """The keys of what it was given, and of the masks that hang on that."""
        return (*self.takes, *(key for key in self._masks if key is not None))

    def given(self, arguments: Any, key: Callable[[Any], int]) -> None:
        """Note what it is given.

        Args:
            arguments: Its positional and its keyword arguments.
            key: Returns the key of a tensor.
        """
        tensors = _tensors(arguments)
        self.takes = tuple(map(key, tensors))
        self.arguments = structures.map(lambda x: _HOLE if _is_tensor(x) else x, arguments)
        masks = map(private.get_mask, tensors)
        self._masks = tuple(None if mask is None else key(mask) for mask in masks)
        self.state = private.call_state()

    def run_again(self, tensors: Sequence[Any]) -> List[Any]:
        """Run it on other tensors, those of ``takes_and_masks``; return the tensors it gives."""
        others = iter(tensors[len(self.takes) :])
        first = tensors[: len(self.takes)]
        for tensor, mask in zip(first, self._masks):
            if mask is not None:
                private.set_mask(tensor, next(others))
        filled = iter(first)
        args, kwargs = structures.map(lambda x: next(filled) if x is _HOLE else x, self.arguments)
        with private.call_state_in_force(self.state):
            results = self._run(*args, **kwargs)
        return _tensors(results)

    def in_its_state(self, function: Function) -> Function:
        """Return a function that runs as if this call made it: in training or not, as precisely."""

        def run(tensors: List[Any]) -> Sequence[Any]:
            with private.call_state_in_force(self.state):
                return function(tensors)

        return run


class Traced:
    """A traced call of a model in training.

    Attributes:
        root: The call.
        inputs: The keys of the tensors that the model was called with.
        outputs: What it returned: keys of tensors, nested as they were.

    Args:
        model: The model; nothing is applied to it.
        layers: Everything in it.
        graphs: The graphs of layers in it that planning knows, each with its calls, by number.
        call: Calls it on tensors, in training.
        specs: These tensors, without numbers.

    Raises:
        UnmeasurableError: If what it does cannot be measured.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[Any],
        graphs: Mapping[int, Tuple[Any, Sequence[Any]]],
        call: Callable[[List[Any]], Any],
        specs: Sequence[Spec],
    ) -> None:
        self._call = call
        self._given = list(specs)
        self._model = model
        self._keys: Dict[int, int] = {}
        self._alive: List[Any] = []  # so that ids are not used again
        self._specs: List[Spec] = []
        self._has_gradient: Callable[[Any], bool] = lambda tensor: False
        self.root = Call(model, 0, model)
        self._open = [self.root]
        self.inputs: Tuple[int, ...] = ()
        self.outputs: Any = None
        hooks = [self._hook(number, layer) for number, layer in enumerate(layers)]
        hooks += [self._graph_hook(*graph) for graph in graphs.values()]
        with _hooks(hooks):
            self._trace()
        self._alive.clear()
        self._keys.clear()

    @property
    def symbols(self) -> Dict[int, int]:
        """The keys of the tensors of all graphs, by the ids of their symbols."""
        return {s: key for call in self.root.everything for s, key in call.symbols.items()}

    def spec(self, key: int) -> Spec:
        """Return a tensor without numbers."""
        return self._specs[key]

    def specs(self, keys: Sequence[int]) -> List[Spec]:
        """Return tensors without numbers."""
        return [self._specs[key] for key in keys]

    def run(self, tensors: List[Any]) -> List[Any]:
        """Call the model in training, as it was traced; return the tensors it gives."""
        return list(keras.tree.flatten(self._call(tensors)))

    def _trace(self) -> None:
        def run(tensors: List[Any]) -> List[Any]:
            self.inputs = self.root.takes = tuple(map(self._key, tensors))
            outputs = self._call(tensors)
            flat: List[Any] = keras.tree.flatten(outputs)
            if not flat or not all(map(_is_tensor, flat)):
                kinds = ", ".join(sorted({type(x).__name__ for x in flat})) or "nothing"
                raise UnmeasurableError(
                    "%s must return tensors to be measured, and returns %s"
                    % (self._model.name, kinds)
                )
            self.outputs = keras.tree.map_structure(self._key, outputs)
            self.root.gives = tuple(map(self._key, flat))
            return flat

        with switch.recompute_scope(False):
            trace = _TRACERS[keras.backend.backend()]
            trace(self, run, self._model.trainable_variables, self._given)

    def _key(self, tensor: Any) -> int:
        number = self._keys.get(id(tensor))
        if number is None:
            number = self._keys[id(tensor)] = len(self._alive)
            self._alive.append(tensor)
            self._specs.append(self._spec(tensor))
        return number

    def _spec(self, tensor: Any) -> Spec:
        if _framework().parts(tensor) is not None:
            raise UnmeasurableError(
                "%s has ragged or sparse tensors between its layers, whose bytes depend on their "
                "numbers: no budget can be kept" % self._model.name
            )
        shape = tuple(tensor.shape)
        if None in shape:
            raise UnmeasurableError(
                "%s has a tensor between its layers whose shape %s depends on numbers: no budget "
                "can be kept" % (self._model.name, shape)
            )
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return Spec(tuple(map(int, shape)), dtype, "float" in dtype and self._has_gradient(tensor))

    def _hook(self, number: int, layer: Any) -> Iterator[Tuple[Any, str, Any]]:
        if layer is self._model:
            return
        for method in ("call", "quantized_call"):
            plain = getattr(layer, method, None)
            if plain is not None:
                yield layer, method, self._noting(number, layer, plain)

    def _noting(self, number: int, layer: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def run(*args: Any, **kwargs: Any) -> Any:
            call = Call(layer, number, plain)
            call.given((args, kwargs), self._key)
            self._open[-1].inside.append(call)
            self._open.append(call)
            try:
                results = plain(*args, **kwargs)
            finally:
                self._open.pop()
            call.gives = tuple(map(self._key, _tensors(results)))
            return results

        run.autograph_info__ = {}  # type: ignore[attr-defined]
        return run

    def _graph_hook(self, graph: Any, nodes: Sequence[Any]) -> Iterator[Tuple[Any, str, Any]]:
        plain = type(graph)._run_through_graph.__get__(graph)

        @functools.wraps(plain)
        def run(inputs: Any, operation_fn: Any = None, call_fn: Any = None) -> Any:
            if call_fn is not None or keras3.is_symbolic(inputs):
                return plain(inputs, operation_fn=operation_fn, call_fn=call_fn)
            call = self._open[-1]
            call.graph = graph
            values = dict(zip(map(id, graph.inputs), keras.tree.flatten(inputs)))
            keras3.run_nodes(graph, nodes, values, operation_fn or (lambda x: x))
            call.symbols = {symbol: self._key(value) for symbol, value in values.items()}
            outputs = [values[id(symbol)] for symbol in graph.outputs]
            return keras.tree.pack_sequence_as(keras3.outputs_struct(graph), outputs)

        run.autograph_info__ = {}  # type: ignore[attr-defined]
        yield graph, "_run_through_graph", run

    # How each framework tells which tensors depend on what is trained.

    def _torch(self, run: Function, variables: Sequence[Any], specs: Sequence[Spec]) -> None:
        self._has_gradient = lambda tensor: bool(tensor.requires_grad)
        torch_forward(run, variables, specs, contextlib.nullcontext())

    def _jax(self, run: Function, variables: Sequence[Any], specs: Sequence[Spec]) -> None:
        self._has_gradient = private.jax_has_tangent
        jax_forward(run, variables, specs)

    def _tensorflow(self, run: Function, variables: Sequence[Any], specs: Sequence[Spec]) -> None:
        self._has_gradient = lambda tensor: True
        made, _, _ = tensorflow_step(run, variables, specs)
        handles = {id(private.own_value(v).handle) for v in variables}
        captured = made[0].graph.captures if made else ()
        trained = {id(inner) for outer, inner in captured if id(outer) in handles}
        for op in made:  # in the order they were made
            if op.type != "StopGradient" and any(id(x) in trained for x in op.inputs):
                trained.update(map(id, op.outputs))
        for tensor, number in zip(self._alive, range(len(self._alive))):
            spec = self._specs[number]
            is_trained = spec.is_trained and id(tensor) in trained
            self._specs[number] = spec._replace(is_trained=is_trained)


_TRACERS: Dict[str, Callable[..., None]] = {
    "tensorflow": Traced._tensorflow,
    "jax": Traced._jax,
    "torch": Traced._torch,
}


@contextlib.contextmanager
def _hooks(hooks: Any) -> Iterator[None]:
    """Have methods of objects replaced for a while."""
    before: List[Tuple[Dict[str, Any], str, Any]] = []
    try:
        for some in hooks:
            for owner, method, replacement in some:
                attributes = vars(owner)
                before.append((attributes, method, attributes.get(method)))
                attributes[method] = replacement
        yield
    finally:
        for attributes, method, replaced in reversed(before):
            if replaced is None:
                del attributes[method]
            else:
                attributes[method] = replaced


def traced(model: Any, outlined: Outlined, samples: Samples) -> Traced:
    """Trace a call of a model, to which nothing is applied.

    Raises:
        UnmeasurableError: If it cannot be traced.
    """
    graphs = {n: (g.functional, g.nodes) for n, g in outlined.graphs.items()}
    try:
        return Traced(model, outlined.layers, graphs, samples.call, samples.inputs)
    except UnmeasurableError:
        raise
    except Exception as error:  # of a call, for example, that looks at numbers
        raise UnmeasurableError(
            "%s cannot be traced without numbers, which is how it is measured: %s: %s"
            % (model.name, type(error).__name__, first_line(error))
        ) from error
