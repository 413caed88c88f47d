"""Random seeds that belong to an item, so that results do not depend on the number of workers."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import os
import random
import struct
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec

_MASK = 2**64 - 1
_KEY_WORDS = 624  # of 32 bits: the state of a Mersenne Twister, beside its position
_current_seed: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "perftricks_item_seed", default=None
)


def new_root_seed() -> int:
    """Draw a root seed from the operating system: 64 bits."""
    return int.from_bytes(os.urandom(8), "little")


def seed_of(root_seed: int, index: int) -> int:
    """Return the 64-bit seed of item ``index``.

    Two rounds of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014), so that neighbouring items and neighbouring root seeds have seeds
    that look unrelated.

    >>> seed_of(0, 0) != seed_of(0, 1) != seed_of(1, 0)
    True
    """
    return _splitmix64(_mixed(root_seed) ^ _splitmix64(~index & _MASK))


@functools.lru_cache(maxsize=16)
def _mixed(root_seed: int) -> int:
    """Return the part of an item's seed that is the same for all items of a run."""
    return _splitmix64(root_seed & _MASK)


def item_seed() -> int | None:
    """Return the seed of the item being processed, from inside a task.

    An int of 64 bits that depends on ``root_seed`` and the item's index alone. It feeds generators
    that :func:`perftricks.parallel.parallel_apply` does not know, and those of threads, which share
    ``random`` and ``numpy.random`` and so cannot each have them seeded.

    Returns:
        The seed, or None outside a task and in a run without ``random_seeds=True``.

    >>> import random
    >>> from perftricks.parallel import item_seed, parallel_apply
    >>> def draw(item):
    ...     return random.Random(item_seed()).random()
    >>> one = parallel_apply(draw, range(4), 1, 4, dummy=True, unordered=False, root_seed=7)
    >>> two = parallel_apply(draw, range(4), 2, 4, dummy=True, unordered=False, root_seed=7)
    >>> one == two
    True
    """
    return _current_seed.get()


class item_seed_set:  # noqa: N801  # a context manager; as a generator it would take 1 us more
    """Makes ``seed`` what :func:`item_seed` returns in this thread, for a while."""

    __slots__ = ("_seed", "_token")

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._token = _current_seed.set(self._seed)

    def __exit__(self, *exception: object) -> None:
        _current_seed.reset(self._token)


def expect_numpy(*, may_wait: bool) -> None:
    """Make sure that numpy's generator is seeded even if the task is what imports numpy.

    Args:
        may_wait: Whether to wait until something imports ``numpy.random``, and seed it then; that
            spares workers which never need numpy the time to import it. If False, it is imported
            now, where it is installed.
    """
    if "numpy.random" in sys.modules:
        return
    if may_wait:
        sys.meta_path.insert(0, _SeedingFinder())
    else:
        with contextlib.suppress(ImportError):  # also in an interpreter beside the main one
            importlib.import_module("numpy.random")


class _SeedingFinder:
    """Finds numpy's generator as all other finders do, and has it seeded once it is loaded."""

    _NAME = "numpy.random.mtrand"

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self._NAME:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _SeedingLoader(spec.loader))
        return spec


class _SeedingLoader:
    """Loads a module as its own loader does, then seeds its generator for the current item."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        seed = item_seed()
        if seed is not None:
            module.seed(_numpy_seed(seed))


def seed_generators(seed: int) -> None:
    """Seed ``random`` and, if it is loaded, ``numpy.random``."""
    global _copier
    random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return
    if _copier is not None and _copier.copy(seed):
        return
    numpy_random.seed(_numpy_seed(seed))
    if _copier is None and seed >> 32:
        _copier = _StateCopier(numpy_random)


class _StateCopier:
    """Gives numpy's generator the state that ``random`` has just been seeded to.

    Both are Mersenne Twisters, and seeds of more than 32 bits make the same state of both. Copying
    it takes half a microsecond; that numpy takes the two words of a seed, and computes the state
    once more, takes about eight.

    Where numpy keeps its state it says itself (``BitGenerator.ctypes``). Where Python does is found
    by looking for the state that is known in the object's memory. Where either is not as expected,
    nothing is ever copied.

    Args:
        numpy_random: The module. Its generator and that of ``random`` have just been seeded with a
            seed of more than 32 bits.
    """

    def __init__(self, numpy_random: Any) -> None:
        self._numpy_random = numpy_random
        self._usable = False
        generator = getattr(numpy_random, "get_bit_generator", lambda: None)()  # numpy 1.24
        python = sys.implementation.name
        if python != "cpython" or not isinstance(generator, numpy_random.MT19937):
            return
        import ctypes

        source = getattr(random, "_inst", None)  # whose methods random's functions are
        key = struct.pack(f"{_KEY_WORDS}I", *random.getstate()[1][:_KEY_WORDS])
        memory = ctypes.string_at(id(source), type(source).__basicsize__)
        begin, target = memory.find(key), generator.ctypes.state_address
        seeded = key + struct.pack("i", _KEY_WORDS)
        if begin < 0 or ctypes.string_at(target, len(seeded)) != seeded:
            return
        self._generator = generator
        self._lock = generator.lock
        self._copy = functools.partial(ctypes.memmove, target, id(source) + begin, len(key))
        self._position = ctypes.c_int.from_address(target + len(key))
        self._usable = True

    def copy(self, seed: int) -> bool:
        """Copy the state, if that is what ``numpy.random.seed`` would have done; say so."""
        if not (self._usable and seed >> 32):
            return False
        numpy_random, generator = self._numpy_random, self._generator
        if numpy_random.get_bit_generator() is not generator:
            return False
        with self._lock:
            self._copy()
            self._position.value = _KEY_WORDS
        numpy_random.set_bit_generator(generator)  # forgets the second of a pair of normal numbers
        return True


_copier: _StateCopier | None = None


def seed_numpy(seed: object) -> None:
    """Seed ``numpy.random``, if it is loaded, with whatever it accepts as a seed."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(seed)


@contextlib.contextmanager
def generators_preserved() -> Iterator[None]:
    """Give ``random`` and ``numpy.random`` back the states they had."""
    state = random.getstate()
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = numpy_random.get_state() if numpy_random is not None else None
    try:
        yield
    finally:
        random.setstate(state)
        if numpy_random is not None:
            numpy_random.set_state(numpy_state)


def _numpy_seed(seed: int) -> list[int]:
    """Split 64 bits into the 32-bit words that numpy's legacy generator takes."""
    return [seed & 0xFFFFFFFF, seed >> 32]


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
