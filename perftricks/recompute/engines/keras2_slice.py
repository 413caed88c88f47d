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
something in it has state.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import tensorflow as tf

from perftricks.recompute.engines import compat_keras2
from perftricks.recompute.engines.compat_keras2 import Recipe
from perftricks.recompute.engines.operations import RANDOM

_READS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"}
# They have state, which lives and dies with the loop that they belong to.
_OF_LOOPS = ("TensorArray", "Stack")
_NEVER = {"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"}
_SMALL = 64  # elements; a larger constant is there anyway, and is not copied


class Slice(NamedTuple):
    """What is between the starts and the outputs of a call.

    Attributes:
        outputs: The tensors that the copy will compute again.
        starts: The tensors it is computed from.
        recipe: How to make the copy.
    """

    outputs: List[Any]
    starts: List[Any]
    recipe: Recipe

    @classmethod
    def leading_to(cls, outputs: Sequence[Any], operations: Sequence[Any]) -> Optional[Slice]:
        """Find the slice of ``operations`` that leads to ``outputs``; None if there is nothing."""
        if not outputs or not operations:
            return None
        return _Search(outputs[0].graph, operations).slice_to(outputs)


class _Search:
    """Looks for the operations to copy.

    Args:
        graph: The graph.
        operations: All that a call has created, in that order.
    """

    def __init__(self, graph: Any, operations: Sequence[Any]) -> None:
        self._graph = graph
        home = compat_keras2.control_flow(graph)
        self._contexts = {
            op: contexts
            for op, contexts in ((op, _contexts(op, home)) for op in operations)
            if contexts is not None
        }
        self._loops: Dict[Any, List[Any]] = {}
        for op, contexts in self._contexts.items():
            for context in contexts:
                if compat_keras2.is_loop(context):
                    self._loops.setdefault(context, []).append(op)
        self._predicates = {
            context.pred.op
            for contexts in self._contexts.values()
            for context in contexts
            if not compat_keras2.is_loop(context)
        }
        self._verdicts: Dict[Any, Any] = {}  # by the operation that made it
        self._kept: Set[Any] = set()

    def slice_to(self, outputs: Sequence[Any]) -> Optional[Slice]:
        """Return the slice, or None if no output is made by something that can be copied."""
        behind = self._behind([t.op for t in outputs if t.op in self._contexts])
        order = [op for op in self._contexts if op in behind]
        for op in order:
            if op.type in RANDOM and not any(map(compat_keras2.is_loop, self._contexts[op])):
                verdict = self._verdict(op.outputs[0], behind)
                self._verdicts[verdict.op] = verdict
        self._keep(order)
        outputs = [t for t in outputs if t.op in self._contexts and self._is_copied(t.op)]
        if not outputs:
            return None
        recipe = Recipe(compat_keras2.graph_versions(self._graph))
        starts = self._starts(outputs, order, recipe)
        recipe.outputs.extend(t.name for t in outputs)
        return Slice(outputs, starts, recipe)

    def _is_copied(self, op: Any) -> bool:
        return op in self._contexts and op not in self._kept and op not in self._verdicts

    def _before(self, op: Any) -> Iterator[Any]:
        """Give the operations that one needs: for its inputs, and for where it is."""
        for tensor in op.inputs:
            yield tensor.op
        for context in self._contexts[op]:
            yield context.pivot.op
            if compat_keras2.is_loop(context):
                for inner in self._loops[context]:
                    if inner.type in ("NextIteration", "Exit", "LoopCond"):
                        yield inner
            else:
                yield context.pred.op

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

    def _verdict(self, tensor: Any, behind: Set[Any]) -> Any:
        """Follow a random tensor while one thing is made of it; return the first that is bool."""
        end = tensor
        while True:
            users = [op for op in end.consumers() if op in behind]
            if len(users) != 1 or len(users[0].outputs) != 1:
                return tensor
            if self._contexts[users[0]] != self._contexts[tensor.op]:
                return tensor
            end = users[0].outputs[0]
            if end.dtype.base_dtype == tf.bool:
                return end

    def _keep(self, order: Sequence[Any]) -> None:
        """Find what is not copied: at home it is kept, elsewhere it spoils what depends on it."""
        spoiled: Set[Any] = set()
        before = -1
        while before != len(spoiled) + len(self._kept):
            before = len(spoiled) + len(self._kept)
            for op in order:
                contexts = self._contexts[op]
                if op in self._kept or op in spoiled:
                    continue
                if op in self._verdicts:
                    if not contexts:
                        self._kept.add(op)
                    continue
                pure = self._is_pure(op) and not any(map(self._is_kept_list, op.inputs))
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

    def _is_pure(self, op: Any) -> bool:
        if op.type in _NEVER or compat_keras2.uses_references(op):
            return False
        if not self._contexts[op] and self._may_be_fed(op):
            return False
        if op.type == "Const":
            return bool(self._contexts[op]) or op.outputs[0].shape.num_elements() <= _SMALL
        if op.type in _READS:
            return bool(self._contexts[op])  # at home, what was read is at hand
        return op.type.startswith(_OF_LOOPS) or compat_keras2.is_pure(op, _READS, _OF_LOOPS)

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

    def _starts(self, outputs: Sequence[Any], order: Sequence[Any], recipe: Recipe) -> List[Any]:
        copied = self._behind([t.op for t in outputs], only_copied=True)
        starts: Dict[str, Any] = {}
        for op in order:
            if op in copied:
                for tensor in op.inputs:
                    if tensor.op not in copied and not self._is_led_out(tensor.op):
                        starts[tensor.name] = tensor
        for op in order:
            if self._is_led_out(op) and any(user in copied for user in op.outputs[0].consumers()):
                kept = self._lead_out(op.outputs[0], recipe)
                starts[kept.name] = kept
        waits = {op for op in copied if not op.inputs}
        for op in order:
            if op not in copied:
                continue
            free = bool(op.inputs) and all(t.op in waits and t.op in copied for t in op.inputs)
            if free and not self._contexts[op]:
                waits.add(op)
            recipe.add(
                op,
                control=[c.name for c in op.control_inputs if c in copied],
                branches=self._branches(op),
                waits=op in waits and op.type != "Const" and not self._contexts[op],
            )
        self._add_contexts(copied, recipe)
        recipe.starts.extend(starts)
        return list(starts.values())

    def _is_led_out(self, op: Any) -> bool:
        return op in self._verdicts and op not in self._kept

    def _branches(self, op: Any) -> Dict[str, str]:
        """Say which inputs come from a switch now: by the name of the verdict."""
        renamed = {}
        for tensor in op.inputs:
            if self._is_led_out(tensor.op):
                branch = self._contexts[tensor.op][0].branch
                renamed[tensor.op.name] = "%s:%d" % (tensor.op.name, branch)
        return renamed

    def _lead_out(self, tensor: Any, recipe: Recipe) -> Any:
        """Lead a verdict out of the branches it is in, and note how to lead it in again."""
        contexts = self._contexts[tensor.op]
        kept = tensor
        for context in contexts:
            kept = compat_keras2.merge_out_of(context, kept)
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
            recipe.add_context(compat_keras2.context_proto(context, names))


def _contexts(op: Any, home: Any) -> Optional[Tuple[Any, ...]]:
    """List the contexts from an operation outwards, without ``home``; None if it is elsewhere."""
    found = []
    context = compat_keras2.control_flow_of(op)
    while context is not home:
        if context is None or not compat_keras2.is_known(context):
            return None
        found.append(context)
        context = context.outer_context
    return tuple(found)


def replay(recipe: Recipe, starts: Sequence[Any]) -> List[Any]:
    """Copy a slice into the default graph; return its outputs, computed from other starts."""
    graph = tf.compat.v1.get_default_graph()
    return compat_keras2.import_recipe(graph, recipe, starts)
