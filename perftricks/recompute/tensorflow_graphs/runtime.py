"""What stands between TensorFlow and its runtime where operations run eagerly.

::

    TensorFlow ──private.answer_operations──▶ the answer of the thread ──▶ runtime
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from perftricks.recompute.tensorflow_graphs import private as graphs

_through = threading.local()


def _answer_of_thread() -> Any:
    return getattr(_through, "answer", None)


@contextlib.contextmanager
def operations_through(
    answer: Callable[[Callable[..., Any], str, Sequence[Any]], Any],
) -> Iterator[None]:
    """Let a function stand between this thread and the operations that it runs eagerly.

    Args:
        answer: Takes a function that runs the operation, on these inputs or on others that it is
            given, its type and its inputs (and, after them, its attributes); returns the result.
    """
    graphs.answer_operations(_answer_of_thread)
    before = _answer_of_thread()
    _through.answer = answer if before is None else _both(before, answer)
    try:
        yield
    finally:
        _through.answer = before


def _both(outer: Any, inner: Any) -> Any:
    return lambda run, name, inputs: inner(
        lambda *new: outer(run, name, new or inputs), name, inputs
    )


def read_handle(handle: Any) -> Any:
    """Return the value of a variable, by its handle."""
    dtype = handle._handle_data.shape_and_type[0].dtype
    with graphs.record().stop_recording():
        return graphs.read(handle, tf.as_dtype(dtype))


def assign_handle(handle: Any, value: Any) -> None:
    """Set the value of a variable, by its handle."""
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def is_same(x: Any, y: Any) -> bool:
    """Tell whether two tensors that run eagerly have the same numbers, NaN or not."""
    a, b = np.asarray(x.numpy()), np.asarray(y.numpy())  # a scalar is no array yet
    return bool(a.ctypes.data == b.ctypes.data or a.tobytes() == b.tobytes())


def variables_among(inputs: Sequence[Any]) -> Iterator[Any]:
    """Find the variables that the runtime itself reads when it is given them."""
    for x in inputs:
        if isinstance(x, (list, tuple)):
            yield from variables_among(x)
        elif graphs.is_read_by_runtime(x):
            yield x
