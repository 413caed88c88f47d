"""Keras 3: a call as a pure function of tensors and variables, so that it can be run twice.

::

    call(*args, **kwargs) ──▶ PureCall.run(tensors) ──▶ tensors      first, and again in backward
                                │                          │
                  variables are read as they       everything it did: outputs, masks, losses,
                  were before the call             new values of variables, changed attributes
                                                           │
                                                   PureCall.finish: done once, outside

What it asks of TensorFlow, JAX and torch is ``contracts.Framework``: a module for each.
"""

from __future__ import annotations

import contextlib
from typing import (
    TYPE_CHECKING,
    AbstractSet,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)

import keras
import numpy as np
from keras import tree

from perftricks.recompute.generators import Generators
from perftricks.recompute.keras3 import private
from perftricks.recompute.policies import FULL, Policy, active
from perftricks.recompute.python_state import Attributes, Change, ThreadState
from perftricks.recompute.referents import Referents
from perftricks.recompute.structures import Structures, check_returned

if TYPE_CHECKING:
    from perftricks.recompute.contracts import Framework

structures = Structures(tree.flatten, tree.pack_sequence_as)


class PureCall:
    """One call, ready to be run more than once.

    Attributes:
        tensors: The tensors among the arguments, and those in what is hung on them: masks, logits.
        framework: The module of the backend.
        reads: The variables that were read by the first run, with their values before the call.
        modules: What ``framework.modules`` found.
        generators: Those that the call may draw random numbers from, as they were before it.
        policy: What of the call is kept.
        referents: What the call refers to by name, as it was before it.
        left_outside: What the first run has put into variables of closures and globals.
    """

    def __init__(
        self,
        framework: Framework,
        call: Callable[..., Any],
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        layers: Sequence[Any],
        modules: Sequence[Any] = (),
        generators: Optional[Generators] = None,
        policy: Policy = FULL,
        referents: Optional[Referents] = None,
    ) -> None:
        self.referents = referents or Referents()
        self.left_outside: List[Any] = []
        self.modules = modules
        self.policy = policy
        self.generators = generators or Generators()
        self.framework = framework
        self._call = call
        leaves = structures.flatten((args, kwargs))
        hung = [private.hung_on(leaf) if framework.is_tensor(leaf) else {} for leaf in leaves]
        if any(_may_be_reused(leaf) for leaf in leaves):
            args, kwargs = structures.map(
                lambda leaf: leaf.copy() if _may_be_reused(leaf) else leaf, (args, kwargs)
            )
        self._arguments = _Structure(framework, (args, kwargs, hung))
        self.tensors = self._arguments.tensors
        self.reads: Dict[int, Tuple[Any, Any]] = {}
        self._outer = private.stateless_scope()
        self._home = framework.home()
        self._attributes = Attributes([*layers, *modules])
        self._thread_state = ThreadState()
        self._effects: Optional[_Effects] = None
        self._names: AbstractSet[str] = frozenset()

    @property
    def call(self) -> Callable[..., Any]:
        """What is run."""
        return self._call

    @property
    def has_run(self) -> bool:
        """Whether the first run is over."""
        return self._effects is not None

    def run(self, *tensors: Any) -> List[Any]:
        """Run the call on these tensors; return the tensors in everything it did.

        The first run finds out which variables are read. Each later one sees what the first saw.
        """
        if self._effects is None:
            self._effects = self._run(tensors, _Scope(self, self._read, is_first=True))
            self.generators.forget_unused()
            self.left_outside = self.referents.left_by_call()
            return self._effects.released()
        return self.replay(tensors, self.values())

    def values(self) -> List[Any]:
        """Return the values of the variables that were read so far, as the first run saw them."""
        return [value for _, value in self.reads.values()]

    def replay(self, tensors: Sequence[Any], values: Sequence[Any]) -> List[Any]:
        """Run the call again, on these tensors and these values of the variables in ``reads``.

        The first run may be under way: a call that asks for gradients itself needs what it has
        computed so far.
        """
        known = self.referents.replayed()
        with self._attributes.replayed(), self.generators.replayed(), known:
            effects = self._thread_state.run(self._run, tensors, self._scope(values))
        found = effects.released()
        if self._effects is not None and len(found) != self._effects.count:
            raise RuntimeError(
                "%s gave %d tensors at first and %d when it is recomputed; a call that is "
                "recomputed must do the same each time"
                % (_name(self._call), self._effects.count, len(found))
            )
        return found

    @contextlib.contextmanager
    def replaying(self, values: Sequence[Any]) -> Iterator[None]:
        """Answer reads of variables with these values for a while; assignments are lost."""
        with self._thread_state.entered(), self._scope(values):
            yield

    def _scope(self, values: Sequence[Any]) -> _Scope:
        """Return the scope of a later run, in which variables have these values."""
        given = dict(zip(self.reads, values))

        def read(variable: Any) -> Any:
            if id(variable) not in given:
                raise RuntimeError(
                    "%s reads the variable %s when it is recomputed and did not read it at first; "
                    "a call that is recomputed must do the same each time"
                    % (_name(self._call), variable.path)
                )
            return given[id(variable)]

        return _Scope(self, read, is_first=False)

    @property
    def objects(self) -> List[Any]:
        """What the first run returned, and what it put into attributes, that is no tensor."""
        assert self._effects is not None
        return self._effects.objects

    def finish(self, tensors: Sequence[Any]) -> Any:
        """Do once, outside, what the call did; ``tensors`` are what ``checkpoint`` gave back."""
        assert self._effects is not None
        if self.policy.traced is not None:
            self.policy.traced(self._names, lambda: self.framework.other_names(self))
        return self._effects.happen(tensors)

    def current(self, variable: Any) -> Any:
        """Return the value of a variable outside of the call."""
        value = self.native(variable)
        return private.own_value(variable) if value is None else value

    def _read(self, variable: Any) -> Any:
        value = self.current(variable)
        if value is None:
            raise NotBuilt
        self.reads[id(variable)] = variable, self.framework.read(value, self._home)
        return self.reads[id(variable)][1]

    def native(self, variable: Any) -> Any:
        """Return what a variable yields where our own scope has no say; None for its own value."""
        return None if self._outer is None else self._outer.get_current_value(variable)

    def keep(self, variable: Any) -> None:
        """Save the value of a variable that is about to change."""
        _, value = self.reads[id(variable)]
        self.reads[id(variable)] = variable, self.framework.keep(value)

    def _run(self, tensors: Sequence[Any], scope: _Scope) -> _Effects:
        args, kwargs, hung = self._arguments.fill(tensors)
        inputs = structures.flatten((args, kwargs))
        marking = active(self.policy, self.framework.mark)
        with scope, _attached(inputs, hung), marking as names:
            outputs = self._call(*args, **kwargs)
            hung_after = self._hung_on(inputs)
            hung_on_outputs = self._hung_on(structures.flatten(outputs))
        if self._effects is None:
            self._names = names
        losses = [(scope.owners[id(loss)], loss) for loss in scope.losses]
        for owner, loss in losses:
            private.forget_loss(owner, loss)
        returned = structures.flatten(outputs)
        check_returned(returned)
        for leaf in returned:
            self.framework.check_output(leaf)
        originals = structures.flatten(self._arguments.structure[:2])
        return _Effects(
            self.framework,
            outputs,
            hung_on_outputs,
            hung=[
                (original, after)
                for original, before, after in zip(originals, hung, hung_after)
                if not _same(before, after)
            ],
            losses=losses,
            written=scope.written,
            changes=self._attributes.restore(),
        )

    def _hung_on(self, leaves: Sequence[Any]) -> List[Dict[str, Any]]:
        return [private.hung_on(leaf) if self.framework.is_tensor(leaf) else {} for leaf in leaves]


class _Scope(keras.StatelessScope):  # type: ignore[misc]
    """Answers each read of a variable, whoever owns it, and holds back each assignment."""

    def __init__(self, pure: PureCall, read: Callable[[Any], Any], is_first: bool) -> None:
        super().__init__(collect_losses=True, initialize_variables=False)
        self._pure = pure
        self._read = read
        self._is_first = is_first
        self._home = pure.framework.home()
        self.owners: Dict[int, Any] = {}
        self.written: Dict[int, Tuple[Any, Any, Any]] = {}

    def get_current_value(self, variable: Any) -> Any:
        if self._pure.framework.is_in_function(self._home):
            if id(variable) in self.written:
                raise self._refused("reads", variable)
            return self._pure.native(variable)
        if id(variable) not in self.state_mapping:
            self.state_mapping[id(variable)] = self._read(variable)
        value = self.state_mapping[id(variable)]
        self._pure.framework.noticed(variable, value)
        return value

    def _refused(self, what: str, variable: Any) -> RuntimeError:
        return RuntimeError(
            "a call that is to be recomputed has a loop, a branch or a tf.function inside that %s "
            "the variable %s (a seed that counts up, a moving average), which could not be put "
            "back; recompute what is inside of the loop instead, put the tf.function around the "
            "training step, or draw random numbers outside" % (what, variable.path)
        )

    def add_update(self, update: Tuple[Any, Any]) -> None:
        variable, value = update
        framework = self._pure.framework
        if not framework.takes_effect(variable):
            return
        if not framework.may_assign(self._home):
            raise self._refused("assigns to", variable)
        old = self.get_current_value(variable)
        if self._is_first and id(variable) not in self.written:
            self._pure.keep(variable)
        # Whether the assignment takes effect depends on the precision that is in force then, too.
        precision = private.keras_thread_state().get("autocast_scope")
        self.written[id(variable)] = variable, value, precision
        self.state_mapping[id(variable)] = framework.written(value, old)

    def add_loss(self, loss: Any) -> None:
        self.owners[id(loss)] = private.loss_owner()
        super().add_loss(loss)


class _Effects:
    """Everything a call did: what it returned, and what it changed."""

    def __init__(
        self,
        framework: Framework,
        outputs: Any,
        hung_on_outputs: List[Dict[str, Any]],
        hung: List[Tuple[Any, Dict[str, Any]]],
        losses: List[Tuple[Any, Any]],
        written: Dict[int, Tuple[Any, Any, Any]],
        changes: List[Change],
    ) -> None:
        self._is_tensor = framework.is_tensor
        self._inputs = [tensor for tensor, _ in hung]
        self._owners = [owner for owner, _ in losses]
        self._variables = [(variable, precision) for variable, _, precision in written.values()]
        self._structure = _Structure(
            framework,
            (
                outputs,
                hung_on_outputs,
                [attributes for _, attributes in hung],
                [loss for _, loss in losses],
                [value for _, value, _ in written.values()],
                [leaf for change in changes for leaf in change.leaves if framework.is_tensor(leaf)],
            ),
        )
        leaves = [leaf for change in changes for leaf in change.leaves]
        self.objects = [
            *self._structure.objects,
            *(x for x in leaves if not framework.is_tensor(x)),
        ]
        self._changes = [
            change.replacing(lambda x: _HOLE if framework.is_tensor(x) else x) for change in changes
        ]
        self.count = len(self._structure.tensors)

    def released(self) -> List[Any]:
        """Return the tensors, and forget them: others will take their place.

        Those of a call that JAX traces must not outlive it.
        """
        return self._structure.released()

    def happen(self, tensors: Sequence[Any]) -> Any:
        outputs, on_outputs, on_inputs, losses, values, in_attributes = self._structure.fill(
            tensors
        )
        for (variable, precision), value in zip(self._variables, values):
            with _autocast(precision):
                variable.assign(value)
        replacements = iter(in_attributes)
        for change in self._changes:
            change.replacing(lambda leaf: next(replacements) if leaf is _HOLE else leaf).apply()
        for owner, loss in zip(self._owners, losses):
            owner.add_loss(loss)
        for tensor, attributes in [
            *zip(self._inputs, on_inputs),
            *zip(structures.flatten(outputs), on_outputs),
        ]:
            if self._is_tensor(tensor):
                private.hang(tensor, attributes)
        return outputs


class _Structure:
    """A nested structure and the tensors in it, each once."""

    def __init__(self, framework: Framework, structure: Any) -> None:
        self.structure = structure
        self._whole = framework.whole
        self._leaves = structures.flatten(structure)
        # What is made of several tensors is followed by its parts.
        found = [
            (i, parts)
            for i, parts in enumerate(map(framework.parts, self._leaves))
            if parts is not None
        ]
        self._parts = [(i, len(parts)) for i, parts in found]
        self._count = len(self._leaves)
        for _, parts in found:
            self._leaves.extend(parts)
        # A tensor that is there twice stays one tensor, so that its gradients are added up in the
        # same order as in the plain call.
        tensors = {id(leaf): leaf for leaf in self._leaves if framework.is_tensor(leaf)}
        self.tensors = list(tensors.values())
        composite = {i for i, _ in self._parts}
        self.objects = [
            leaf
            for i, leaf in enumerate(self._leaves)
            if id(leaf) not in tensors and i not in composite
        ]
        for i in composite:
            self._leaves[i] = framework.outline(self._leaves[i])
        numbers = {key: number for number, key in enumerate(tensors)}
        self._where = [
            (i, numbers[id(leaf)]) for i, leaf in enumerate(self._leaves) if id(leaf) in numbers
        ]

    def released(self) -> List[Any]:
        """Return the tensors, and keep only where they were."""
        tensors, self.tensors = self.tensors, []
        for i, _ in self._where:
            self._leaves[i] = None
        self.structure = structures.pack(self.structure, self._leaves[: self._count])
        return tensors

    def fill(self, tensors: Sequence[Any]) -> Any:
        """Return the structure with other tensors in the place of its own."""
        leaves = list(self._leaves)
        for i, number in self._where:
            leaves[i] = tensors[number]
        start = self._count
        for i, count in self._parts:
            leaves[i] = self._whole(leaves[i], leaves[start : start + count])
            start += count
        del leaves[self._count :]
        return structures.pack(self.structure, leaves)


_HOLE = object()  # where a tensor was


class NotBuilt(BaseException):
    """A variable or a parameter that is needed has no value yet.

    Keras rewrites what derives from Exception.
    """


@contextlib.contextmanager
def _attached(tensors: Sequence[Any], hung: Sequence[Dict[str, Any]]) -> Iterator[None]:
    """Hang masks, logits and the like on tensors for a while."""
    pairs = [(tensor, attributes) for tensor, attributes in zip(tensors, hung) if attributes]
    before = [private.hung_on(tensor) for tensor, _ in pairs]
    for tensor, attributes in pairs:
        private.hang(tensor, attributes)
    try:
        yield
    finally:
        for (tensor, _), attributes in zip(pairs, before):
            private.hang(tensor, attributes)


def _same(attributes: Dict[str, Any], others: Dict[str, Any]) -> bool:
    """Tell whether the same objects hang there, under the same names."""
    return attributes.keys() == others.keys() and all(
        value is others[name] for name, value in attributes.items()
    )


@contextlib.contextmanager
def _autocast(scope: Any) -> Iterator[None]:
    """Put a precision in force for a while."""
    state = private.keras_thread_state()
    before = state.get("autocast_scope")
    state["autocast_scope"] = scope
    try:
        yield
    finally:
        state["autocast_scope"] = before


def _may_be_reused(x: Any) -> bool:
    """Tell whether a program may have filled an argument with other numbers before it is needed."""
    return isinstance(x, np.ndarray)


def _name(call: Callable[..., Any]) -> str:
    return str(getattr(call, "__qualname__", call))
