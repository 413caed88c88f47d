"""What Keras keeps in Python objects: attributes of layers, and scopes that belong to a thread.

A call may leave things there (a cached dropout mask, a list of losses). They are put back before
the call is run again, so that it sees what it saw the first time, and nothing it leaves behind the
second time stays.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import operator
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple, TypeVar

from perftricks.recompute.engines import compat

T = TypeVar("T")
MISSING = object()
_CONTAINERS = (list, dict, set)


class Change(NamedTuple):
    """An attribute that a call has set, changed in place or deleted."""

    namespace: Dict[str, Any]
    name: str
    value: Any  # the object, or MISSING where it was deleted
    content: Any  # what a list, set or dict contains; None for anything else

    def apply(self) -> None:
        """Make the change, again or for the first time. A layer's own bookkeeping is bypassed."""
        if self.value is MISSING:
            self.namespace.pop(self.name, None)
            return
        if self.content is not None:
            _refill(self.value, self.content)
        self.namespace[self.name] = self.value


class Attributes:
    """The attributes of some layers at one moment."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._namespaces = [(vars(layer), dict(vars(layer))) for layer in layers]
        # A layer has many containers, nearly all empty. So lengths are compared first, all at once.
        self._containers = [
            (namespace, name, value)
            for namespace, before in self._namespaces
            for name, value in before.items()
            if isinstance(value, _CONTAINERS)
        ]
        self._lengths = self._lengths_now()
        self._filled = [
            (namespace, name, value, _content(value))
            for namespace, name, value in self._containers
            if value
        ]

    def changes(self) -> List[Change]:
        """List what has changed since."""
        return [now for now, _ in self._differences()]

    def restore(self) -> List[Change]:
        """Undo what has changed since, and list it."""
        return [now for now, _ in self._undone()]

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Have the attributes as they were then for a while; what is changed meanwhile is lost."""
        undone = self._undone()
        try:
            yield
        finally:
            self._undone()
            for now, _ in undone:
                now.apply()

    def _undone(self) -> List[Tuple[Change, Change]]:
        differences = self._differences()
        for _, then in differences:
            then.apply()
        return differences

    def _differences(self) -> List[Tuple[Change, Change]]:
        """List what differs now from then, as changes that make it so: as now, and as then."""
        found = []
        for namespace, before in self._namespaces:
            if not _same(namespace, before):
                for name in [*namespace, *(before.keys() - namespace.keys())]:
                    old, value = before.get(name, MISSING), namespace.get(name, MISSING)
                    if value is not old:
                        found.append((namespace, name, value, old, self._content_then(old)))
        for namespace, name, value, content in self._refilled():
            if namespace.get(name) is value:
                found.append((namespace, name, value, value, content))
        return [
            (Change(namespace, name, value, _content(value)), Change(namespace, name, old, content))
            for namespace, name, value, old, content in found
        ]

    def _refilled(self) -> Iterator[Tuple[Dict[str, Any], str, Any, Any]]:
        """Yield the containers that hold other things than they did, with what that was."""
        for namespace, name, value, content in self._filled:
            if not _same(value, content):
                yield namespace, name, value, content
        if self._lengths_now() != self._lengths:
            for (namespace, name, value), length in zip(self._containers, self._lengths):
                if value and not length:
                    yield namespace, name, value, ()

    def _lengths_now(self) -> List[int]:
        return [len(value) for _, _, value in self._containers]

    def _content_then(self, value: Any) -> Any:
        """Return what a container held then, or None for anything else."""
        if not isinstance(value, _CONTAINERS):
            return None
        return next((content for _, _, filled, content in self._filled if filled is value), ())


class ThreadState:
    """The scopes that are open at one moment: precision, names, training or not, our own switch."""

    def __init__(self) -> None:
        self._keras = dict(compat.keras_thread_state())
        self._freeze()
        self._context = contextvars.copy_context()

    def _freeze(self) -> None:
        # These two are changed in place while layers run; everything else is replaced or shared.
        for name in ("current_call_ctx", "name_scope_stack"):
            if self._keras.get(name) is not None:
                self._keras[name] = copy.copy(self._keras[name])

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the scopes that were open then, in whatever thread this is."""
        return self._context.copy().run(self._run, function, *args)

    def _run(self, function: Callable[..., T], *args: Any) -> T:
        with self._entered():
            return function(*args)

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        namespace = compat.keras_thread_state()
        now = dict(namespace)
        then = ThreadState.__new__(ThreadState)
        then._keras = dict(self._keras)
        then._freeze()
        _refill(namespace, then._keras)
        try:
            yield
        finally:
            _refill(namespace, now)


def _content(value: Any) -> Any:
    """Return a copy of a container, or None for anything else."""
    if not isinstance(value, _CONTAINERS):
        return None
    if isinstance(value, list):
        return list(value)
    return dict(value) if isinstance(value, dict) else set(value)


def _same(value: Any, content: Any) -> bool:
    """Tell whether a container still has the very objects it had; tensors are not compared."""
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        if all(map(operator.is_, value, content)):  # nearly always
            return all(map(operator.is_, value.values(), content.values()))
        return all(content.get(key, MISSING) is item for key, item in value.items())
    if isinstance(value, set):
        return bool(value == content)
    return all(map(operator.is_, value, content))


def _refill(container: Any, content: Any) -> None:
    """Replace what is in a container, below any tracking that a subclass or a wrapper does."""
    # Of TensorFlow's wrappers, that of a dict is a proxy and that of a list keeps another list.
    inside = getattr(container, "__wrapped__", getattr(container, "_storage", container))
    if isinstance(inside, list):
        list.__setitem__(inside, slice(None), content)
    elif isinstance(inside, dict):
        dict.clear(inside)
        dict.update(inside, content)
    else:
        set.clear(inside)
        set.update(inside, content)
    if inside is not container and hasattr(container, "_update_snapshot"):
        container._update_snapshot()  # else it takes this for a change behind its back
