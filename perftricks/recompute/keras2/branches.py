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

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import tensorflow as tf

from perftricks.recompute.keras2 import private_graphs
from perftricks.recompute.keras2.recipe import Recipe, import_recipe
from perftricks.recompute.tensorflow_graphs import private as graphs

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

    def place_of(self, tensors: Sequence[Any], wrapped: bool = False) -> Optional[int]:
        """Return the number of the output that is one of some tensors, or None.

        Args:
            tensors: The tensors.
            wrapped: Whether an optional of one of them will do.
        """
        names = {x.name for x in tensors}
        for number, x in enumerate(self.graph.outputs):
            while x.op.type == "Identity" or (wrapped and x.op.type == "OptionalFromValue"):
                x = x.op.inputs[0]
            if x.name in names:
                return number
        return None

    def read(self, number: int, dtype: Any) -> Any:
        """Return the value of a variable, by the number of its handle."""
        if number in self.reads:
            return self.reads[number][0]
        with self.graph.as_default():
            return graphs.read(self.graph.inputs[number], dtype)

    def nothing(self, like: Any) -> Any:
        """Return what stands in the place of something that the other branch has drawn."""
        with self.graph.as_default():
            return tf.zeros([0] * like.shape.rank, like.dtype)

    def copy(self, given: Sequence[int], kept: Sequence[_Kept], outside: Sequence[Any]) -> str:
        """Make a function of what the branch computes; return its name.

        Args:
            given: The numbers of its inputs that the copy takes.
            kept: What the copy takes besides.
            outside: What that is outside of the branches.
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
                again = import_recipe(graph, self._slice.recipe, starts)
                values.update(zip((x.name for x in self._slice.outputs), again))
            return [values[x.name] for x in self._outputs]

        return private_graphs.new_function(self.graph.name, [*takes, *outside], compute)


class _Kept(NamedTuple):
    """Something from inside of a branch that the copy takes.

    Attributes:
        branch: A branch that has it.
        tensor: What it is there.
        handle: The number of the handle, if it is the value of a variable.
        place: The number of the output of the operation that gives it, if there is one.
    """

    branch: Branch
    tensor: Any
    handle: Optional[int]
    place: Optional[int]

    def known_to(self, branch: Branch) -> List[Any]:
        """List the tensors of a branch that it stands for."""
        if self.handle is not None:
            return branch.reads.get(self.handle, [])
        return [self.tensor] if branch is self.branch else []

    def within(self, branch: Branch) -> Any:
        """Return what a branch gives in its place."""
        if self.handle is not None:
            return branch.read(self.handle, self.tensor.dtype)
        return self.tensor if branch is self.branch else branch.nothing(self.tensor)


class Division:
    """What to do with a functional ``If`` that is copied.

    Args:
        op: The operation.
        used: The numbers of its outputs that are wanted.
        branches: Its branches.
        may_add_outputs: Whether it may get further outputs. If it may not, what it draws has to be
            there already, in one of the optionals of ``output_all_intermediates``.
    """

    def __init__(
        self, op: Any, used: Sequence[int], branches: Sequence[Branch], may_add_outputs: bool
    ) -> None:
        self._op = op
        self._may_add_outputs = may_add_outputs
        self._used = list(used)
        self._branches = list(branches)
        self._found: Optional[List[_Kept]] = None
        # What is read through a handle is at hand.
        self._given = [i for i, x in enumerate(op.inputs[1:]) if x.dtype != tf.resource]

    @property
    def takes(self) -> List[Any]:
        """The tensors that the copy takes, of those that the operation takes."""
        return [self._op.inputs[0], *(self._op.inputs[1 + number] for number in self._given)]

    def name(self, output: Any) -> str:
        """Return the name that an output of the operation has in the copy."""
        return "%s:%d" % (self._op.name, self._used.index(output.value_index))

    def is_possible(self) -> bool:
        """Tell whether the operation can give all that the copy takes."""
        return self._may_add_outputs or all(each.place is not None for each in self._kept())

    def write(self, recipe: Recipe) -> List[Any]:
        """Write down how to copy the operation, which was added last; return what it also takes."""
        kept = self._kept()
        with self._op.graph.as_default():
            outside = self._lead_out(kept)
            functions = [branch.copy(self._given, kept, outside) for branch in self._branches]
        recipe.divide(self._op, functions, self._used, [*self.takes, *outside])
        return outside

    def _kept(self) -> List[_Kept]:
        if self._found is None:
            for branch in self._branches:
                branch.explore()
            self._found = [*self._drawn(), *self._read()]
        return self._found

    def _drawn(self) -> Iterator[_Kept]:
        for branch in self._branches:
            for x in branch.drawn:
                yield _Kept(branch, x, None, branch.place_of([x], not self._may_add_outputs))

    def _read(self) -> Iterator[_Kept]:
        for handle in sorted({handle for branch in self._branches for handle in branch.reads}):
            readers = [branch for branch in self._branches if handle in branch.reads]
            place = readers[0].place_of(readers[0].reads[handle])
            # What the other branch gives there is another thing, but the zeros that its gradient is
            # made of then are those of the variable.
            if len(readers) > 1 or (
                place is not None and not self._op.outputs[place].shape.is_fully_defined()
            ):
                place = None
            yield _Kept(readers[0], readers[0].reads[handle][0], handle, place)

    def _lead_out(self, kept: Sequence[_Kept]) -> List[Any]:
        """Let the operation give what is kept; return what that is outside of the branches."""
        further = [each for each in kept if each.place is None]
        count = len(self._op.outputs)
        private_graphs.add_outputs(
            self._op,
            [branch.graph for branch in self._branches],
            [[each.within(branch) for branch in self._branches] for each in further],
        )
        added = iter(self._op.outputs[count:])
        outside = []
        for each in kept:
            output = next(added) if each.place is None else self._op.outputs[each.place]
            if each.handle is not None:
                outside.append(self._value(output, each.handle))
            elif output.dtype == tf.variant:
                outside.append(self._unwrapped(output, each))
            else:
                # It has no gradient, and so the one of the operation is not asked for.
                outside.append(tf.stop_gradient(output))
        return outside

    def _unwrapped(self, optional: Any, kept: _Kept) -> Any:
        """Return what is in an optional, which is empty if the other branch was taken."""
        x = kept.tensor

        def value() -> Any:
            return tf.raw_ops.OptionalGetValue(
                optional=optional, output_types=[x.dtype], output_shapes=[x.shape]
            )[0]

        def nothing() -> Any:
            return tf.zeros([0] * x.shape.rank, x.dtype)

        choices = (value, nothing) if kept.branch is self._branches[0] else (nothing, value)
        return tf.stop_gradient(tf.cond(self._op.inputs[0], *choices))

    def _value(self, output: Any, handle: int) -> Any:
        """Return the value of a variable whose gradient goes straight to the variable."""
        with self._op.graph.gradient_override_map({"IdentityN": _READ}):
            return tf.identity_n([output, self._op.inputs[1 + handle]])[0]


@tf.RegisterGradient(_READ)  # type: ignore[untyped-decorator]
def _gradient_of_reading(operation: Any, *upstream: Any) -> List[Any]:
    return [None, upstream[0]]
