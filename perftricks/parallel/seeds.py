"""Random seeds that belong to an item, so that results do not depend on the number of workers."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import importlib.util
import random
import secrets
import sys
from collections.abc import Iterator

_MASK = 2**64 - 1
_current_seed: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "perftricks_item_seed", default=None
)


def new_root_seed() -> int:
    """Draw a root seed from the operating system: 64 bits."""
    return secrets.randbits(64)


def seed_of(root_seed: int, index: int) -> int:
    """Return the 64-bit seed of item ``index``.

    Two rounds of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014), so that neighbouring items and neighbouring root seeds have seeds
    that look unrelated.

    >>> seed_of(0, 0) != seed_of(0, 1) != seed_of(1, 0)
    True
    """
    return _splitmix64(_splitmix64(root_seed & _MASK) ^ _splitmix64(~index & _MASK))


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


def set_item_seed(seed: int) -> None:
    """Make ``seed`` what :func:`item_seed` returns in this thread."""
    _current_seed.set(seed)


def clear_item_seed() -> None:
    """Forget the item's seed: the task is over."""
    _current_seed.set(None)


def load_numpy() -> None:
    """Import ``numpy.random`` where numpy is installed.

    A task that imports numpy itself would otherwise meet a generator that no one has seeded.
    """
    if importlib.util.find_spec("numpy") is not None:
        importlib.import_module("numpy.random")


def seed_generators(seed: int) -> None:
    """Seed ``random`` and, if it is loaded, ``numpy.random``."""
    random.seed(seed)
    seed_numpy([seed & 0xFFFFFFFF, seed >> 32])


def seed_numpy(seed: object) -> None:
    """Seed ``numpy.random``, if it is loaded, with whatever it accepts as a seed."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(seed)


@contextlib.contextmanager
def generators_preserved() -> Iterator[None]:
    """Give ``random`` and ``numpy.random`` back the states they had: the caller's process is not ours."""
    state = random.getstate()
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = numpy_random.get_state() if numpy_random is not None else None
    try:
        yield
    finally:
        random.setstate(state)
        if numpy_random is not None:
            numpy_random.set_state(numpy_state)


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
