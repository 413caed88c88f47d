"""What Keras keeps in Python objects: attributes of layers, and scopes that belong to a thread.

A call may leave things there (a cached dropout mask, a list of losses). They are put back before
the call is run again, so that it sees what it saw the first time, and nothing it leaves behind the
second time stays.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import copy
import operator
from itertools import chain
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

from perftricks.recompute import references
from perftricks.recompute.keras3 import private

T = TypeVar("T")
MISSING = object()
_CONTAINERS = (list, dict, set, collections.deque)
_VALUES = operator.methodcaller("values")


class Change(NamedTuple):
    """An attribute that a call has set or deleted, or a container with other contents.

    Attributes:
        holder: The namespace of a layer, or the container.
        name: The name of the attribute; None for all that a container holds.
        items: The value of the attribute, none where it was deleted; or what the container holds,
            a dict's keys and values in pairs.
    """

    holder: Any
    name: Optional[str]
    items: List[Any]

    def apply(self) -> None:
        """Make the change, again or for the first time. A layer's own bookkeeping is bypassed."""
        if self.name is None:
            _refill(self.holder, self.items)
        elif self.items:
            self.holder[self.name] = self.items[0]
        else:
            self.holder.pop(self.name, None)

    @property
    def leaves(self) -> List[Any]:
        """The items, of tuples what is in them. A container in a container changes by itself."""
        return [*_leaves(self.items)]

    def replacing(self, replace: Callable[[Any], Any]) -> Change:
        """Return the change with other leaves; what has none that differ stays the same object."""
        return self._replace(items=[_replaced(item, replace) for item in self.items])


class Attributes:
    """The attributes of some layers at one moment, and what lists, dicts and sets in them hold.

    Containers in containers are looked into, to any depth. Other objects are not: what changes
    inside of them, be it an array, stays changed.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._namespaces = [(space, dict(space)) for space in map(vars, layers)]
        values = [x for _, before in self._namespaces for x in before.values()]
        # A layer has many containers, nearly all empty.
        self._containers = _containers(values)
        self._filled = [(x, _content(x)) for x in self._containers if x]
        self._empty = [x for x in self._containers if not x]
        # Nearly always nothing has changed: that is asked of all at once.
        filled = [x for x, _ in self._filled]
        self._spaces: List[Any] = [space for space, _ in self._namespaces]
        self._spaces += [x for x in filled if isinstance(x, dict)]
        self._others = [x for x in filled if not isinstance(x, dict)]
        self._lengths = self._lengths_now()
        self._keys = [*chain.from_iterable(self._spaces)]
        self._held = [*self._held_now()]

    def changes(self) -> List[Change]:
        """List what has changed since."""
        return self._differences()[0]

    def restore(self) -> List[Change]:
        """Undo what has changed since, and list it."""
        now, then = self._differences()
        for change in then:
            change.apply()
        return now

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Have the attributes as they were then for a while; what is changed meanwhile is lost."""
        undone = self.restore()
        try:
            yield
        finally:
            self.restore()
            for change in undone:
                change.apply()

    def _differences(self) -> Tuple[List[Change], List[Change]]:
        """List what differs now from then: as changes that make it so, and that undo it."""
        now: List[Change] = []
        then: List[Change] = []
        if self._is_as_it_was():
            return now, then
        for namespace, before in self._namespaces:
            if not _same(namespace, before):
                for name in [*namespace, *(before.keys() - namespace.keys())]:
                    old, value = before.get(name, MISSING), namespace.get(name, MISSING)
                    if value is not old:
                        now.append(
                            Change(namespace, name, [x for x in [value] if x is not MISSING])
                        )
                        then.append(Change(namespace, name, [x for x in [old] if x is not MISSING]))
        for container, content in self._refilled():
            now.append(Change(container, None, _items(container)))
            then.append(Change(container, None, _items(content)))
        if now:
            known = {id(container) for container in self._containers}
            reached = _containers([x for change in now for x in change.items])
            now.extend(Change(x, None, _items(x)) for x in reached if id(x) not in known)
        return now, then

    def _refilled(self) -> Iterator[Tuple[Any, Any]]:
        """Yield the containers that hold other things than they did, with what that was."""
        for container, content in self._filled:
            if not _same(container, content):
                yield container, content
        for container in self._empty:
            if container:
                yield container, ()

    def _is_as_it_was(self) -> bool:
        """Tell whether everything holds the very objects that it held, in the same order."""
        return (
            self._lengths_now() == self._lengths
            and all(map(operator.is_, self._held_now(), self._held))
            and [*chain.from_iterable(self._spaces)] == self._keys
        )

    def _lengths_now(self) -> List[int]:
        return [*map(len, self._spaces), *map(len, self._containers)]

    def _held_now(self) -> Iterator[Any]:
        return chain(
            chain.from_iterable(map(_VALUES, self._spaces)), chain.from_iterable(self._others)
        )


class ThreadState:
    """The scopes that are open at one moment: precision, names, training or not, our own switch."""

    def __init__(self) -> None:
        self._keras = dict(private.keras_thread_state())
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
        with self.entered():
            return function(*args)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have Keras' scopes as they were then for a while."""
        namespace = private.keras_thread_state()
        now = dict(namespace)
        then = ThreadState.__new__(ThreadState)
        then._keras = dict(self._keras)
        then._freeze()
        _refill(namespace, then._keras.items())
        try:
            yield
        finally:
            _refill(namespace, now.items())


def _containers(values: Iterable[Any]) -> List[Any]:
    """List the containers among values, in tuples among them, and in each other; each once."""
    found: Dict[int, Any] = {}
    inside = list(values)
    tuples: Dict[int, Any] = {}
    while inside:
        kinds, of_tuples = _kinds_of_containers(inside)
        fresh = {id(x): x for x in inside if type(x) in kinds}
        several = {id(x): x for x in inside if type(x) in of_tuples} if of_tuples else {}
        for key in found.keys() & fresh.keys():
            del fresh[key]
        for key in tuples.keys() & several.keys():
            del several[key]
        found.update(fresh)
        tuples.update(several)
        inside = [*chain.from_iterable(several.values())]
        for x in [x for x in fresh.values() if x]:
            inside.extend(x.values() if isinstance(x, dict) else x)
    return list(found.values())


def _kinds_of_containers(values: Sequence[Any]) -> Tuple[Set[type], Set[type]]:
    """Return the classes of containers among values, and those of tuples: few, of many values."""
    kinds, of_tuples = set(), set()
    for kind in {*map(type, values)}:
        behind = kind
        if references.is_of_proxies(kind):  # TensorFlow's wrapper of a dict
            behind = next(x for x in values if type(x) is kind).__class__
        if issubclass(behind, tuple):
            of_tuples.add(kind)
        elif issubclass(behind, _CONTAINERS):
            kinds.add(kind)
    return kinds, of_tuples


def _content(container: Any) -> Any:
    """Return a copy of a container, to be compared with it later."""
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _items(content: Any) -> List[Any]:
    """Return what a container, or its copy, holds; of a dict pairs."""
    return list(content.items()) if isinstance(content, dict) else list(content)


def _leaves(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, tuple):
            yield from _leaves(item)
        else:
            yield item


def _replaced(item: Any, replace: Callable[[Any], Any]) -> Any:
    if not isinstance(item, tuple):
        return replace(item)
    parts = [_replaced(part, replace) for part in item]
    if all(map(operator.is_, parts, item)):
        return item
    return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)


def _same(value: Any, content: Any) -> bool:
    """Tell whether a container still has the very objects it had; tensors are not compared."""
    if len(value) != len(content):
        return False
    if isinstance(value, set):
        return bool(value == content)
    if isinstance(value, dict):
        same_keys = all(map(operator.is_, value, content)) or list(value) == list(content)
        return same_keys and all(map(operator.is_, value.values(), content.values()))
    return all(map(operator.is_, value, content))


def _refill(container: Any, items: Iterable[Any]) -> None:
    """Replace what is in a container, below any tracking that a subclass or a wrapper does."""
    # Of TensorFlow's wrappers, that of a dict is a proxy and that of a list keeps another list.
    inside = getattr(container, "__wrapped__", getattr(container, "_storage", container))
    if isinstance(inside, list):
        list.__setitem__(inside, slice(None), list(items))
    elif isinstance(inside, collections.OrderedDict):  # it knows its order by its own methods only
        collections.OrderedDict.clear(inside)
        for key, value in items:
            collections.OrderedDict.__setitem__(inside, key, value)
    elif isinstance(inside, dict):
        dict.clear(inside)
        dict.update(inside, items)
    elif isinstance(inside, set):
        set.clear(inside)
        set.update(inside, items)
    else:
        collections.deque.clear(inside)
        collections.deque.extend(inside, items)
    if inside is not container and hasattr(container, "_update_snapshot"):
        container._update_snapshot()  # else it takes this for a change behind its back
