"""What the functions of a program hold and refer to, where no framework keeps a list of it.

::

    a layer ──held_by──▶ attributes, methods
    a function ──referred──▶ what it refers to by name: closure, defaults, globals
    what a call has ──reached──▶ all of this, again and again

Frameworks' own functions and classes are passed over; what they hold is their affair.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Callable, Dict, Iterable, List, Set, Tuple

_MOST = 1000  # what a larger container holds is data
_METHODS = (MethodType, classmethod, staticmethod)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_LEAVES = {bool, bytes, float, int, str, type(None)}  # they refer to nothing
_FRAMEWORKS = {
    "builtins",
    "jax",
    "keras",
    "numpy",
    "perftricks",
    "tensorflow",
    "tensorflow_core",
    "tf_keras",
    "torch",
}


def referred(function: Any) -> List[Any]:
    """List what a function refers to: closure, defaults, globals; of a partial, its arguments."""
    function = _plain(function)
    if str(getattr(function, "__module__", "")).startswith("perftricks.recompute."):
        return []  # a segment, whose layers are known; it also refers to the whole model
    if isinstance(function, functools.partial):
        return [function.func, *spread((function.args, function.keywords))]
    found: List[Any] = []
    for defaults in ("__defaults__", "__kwdefaults__"):
        found.extend(spread(getattr(function, defaults, None) or ()))
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            found.extend(spread(cell.cell_contents))
    code = getattr(function, "__code__", None)
    if code is not None and not _is_frameworks(function.__globals__.get("__name__")):
        names, used = function.__globals__, _names(code)
        values = [names[name] for name in used if name in names]
        for module in [x for x in values if isinstance(x, ModuleType) and not _is_frameworks(x)]:
            values.extend(vars(module)[name] for name in used if name in vars(module))
        found.extend(x for value in values for x in spread(value))
    return found


def reached(things: Iterable[Any], below: Callable[[Any], Iterable[Any]]) -> List[Any]:
    """List things, what functions among them refer to, what layers hold, and so on from there.

    Args:
        things: Where to begin, such as a call, its owner and its arguments; nested as they are.
        below: Lists a layer and all layers below it; nothing for what is no layer.
    """
    found: Dict[int, Any] = {}
    waiting = deque(spread([*things]))
    while waiting:
        x = waiting.popleft()
        if isinstance(x, MethodType):
            waiting.append(x.__self__)
        x = _plain(x)
        if id(x) in found:
            continue
        found[id(x)] = x
        if isinstance(x, (FunctionType, functools.partial)):
            waiting.extend(referred(x))
            continue
        for layer in below(x):
            if layer is x or id(layer) not in found:
                found[id(layer)] = layer
                waiting.extend(held_by(layer))
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
                found.extend(spread(value))
    return found


def spread(value: Any) -> List[Any]:
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
    name = getattr(module, "__name__", module)
    return str(name).partition(".")[0] in _FRAMEWORKS
