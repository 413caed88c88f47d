"""What the functions of a program hold and refer to, where no framework keeps a list of it.

::

    a layer ──held_by──▶ attributes, methods ──reached──▶ what these functions refer to by name:
                                                          closures, globals, and so on from there

Frameworks' own functions and classes are passed over; what they hold is their affair.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from types import CodeType, FunctionType, MethodType
from typing import Any, Dict, Iterable, List, Set, Tuple

_MOST = 1000  # what a larger container holds is data
_METHODS = (MethodType, classmethod, staticmethod)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_LEAVES = {bool, bytes, float, int, str, type(None)}  # they refer to nothing
_FRAMEWORKS = {"builtins", "jax", "keras", "numpy", "perftricks", "tensorflow", "torch"}


def referred(function: Any) -> List[Any]:
    """List what a function refers to: what its closure holds, and globals of its module."""
    function = _plain(function)
    found: List[Any] = []
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            found.extend(_spread(cell.cell_contents))
    code = getattr(function, "__code__", None)
    if code is not None and not _is_frameworks(function.__globals__.get("__name__")):
        names = function.__globals__
        found.extend(x for name in _names(code) if name in names for x in _spread(names[name]))
    return found


def reached(things: Iterable[Any]) -> List[Any]:
    """List things and what the functions among them refer to, directly or through functions."""
    found: Dict[int, Any] = {}
    waiting = deque(things)
    while waiting:
        x = waiting.popleft()
        if id(x) in found:
            continue
        x = _plain(x)
        if id(x) not in found:
            found[id(x)] = x
            if isinstance(x, FunctionType):
                waiting.extend(referred(x))
    return list(found.values())


def held_by(layer: Any) -> List[Any]:
    """List the attributes of a layer, of itself and of its classes, methods included."""
    namespaces = [vars(kind) for kind in type(layer).__mro__ if not _is_frameworks(kind.__module__)]
    found: List[Any] = []
    for names in (vars(layer), *namespaces):
        for value in [*names.values()]:
            if not isinstance(value, _CONTAINERS):
                if type(value) not in _LEAVES:
                    found.append(value)
            elif value:
                found.extend(_spread(value))
    return found


def _spread(value: Any) -> List[Any]:
    """List what is in a container, however deep, or the one thing that is none."""
    if not isinstance(value, _CONTAINERS):  # nearly always
        return [value]
    found: List[Any] = []
    waiting: List[Any] = [value]
    seen: Set[int] = set()
    while waiting:
        x = waiting.pop()
        if not isinstance(x, _CONTAINERS):
            found.append(x)
        elif id(x) not in seen and len(x) <= _MOST:
            seen.add(id(x))
            waiting.extend(reversed([*(x.values() if isinstance(x, dict) else x)]))
    return found


def _plain(x: Any) -> Any:
    """Return the function behind a method, a static or class method, or a property."""
    if isinstance(x, property):
        return x.fget
    return x.__func__ if isinstance(x, _METHODS) else x


@functools.lru_cache(maxsize=None)
def _names(code: CodeType) -> Tuple[str, ...]:
    """Return the names that a function uses, and those that the functions inside it use."""
    inside = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return tuple(dict.fromkeys(name for names in (code.co_names, *inside) for name in names))


def _is_frameworks(module: Any) -> bool:
    return str(module).partition(".")[0] in _FRAMEWORKS
