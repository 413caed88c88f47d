"""Mechanism: how a call is recomputed, for each Keras and each framework below it.

An engine has one function, ``checkpointed_call(call, args, kwargs, layers=())``: it returns what
``call(*args, **kwargs)`` returns, with the same effects, and arranges that the backward pass runs
``call`` again instead of keeping what it computed.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Callable, Tuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def keep_autograph_out(function: F) -> F:
    """Tell TensorFlow's AutoGraph to run a function as it is written.

    AutoGraph rewrites whatever a traced function calls. It shall rewrite what is decorated, where
    it would have done so without the decorator, and nothing of ours.
    """
    function.autograph_info__ = {}  # type: ignore[attr-defined]
    return function


@keep_autograph_out
def engine_for(call: Callable[..., Any], args: Tuple[Any, ...]) -> ModuleType:
    """Return the engine for a call, by what has been imported; nothing is imported to find out.

    Args:
        call: The function that is to run.
        args: Its arguments; the first may be the layer.

    Raises:
        RuntimeError: If there is no Keras 3.
    """
    keras = sys.modules.get("keras")
    version = getattr(keras, "__version__", "none")
    if version.partition(".")[0] != "3":
        raise RuntimeError(
            "recompute_grad needs Keras 3 for %s, and found keras: %s; import keras before the "
            "function runs, or leave RECOMPUTE unset"
            % (getattr(call, "__qualname__", call), "not imported" if keras is None else version)
        )
    from perftricks.recompute.engines import keras3

    return keras3
