"""Which layers of Keras 3 cost the same: of those that are alike, one is measured.

Two layers are alike if they are of one class and have equal attributes, variables of equal shapes,
and layers that are alike. What cannot be compared is compared by identity: then each is measured,
which is slower, and never wrong.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Dict, FrozenSet

if TYPE_CHECKING:
    from perftricks.recompute.measure.calls import Call

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What has no bearing on costs: seeds, and what Keras fills variables with.
_LEFT_OUT = {"seed", "_init_seed", "_random_seed_generator", "_torch_params"}
_OF_LAYERS = ("trainable", "activity_regularizer", "supports_masking", "autocast")


@functools.lru_cache(maxsize=None)
def _bookkeeping() -> FrozenSet[str]:
    """Return the attributes that every layer has: names, lists of what it has, locks."""
    import keras

    return frozenset(vars(keras.layers.Layer(name="likeness"))).difference(_OF_LAYERS)


def text_of_call(call: Call, specs: Any) -> str:
    """Return a text that only calls have in common that cost the same.

    Args:
        call: The call.
        specs: The tensors that it takes, without numbers.
    """
    places: Dict[int, int] = {}
    takes = [places.setdefault(key, len(places)) for key in call.takes]
    state = {name: _text(x, {}) for name, x in call.state.items()}
    return repr((text_of(call.layer), takes, list(specs), _text(call.arguments, {}), state))


def text_of(layer: Any) -> str:
    """Return a text that only layers have in common that cost the same."""
    return _text(layer, {})


def _text(x: Any, seen: Dict[int, int]) -> str:
    import keras

    if isinstance(x, _PLAIN):
        return repr(x)
    if id(x) in seen:
        return "#%d" % seen[id(x)]
    seen[id(x)] = len(seen)
    kind = type(x)
    name = "%s.%s" % (kind.__module__, kind.__qualname__)
    if kind.__name__ == "Tracker":  # which of its attributes a layer lists; these are here already
        return name
    if isinstance(x, keras.Variable):
        return "%s %s %s" % (tuple(x.shape), x.dtype, x.trainable)
    if isinstance(x, keras.initializers.Initializer) or kind is keras.random.SeedGenerator:
        return name
    if isinstance(x, keras.Sequential):
        return "%s(%s)" % (name, ", ".join(_text(layer, seen) for layer in x.layers))
    if isinstance(x, keras.Layer):
        if hasattr(x, "_nodes"):  # a graph
            return "%s at %d" % (name, id(x))
        policy = x.dtype_policy.name
        return "%s(%s, %s)" % (name, policy, _items(_attributes(x), seen))
    if isinstance(x, (list, tuple)):
        return "[%s]" % ", ".join(_text(item, seen) for item in x)
    if isinstance(x, dict):
        return "{%s}" % _items(x, seen)
    if isinstance(x, types.FunctionType) and x.__closure__ is None and "<" not in x.__qualname__:
        return "%s.%s" % (x.__module__, x.__qualname__)
    if isinstance(x, type):
        return "%s.%s" % (x.__module__, x.__qualname__)
    if kind.__module__.startswith("keras."):
        return "%s(%s)" % (name, _items(getattr(x, "__dict__", {}), seen))
    return "%s at %d" % (name, id(x))


def _attributes(layer: Any) -> Dict[str, Any]:
    left_out = _bookkeeping() | _LEFT_OUT
    inside = {**vars(layer), **getattr(layer, "_modules", {})}  # where torch has other layers
    return {
        name: value
        for name, value in inside.items()
        if name not in left_out and not name.startswith("_self_")  # TensorFlow's own
    }


def _items(some: Any, seen: Dict[int, int]) -> str:
    return ", ".join("%s=%s" % (key, _text(some[key], seen)) for key in sorted(some, key=str))
