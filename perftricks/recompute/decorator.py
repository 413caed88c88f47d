"""``@recompute_grad``: what may be decorated, and whether it is recomputed. No framework code."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import warnings
from typing import Any, Callable, Optional, TypeVar, cast, overload

from perftricks.recompute import stacks, switch
from perftricks.recompute.policies import Given, Policies, policy_of
from perftricks.recompute.references import spread
from perftricks.recompute.tracers import keep_autograph_out

F = TypeVar("F", bound=Callable[..., Any])


@overload
def recompute_grad(call: F, *, policy: Given = ...) -> F: ...


@overload
def recompute_grad(call: None = ..., *, policy: Given = ...) -> Callable[[F], F]: ...


def recompute_grad(call: Optional[F] = None, *, policy: Given = "full") -> Any:
    """Recompute what ``call`` computes in the backward pass instead of keeping it in memory.

    Decorate the ``call`` of a layer, or a function that takes and returns tensors. It is on where
    ``RECOMPUTE=1`` is set, or inside ``recompute_scope(True)``; otherwise ``call`` runs as if it
    were not decorated. Loss, gradients and state are the same either way. A function that is called
    on symbolic tensors, as a block of Keras' functional API, becomes a segment of the models that
    are built of what it returns; the switch is read when they run.

    Args:
        call: A layer's ``call`` method or a function of tensors. It may take and return nested
            structures of tensors and of anything else, use variables and tensors from outside,
            draw random numbers from ``keras.random``, update variables and call ``add_loss``. It
            must do the same when it is run again: numpy's own random numbers, for example, cannot
            be drawn again.
        policy: What is kept beside the tensors that ``call`` is given: "full" for nothing;
            "save_masks" for masks of dropout, "save_matmuls" for these and what matrix products and
            convolutions give, "save_attention" for what a fused attention operation gives; a list
            of names, for the tensors that ``keep`` has given these; or a function of the kind of an
            operation ("matmul", "convolution", "mask", "attention", "named") and its name (None for
            what has none), which returns True to keep what it gives; on JAX also one of
            ``jax.checkpoint_policies``. What a backend cannot keep, it computes again: TensorFlow
            keeps things in graphs only, and attention is one operation on torch only. ``status``
            says so. A name that no ``keep`` gives is told by a RuntimeWarning when ``call`` runs.

    Returns:
        A function with the same signature; the original is its ``__wrapped__``. Without ``call``,
        a decorator, so that both ``@recompute_grad`` and ``@recompute_grad()`` work.

    Raises:
        TypeError: If ``call`` is something else: a class, a layer, a generator function, a string.
            When it runs: if the policy is JAX's, and Keras does not compute with that.
        ValueError: If there is no policy of this name.

    Example:
        >>> from perftricks.recompute import recompute_grad
        >>> @recompute_grad
        ... def block(x):
        ...     return x * x
        >>> block(3)
        9

    Source: Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
    """
    chosen = policy_of(policy)
    if call is None:
        return functools.partial(recompute_grad, policy=chosen)
    _check(call)
    chosen = Policies(getattr(call, "__qualname__", repr(call))).of(policy)

    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        is_traced = stacks.is_traced_by_dynamo()
        as_block = None if is_traced else _symbolic_call(args, kwargs)
        if as_block is not None:
            return as_block(call, args, kwargs, chosen)
        if switch.enabled(default=False):
            result = stacks.recompute(call, args, kwargs, policy=chosen)
        else:
            result = call(*args, **kwargs)
        if not is_traced:
            _warn_of_a_model(call, result)
        return result

    with contextlib.suppress(ValueError):  # some built-in functions have none
        # Keras asks for the arguments in a way that does not look behind a wrapper.
        vars(wrapper)["__signature__"] = inspect.signature(call)
    # By this, copied from a tf.function, AutoGraph would find what is behind the wrapper.
    vars(wrapper).pop("_tf_decorator", None)
    vars(wrapper)["perftricks_decorated"] = chosen
    return cast(F, wrapper)


@keep_autograph_out
def _symbolic_call(args: Any, kwargs: Any) -> Optional[Callable[..., Any]]:
    """Return what calls a function where a model is being built and not run; else None."""
    kind: Any = getattr(sys.modules.get("keras"), "KerasTensor", ())
    found = [x for x in spread([args, kwargs]) if _may_be_a_symbol(type(x).__name__)]
    if any(isinstance(x, kind) for x in found):
        from perftricks.recompute import blocks

        return blocks.symbolic_call
    if any(type(x).__module__.startswith(_OF_KERAS_2) for x in found):
        from perftricks.recompute.keras2 import private, symbols

        if private.is_of_no_layer(found):
            return symbols.symbolic_call
    return None


def _may_be_a_symbol(kind: str) -> bool:
    """Tell by the name of its type, for that is asked at each call."""
    return kind == "Tensor" or kind.endswith("KerasTensor")


@keep_autograph_out
def _warn_of_a_model(call: Any, result: Any) -> None:
    """If what a call has returned is a model, say that it is not recomputed."""
    kind: Any = getattr(sys.modules.get("keras"), "Model", ())
    if isinstance(result, kind):
        warnings.warn(
            "recompute_grad is above %s, which builds the model %s: that runs once, and nothing of "
            "the model is recomputed; put it above the call of a layer or a block function, or "
            "use recompute.apply(model)" % (getattr(call, "__qualname__", call), result.name),
            RuntimeWarning,
            stacklevel=3,
        )


# Where the symbols of Keras 2 are defined; those of old ones are tensors of TensorFlow.
_OF_KERAS_2 = ("tensorflow", "tf_keras", "keras.src.engine", "keras.engine")


def _check(call: Any) -> None:
    hint = "put @recompute_grad above `def call(self, ...)` of the layer, or above a function"
    if inspect.isclass(call):
        what = "the class %s" % call.__name__
    elif isinstance(call, (staticmethod, classmethod, property)):
        what = "a %s" % type(call).__name__
        hint = "put @recompute_grad below @%s, next to the function" % type(call).__name__
    elif callable(getattr(call, "call", None)):
        what = "%s, an instance of %s," % (getattr(call, "name", "an object"), type(call).__name__)
    elif inspect.isgeneratorfunction(call) or inspect.iscoroutinefunction(call):
        what = "%s, which does not run when it is called," % call.__name__
    elif not callable(call):
        what = "%r, which cannot be called," % (call,)
    else:
        return
    raise TypeError(
        "recompute_grad got %s but expects a layer's call: %s" % (what.rstrip(","), hint)
    )
