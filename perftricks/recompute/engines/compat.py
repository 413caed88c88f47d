"""The only home of private imports and version checks: what frameworks keep for themselves.

Each function says what it stands for; a newer framework that moves things is met here and nowhere
else. Nothing is imported before a function runs.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Dict, List, Sequence


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


def tensorflow_op_callbacks() -> ModuleType:
    """Return TensorFlow's module that reports each operation that runs eagerly."""
    from tensorflow.python.framework import op_callbacks

    return op_callbacks  # type: ignore[no-any-return]


def tensorflow_compiles_with_xla(graph: Any) -> bool:
    """Tell whether a graph is being built for ``tf.function(jit_compile=True)``."""
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def tensorflow_xla_barrier(tensors: Sequence[Any]) -> Sequence[Any]:
    """Pass tensors through a barrier that XLA neither moves operations across nor merges."""
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops.xla_optimization_barrier(tensors)  # type: ignore[no-any-return]


def tensor_id(tensor: Any) -> int:
    """Return a number that no other tensor of TensorFlow has, before or after."""
    return int(tensor._id)
