"""Classes and functions of the main module, in processes that have another main module.

cloudpickle sends them by value, each time that something needs them. On its own, that makes a class
anew each time it arrives: what a program has put into the class since is lost, in a worker with
each item, and in the caller with each result. And functions that arrive one after the other have
globals of their own, where those of a module share them. Here

* a class is filled in once in each process, and never in the one that it comes from;
* functions of one module have the same globals in a worker, as they had when the first of them
  arrived; what an initializer or a task sets there stays;
* a class with slots has them there, too.
"""

from __future__ import annotations

import enum
import os
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

Reduced = tuple[Any, ...]

_own: weakref.WeakSet[type] = weakref.WeakSet()  # classes that were sent from here
_received: weakref.WeakSet[type] = weakref.WeakSet()  # classes that were filled in here
_globals: dict[tuple[str, str], dict[str, Any]] = {}  # of modules of other processes
_process = ""


def reduced(thing: Any, found: Any) -> Any:
    """Return what cloudpickle makes of a class or a function, such that it is received as above."""
    if not (isinstance(found, tuple) and len(found) == 6):
        return found  # it goes by name
    make, arguments, state, _, _, fill = found
    if isinstance(thing, type):
        if thing not in _received:
            _own.add(thing)
        if "__slots__" in vars(thing) and not _makes_its_slots(thing):
            arguments, state = _with_slots(thing, arguments, state)
        return make, arguments, (fill, state), None, None, _fill_class
    module = sys.modules.get(thing.__module__)
    if isinstance(thing, types.FunctionType) and vars(module or thing) is thing.__globals__:
        key = _name_of_process(), thing.__module__
        return _make_function, (make, key, arguments), (fill, state), None, None, _fill_function
    return found


def forget() -> None:
    """Forget what was received: a run of its own begins in this process."""
    _received.clear()
    _globals.clear()


def _name_of_process() -> str:
    """Return a name that no other process has had; forks have their parent's main module."""
    global _process
    _process = _process or os.urandom(8).hex()
    return _process


def _makes_its_slots(kind: type) -> bool:
    """Whether a class has its slots from its metaclass, or from a base as ``NamedTuple``."""
    bases = vars(kind).get("__orig_bases__", ())
    made = any(isinstance(base, types.FunctionType) for base in bases)
    return made or issubclass(type(kind), enum.EnumMeta)


def _with_slots(kind: type, arguments: Reduced, state: Any) -> tuple[Reduced, Any]:
    """Have a class made with its slots, not given them when it is there."""
    slots = vars(kind)["__slots__"]
    constructor, name, bases, keywords, *rest = arguments
    attributes = {key: value for key, value in state[0].items() if key != "__slots__"}
    made = {**keywords, "__slots__": slots if isinstance(slots, str) else tuple(slots)}
    return (constructor, name, bases, made, *rest), (attributes, *state[1:])


def _fill_class(kind: type, given: tuple[Callable[..., Any], Any]) -> type:
    if kind not in _own and kind not in _received:
        _received.add(kind)
        fill, state = given
        fill(kind, state)
    return kind


def _make_function(make: Callable[..., Any], key: tuple[str, str], arguments: Reduced) -> Any:
    code, first, *rest = arguments
    return make(code, _globals.setdefault(key, first), *rest)


def _fill_function(function: Any, given: tuple[Callable[..., Any], Any]) -> Any:
    fill, (attributes, slots) = given
    here = function.__globals__
    new = {key: value for key, value in slots["__globals__"].items() if key not in here}
    fill(function, (attributes, {**slots, "__globals__": new}))
    return function
