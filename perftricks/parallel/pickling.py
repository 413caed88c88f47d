"""Pickling between processes: by value what the other side cannot import, by name what it can."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

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
    return _dumps(thing, _shares_main if shares_main is None else shares_main, None)


def _dumps(thing: object, shares_main: bool, collector: Collector | None) -> bytes:
    with io.BytesIO() as buffer:
        try:
            _PlainPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
        except Exception:
            buffer.seek(0)
            buffer.truncate()
            _pickler_of(shares_main)(buffer, buffer_callback=collector).dump(thing)
        return buffer.getvalue()


class _PlainPickler(pickle.Pickler):
    """Pickles numbers, text, bytes and the containers of them; anything else is an error."""

    def reducer_override(self, obj: Any) -> NoReturn:
        raise pickle.PicklingError


def _pickler_of(shares_main: bool) -> Callable[..., Any]:
    """Return the pickler of all the rest."""
    from perftricks.parallel import picklers

    return picklers.ForkPickler if shares_main else picklers.Pickler


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
        pickled = _dumps(thing, _shares_main, collector)
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
            kind = _pickler_of(self._shares_main())
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
