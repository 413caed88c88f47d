"""Pickling between processes: by value what the other side cannot import, by name what it can."""

from __future__ import annotations

import functools
import io
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

_shares_main = False


def share_main() -> None:
    """Declare that this process is a fork whose parent has the same main module."""
    global _shares_main
    _shares_main = True


def dumps(thing: object, *, shares_main: bool | None = None) -> bytes:
    """Pickle ``thing``, lambdas, closures and classes of the main module included.

    Args:
        thing: Anything.
        shares_main: Whether the reader has the same main module, as forks have. Then its classes
            travel by name, and an instance arrives as one of the very class. None goes by
            :func:`share_main`.

    Raises:
        Exception: Whatever pickling raises.
    """
    with io.BytesIO() as buffer:
        shares_main = _shares_main if shares_main is None else shares_main
        pickler = _ForkPickler if shares_main else _Pickler
        pickler(buffer).dump(thing)
        return buffer.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles cached functions of the main module too, for a reader that has another one."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, functools._lru_cache_wrapper) and obj.__module__ == "__main__":
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


class _ForkPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by name whatever can be found by its name, in the main module too."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)) and _can_be_found(obj):
            return NotImplemented
        return super().reducer_override(obj)


def _can_be_found(thing: Any) -> bool:
    found: Any = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    cached: Callable[..., Any] = functools.lru_cache(**parameters)(function)
    return cached
