"""Which Keras a layer, a model or a call belongs to: the one place that knows.

::

    a layer, a model ──family_of──▶ keras3.layers, keras2.layers: their private parts
    a call ──────────engine_for───▶ keras3.call, keras2.call: how it is recomputed

What these modules offer is ``contracts.Family`` and ``contracts.Engine``, so that all above them is
written once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Sequence, Tuple, TypeVar

from perftricks.recompute import references
from perftricks.recompute.policies import FULL, Policy
from perftricks.recompute.tracers import keep_autograph_out, known_to_dynamo

if TYPE_CHECKING:
    from perftricks.recompute.contracts import Engine, Family

F = TypeVar("F", bound=Callable[..., Any])

# Before, Keras adds a list of losses once for each loss in it, where a call is made a function.
_OLDEST_KERAS_3 = 3, 10


@known_to_dynamo
@keep_autograph_out
def is_traced_by_dynamo() -> bool:
    """Tell whether torch.compile traces what runs now."""
    if "torch._dynamo" not in sys.modules:
        return False
    from perftricks.recompute.keras3 import private_torch

    return private_torch.dynamo_is_tracing()


@keep_autograph_out
def recompute(
    call: Callable[..., Any],
    args: Tuple[Any, ...],
    kwargs: Dict[str, Any],
    layers: Sequence[Any] = (),
    of: Any = None,
    policy: Policy = FULL,
) -> Any:
    """Return ``call(*args, **kwargs)`` and have it run again: ``checkpointed_call`` of an engine.

    Args:
        call: As the engine takes it.
        args: As the engine takes them.
        kwargs: As the engine takes them.
        layers: As the engine takes them.
        of: A layer by which the engine is found, if ``call`` does not belong to one.
        policy: As the engine takes it.
    """
    _keep_dynamo_out()
    return _entrance[0](call, args, kwargs, layers, of, policy)


@keep_autograph_out
def _recompute(
    call: Callable[..., Any],
    args: Tuple[Any, ...],
    kwargs: Dict[str, Any],
    layers: Sequence[Any],
    of: Any,
    policy: Policy,
) -> Any:
    engine = engine_for(call, (of, args, kwargs))
    return engine.checkpointed_call(call, args, kwargs, layers=layers, policy=policy)


_entrance: List[Callable[..., Any]] = [_recompute]


@known_to_dynamo
@keep_autograph_out
def _keep_dynamo_out() -> bool:
    """Have torch.compile, if it is there, run as it is what is recomputed, and our bookkeeping.

    It could only take for constants what it finds in that. A mark on a function would not do: what
    the function calls would be compiled, piece by piece. Torch is not imported to find out.
    """
    is_there = hasattr(sys.modules.get("torch._dynamo"), "disable")
    if is_there and _entrance[0] is _recompute and _uses_torch():
        from perftricks.recompute.keras3 import private_torch

        _entrance[0] = private_torch.without_dynamo(_recompute)
    return True


@keep_autograph_out
def _uses_torch() -> bool:
    if _version("keras") < (3,):
        return False
    from perftricks.recompute.keras3 import private

    return private.keras_backend() == "torch"


@keep_autograph_out
def engine_for(call: Callable[..., Any], args: Tuple[Any, ...]) -> Engine:
    """Return the engine for a call; nothing is imported to find out.

    The layer decides: each Keras has its own. A function that belongs to no layer goes by those it
    is given or refers to, else by the layer that is being called, else by what has been imported.

    Args:
        call: The function that is to run.
        args: Its arguments, nested as they are; the layer may be among them.

    Raises:
        RuntimeError: If there is no Keras and no TensorFlow, or one that is too old.
    """
    imported = _imported_generation(call)  # complains where there is none
    generation = next(filter(None, map(generation_of, _candidates(call, args))), 0)
    generation = generation or (2 if _is_in_layer_of_keras_2() else imported)
    if generation == 3:
        if _version("keras") < _OLDEST_KERAS_3:
            raise RuntimeError(
                "recompute needs Keras %d.%d or newer, and found %s; upgrade it (pip install "
                "--upgrade keras), or leave RECOMPUTE unset"
                % (*_OLDEST_KERAS_3, sys.modules["keras"].__version__)
            )
        from perftricks.recompute.keras3 import call as keras3

        return keras3
    from perftricks.recompute.keras2 import call as keras2

    return keras2


def family_of(layer: Any) -> Family:
    """Return the module that knows the private parts of a layer or a model."""
    if generation_of(layer) == 2:
        from perftricks.recompute.keras2 import layers as keras2

        return keras2
    from perftricks.recompute.keras3 import layers as keras3

    return keras3


def backend_of(layer: Any) -> str:
    """Return the name of what a layer or a model computes with, as Keras 3 names it."""
    if generation_of(layer) != 3:
        return "tensorflow"
    return str(sys.modules["keras"].config.backend())


@keep_autograph_out
def _candidates(call: Callable[..., Any], args: Tuple[Any, ...]) -> Iterator[Any]:
    owner = getattr(call, "__self__", None)
    if owner is not None:
        yield owner
        return
    yield from references.spread(args)
    yield from references.referred(call)


@keep_autograph_out
def generation_of(layer: Any) -> int:
    """Return 3 for a layer of Keras 3, 2 for one of keras 2.3.1, tf.keras or tf_keras, else 0.

    A symbol is of the Keras whose layer has made it: in a graph with sessions it is a tf.Tensor.
    """
    for kind in type(layer).__mro__:
        root, _, rest = kind.__module__.partition(".")
        if root == "tf_keras" or (root.startswith("tensorflow") and "python.keras." in rest + "."):
            return 2
        if root == "keras":
            return 3 if _version("keras") >= (3,) else 2
    history = getattr(layer, "_keras_history", None)
    return generation_of(history[0]) if isinstance(history, tuple) and history else 0


# Where each Keras 2 keeps which of its layers is being called; keras 2.3.1 is alone in a process.
_CALLS_OF_KERAS_2 = tuple(
    prefix + ".engine.base_layer_utils"
    for prefix in ("tf_keras.src", "keras.src", "tensorflow.python.keras")
)


@keep_autograph_out
def _is_in_layer_of_keras_2() -> bool:
    modules: List[Any] = [sys.modules.get(name) for name in _CALLS_OF_KERAS_2]
    return any(x.call_context().in_call for x in modules if hasattr(x, "call_context"))


@keep_autograph_out
def _imported_generation(call: Callable[..., Any]) -> int:
    if _version("keras") >= (3,):
        return 3
    tensorflow = _version("tensorflow")
    if tensorflow >= (1, 14):
        return 2
    keras = getattr(sys.modules.get("keras"), "__version__", "not imported")
    found = getattr(sys.modules.get("tensorflow"), "__version__", "not imported")
    raise RuntimeError(
        "recompute_grad needs Keras 3 or TensorFlow 1.14 or newer for %s, and found keras: %s, "
        "tensorflow: %s; import one of them before the function runs, or leave RECOMPUTE unset"
        % (getattr(call, "__qualname__", call), keras, found)
    )


@keep_autograph_out
def _version(module: str) -> Tuple[int, ...]:
    version = str(getattr(sys.modules.get(module), "__version__", "0"))
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
