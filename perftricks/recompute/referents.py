"""What a call refers to by name and does not own, as it was when the call began.

::

    for t in range(steps):
        @recompute_grad
        def step(x): ... t ...     a closure's t, a global: another one by the time of the backward
        x = step(x)                pass, where all the steps are run again

The variables of closures and globals that functions use, and arrays of numpy that are not large,
are put back before a call is run again, and afterwards are what they were. In a list or a dict that
such a variable stands for, only what the call itself has not set is: if it appends to the list, it
does so in both runs.
"""

from __future__ import annotations

import contextlib
import dis
import functools
from types import CodeType, FunctionType
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from perftricks.recompute import references

_MOST = 1000  # what a larger container holds is data
_MOST_BYTES = 2**18  # and so is a larger array
_NOTHING: Any = object()


class _Cell(NamedTuple):
    """A variable of a closure."""

    cell: Any
    is_set_by_call: bool

    def get(self) -> Any:
        """Return what it stands for."""
        try:
            return self.cell.cell_contents
        except ValueError:  # it is not filled
            return _NOTHING

    def put(self, value: Any) -> None:
        """Let it stand for something."""
        if value is _NOTHING:
            del self.cell.cell_contents
        else:
            self.cell.cell_contents = value


class _Global(NamedTuple):
    """A global variable of a module."""

    names: Dict[str, Any]
    name: str
    is_set_by_call: bool

    def get(self) -> Any:
        """Return what it stands for."""
        return self.names.get(self.name, _NOTHING)

    def put(self, value: Any) -> None:
        """Let it stand for something."""
        if value is _NOTHING:
            self.names.pop(self.name, None)
        else:
            self.names[self.name] = value


class Referents:
    """What functions refer to by name, and arrays, at one moment.

    Args:
        things: What a call can reach, as ``references.reached`` lists it.
        changeable: Classes of tensors that may be changed in place.

    Attributes:
        tensors: The tensors of these classes among the things.
    """

    def __init__(self, things: Sequence[Any] = (), changeable: Tuple[type, ...] = ()) -> None:
        functions = references.of_classes(things, lambda kind: issubclass(kind, FunctionType))
        slots: Dict[Any, Any] = {}
        for function in functions:
            if not references.is_frameworks(function.__module__):
                slots.update(_slots(function))
        self._slots = [(slot, slot.get()) for slot in slots.values()]
        held = {id(x): x for _, x in self._slots if _is_container(x)}
        self._contents = [(x, x.copy()) for x in held.values()]
        arrays = references.of_classes(things, lambda kind: issubclass(kind, np.ndarray))
        self._arrays = [(x, x.copy()) for x in arrays if _is_small(x)]
        self.tensors = references.of_classes(things, lambda kind: issubclass(kind, changeable))

    def left_by_call(self) -> List[Any]:
        """List what the variables, and lists and dicts, stand for or hold now and did not then.

        The first run has just ended. What it has set in a container is not put back from now on.
        """
        left = [slot.get() for slot, then in self._slots if slot.get() is not then]
        for x, then in self._contents:
            known = {id(value) for value in _values(then)}
            left += [value for value in _values(x) if id(value) not in known]
        self._contents = [(x, _unchanged(x, then)) for x, then in self._contents]
        return left

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Have them as they were then for a while."""
        now = [slot.get() for slot, _ in self._slots]
        arrays = [(x, x.copy()) for x, _ in self._arrays]
        swapped = [value is not then for value, (_, then) in zip(now, self._slots)]
        for (slot, then), is_other in zip(self._slots, swapped):
            if is_other:
                slot.put(then)
        others = [
            (x, key, x[key], value)
            for x, then in self._contents
            for key, value in then.items()
            if key in (x if isinstance(x, dict) else range(len(x))) and x[key] is not value
        ]
        for x, key, _, value in others:
            x[key] = value
        _fill(self._arrays)
        try:
            yield
        finally:
            for x, key, value, _ in others:
                x[key] = value
            # Another thread may have set those that are not ours meanwhile.
            for (slot, _), value, is_other in zip(self._slots, now, swapped):
                if is_other or slot.is_set_by_call:
                    slot.put(value)
            _fill(arrays)


def _slots(function: Any) -> Iterable[Tuple[Any, Any]]:
    """List the variables outside of itself that a function uses, with keys that tell them apart."""
    code, names = function.__code__, function.__globals__
    is_set = _set_by(code)
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        yield id(cell), _Cell(cell, name in is_set)
    if not references.is_frameworks(names.get("__name__")):
        for name in references.names_in(code)[1]:
            yield (id(names), name), _Global(names, name, name in is_set)


@functools.lru_cache(maxsize=None)
def _set_by(code: CodeType) -> FrozenSet[str]:
    """Return the names from outside that a function sets, or that one inside it does."""
    kinds = ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL", "DELETE_DEREF")
    found = {x.argval for x in dis.get_instructions(code) if x.opname.startswith(kinds)}
    inside = (_set_by(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(found.union(*inside))


def _is_container(x: Any) -> bool:
    return type(x) in (dict, list) and len(x) <= _MOST


def _values(container: Any) -> List[Any]:
    return list(container.values()) if isinstance(container, dict) else container


def _unchanged(container: Any, before: Any) -> Dict[Any, Any]:
    """Return what was there before and is there now, by key or index."""
    if isinstance(container, dict):
        return {k: v for k, v in before.items() if container.get(k, _NOTHING) is v}
    pairs = enumerate(zip(before, container))
    return {i: v for i, (v, now) in pairs if v is now and len(before) == len(container)}


def _is_small(x: Any) -> bool:
    return bool(x.nbytes <= _MOST_BYTES and x.flags.writeable and not x.dtype.hasobject)


def _fill(arrays: Iterable[Tuple[Any, Any]]) -> None:
    """Put into arrays what they are to hold, where it is something else."""
    for x, held in arrays:
        if x.tobytes() != held.tobytes():
            np.copyto(x, held)
