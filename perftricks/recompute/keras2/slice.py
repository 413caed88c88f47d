"""The operations of a call that can be copied, and what the copy starts from.

::

    x, kernel ──▶ MatMul ──▶ BiasAdd ──────▶ Mul ──▶ y
                  RandomUniform ──▶ GreaterEqual ──▲
                  (has state)       (one byte each)

Walking back from the outputs, the walk stops at what must not happen twice: at tensors from outside
of the call, at the values read from variables, at random numbers, at the outcome of an assignment
or of Python code. These tensors are the *starts* of the copy. Random numbers that are only compared
are kept as the verdict. In a graph any set of starts gives the right gradients, because those of
the starts go on as they would without us; choosing them well is only a matter of memory.

Control flow of TensorFlow 1 lives in contexts. A verdict from a branch of ``tf.cond`` is led out by
a ``Merge`` and into the copy by a ``Switch``. A loop is copied as a whole, or not at all if
something in it has state. In TensorFlow 2 branches are functions: ``keras2_branches``.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import tensorflow as tf

from perftricks.recompute.keras2 import private_graphs, purity
from perftricks.recompute.keras2.branches import Branch, Division
from perftricks.recompute.keras2.recipe import Recipe, import_recipe
from perftricks.recompute.policies import FULL, Policy
from perftricks.recompute.tensorflow_graphs.kept import wanted
from perftricks.recompute.tensorflow_graphs.operations import RANDOM
from perftricks.recompute.tensorflow_graphs.products import worth_keeping

# They have state, which lives and dies with the loop that they belong to.
_OF_LOOPS = ("TensorArray", "Stack")
_ENTRIES = {
    "Enter",
    "RefEnter",
}  # what a loop takes from outside; at home, the loop around the call
_NEVER = {"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"}
_SMALL = 64  # elements; a larger constant is there anyway, and is not copied


class Slice(NamedTuple):
    """What is between the starts and the outputs of a call.

    Attributes:
        outputs: The tensors that the copy will compute again.
        starts: The tensors it is computed from.
        kept: Tensors that the copy takes in the place of its own, and shapes of such.
        recipe: How to make the copy.
    """

    outputs: List[Any]
    starts: List[Any]
    kept: List[Any]
    recipe: Recipe

    @classmethod
    def leading_to(
        cls,
        outputs: Sequence[Any],
        operations: Sequence[Any],
        may_add_outputs: bool,
        policy: Policy = FULL,
    ) -> Optional[Slice]:
        """Find the slice of ``operations`` that leads to ``outputs``; None if there is nothing.

        Args:
            outputs: The tensors that are wanted, of one graph.
            operations: All that a call has created, in that order.
            may_add_outputs: Whether a functional ``If`` may get further outputs: no session has run
                it, and no tape has seen it.
            policy: What the copy takes in the place of its own.
        """
        if not outputs or not operations:
            return None
        search = _Search(outputs[0].graph, operations, outputs, may_add_outputs, policy=policy)
        return search.slice()


class _Search:
    """Looks for the operations to copy.

    Args:
        graph: The graph.
        operations: All that a call has created, in that order, or a branch.
        outputs: The tensors that are wanted.
        may_add_outputs: Whether a functional ``If`` may get further outputs.
        is_branch: Whether this is the graph of a branch. Nothing is at hand there but what the
            branch is called with and what it has drawn: constants of any size are copied.
        policy: What the copy takes in the place of its own.
    """

    def __init__(
        self,
        graph: Any,
        operations: Sequence[Any],
        outputs: Sequence[Any],
        may_add_outputs: bool,
        is_branch: bool = False,
        policy: Policy = FULL,
    ) -> None:
        self._policy = policy
        self._graph = graph
        self._may_add_outputs = may_add_outputs
        self._is_branch = is_branch
        home = private_graphs.control_flow(graph)
        self._contexts = {
            op: contexts
            for op, contexts in ((op, _contexts(op, home)) for op in operations)
            if contexts is not None
        }
        self._loops: Dict[Any, List[Any]] = {}
        for op, contexts in self._contexts.items():
            for context in contexts:
                if private_graphs.is_loop(context):
                    self._loops.setdefault(context, []).append(op)
        self._predicates = {
            context.pred.op
            for contexts in self._contexts.values()
            for context in contexts
            if not private_graphs.is_loop(context)
        }
        self._divisions: Dict[Any, Optional[Division]] = {}
        self._verdicts: Dict[Any, Any] = {}  # by the operation that made it
        self._kept: Set[Any] = set()
        self._wanted = [t for t in outputs if t.op in self._contexts]
        self._found = self._behind([t.op for t in self._wanted])
        self._order = [op for op in self._contexts if op in self._found]
        for op in self._order:
            if op.type in RANDOM and not any(map(private_graphs.is_loop, self._contexts[op])):
                verdict = self._verdict(op.outputs[0])
                self._verdicts[verdict.op] = verdict
        self._keep()

    def slice(self) -> Optional[Slice]:
        """Return the slice, or None if no output is made by something that can be copied."""
        outputs = [t for t in self._wanted if self._is_copied(t.op)]
        if not outputs:
            return None
        recipe = Recipe(private_graphs.graph_versions(self._graph))
        starts = self._starts(outputs, recipe)
        recipe.outputs.extend(map(self._name, outputs))
        kept = [] if self._is_branch else self._keep_products(outputs, recipe)
        return Slice(outputs, starts, kept, recipe)

    def _keep_products(self, outputs: Sequence[Any], recipe: Recipe) -> List[Any]:
        copied = self._copied_for(outputs)
        at_home = {op: None for op in self._order if op in copied and not self._contexts[op]}
        taken = self._taken(copied).values()
        given = [t for t in taken if t.op not in self._contexts and not private_graphs.is_read(t)]
        chosen = wanted(self._policy, at_home, outputs)
        kept = list(
            {
                each.tensor.name: each
                for each in [*worth_keeping(at_home, given, outputs), *chosen]
            }.values()
        )
        measured = [t for each in kept for t in each.between]
        recipe.kept.extend(each.tensor.name for each in kept)
        recipe.measured.extend(t.name for t in measured)
        return [*(each.tensor for each in kept), *map(tf.shape, measured)]

    def is_whole(self) -> bool:
        """Tell whether a branch only computes, from its inputs and what it draws and reads."""
        inputs = {x.op for x in self._graph.inputs}
        for op in self._contexts:
            known = op in inputs or op.type in RANDOM or op.type == "ReadVariableOp"
            if not (known or self._is_pure(op) or self._division(op)):
                return False
        copied = self._copied_for(self._wanted)
        starts = [*self._taken(copied).values(), *(t for t in self._wanted if t.op not in copied)]
        return all(self._can_be_led_out(t, inputs) for t in starts)

    def _can_be_led_out(self, tensor: Any, inputs: Set[Any]) -> bool:
        """Tell whether an ``If`` may give a tensor of its branch, if it does not take it."""
        op = tensor.op
        if op in inputs:
            return bool(tensor.dtype != tf.resource)
        if tensor.shape.rank is None:
            return False
        if op.type == "ReadVariableOp":
            return op.inputs[0].op in inputs
        return op in self._verdicts and not _may_have_gradient(tensor)

    def _is_copied(self, op: Any) -> bool:
        return op in self._contexts and op not in self._kept and op not in self._verdicts

    def _before(self, op: Any) -> Iterator[Any]:
        """Give the operations that one needs: for its inputs, and for where it is."""
        for tensor in op.inputs:
            yield tensor.op
        for context in self._contexts[op]:
            yield context.pivot.op
            if private_graphs.is_loop(context):
                for inner in self._loops[context]:
                    if inner.type in ("NextIteration", "Exit", "LoopCond"):
                        yield inner
            else:
                yield context.pred.op

    def _copied_for(self, tensors: Sequence[Any]) -> Set[Any]:
        return self._behind([t.op for t in tensors], only_copied=True)

    def _behind(self, operations: Sequence[Any], only_copied: bool = False) -> Set[Any]:
        found: Set[Any] = set()
        waiting = list(operations)
        while waiting:
            op = waiting.pop()
            if op in found or op not in self._contexts:
                continue
            if only_copied and not self._is_copied(op):
                continue
            found.add(op)
            waiting.extend(self._before(op))
        return found

    def _verdict(self, tensor: Any) -> Any:
        """Follow a random tensor while one thing is made of it; return the first that is bool."""
        end = tensor
        while True:
            users = [op for op in end.consumers() if op in self._found]
            if len(users) != 1 or len(users[0].outputs) != 1:
                return tensor
            if self._contexts[users[0]] != self._contexts[tensor.op]:
                return tensor
            end = users[0].outputs[0]
            if end.dtype.base_dtype == tf.bool:
                return end

    def _keep(self) -> None:
        """Find what is not copied: at home it is kept, elsewhere it spoils what depends on it."""
        spoiled: Set[Any] = set()
        before = -1
        while before != len(spoiled) + len(self._kept):
            before = len(spoiled) + len(self._kept)
            for op in self._order:
                contexts = self._contexts[op]
                if op in self._kept or op in spoiled:
                    continue
                if op in self._verdicts:
                    if not contexts:
                        self._kept.add(op)
                    continue
                pure = self._is_pure(op) or self._division(op) is not None
                pure = pure and not any(map(self._is_kept_list, op.inputs))
                if pure and not any(need in spoiled for need in self._before(op)):
                    continue
                if contexts:
                    spoiled.add(op)
                    for context in contexts:
                        spoiled.update(self._loops.get(context, ()))
                else:
                    self._kept.add(op)

    def _is_kept_list(self, tensor: Any) -> bool:
        """Tell whether a tensor is a list of tensors that is not copied; it has no gradient."""
        there = tensor.op in self._kept or tensor.op not in self._contexts
        return there and tensor.dtype.base_dtype == tf.variant

    def _division(self, op: Any) -> Optional[Division]:
        """Return how to copy a functional ``If`` that draws or reads; None if that cannot be."""
        if op not in self._divisions:
            self._divisions[op] = self._divided(op) if self._can_be_divided(op) else None
        return self._divisions[op]

    def _can_be_divided(self, op: Any) -> bool:
        if op.type not in ("If", "StatelessIf") or self._contexts[op]:
            return False
        types = {x.dtype for x in op.inputs}
        return tf.variant not in types and not (self._is_branch and tf.resource in types)

    def _divided(self, op: Any) -> Optional[Division]:
        wanted = {id(t) for t in self._wanted}
        used = [
            i
            for i, t in enumerate(op.outputs)
            if id(t) in wanted or any(user in self._found for user in t.consumers())
        ]
        branches = []
        for graph in private_graphs.branch_graphs(op):
            outputs = [graph.outputs[i] for i in used]
            operations = graph.get_operations()
            search = _Search(graph, operations, outputs, self._may_add_outputs, is_branch=True)
            if not search.is_whole():
                return None
            branches.append(Branch(graph, outputs, search.slice))
        division = Division(op, used, branches, self._may_add_outputs)
        return division if division.is_possible() else None

    def _is_pure(self, op: Any) -> bool:
        if op.type in _NEVER or purity.uses_references(op):
            return False
        if self._is_branch and purity.has_custom_gradient(op.node_def):
            return False
        at_home = not self._is_branch and not self._contexts[op]
        if at_home and (op.type in _ENTRIES or self._may_be_fed(op)):
            return False
        if op.type == "Const":
            return not at_home or op.outputs[0].shape.num_elements() <= _SMALL
        if op.type in purity.READS:
            return bool(self._contexts[op])  # elsewhere, what was read is at hand
        return op.type.startswith(_OF_LOOPS) or purity.is_pure(op, purity.READS, _OF_LOOPS)

    def _may_be_fed(self, op: Any) -> bool:
        """Tell whether Keras may put another value in the place of what an operation gives.

        The learning phase of keras 2.3.1 on TensorFlow 2 is an integer made of a placeholder, and
        it is the integer that is fed.
        """
        if op.type in ("Const", "Switch") or op in self._predicates:
            return False
        return bool(op.outputs) and all(
            (t.dtype.base_dtype.is_integer or t.dtype.base_dtype == tf.bool) and t.shape.rank == 0
            for t in op.outputs
        )

    def _starts(self, outputs: Sequence[Any], recipe: Recipe) -> List[Any]:
        copied = self._copied_for(outputs)
        order = [op for op in self._order if op in copied]
        starts = self._taken(copied)
        for op in self._order:
            if self._is_led_out(op) and any(user in copied for user in op.outputs[0].consumers()):
                kept = self._lead_out(op.outputs[0], recipe)
                starts[kept.name] = kept
        waits = {op for op in copied if not op.inputs}
        for op in order:
            free = bool(op.inputs) and all(t.op in waits and t.op in copied for t in op.inputs)
            if free and not self._contexts[op]:
                waits.add(op)
            recipe.add(
                op,
                control=[c.name for c in op.control_inputs if c in copied],
                renamed=self._renamed(op),
                waits=op in waits and op.type != "Const" and not self._contexts[op],
            )
            division = self._divisions.get(op)
            if division is not None:
                starts.update((kept.name, kept) for kept in division.write(recipe))
        self._add_contexts(copied, recipe)
        recipe.starts.extend(starts)
        return list(starts.values())

    def _taken(self, copied: Set[Any]) -> Dict[str, Any]:
        """List what some operations take from others at home, by name."""
        found = {}
        for op in self._order:
            if op in copied:
                division = self._divisions.get(op)
                for tensor in op.inputs if division is None else division.takes:
                    if tensor.op not in copied and not self._is_led_out(tensor.op):
                        found[tensor.name] = tensor
        return found

    def _is_led_out(self, op: Any) -> bool:
        return op in self._verdicts and op not in self._kept

    def _renamed(self, op: Any) -> Dict[str, str]:
        """Say which inputs have other names in the copy, by their names in the graph."""
        names = {tensor.name: self._name(tensor) for tensor in op.inputs}
        return {old: new for old, new in names.items() if old != new}

    def _name(self, tensor: Any) -> str:
        """Return what stands for a tensor in the copy: a switch, or an output of a division."""
        if self._is_led_out(tensor.op):
            return "%s:%d" % (tensor.op.name, self._contexts[tensor.op][0].branch)
        division = self._divisions.get(tensor.op)
        return str(tensor.name) if division is None else division.name(tensor)

    def _lead_out(self, tensor: Any, recipe: Recipe) -> Any:
        """Lead a verdict out of the branches it is in, and note how to lead it in again."""
        contexts = self._contexts[tensor.op]
        kept = tensor
        for context in contexts:
            kept = private_graphs.merge_out_of(context, kept)
        if not _may_have_gradient(tensor):
            kept = tf.stop_gradient(kept)  # there is none, but it would be led through the merges
        source = kept.name
        for depth, context in reversed(list(enumerate(contexts))):
            name = tensor.op.name if depth == 0 else "%s/outer_%d" % (tensor.op.name, depth)
            recipe.add_switch(name, source, context.pred.name, tensor.dtype)
            source = "%s:%d" % (name, context.branch)
        return kept

    def _add_contexts(self, copied: Set[Any], recipe: Recipe) -> None:
        names = {op.name for op in copied}
        names.update(op.name for op in self._verdicts if self._is_led_out(op))
        outermost = []
        for op in self._contexts:
            if op in copied and self._contexts[op] and self._contexts[op][-1] not in outermost:
                outermost.append(self._contexts[op][-1])
        for context in outermost:
            recipe.add_context(private_graphs.context_proto(context, names))


def _may_have_gradient(verdict: Any) -> bool:
    """Tell whether something was drawn from floating point numbers; those may have a gradient."""
    op = verdict.op
    return op.type in RANDOM and any(x.dtype.is_floating for x in op.inputs)


def _contexts(op: Any, home: Any) -> Optional[Tuple[Any, ...]]:
    """List the contexts from an operation outwards, without ``home``; None if it is elsewhere."""
    found = []
    context = private_graphs.control_flow_of(op)
    while context is not home:
        if context is None or not private_graphs.is_known(context):
            return None
        found.append(context)
        context = context.outer_context
    return tuple(found)


def replay(recipe: Recipe, starts: Sequence[Any]) -> List[Any]:
    """Copy a slice into the default graph; return its outputs, computed from other starts."""
    graph = tf.compat.v1.get_default_graph()
    return import_recipe(graph, recipe, starts)
