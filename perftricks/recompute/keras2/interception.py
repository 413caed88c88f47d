"""What a call does while it runs eagerly: its operations, one by one, and the variables it reads.

::

    runtime.operations_through ──▶ the answer of a call ──▶ Used
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any, Dict, Iterator, List, Sequence, Set

import tensorflow as tf

from perftricks.recompute.keras2 import private
from perftricks.recompute.tensorflow_graphs import private as graphs


class Used:
    """The tensors and the variables that a call uses, by their ids."""

    def __init__(self) -> None:
        self.tensors: Dict[int, Any] = {}
        self.variables: Dict[int, Any] = {}

    def note(self, inputs: Sequence[Any]) -> None:
        """Note what an operation takes."""
        for x in inputs:
            if isinstance(x, (list, tuple)):
                self.note(x)
            elif isinstance(x, tf.Variable):
                self.note_variable(x)
            elif isinstance(x, tf.Tensor):
                self.tensors[id(x)] = x

    def note_variable(self, variable: Any) -> None:
        """Note a variable that is to be watched."""
        if variable.trainable:
            self.variables[id(variable)] = variable


_through = threading.local()


def _note_of_thread() -> Any:
    return getattr(_through, "note", None)


def operations_of_function(name: str) -> Set[str]:
    """Return the types of the operations in a function that runs eagerly, and in those it calls.

    Called from the ``answer`` of ``runtime.operations_through``. An operation that is no function,
    or has been garbage collected, has none.
    """
    if not private.knows_functions():
        running = _graph_of_function()
        graph = None if running is None else running.as_graph_def()
        nodes = [] if graph is None else [graph.node, *(f.node_def for f in graph.library.function)]
        return {node.op for listed in nodes for node in listed}
    return graphs.function_operations([name])


def variables_of_function() -> List[Any]:
    """List the variables of a function that runs eagerly, called as ``operations_of_function`` is.

    A function that has been traced before tells nobody of them unless a tape records.
    """
    return list(getattr(_graph_of_function(), "variables", ()))


def _graph_of_function() -> Any:
    """Return the graph of the function that is run by one of the callers, or None."""
    frame: Any = sys._getframe(1)
    while frame is not None and not hasattr(frame.f_locals.get("self"), "graph"):
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"].graph


@contextlib.contextmanager
def variables_noted(used: Used) -> Iterator[None]:
    """Note the variables that are read inside, in this thread."""
    watching = private.variable_watcher()
    if watching is not None:
        with watching as watcher:
            yield
        for variable in watcher.watched_variables():
            used.note_variable(variable)
        return
    private.note_variables(_note_of_thread)
    before = _note_of_thread()
    _through.note = used.note_variable
    try:
        yield
    finally:
        _through.note = before
