"""What is behind an iterator, and whether it works in one thread only.

An iterator that is read in another thread than the caller's may find another state there: a
``threading.local`` of that thread, another connection to a database. So what the iterator refers to
is looked through: what it holds, and the functions that it may call, by their names: a global one,
one of a module, a method of what it holds.
"""

from __future__ import annotations

import functools
import gc
import itertools
import sys
import threading
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

# Module and name of classes whose instances work in one thread only, or differ from thread to
# thread.
_BOUND = {
    ("sqlite3", "Connection"),
    ("sqlite3", "Cursor"),
    ("_thread", "_local"),
    ("_threading_local", "local"),
    ("asyncio.events", "AbstractEventLoop"),
    ("tkinter", "Misc"),
    ("greenlet", "greenlet"),
}
_MAX_THINGS = 3000
_MAX_DEPTH = 10
_MAX_MEMBERS = 50
_OPAQUE = (types.ModuleType, types.CodeType, str, bytes, int, float, type(None))
_ITERATING = ("__iter__", "__next__", "__getitem__")


def is_bound(iterator: Iterator[Any]) -> bool:
    """Whether something that works in one thread only is found behind an iterator."""
    return any(_is_bound_itself(thing) for thing in behind(iterator))


def behind(iterator: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator refers to, nearest first, as far as that is worth while."""
    return _Search(iterator).things()


class _Search:
    """Goes through what an iterator refers to.

    What a class has, methods or objects, is followed if its name is used by code that was found. A
    name may be found after the class, or an object of it, so classes are remembered.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._waiting: deque[tuple[Any, int]] = deque()
        self._seen: dict[int, Any] = {}  # kept, so that no other has the same id
        self._names = set(_ITERATING)
        self._classes: dict[int, tuple[type, int]] = {}  # of the program, with their depths
        self._add(iterator, 0)

    def things(self) -> Iterator[Any]:
        """Yield them, nearest first."""
        while self._waiting and len(self._seen) < _MAX_THINGS:
            thing, depth = self._waiting.popleft()
            yield thing
            if depth < _MAX_DEPTH:
                for other in self._referents(thing, depth + 1):
                    self._add(other, depth + 1)

    def _add(self, thing: Any, depth: int) -> None:
        if id(thing) in self._seen or issubclass(type(thing), _OPAQUE):
            return
        if issubclass(type(thing), type) and not _is_written_in_python(thing):
            return
        self._seen[id(thing)] = thing
        self._waiting.append((thing, depth))

    def _referents(self, thing: Any, depth: int) -> list[Any]:
        if isinstance(thing, types.GeneratorType):
            frame = thing.gi_frame
            if frame is None:
                return []
            held = list(frame.f_locals.values())
            named = self._named(frame.f_code, frame.f_globals, held)
            return [*held, *named, thing.gi_yieldfrom]
        if isinstance(thing, types.FunctionType):
            cells = [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
            named = self._named(thing.__code__, thing.__globals__, cells)
            return [*cells, *(thing.__defaults__ or ()), *named]
        if isinstance(thing, dict):
            return list(itertools.islice(thing.values(), _MAX_MEMBERS))
        if isinstance(thing, (list, tuple, set, frozenset, deque)):
            return list(itertools.islice(thing, _MAX_MEMBERS))
        if issubclass(type(thing), type):
            return self._attributes_of(thing, depth)
        return [*gc.get_referents(thing), *self._attributes_of(type(thing), depth)]

    def _named(self, code: types.CodeType, variables: dict[str, Any], held: list[Any]) -> list[Any]:
        """List what code refers to by its names: globals, and what is in modules.

        These are global, held by the code, or imported by it.
        """
        codes = [code, *(const for const in code.co_consts if isinstance(const, types.CodeType))]
        names = sorted({name for one in codes for name in one.co_names})
        there = [variables[name] for name in names if name in variables]
        found = list(there)
        imported = [sys.modules[name] for name in names if name in sys.modules]
        for module in filter(_is_of_program, [*there, *held, *imported]):
            found.extend(vars(module)[name] for name in names if name in vars(module))
        new = set(names) - self._names
        self._names |= new
        for kind, depth in list(self._classes.values()):
            for value in _attributes(kind, new):
                self._add(value, depth)
        return found

    def _attributes_of(self, kind: type, depth: int) -> list[Any]:
        if id(kind) in self._classes or not _is_written_in_python(kind):
            return []
        self._classes[id(kind)] = kind, depth
        return _attributes(kind, self._names)


def _attributes(kind: type, names: set[str]) -> list[Any]:
    """List what a class, or one that it derives from, has under some names: methods, objects."""
    found = []
    for base in kind.__mro__:
        for name in names & vars(base).keys():
            value = vars(base)[name]
            value = getattr(value, "fget", None) or getattr(value, "__func__", value)
            found.append(value)
    return found


def _is_of_program(thing: Any) -> bool:
    """Whether a thing is a module that does not belong to Python."""
    if not isinstance(thing, types.ModuleType):
        return False
    return thing.__name__.partition(".")[0] not in sys.stdlib_module_names


def _is_written_in_python(kind: type) -> bool:
    root = str(kind.__module__).partition(".")[0]
    return bool(kind.__flags__ & _HEAP) and root not in _STANDARD


_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_STANDARD = sys.stdlib_module_names - {"__main__"}


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_bound_type(kind: type) -> bool:
    try:
        return _is_bound_class(kind)
    except TypeError:  # a metaclass may make classes that have no hash
        return _is_bound_class.__wrapped__(kind)


@functools.cache
def _is_bound_class(kind: type) -> bool:
    return any((base.__module__, base.__name__) in _BOUND for base in kind.__mro__)


def _is_bound_itself(thing: Any) -> bool:
    if type(thing) is _RLOCK:
        return bool(thing._is_owned())  # it would wait for its owner, for ever
    kind: Any = type(thing)
    return _is_bound_type(kind)


_RLOCK: Any = type(threading.RLock())
