"""Pickling between processes: by value what the other side cannot import, by name what it can."""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import cloudpickle

from perftricks.parallel import byvalue
from perftricks.parallel.aside import Aside, Collector

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


class Packed(NamedTuple):
    """Something as it was when it was given: pickled.

    Attributes:
        pickled: The pickle.
        aside: Its large buffers, if these are not in the pickle.
    """

    pickled: bytes
    aside: Aside | None = None

    def load(self) -> Any:
        """Unpickle it."""
        return pickle.loads(self.pickled) if self.aside is None else self.aside.load(self.pickled)


def pack(thing: object, *, large: bool) -> Packed:
    """Pickle ``thing``, with ``large`` its large buffers aside.

    Raises:
        Exception: Whatever pickling raises.
    """
    if large:
        collector = Collector()
        with io.BytesIO() as buffer:
            kind = _ForkPickler if _shares_main else _Pickler
            kind(buffer, buffer_callback=collector).dump(thing)
            pickled = buffer.getvalue()
        return _packed(pickled, collector.buffers, lambda: dumps(thing))
    return Packed(dumps(thing))


def _packed(pickled: bytes, buffers: list[memoryview], whole: Callable[[], bytes]) -> Packed:
    """Put the buffers of a pickle aside; where that cannot be, take a pickle that has them."""
    aside = Aside.put(buffers)
    return Packed(pickled, aside) if aside is not None or not buffers else Packed(whole())


class Unsendable(NamedTuple):
    """Stands for an item that cannot be pickled."""

    error: Exception


class Keeper:
    """Makes of an item what it is now, whatever becomes of it: itself, a copy, or pickled.

    Copies and constants are pickled later, many at once, which takes less time.

    Args:
        shares_main: As for :func:`dumps`; a function, since it may only be known later.
        large: Whether large buffers can be put aside.
    """

    def __init__(self, shares_main: Callable[[], bool], *, large: bool) -> None:
        self._shares_main = shares_main
        self._collector = Collector() if large else None
        self._buffer = io.BytesIO()
        self._pickler: Any = None
        self._constant = {*_CONSTANT_TYPES, *_numpy_scalars()}

    def __call__(self, item: Any) -> Any:
        """Return a constant, a :class:`Packed` or an :class:`Unsendable`."""
        kind = type(item)
        constant = self._constant
        if kind in constant:
            return item
        if kind is tuple and constant.issuperset(map(type, item)):
            return item
        if kind is dict and constant.issuperset(map(type, item.values())):
            if constant.issuperset(map(type, item)):
                return item.copy()
        elif kind in _COPIED_TYPES and constant.issuperset(map(type, item)):
            return item.copy()
        elif _is_small_array(item):
            return item.copy("K")
        return self._pack(item)

    def _pack(self, item: Any) -> Packed | Unsendable:
        try:
            if self._collector is None:
                return Packed(self._dump(item, None))
            pickled = self._dump(item, self._collector)
            buffers, self._collector.buffers = self._collector.buffers, []
            return _packed(pickled, buffers, lambda: dumps(item, shares_main=self._shares_main()))
        except Exception as error:
            self._pickler = None
            return Unsendable(error.with_traceback(None))  # its frames hold what is read

    def _dump(self, item: Any, collector: Collector | None) -> bytes:
        if self._pickler is None:  # it is used again, for it takes long to make one
            kind = _ForkPickler if self._shares_main() else _Pickler
            self._pickler = kind(self._buffer, buffer_callback=collector)
        self._buffer.seek(0)
        self._buffer.truncate()
        self._pickler.clear_memo()
        self._pickler.globals_ref.clear()
        self._pickler.dump(item)
        return self._buffer.getvalue()


_CONSTANT_TYPES = (int, float, complex, bool, str, bytes, type(None), type(...))
_COPIED_TYPES = (list, set, frozenset, bytearray)
_SMALL_ARRAY = 1 << 16  # bytes; to copy a larger one costs more than pickling it by itself


def _numpy_scalars() -> set[type]:
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "generic"):
        return set()
    found = {kind for kind in vars(numpy).values() if isinstance(kind, type)}
    return {k for k in found if issubclass(k, numpy.generic) and not issubclass(k, numpy.void)}


def _is_small_array(item: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and type(item) is numpy.ndarray
        and item.nbytes <= _SMALL_ARRAY
        and not item.dtype.hasobject
    )


class _ByValue(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what has no name on the other side, as :mod:`.byvalue` says."""

    def reducer_override(self, obj: Any) -> Any:
        return byvalue.reduced(obj, super().reducer_override(obj))


class _Pickler(_ByValue):
    """Pickles cached functions of the main module too, for a reader that has another one."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, functools._lru_cache_wrapper) and obj.__module__ == "__main__":
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


class _ForkPickler(_ByValue):
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
