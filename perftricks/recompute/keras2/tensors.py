"""What a call of Keras 2 gives: the tensors it returns, and those that hang on them.

::

    return y           y._keras_logits ──▶ x          losses of Keras read it
                       y._keras_mask   ──▶ mask       layers that follow read it
                       y.scores        ──▶ [a, b]     a program may read it

Keras and programs set attributes on tensors. What stands for a tensor after a call that is
recomputed has them too, and where these are tensors of the call, what stands for those.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import tensorflow as tf

from perftricks.recompute.keras2 import private
from perftricks.recompute.structures import Structures, check_returned

structures = Structures(tf.nest.flatten, tf.nest.pack_sequence_as)

# What TensorFlow itself keeps in a tensor.
_OWN = {
    "_consumers",
    "_dtype",
    "_handle_data",
    "_id",
    "_name",
    "_op",
    "_shape_val",
    "_tf_output",
    "_value_index",
}
# The operations that Keras' losses look for at the end of a model, and what their input is called.
_HEADS = {"Softmax": "logits", "Sigmoid": "x"}

Path = Tuple[Any, ...]


def hung_on(x: Any) -> Dict[str, Any]:
    """Return what Keras, or a program, has hung on a tensor, by name."""
    found = getattr(x, "__dict__", {})
    if isinstance(x, tf.Tensor):
        return {name: value for name, value in found.items() if name not in _OWN}
    return {  # of tensors that are made of several
        name: value
        for name, value in found.items()
        if name.startswith("_keras") or not name.startswith("_")
    }


def hang(x: Any, attributes: Mapping[str, Any]) -> None:
    """Hang these on a tensor."""
    for name, value in attributes.items():
        setattr(x, name, value)


def parts(x: Any) -> List[Any]:
    """Return the tensors that a ragged or sparse tensor, or the like, is made of; others alone."""
    if isinstance(x, private.CompositeTensor) and not isinstance(x, (tf.Tensor, tf.Variable)):
        return list(tf.nest.flatten(x, expand_composites=True))
    return [x]


class Results:
    """What a call gives.

    Args:
        returned: What it has returned, nested as it is.
        given: What it was called with: it may have hung something on that.
    """

    def __init__(self, returned: Any, given: Sequence[Any] = ()) -> None:
        self._returned = returned
        self._leaves = structures.flatten(returned)
        check_returned(self._leaves)
        self._found: Dict[Path, Any] = {}
        self._holders: Dict[int, Any] = {}
        for kind, leaves in enumerate((self._leaves, given)):
            for number, leaf in enumerate(leaves):
                for part, x in enumerate(parts(leaf)):
                    self._note(x, (kind, number, part))

    def _note(self, x: Any, path: Path) -> None:
        if not isinstance(x, tf.Tensor):
            return
        self._found[path] = x
        if id(x) in self._holders:
            return
        self._holders[id(x)] = x
        for name, value in hung_on(x).items():
            for number, below in enumerate(_tensors_in(value)):
                self._note(below, (*path, name, number))

    @property
    def tensors(self) -> Dict[Path, Any]:
        """The tensors, by where they are; what has been given comes last."""
        return dict(self._found)

    def replaced(self, new: Mapping[int, Any]) -> Any:
        """Return what the call has returned with other tensors, by the ids of those they are for.

        What hangs on a tensor hangs on the one that stands for it.
        """
        if not new:
            return self._returned

        def stands_for(x: Any) -> Any:
            return new.get(id(x), x)

        for x in self._holders.values():
            hang(stands_for(x), {k: _mapped(v, stands_for) for k, v in hung_on(x).items()})
        leaves = [_rebuilt(leaf, stands_for) for leaf in self._leaves]
        return structures.pack(self._returned, leaves)


def _rebuilt(leaf: Any, replace: Callable[[Any], Any]) -> Any:
    before = parts(leaf)
    after = [replace(x) for x in before]
    if all(x is y for x, y in zip(before, after)):
        return leaf
    if isinstance(leaf, tf.Tensor):
        return after[0]
    whole = tf.nest.pack_sequence_as(leaf, after, expand_composites=True)
    hang(whole, hung_on(leaf))
    return whole


def _tensors_in(value: Any) -> Iterator[Any]:
    """Find the tensors in a value, and in lists, tuples and dicts of such."""
    if isinstance(value, tf.Tensor):
        yield value
    elif type(value) in (list, tuple):
        for x in value:
            yield from _tensors_in(x)
    elif type(value) is dict:
        for x in value.values():
            yield from _tensors_in(x)


def _mapped(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Return a value with other tensors in it; what has none stays the same object."""
    if all(replace(x) is x for x in _tensors_in(value)):
        return value
    if isinstance(value, tf.Tensor):
        return replace(value)
    if isinstance(value, dict):
        return {k: _mapped(v, replace) for k, v in value.items()}
    return type(value)([_mapped(x, replace) for x in value])


def beneath(x: Any) -> Any:
    """Return what a softmax or sigmoid of a graph was made of; any other tensor as it is.

    Losses of Keras look for these operations at the end of a model, and go on with what they were
    made of. So a call is recomputed up to there, and the last operation comes after it.
    """
    return x.op.inputs[0] if x.op.type in _HEADS else x


def once_more(op: Any, x: Any) -> Any:
    """Return what a softmax or sigmoid of a graph gives for another input."""
    return getattr(tf.raw_ops, op.type)(**{_HEADS[op.type]: x})
