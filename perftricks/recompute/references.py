"""What the functions of a program hold and refer to, where no framework keeps a list of it.

::

    a layer ──held_by──▶ attributes, methods
    a function ──referred──▶ what it refers to by name: closure, defaults, globals
    what a call has ──reached──▶ all of this, again and again

Frameworks' own functions and classes are passed over; what they hold is their affair.
"""

from __future__ import annotations

import dis
import functools
import gc
import operator
from itertools import chain
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Callable, Dict, Iterable, List, Sequence, Set, Tuple

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
    known = hasattr(function, "__globals__") or isinstance(function, functools.partial)
    return _spread_all(_referred(function), {}) if known else []


def _referred(function: Any) -> List[Any]:
    if str(getattr(function, "__module__", "")).startswith("perftricks.recompute."):
        return []  # a segment, whose layers are known; it also refers to the whole model
    if isinstance(function, functools.partial):
        return [function.func, function.args, function.keywords]
    found: List[Any] = [function.__defaults__, function.__kwdefaults__]
    found += gc.get_referents(*(function.__closure__ or ()))  # of a cell, what it is filled with
    names = function.__globals__
    if not is_frameworks(names.get("__name__")):
        used, of_globals = names_in(function.__code__)
        values = [names[name] for name in of_globals if name in names]
        for module in [x for x in values if isinstance(x, ModuleType) and not is_frameworks(x)]:
            values += [vars(module)[name] for name in used if name in vars(module)]
        found += values
    return found


def reached(things: Iterable[Any], below: Callable[[Any], Iterable[Any]]) -> List[Any]:
    """List things, what functions among them refer to, what layers hold, and so on from there.

    Nothing is remembered for the next time, since any of it may have changed by then. All that one
    round has found is looked at together in the next, by types where these tell enough.

    Args:
        things: Where to begin, such as a call, its owner and its arguments; nested as they are.
        below: Lists a layer and all layers below it; nothing for what is no layer.
    """
    found: Dict[int, Any] = {}
    seen: Dict[int, Any] = {}  # containers, and methods of which the functions are listed
    waiting: List[Any] = [*things]
    while waiting:
        fresh = {id(x): x for x in _spread_all(waiting, seen)}
        for key in fresh.keys() & found.keys():
            del fresh[key]
        found.update(fresh)
        roles = _roles(fresh.values())
        waiting = []
        for x in fresh.values():
            role = roles[type(x)]
            if role is _PROXY:
                role = _role(x.__class__)
            if role is _FUNCTION:
                waiting += _referred(x)
            elif role is _METHOD:
                seen[id(x)] = x
                waiting.append(_plain(x))
                if isinstance(x, MethodType):
                    waiting.append(x.__self__)
            else:
                for layer in below(x):
                    if layer is x or id(layer) not in found:
                        found[id(layer)] = layer
                        waiting += held_by(layer)
    return [x for key, x in found.items() if key not in seen]


def of_classes(things: Sequence[Any], fits: Callable[[type], Any]) -> List[Any]:
    """List the things whose class fits; each class is asked once."""
    fitting = {kind for kind in {*map(_CLASS, things)} if fits(kind)}
    return [x for x in things if x.__class__ in fitting] if fitting else []


def held_by(layer: Any) -> List[Any]:
    """List the attributes of a layer, of itself and of its classes, methods included."""
    values = [*vars(layer).values()]
    for kind in _own_classes(type(layer).__mro__):
        values += vars(kind).values()
    return values


def _spread_all(values: List[Any], seen: Dict[int, Any]) -> List[Any]:
    """List what is in containers among values, however deep, and the others; no leaves.

    Args:
        values: The values.
        seen: Containers by id, which are passed over; those that are met are added.
    """
    found: List[Any] = []
    while values:
        roles = _roles(values)
        plain = [x for x in values if roles[type(x)]]
        if _PROXY in roles.values():
            asked = [x for x in plain if roles[type(x)] is _PROXY]
            inside = [x for x in asked if _role(x.__class__) is _CONTAINER]
            found += [x for x in asked if _role(x.__class__) is not _CONTAINER]
        else:
            inside = []
        found += [x for x in plain if roles[type(x)] in _ASKED]
        inside += [x for x in plain if roles[type(x)] is _CONTAINER and x]
        values = []
        for x in inside:
            if id(x) not in seen and len(x) <= _MOST:
                seen[id(x)] = x
                values.extend(x.values() if isinstance(x, dict) else x)
    return found


_CLASS = operator.attrgetter("__class__")  # that of a proxy is what it stands for
_LEAF, _CONTAINER, _FUNCTION, _METHOD, _PROXY, _OTHER = range(6)
_ASKED = {_FUNCTION, _METHOD, _OTHER}


def _roles(values: Iterable[Any]) -> Dict[type, int]:
    return {kind: _role(kind) for kind in {*map(type, values)}}


@functools.lru_cache(maxsize=1000)
def _role(kind: Any) -> int:
    """Tell what objects of a class are to this module; of a proxy each has to be asked."""
    if kind in _LEAVES:
        return _LEAF
    if issubclass(kind, _CONTAINERS):
        return _CONTAINER
    if issubclass(kind, (FunctionType, functools.partial)):
        return _FUNCTION
    if issubclass(kind, (*_METHODS, property)):
        return _METHOD
    return _PROXY if is_of_proxies(kind) else _OTHER


@functools.lru_cache(maxsize=1000)
def is_of_proxies(kind: Any) -> bool:
    """Tell whether objects of a class may say that they are of another."""
    if issubclass(kind, (type, ModuleType)):
        return False
    return kind.__getattribute__ is not object.__getattribute__ or any(
        "__class__" in vars(base) for base in kind.__mro__[:-1]
    )


@functools.lru_cache(maxsize=1000)
def _own_classes(mro: Tuple[type, ...]) -> List[type]:
    """List the classes that are no frameworks'."""
    return [kind for kind in mro if not is_frameworks(kind.__module__)]


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
def names_in(code: CodeType) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Return the names that a function uses, attributes too, and those that are of globals.

    What the functions inside it use is among them.
    """
    inside = [names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    used = dict.fromkeys(chain(code.co_names, *(names for names, _ in inside)))
    instructions = dis.get_instructions(code)
    found = [x.argval for x in instructions if "GLOBAL" in x.opname or x.opname == "LOAD_NAME"]
    of_globals = dict.fromkeys(chain(found, *(names for _, names in inside)))
    return tuple(used), tuple(of_globals)


def is_frameworks(module: Any) -> bool:
    """Tell whether a module, or one of this name, is a framework's or our own."""
    return _is_name_of_framework(str(getattr(module, "__name__", module)))


@functools.lru_cache(maxsize=1000)
def _is_name_of_framework(name: str) -> bool:
    return name.partition(".")[0] in _FRAMEWORKS
