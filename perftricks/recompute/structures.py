"""Nested arguments and results: their leaves in order, and the same structure with other leaves.

Frameworks have functions for it as well. Theirs sort the keys of dicts, on torch for good, so that
a call would find a dict in another order than it was given in; and keys that cannot be compared
are an error. Here Python's own containers stay as they are; what a framework knows besides, classes
that were registered, is left to its functions.
"""

from __future__ import annotations

import collections
import collections.abc
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Sequence, Set

_DICTS = (dict, collections.OrderedDict, collections.defaultdict)


class Structures(NamedTuple):
    """How structures are taken apart and put together.

    Attributes:
        others: Lists the leaves of what is none of Python's containers.
        whole: Puts such a thing together, of one that is like it and of leaves.
    """

    others: Callable[[Any], Sequence[Any]]
    whole: Callable[[Any, List[Any]], Any]

    def flatten(self, structure: Any) -> List[Any]:
        """List the leaves."""
        found: List[Any] = []
        waiting = [structure]
        while waiting:
            x = waiting.pop()
            items = _items(x)
            if items is not None:
                waiting.extend(reversed(items))
            elif type(x) in _leaf_types:
                found.append(x)
            else:
                found.extend(self._others(x))
        return found

    def pack(self, structure: Any, leaves: Sequence[Any]) -> Any:
        """Return a structure like this one with other leaves."""
        return self._packed(structure, iter(leaves))

    def map(self, function: Callable[[Any], Any], structure: Any) -> Any:
        """Return a structure like this one with what a function makes of its leaves."""
        return self.pack(structure, [function(leaf) for leaf in self.flatten(structure)])

    def _packed(self, x: Any, leaves: Iterator[Any]) -> Any:
        items = _items(x)
        if items is None:
            if type(x) in _leaf_types:
                return next(leaves)
            count = len(self._others(x))
            return self.whole(x, [next(leaves) for _ in range(count)])
        values = [self._packed(item, leaves) for item in items]
        if isinstance(x, collections.defaultdict):
            return collections.defaultdict(x.default_factory, zip(x, values))
        if isinstance(x, dict):
            return type(x)(zip(x, values))
        return type(x)(*values) if _is_namedtuple(x) else type(x)(values)

    def _others(self, x: Any) -> Sequence[Any]:
        found = self.others(x)
        kind = type(x)
        if len(found) == 1 and found[0] is x and kind.__module__.partition(".")[0] in _FRAMEWORKS:
            _leaf_types.add(kind)
        return found


# Tensors and numbers, once they were seen to be leaves: the functions of frameworks are slow.
_leaf_types: Set[type] = set()
_FRAMEWORKS = {"builtins", "jax", "jaxlib", "keras", "numpy", "tensorflow", "torch"}


def check_returned(leaves: Iterable[Any]) -> None:
    """Refuse an iterator, or a view of a dict, that a call has returned.

    Nobody can look into it without using it up, so what it holds would lose its gradient, or be
    computed when the call is over.
    """
    for x in leaves:
        if isinstance(x, _VIEWS) or (
            isinstance(x, collections.abc.Iterator) and type(x).__module__ in _OF_PYTHON
        ):
            raise TypeError(
                "a call that is to be recomputed returned a %s, in which tensors cannot be found; "
                "return a list or a tuple" % type(x).__name__
            )


_VIEWS = (collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView)
_OF_PYTHON = ("builtins", "itertools")


def _items(x: Any) -> Any:
    """List what is in one of Python's containers; None for anything else."""
    kind = type(x)
    if kind in _DICTS:
        return list(x.values())
    if kind is list or kind is tuple or _is_namedtuple(x):
        return list(x)
    return None


def _is_namedtuple(x: Any) -> bool:
    return isinstance(x, tuple) and type(x) is not tuple and hasattr(x, "_fields")
