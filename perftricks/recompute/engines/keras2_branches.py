"""A functional ``If`` whose branches draw random numbers, or read variables.

::

    forward     pred, x, handle ─────────▶ If ──▶ y
                                           └───▶ verdict, value
    backward    pred, x, verdict, value ──▶ StatelessIf ──▶ y

In the forward pass the ``If`` stays what it is, but for further outputs: what its branches have
drawn and read. Where the other branch was taken, what would have been drawn is empty. The copy
takes them; its branches are slices of those of the forward pass, as ``keras2_slice`` finds them.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import tensorflow as tf

from perftricks.recompute.engines import compat_keras2
from perftricks.recompute.engines.compat_keras2 import Recipe

_READ = "PerftricksReadInBranch"


class Branch:
    """A branch, and how to copy it.

    Args:
        graph: Its graph.
        outputs: Those of its outputs that are wanted.
        find: Returns the slice that leads to them, or None if they are computed from nothing.

    Attributes:
        graph: The same.
        drawn: The tensors it has drawn that the copy starts from; there after ``explore``.
        reads: Likewise the values it has read, by the numbers of the handles among its inputs.
    """

    def __init__(self, graph: Any, outputs: Sequence[Any], find: Callable[[], Any]) -> None:
        self.graph = graph
        self.drawn: List[Any] = []
        self.reads: Dict[int, List[Any]] = {}
        self._outputs = list(outputs)
        self._find = find
        self._slice: Any = None

    def explore(self) -> None:
        """Find out what is drawn and what is read."""
        with self.graph.as_default():
            self._slice = self._find()
        again = [] if self._slice is None else self._slice.outputs
        starts = [] if self._slice is None else self._slice.starts
        number_of = {x.name: number for number, x in enumerate(self.graph.inputs)}
        known = {*number_of, *(x.name for x in again)}
        tensors = {x.name: x for x in [*starts, *self._outputs] if x.name not in known}
        for x in tensors.values():
            if x.op.type == "ReadVariableOp":
                self.reads.setdefault(number_of[x.op.inputs[0].name], []).append(x)
            else:
                self.drawn.append(x)

    def read(self, number: int, dtype: Any) -> Any:
        """Return the value of a variable, by the number of its handle."""
        if number in self.reads:
            return self.reads[number][0]
        with self.graph.as_default():
            return compat_keras2.read(self.graph.inputs[number], dtype)

    def nothing(self, like: Any) -> Any:
        """Return what stands in the place of something that the other branch has drawn."""
        with self.graph.as_default():
            return tf.zeros([0] * like.shape.rank, like.dtype)

    def copy(self, given: Sequence[int], kept: Sequence[_Kept]) -> str:
        """Make a function of what the branch computes; return its name.

        Args:
            given: The numbers of its inputs that the copy takes.
            kept: What the copy takes besides.
        """
        takes = [self.graph.inputs[number] for number in given]

        def compute(inputs: Sequence[Any]) -> List[Any]:
            values = dict(zip((x.name for x in takes), inputs))
            for value, each in zip(inputs[len(takes) :], kept):
                for x in each.known_to(self):
                    values[x.name] = tf.ensure_shape(value, x.shape)
            if self._slice is not None:
                starts = [values[x.name] for x in self._slice.starts]
                graph = tf.compat.v1.get_default_graph()
                again = compat_keras2.import_recipe(graph, self._slice.recipe, starts)
                values.update(zip((x.name for x in self._slice.outputs), again))
            return [values[x.name] for x in self._outputs]

        outside = [each.outside for each in kept]
        return compat_keras2.new_function(self.graph.name, [*takes, *outside], compute)


class _Kept(NamedTuple):
    """Something from inside of the branches that the operation gives to the outside.

    Attributes:
        outside: What it is there.
        source: The branch it is from; None if both have it.
        drawn: What it is in that branch, if it is drawn there.
        handle: The number of the handle, if it is the value of a variable.
    """

    outside: Any
    source: Optional[Branch]
    drawn: Any
    handle: Optional[int]

    def known_to(self, branch: Branch) -> List[Any]:
        """List the tensors of a branch that it stands for."""
        if self.handle is not None:
            return branch.reads.get(self.handle, [])
        return [self.drawn] if branch is self.source else []


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
        # What is read through a handle is at hand.
        self._given = [i for i, x in enumerate(op.inputs[1:]) if x.dtype != tf.resource]

    @property
    def takes(self) -> List[Any]:
        """The tensors that the copy takes, of those that the operation takes."""
        return [self._op.inputs[0], *(self._op.inputs[1 + number] for number in self._given)]

    def name(self, output: Any) -> str:
        """Return the name that an output of the operation has in the copy."""
        return "%s:%d" % (self._op.name, self._used.index(output.value_index))

    def write(self, recipe: Recipe) -> List[Any]:
        """Write down how to copy the operation, which was added last; return what it also takes."""
        with self._op.graph.as_default():
            for branch in self._branches:
                branch.explore()
            kept = self._lead_out()
            functions = [branch.copy(self._given, kept) for branch in self._branches]
        outside = [each.outside for each in kept]
        recipe.divide(self._op, functions, self._used, [*self.takes, *outside])
        return outside

    def _lead_out(self) -> List[_Kept]:
        """Let the operation give what its branches have drawn and read."""
        further: List[Sequence[Any]] = []
        drawn = []
        for branch in self._branches:
            there = {x.name: number for number, x in enumerate(branch.graph.outputs)}
            for x in branch.drawn:
                if x.name not in there:  # else a recomputed call inside of this one has led it out
                    there[x.name] = len(self._op.outputs) + len(further)
                    further.append(
                        [x if each is branch else each.nothing(x) for each in self._branches]
                    )
                drawn.append((branch, x, there[x.name]))
        first_read = len(self._op.outputs) + len(further)
        dtypes = {i: x[0].dtype for branch in self._branches for i, x in branch.reads.items()}
        for handle, dtype in dtypes.items():
            further.append([branch.read(handle, dtype) for branch in self._branches])
        compat_keras2.add_outputs(self._op, [branch.graph for branch in self._branches], further)
        outputs = self._op.outputs
        return [
            # What is drawn has no gradient, so that the one of the operation is not asked for.
            *(_Kept(tf.stop_gradient(outputs[i]), branch, x, None) for branch, x, i in drawn),
            *(
                _Kept(self._value(outputs[first_read + i], handle), None, None, handle)
                for i, handle in enumerate(dtypes)
            ),
        ]

    def _value(self, output: Any, handle: int) -> Any:
        """Return the value of a variable whose gradient goes straight to the variable."""
        with self._op.graph.gradient_override_map({"IdentityN": _READ}):
            return tf.identity_n([output, self._op.inputs[1 + handle]])[0]


@tf.RegisterGradient(_READ)  # type: ignore[untyped-decorator]
def _gradient_of_reading(operation: Any, *upstream: Any) -> List[Any]:
    return [None, upstream[0]]
