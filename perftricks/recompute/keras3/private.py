"""The only home of private imports: what Keras 3 and JAX keep for themselves.

Each function says what it stands for; a newer framework that moves things is met here and nowhere
else. Nothing is imported before a function runs. For torch, see ``private_torch``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from typing import Any, Dict, Iterator, List


def keras_thread_state() -> Dict[str, Any]:
    """Return the dictionary of this thread in which Keras keeps its scopes and its call context."""
    from keras.src.backend.common import global_state

    state: Dict[str, Any] = vars(global_state.GLOBAL_STATE_TRACKER)
    return state


# What decides how a layer runs that is called inside of another one: training or not, precision.
_OF_A_CALL = ("current_call_ctx", "autocast_scope")


def call_state() -> Dict[str, Any]:
    """Return what decides how a layer runs that is called now."""
    state = keras_thread_state()
    return {name: copy.copy(state.get(name)) for name in _OF_A_CALL}


@contextlib.contextmanager
def call_state_in_force(then: Dict[str, Any]) -> Iterator[None]:
    """Have what ``call_state`` has returned in force for a while."""
    state = keras_thread_state()
    now = {name: state.get(name) for name in _OF_A_CALL}
    state.update({name: copy.copy(value) for name, value in then.items()})
    try:
        yield
    finally:
        state.update(now)


def jax_has_tangent(x: Any) -> bool:
    """Tell whether an array of ``jax.jvp`` depends on what is differentiated."""
    tangent = getattr(x, "tangent", None)
    return tangent is not None and type(tangent).__name__ != "Zero"


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


def functional_class() -> Any:
    """Return the class of models that are graphs of layers."""
    from keras.src.models.functional import Functional

    return Functional


def function_class() -> Any:
    """Return the class whose method runs graphs of layers: models, and functions of Keras."""
    from keras.src.ops.function import Function

    return Function


def global_seed_generator() -> Any:
    """Return the generator of random numbers that belongs to no layer; None before it is used."""
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute("global_seed_generator")


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


def jax_runs_eagerly() -> bool:
    """Tell whether JAX runs operations at once in this thread, and transforms nothing.

    In ``jax.ensure_compile_time_eval`` it does so although something is transformed; the setting by
    which that works counts only where a scope has it.
    """
    from jax._src import config, core

    at_once = config.eager_constant_folding
    return bool(core.trace_state_clean()) or bool(at_once.value and not at_once.get_global())


def in_training(layer: Any) -> Any:
    """Return what calls a layer as a model in training calls it."""
    if getattr(layer, "_call_has_training_arg", False):
        return functools.partial(layer, training=True)
    return layer
