"""What each Keras must offer, for mypy to check; nothing of it is there when a program runs.

A package for a Keras has two modules that are these: ``layers`` a ``Family``, ``call`` an
``Engine``. They are modules and not classes, so that what they offer are plain functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Dict, List, Optional, Sequence, Tuple

from perftricks.recompute.policies import FULL, Policy

if TYPE_CHECKING:  # Python 3.7 has no Protocol
    from typing import Protocol

    class Engine(Protocol):
        """How a call is recomputed."""

        def checkpointed_call(
            self,
            call: Callable[..., Any],
            args: Tuple[Any, ...],
            kwargs: Dict[str, Any],
            layers: Sequence[Any] = (),
            policy: Policy = FULL,
        ) -> Any:
            """Return what ``call(*args, **kwargs)`` returns, with the same effects.

            The backward pass runs ``call`` again instead of keeping what it computed, but for what
            the policy keeps. ``layers`` are those whose state the call may change, if they cannot
            be found from it.
            """

    class Family(Protocol):
        """The private parts of layers and models.

        Attributes:
            METHODS: The attributes of a layer in whose place something may stand after ``apply``.
            COMPILED: The attributes in which a model keeps what it has compiled.
        """

        METHODS: Tuple[str, ...]
        COMPILED: Tuple[str, ...]

        def is_static(self, model: Any) -> bool:
            """Tell whether a model is a graph that was built once and for all."""

        def is_model(self, layer: Any) -> bool:
            """Tell whether a layer is a model."""

        def is_layer(self, x: Any) -> bool:
            """Tell whether something is a layer."""

        def is_input_layer(self, layer: Any) -> bool:
            """Tell whether a layer only stands for an input."""

        def is_built(self, model: Any) -> bool:
            """Tell whether the weights of a model exist."""

        def graph_of(self, layer: Any) -> Any:
            """Return the graph of layers that a layer runs, or None if its call is its own."""

        def nodes_of(self, graph: Any) -> Sequence[Any]:
            """List the calls of layers in a graph, in the order in which Keras makes them."""

        def node_of(self, symbol: Any) -> Any:
            """Return the call that a symbolic tensor comes from, or None if it is an input."""

        def own(self, node: Any) -> Any:
            """Return what Keras itself keeps of a call."""

        def is_symbol(self, x: Any) -> bool:
            """Tell whether ``x`` is a symbolic tensor."""

        def shape_of(self, symbol: Any) -> Tuple[Any, ...]:
            """Return the shape of a symbol; None for what is not known."""

        def dtype_of(self, symbol: Any) -> str:
            """Return the name of the type of a symbol's numbers."""

        def nominal_shapes(
            self, graph: Any, nodes: Sequence[Any], length: int
        ) -> Dict[int, Tuple[Any, ...]]:
            """Return shapes by the ids of symbols, if what is not known had some length."""

        def children(self, layer: Any) -> List[Any]:
            """List the layers directly below a layer."""

        def everything_in(self, model: Any) -> List[Any]:
            """List a model, all layers below it and the graphs that they run, each once."""

        def forget_compiled(self, model: Any) -> None:
            """Make Keras build or trace its training step again."""

    class Framework(Protocol):
        """What Keras 3 computes with: ``keras3.tensorflow``, ``keras3.jax``, ``keras3.torch``.

        Attributes:
            CHANGEABLE: The classes of its tensors, if these may be changed in place.
        """

        CHANGEABLE: Tuple[type, ...]

        def is_tensor(self, x: Any) -> bool:
            """Tell whether to hand ``x`` to the framework as an input."""

        def parts(self, x: Any) -> Optional[List[Any]]:
            """Return the tensors that something else is made of (a ragged tensor), or None."""

        def outline(self, x: Any) -> Any:
            """Return what ``whole`` needs of it."""

        def whole(self, outline: Any, parts: Sequence[Any]) -> Any:
            """Return the same, made of other tensors."""

        def check_output(self, x: Any) -> None:
            """Refuse what a call must not return."""

        def is_recording(self) -> bool:
            """Tell whether gradients may be asked for at all."""

        def is_empty(self, x: Any) -> bool:
            """Tell whether a tensor is known to be empty, where that must not be recomputed."""

        def is_vectorized(self) -> bool:
            """Tell whether what runs now is taken apart and made anew without our gradient."""

        def prepare(self, call: Callable[..., Any]) -> Callable[..., Any]:
            """Return what to run in place of a function that belongs to no layer."""

        def modules(self, reached: Sequence[Any]) -> List[Any]:
            """List what keeps state that is neither a variable nor a layer's attribute."""

        def home(self) -> Any:
            """Return where the call begins, for reads deeper, inside a loop that is traced."""

        def read(self, value: Any, home: Any) -> Any:
            """Return the value of a variable as a tensor."""

        def is_in_function(self, home: Any) -> bool:
            """Tell whether a function is traced that may run again later, elsewhere.

            There variables are read as in a plain call.
            """

        def may_assign(self, home: Any) -> bool:
            """Tell whether what is assigned now is there at the end of the call."""

        def noticed(self, variable: Any, value: Any) -> None:
            """Tell whoever asks, inside of the call, which variable a tensor stands for."""

        def keep(self, value: Any) -> Any:
            """Return the same, safe from an update in place."""

        def takes_effect(self, variable: Any) -> bool:
            """Tell whether an assignment would change the variable now."""

        def written(self, new: Any, old: Any) -> Any:
            """Return what a variable yields after an assignment during the call."""

        def mark(self, x: Any, name: str) -> Any:
            """Return a tensor of a call that is to be kept under a name."""

        def other_names(self, pure: Any) -> AbstractSet[str]:
            """Return the names that a call, which has run, gave by what is not ``keep``."""

        def checkpoint(self, pure: Any) -> List[Any]:
            """Run ``pure.run(*pure.tensors)`` and forget all but its result.

            And what ``pure.policy`` has it keep, as far as it can.
            """
