"""A functional ``If`` whose branches draw random numbers: what it draws is kept, the rest copied.

::

    forward     pred, x ──────────▶ If ──▶ y
                                     └───▶ verdict
    backward    pred, x, verdict ──▶ StatelessIf ──▶ y

In the forward pass the ``If`` stays what it is, but for further outputs: what its branches have
drawn. Where the other branch was taken, such an output is empty. The copy takes it; its branches
are slices of those of the forward pass, as ``keras2_slice`` finds them.
"""

from __future__ import annotations

from typing import Any, Callable, List, Sequence, Tuple

import tensorflow as tf

from perftricks.recompute.engines import compat_keras2
from perftricks.recompute.engines.compat_keras2 import Recipe


class Branch:
    """A branch, and how to copy it.

    Args:
        graph: Its graph.
        outputs: Those of its outputs that are wanted.
        find: Returns the slice that leads to them, or None if they are computed from nothing.
    """

    def __init__(self, graph: Any, outputs: Sequence[Any], find: Callable[[], Any]) -> None:
        self.graph = graph
        self._outputs = list(outputs)
        self._find = find
        self._slice: Any = None

    def drawn(self) -> List[Any]:
        """List the tensors that the copy starts from and the branch is not called with."""
        with self.graph.as_default():
            self._slice = self._find()
        again = [] if self._slice is None else self._slice.outputs
        starts = [] if self._slice is None else self._slice.starts
        known = {x.name for x in [*self.graph.inputs, *again]}
        tensors = {x.name: x for x in [*starts, *self._outputs]}
        return [x for name, x in tensors.items() if name not in known]

    def nothing(self, like: Any) -> Any:
        """Return what stands in the place of something that the other branch has drawn."""
        with self.graph.as_default():
            return tf.zeros([0] * (like.shape.rank or 0), like.dtype)

    def copy(self, drawn: Sequence[Any], kept: Sequence[Any], first: int) -> str:
        """Make a function of what the branch computes; return its name.

        Args:
            drawn: What it has drawn.
            kept: What both branches have drawn, outside of them.
            first: The position of ``drawn`` in ``kept``.
        """
        given = self.graph.inputs

        def compute(inputs: Sequence[Any]) -> List[Any]:
            values = dict(zip((x.name for x in given), inputs))
            for x, value in zip(drawn, inputs[len(given) + first :]):
                values[x.name] = tf.ensure_shape(value, x.shape)
            if self._slice is not None:
                starts = [values[x.name] for x in self._slice.starts]
                graph = tf.compat.v1.get_default_graph()
                again = compat_keras2.import_recipe(graph, self._slice.recipe, starts)
                values.update(zip((x.name for x in self._slice.outputs), again))
            return [values[x.name] for x in self._outputs]

        return compat_keras2.new_function(self.graph.name, [*given, *kept], compute)


class Division:
    """What to do with a functional ``If`` that is copied.

    Args:
        op: The operation.
        used: The numbers of its outputs that are wanted.
        branches: Its branches.
    """

    def __init__(self, op: Any, used: Sequence[int], branches: Sequence[Branch]) -> None:
        self._op = op
        self._used = list(used)
        self._branches = list(branches)

    def name(self, output: Any) -> str:
        """Return the name that an output of the operation has in the copy."""
        return "%s:%d" % (self._op.name, self._used.index(output.value_index))

    def write(self, recipe: Recipe) -> List[Any]:
        """Write down how to copy the operation, which was added last; return what it also takes."""
        with self._op.graph.as_default():
            drawn = [branch.drawn() for branch in self._branches]
            kept = self._lead_out(drawn)
            functions = [
                branch.copy(own, kept, first)
                for branch, own, first in zip(self._branches, drawn, (0, len(drawn[0])))
            ]
        recipe.divide(self._op, functions, self._used, kept)
        return kept

    def _lead_out(self, drawn: Sequence[Sequence[Any]]) -> List[Any]:
        """Let the operation give what its branches have drawn, as far as it does not do so yet."""
        outputs = len(self._op.outputs)
        numbers = []
        further: List[Tuple[Any, ...]] = []
        for branch, tensors in zip(self._branches, drawn):
            there = {x.name: number for number, x in enumerate(branch.graph.outputs)}
            for x in tensors:
                if x.name not in there:
                    pair = [x if b is branch else b.nothing(x) for b in self._branches]
                    there[x.name] = outputs + len(further)
                    further.append(tuple(pair))
                numbers.append(there[x.name])
        graphs = [branch.graph for branch in self._branches]
        compat_keras2.add_outputs(self._op, graphs, further)
        # Nothing that is drawn has a gradient, and so the one of the operation is not asked for.
        return [tf.stop_gradient(self._op.outputs[number]) for number in numbers]
