"""Picklers for what another process cannot import: lambdas, closures, classes of the main module.

They stand on cloudpickle, which is imported with them: a worker whose results are numbers and text
never needs it, nor the time to import it.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from perftricks.parallel import byvalue


class _ByValue(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what has no name on the other side, as :mod:`.byvalue` says."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is functools.cached_property:  # before Python 3.12 it has a lock
            return _cached_property, (obj.func, obj.attrname)
        return byvalue.reduced(obj, super().reducer_override(obj))


class Pickler(_ByValue):
    """Pickles cached functions of the main module too, for a reader that has another one."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how ``obj`` is pickled, as pickle asks for it."""
        if isinstance(obj, functools._lru_cache_wrapper) and obj.__module__ == "__main__":
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


class ForkPickler(_ByValue):
    """Pickles by name whatever can be found by its name, in the main module too."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how ``obj`` is pickled, as pickle asks for it."""
        if isinstance(obj, (type, types.FunctionType)) and _can_be_found(obj):
            return NotImplemented
        return super().reducer_override(obj)


def _can_be_found(thing: Any) -> bool:
    found: Any = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing


def _cached_property(
    function: Callable[..., Any], name: str | None
) -> functools.cached_property[Any]:
    made: functools.cached_property[Any] = functools.cached_property(function)
    made.attrname = name
    return made


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    cached: Callable[..., Any] = functools.lru_cache(**parameters)(function)
    return cached
