"""Keras 3: whether a call is recomputed, and by which framework."""

from __future__ import annotations

import warnings
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import keras

from perftricks.recompute import references
from perftricks.recompute.generators import Generators
from perftricks.recompute.keras3 import private
from perftricks.recompute.keras3.pure import NotBuilt, PureCall, structures
from perftricks.recompute.policies import FULL, Policy
from perftricks.recompute.referents import Referents
from perftricks.recompute.tensorflow_graphs import private as graphs
from perftricks.recompute.tracers import keep_autograph_out

if TYPE_CHECKING:
    from perftricks.recompute.contracts import Framework

BACKENDS = ("tensorflow", "jax", "torch")
_warned: Set[str] = set()


@keep_autograph_out
def checkpointed_call(
    call: Callable[..., Any],
    args: Tuple[Any, ...],
    kwargs: Dict[str, Any],
    layers: Sequence[Any] = (),
    policy: Policy = FULL,
) -> Any:
    """Return ``call(*args, **kwargs)``; the backward pass runs it again.

    Args:
        call: A layer's call, bound or with the layer first in ``args``, or any function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        layers: The layers that ``call`` runs, if they are not found by themselves, as
            ``references.reached`` does. They are needed for what layers keep in Python attributes;
            variables are noticed when read.
        policy: What is kept.
    """
    framework = current_framework()
    leaves = structures.flatten((args, kwargs))
    if (
        framework is None
        or private.is_symbolic()
        or any(isinstance(leaf, keras.KerasTensor) for leaf in leaves)
        or not framework.is_recording()
    ):
        return call(*args, **kwargs)
    policy.check_backend(private.keras_backend())
    owner = getattr(call, "__self__", None)
    prepared = call
    if not any(isinstance(x, keras.Layer) for x in (owner, *args[:1])):
        prepared = framework.prepare(call)
    if is_inference() or any(framework.is_tensor(x) and framework.is_empty(x) for x in leaves):
        return prepared(*args, **kwargs)
    if framework.is_vectorized():
        _warn_once(
            "a call inside of tf.vectorized_map, which keras.layers.TimeDistributed uses, is not "
            "recomputed: its gradient would be lost there. Recompute what is around it"
        )
        return prepared(*args, **kwargs)
    reached = references.reached([owner, call, layers, args, kwargs], below)
    owners = references.of_classes(reached, lambda kind: issubclass(kind, keras.Layer))
    modules = framework.modules(reached)
    call = prepared
    held = [x for module in modules for x in vars(module).values()]
    generators = Generators([*reached, *held])
    referents = Referents([*reached, *held], framework.CHANGEABLE)
    pure = PureCall(framework, call, args, kwargs, owners, modules, generators, policy, referents)
    try:
        return pure.finish(framework.checkpoint(pure))
    except NotBuilt:
        # Variables were created during the call. Now that they are there, run it for good.
        pure.generators.restore()
        with keras.StatelessScope():
            pass  # leaving it initializes them, unless an outer scope does
        return call(*args, **kwargs)


def is_inference() -> bool:
    """Tell whether nobody can ask for gradients of what the layer that runs now computes.

    TensorFlow builds a graph for ``predict`` and for export without a tape and with ``training``
    off; there a custom gradient would only be in the way. JAX and torch have nothing to leave out:
    without gradients, what is checkpointed runs as it is.
    """
    if private.keras_backend() != "tensorflow" or graphs.record().could_possibly_record():
        return False
    context = private.keras_thread_state().get("current_call_ctx")
    return context is not None and not context.training


def current_framework() -> Optional[Framework]:
    """Return what Keras computes with, or None, with a warning, if that cannot train."""
    name = private.keras_backend()
    if name == "tensorflow":
        from perftricks.recompute.keras3 import tensorflow

        return tensorflow
    if name == "jax":
        from perftricks.recompute.keras3 import jax

        return jax
    if name == "torch":
        from perftricks.recompute.keras3 import torch

        return torch
    _warn_once(
        "perftricks.recompute knows the backends %s of Keras, not %r: decorated functions run "
        "plainly" % (", ".join(BACKENDS), name),
        stacklevel=5,
    )
    return None


@keep_autograph_out
def _warn_once(message: str, stacklevel: int = 4) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)


def below(x: Any) -> List[Any]:
    """List a layer and all layers below it, each once; nothing for what is no layer."""
    return private.flat_layers(x) if isinstance(x, keras.Layer) else []
