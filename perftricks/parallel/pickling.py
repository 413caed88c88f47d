"""Pickling between processes: by value what the other side cannot import, by name what it can."""

from __future__ import annotations

import functools
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


def shares_main() -> bool:
    """Whether :func:`share_main` was called in this process."""
    return _shares_main


def dumps(thing: object) -> bytes:
    """Pickle ``thing``, lambdas, closures and classes of the main module included.

    Raises:
        Exception: Whatever pickling raises.
    """
    with io.BytesIO() as buffer:
        try:
            _PlainPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
        except Exception:
            buffer.seek(0)
            buffer.truncate()
            _pickler_of(_shares_main)(buffer).dump(thing)
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
        aside: Where its large buffers are, if these are not in the pickle.
        begin: Which of the buffers there are its own: from this one
        end: to the one before this.
    """

    pickled: bytes
    aside: Aside | None = None
    begin: int = 0
    end: int = 0

    def load(self) -> Any:
        """Unpickle it."""
        if self.aside is None:
            return pickle.loads(self.pickled)
        return pickle.loads(self.pickled, buffers=self.aside.buffers(self.begin, self.end))


class _WithBuffers:
    """Stands for something whose buffers are not in its pickle; in that of this object they are."""

    def __init__(self, pickled: bytes, buffers: list[memoryview]) -> None:
        self._pickled = pickled
        self._buffers = [bytes(one) if one.readonly else bytearray(one) for one in buffers]

    def __reduce__(self) -> Any:
        return _load, (self._pickled, self._buffers)


def _load(pickled: bytes, buffers: list[Any]) -> Any:
    return pickle.loads(pickled, buffers=buffers)


class Unsendable(NamedTuple):
    """Stands for something that cannot be pickled."""

    error: Exception


class Keeper:
    """Makes of a thing what it is now, whatever becomes of it: itself, a copy, or pickled.

    Copies and constants are pickled later, many at once, which takes less time. Nothing is pickled
    twice: that may change it.

    Args:
        shares_main: Whether the reader has the same main module, as forks have. Then its classes
            travel by name, and an instance arrives as one of the very class. A function, since it
            may only be known later.
        large: Whether large buffers can be put aside.
        together: Whether the large buffers of all things are put aside in one file.

    Attributes:
        aside: That file.
    """

    def __init__(
        self, shares_main: Callable[[], bool], *, large: bool, together: bool = False
    ) -> None:
        self.aside: Aside | None = None
        self._shares_main = shares_main
        self._large = large
        self._together = together
        self._collector: Collector | None = None
        self._buffer = io.BytesIO()
        self._pickler: Any = None
        self._constant = _constant_types(sys.modules.get("numpy"))

    def __call__(self, thing: Any) -> Any:
        """Return a constant, a :class:`Packed` or an :class:`Unsendable`."""
        try:
            return self._copied(thing)
        except Exception:  # of its class, or a part's, which cannot even be hashed
            return self._pack(thing)

    def _copied(self, thing: Any) -> Any:
        kind = type(thing)
        constant = self._constant
        if kind in constant:
            return thing
        if kind is tuple and constant.issuperset(map(type, thing)):
            return thing
        if kind is dict and constant.issuperset(map(type, thing.values())):
            if constant.issuperset(map(type, thing)):
                return thing.copy()
        elif kind in _COPIED_TYPES and constant.issuperset(map(type, thing)):
            return thing.copy()
        elif _is_small_array(thing):
            return thing.copy("K")
        return self._pack(thing)

    def _pack(self, thing: Any) -> Packed | Unsendable:
        try:
            return self._put_aside(self._dump(thing))
        except BaseException as error:
            self._pickler = None  # what it has collected is of this thing
            if isinstance(error, Exception):
                return Unsendable(error.with_traceback(None))  # its frames hold what is read
            raise

    def _dump(self, thing: Any) -> bytes:
        if self._pickler is None:  # it is used again, for it takes long to make one
            self._take_pickler(_PlainPickler)
        elif not isinstance(self._pickler, _PlainPickler):
            self._pickler.globals_ref.clear()
        try:
            return self._dumped(thing)
        except Exception:
            if not isinstance(self._pickler, _PlainPickler):
                raise
        self._take_pickler(_pickler_of(self._shares_main()))
        return self._dumped(thing)

    def _take_pickler(self, kind: Callable[..., Any]) -> None:
        self._collector = Collector() if self._large else None
        self._pickler = kind(self._buffer, pickle.HIGHEST_PROTOCOL, buffer_callback=self._collector)

    def _dumped(self, thing: Any) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._pickler.clear_memo()
        self._pickler.dump(thing)
        return self._buffer.getvalue()

    def _put_aside(self, pickled: bytes) -> Packed:
        """Put the buffers of a pickle aside; where that cannot be, have them in a pickle."""
        if self._collector is None or not self._collector.buffers:
            return Packed(pickled)
        buffers, self._collector.buffers = self._collector.buffers, []
        aside = self.aside
        if aside is None or not aside.add(buffers):
            aside = Aside.put(buffers) if aside is None else None
        if aside is None:
            return Packed(pickle.dumps(_WithBuffers(pickled, buffers), pickle.HIGHEST_PROTOCOL))
        if self._together:
            self.aside = aside
        end = len(aside.places)
        return Packed(pickled, aside, end - len(buffers), end)


_CONSTANT_TYPES = (int, float, complex, bool, str, bytes, type(None), type(...))
_COPIED_TYPES = frozenset((list, set, frozenset, bytearray))
_SMALL_ARRAY = 1 << 16  # bytes; to copy a larger one costs more than pickling it by itself


@functools.cache
def _constant_types(numpy: Any) -> frozenset[type]:
    """Return the types whose objects never change and refer to none that do."""
    if numpy is None or not hasattr(numpy, "generic"):
        return frozenset(_CONSTANT_TYPES)
    found = {kind for kind in vars(numpy).values() if isinstance(kind, type)}
    scalars = {k for k in found if issubclass(k, numpy.generic) and not issubclass(k, numpy.void)}
    return frozenset(scalars.union(_CONSTANT_TYPES))


def _is_small_array(item: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and type(item) is numpy.ndarray
        and item.nbytes <= _SMALL_ARRAY
        and not item.dtype.hasobject
        and item.flags.writeable  # a copy would be
    )
