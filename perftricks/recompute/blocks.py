"""Decorated functions in Keras' functional API: a call becomes a stage of the model.

::

    block(symbolic tensors) ──▶ the calls of layers that it makes are marked as one block
                                          │
    keras.Model(inputs, outputs) ─────────┘
        when it runs:  calls without a mark, [block], calls without a mark, [block] ...

A decorated function that is called on symbolic tensors runs only then: the model runs the layers
that it has called, and knows nothing of the function. So the calls themselves, nodes of Keras'
graph, are marked. The model is saved as it is without marks, and one that is loaded has none.

The method that runs a graph is replaced in Keras' class, once, when the first function is marked;
for a graph without marked calls it does what it did. In the graphs with sessions of Keras 2 nothing
is marked, for no method runs them again: ``keras2.static`` leads the gradients there.
"""

from __future__ import annotations

import functools
import weakref
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from perftricks.recompute import references, stages, switch
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.policies import Policy
from perftricks.recompute.stacks import family_of
from perftricks.recompute.stages import Stage

if TYPE_CHECKING:
    from perftricks.recompute.contracts import Family

_MARK = "perftricks_block"


class Block:
    """One call of a decorated function.

    Args:
        name: The name of the function.
        policy: What is kept of it.
    """

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.policy = policy


class Marked(NamedTuple):
    """What is left of a block in a model.

    Attributes:
        name: The name of the function.
        layers: The names of the layers it calls, in the order they run.
        policy: What is kept of it.
    """

    name: str
    layers: Tuple[str, ...]
    policy: Policy

    @property
    def ends(self) -> List[str]:
        """The first and the last layer, or the only one."""
        return list(dict.fromkeys([self.layers[0], self.layers[-1]]))


def symbolic_call(call: Callable[..., Any], args: Any, kwargs: Any, policy: Policy) -> Any:
    """Return ``call(*args, **kwargs)``, and mark the calls of layers of Keras 3 that it made."""
    outputs, found = marking(call, args, kwargs, policy, keras3)
    if found:
        _install()
    return outputs


def marking(
    call: Callable[..., Any], args: Any, kwargs: Any, policy: Policy, family: Family
) -> Tuple[Any, bool]:
    """Return ``call(*args, **kwargs)``, and whether it has called layers, which are now marked."""

    def below(x: Any) -> List[Any]:
        found: List[Any] = family.everything_in(x) if family.is_layer(x) else []
        return found

    outputs = call(*args, **kwargs)
    owner = getattr(call, "__self__", None)
    given = references.spread([args, kwargs, references.reached([call, owner], below)])
    before = _behind([x for x in given if family.is_symbol(x)], set(), family)
    results = [x for x in references.spread([outputs]) if family.is_symbol(x)]
    nodes = _behind(results, set(before), family)
    block = Block(getattr(call, "__qualname__", repr(call)), policy)
    for own in nodes.values():
        setattr(own, _MARK, block)
    return outputs, bool(nodes)


def _behind(tensors: Sequence[Any], known: Set[int], family: Family) -> Dict[int, Any]:
    """Return what Keras keeps of the calls that tensors come from, by id, if not known."""
    found: Dict[int, Any] = {}
    waiting = list(tensors)
    while waiting:
        node = family.node_of(waiting.pop())
        if node is None:
            continue
        own = family.own(node)
        if id(own) not in found and id(own) not in known:
            found[id(own)] = own
            waiting.extend(node.input_tensors)
    return found


def marked_in(functional: Any) -> List[Marked]:
    """List the blocks in a graph, in the order they run."""
    return [
        Marked(
            name, tuple(dict.fromkeys(node.operation.name for node in stage.nodes)), stage.policy
        )
        for name, stage in stages_of(functional) or ()
        if stage.policy is not None
    ]


# Stages of graphs that have been run, None for those without blocks.
_known: Any = weakref.WeakKeyDictionary()


def stages_of(functional: Any) -> Optional[List[Tuple[str, Stage]]]:
    """Return all calls of a graph in stages, with the names of their functions, or None."""
    if functional not in _known:
        nodes = family_of(functional).nodes_of(functional)
        marked = any(_block_of(functional, node) is not None for node in nodes)
        _known[functional] = _staged(functional, nodes) if marked else None
    found: Optional[List[Tuple[str, Stage]]] = _known[functional]
    return found


def _block_of(functional: Any, node: Any) -> Optional[Block]:
    block: Optional[Block] = getattr(family_of(functional).own(node), _MARK, None)
    return block


def _staged(functional: Any, nodes: Sequence[Any]) -> List[Tuple[str, Stage]]:
    """Put the calls of each block together, in an order in which everything can run.

    What a block takes was there before it was called, so nothing it takes is made of what it gives.
    """
    units: Dict[int, List[Any]] = {}
    for node in nodes:
        units.setdefault(id(_block_of(functional, node) or node), []).append(node)
    waiting = [_unit(functional, unit, nodes) for unit in units.values()]
    known = {id(x) for x in functional.inputs}
    found: List[Stage] = []
    while waiting:
        ready = next(unit for unit in waiting if known.issuperset(unit.takes))
        waiting.remove(ready)
        known.update(ready.gives)
        found.append(ready)
    names = [getattr(_block_of(functional, stage.nodes[0]), "name", "") for stage in found]
    return list(zip(names, stages.passing_on(found, [id(x) for x in functional.outputs])))


def _unit(functional: Any, unit: Sequence[Any], nodes: Sequence[Any]) -> Stage:
    inside = {id(node) for node in unit}
    made = dict.fromkeys(id(x) for node in unit for x in node.outputs)
    needed = {id(x) for x in functional.outputs}
    needed.update(id(x) for node in nodes if id(node) not in inside for x in node.input_tensors)
    takes = dict.fromkeys(id(x) for node in unit for x in node.input_tensors)
    block = _block_of(functional, unit[0])
    return Stage(
        unit,
        tuple(key for key in takes if key not in made),
        tuple(key for key in made if key in needed),
        None if block is None else block.policy,
    )


@functools.lru_cache(maxsize=None)  # once
def _install() -> None:
    kind = keras3.graph_class()
    plain = kind._run_through_graph

    @functools.wraps(plain)
    def run(self: Any, inputs: Any, operation_fn: Any = None, call_fn: Any = None) -> Any:
        operation = operation_fn or (lambda x: x)
        if call_fn is None and switch.enabled(default=False) and not keras3.is_symbolic(inputs):
            found = stages_of(self)
            if found is not None:
                return stages.run(self, [stage for _, stage in found], inputs, operation)
        return plain(self, inputs, operation_fn=operation, call_fn=call_fn)

    run.autograph_info__ = {}  # type: ignore[attr-defined]
    kind._run_through_graph = run
