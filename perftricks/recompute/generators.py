"""Random numbers that no Keras knows of: Python's and numpy's, and generators of a program's own.

A call that draws from them draws the same again when it is run again: their states are put back for
a while, those of the ones that it has drawn from.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, Tuple

import numpy as np

from perftricks.recompute import references


class _Kept(NamedTuple):
    state: Any
    get: Callable[[], Any]
    put: Callable[[Any], Any]


class Generators:
    """Generators of random numbers, with their states at one moment.

    Args:
        things: What a call can reach. Kept are the generators among it, ``random.Random``,
            ``numpy.random.Generator`` and ``RandomState``, ``torch.Generator``; and those of the
            modules ``random`` and ``numpy.random`` where these, or functions of them, are there.
    """

    def __init__(self, things: Iterable[Any] = ()) -> None:
        ways: Dict[int, _Way] = {}
        for thing in references.of_classes([*things], _may_draw):
            generator = _generator(thing)
            if generator is not None:
                ways.setdefault(id(generator), _way(generator))
        self._kept = [_Kept(get(), get, put) for get, put in ways.values()]

    def forget_unused(self) -> None:
        """Keep only the states of those from which numbers were drawn since."""
        self._kept = [one for one in self._kept if not _same(one.state, one.get())]

    def restore(self) -> None:
        """Put the states back, for good."""
        for one in self._kept:
            one.put(one.state)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Have them in these states for a while."""
        now = [(one, one.get()) for one in self._kept]
        self.restore()
        try:
            yield
        finally:
            for one, state in now:
                one.put(state)


_Way = Tuple[Callable[[], Any], Callable[[Any], Any]]
_PYTHONS: Any = random.random.__self__  # type: ignore[attr-defined]
_NUMPYS: Any = np.random.rand.__self__  # type: ignore[attr-defined]


def _may_draw(kind: Any) -> bool:
    """Tell whether an object of a class may be, or draw from, a generator."""
    return bool(issubclass(kind, (ModuleType, MethodType, BuiltinMethodType)) or _kind(kind))


def _generator(thing: Any) -> Any:
    """Return the generator that a thing is, or draws from; None if it is no such thing."""
    if isinstance(thing, ModuleType):
        if thing is random:
            return _PYTHONS
        return _NUMPYS if thing.__name__ in ("numpy", "numpy.random") else None
    if isinstance(thing, (MethodType, BuiltinMethodType)):
        thing = thing.__self__
    return thing if _kind(thing.__class__) else None


@functools.lru_cache(maxsize=1000)
def _kind(kind: type) -> str:
    """Return what a class of generators is a kind of; "" for other classes."""
    torch = getattr(sys.modules.get("torch"), "Generator", None)
    if issubclass(kind, random.Random):
        # That of the operating system has no state.
        return "" if issubclass(kind, random.SystemRandom) else "python"
    if issubclass(kind, np.random.RandomState) or (torch is not None and issubclass(kind, torch)):
        return "state"
    return "numpy" if issubclass(kind, getattr(np.random, "Generator", ())) else ""


def _way(generator: Any) -> _Way:
    """Return how to get and put the state of a generator."""
    kind = _kind(generator.__class__)
    if kind == "python":
        return generator.getstate, generator.setstate
    if kind == "state":
        return generator.get_state, generator.set_state
    bits = generator.bit_generator
    return lambda: bits.state, lambda state: setattr(bits, "state", state)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and len(one) == 5:  # numpy's, with an array; Python's has 625 numbers
        return all(map(_same, one, other))
    return bool((one == other).all()) if hasattr(one, "shape") else bool(one == other)
