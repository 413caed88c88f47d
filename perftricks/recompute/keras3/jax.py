"""JAX: ``jax.checkpoint``. It traces once and takes gradients of what a function closes over."""

from __future__ import annotations

import functools
import inspect
from typing import AbstractSet, Any, Callable, List, Optional, Sequence, Set, Tuple

import jax
from jax.ad_checkpoint import checkpoint_name

from perftricks.recompute.keras3 import private
from perftricks.recompute.keras3.dense import check_output as check_output
from perftricks.recompute.keras3.dense import home as home
from perftricks.recompute.keras3.dense import is_empty as is_empty
from perftricks.recompute.keras3.dense import is_in_function as is_in_function
from perftricks.recompute.keras3.dense import is_vectorized as is_vectorized
from perftricks.recompute.keras3.dense import may_assign as may_assign
from perftricks.recompute.keras3.dense import noticed as noticed
from perftricks.recompute.keras3.dense import prepare as prepare
from perftricks.recompute.keras3.dense import read as read
from perftricks.recompute.keras3.pure import PureCall
from perftricks.recompute.policies import CONVOLUTION, MASK, MATMUL, NAMED, Policy

CHANGEABLE: Tuple[type, ...] = ()


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is an array or a tracer."""
    return isinstance(x, jax.Array)


def parts(x: Any) -> Optional[List[Any]]:
    """Return what a class that is registered with JAX holds, if arrays are among it; else None.

    To Keras it is one thing: a sparse array, a dataclass of arrays.
    """
    leaves = [] if is_tensor(x) else jax.tree_util.tree_leaves(x)
    return leaves if any(is_tensor(leaf) for leaf in leaves) else None


def outline(x: Any) -> Any:
    """Return its structure, without arrays: those of a call that is traced must not outlive it."""
    return jax.tree_util.tree_structure(x)


def whole(outline: Any, parts: Sequence[Any]) -> Any:
    """Return an object of the same structure."""
    return jax.tree_util.tree_unflatten(outline, parts)


def is_recording() -> bool:
    """Tell whether something is being transformed: differentiated, compiled, mapped.

    Elsewhere nobody can ask for gradients, and a call may look at values, which one that is traced
    may not.
    """
    return not private.jax_runs_eagerly()


def modules(reached: Sequence[Any]) -> List[Any]:
    """Return nothing: this framework has no modules whose state Keras does not know."""
    return []


def keep(value: Any) -> Any:
    """Return the value as it is: arrays do not change."""
    return value


def takes_effect(variable: Any) -> bool:
    """Say yes: assignments do not depend on the precision that is in force."""
    return True


def written(new: Any, old: Any) -> Any:
    """Return the new value: gradients flow through an assignment, as in any scope of Keras."""
    return new


def mark(x: Any, name: str) -> Any:
    """Return an array under a name that JAX's policies know."""
    return checkpoint_name(x, name)


def other_names(pure: PureCall) -> AbstractSet[str]:
    """Return the names that JAX's own ``checkpoint_name`` gave in a call, for which it is traced.

    What is inside of another checkpoint has a policy of its own.
    """
    found: Set[str] = set()
    try:
        waiting = [jax.make_jaxpr(pure.run)(*pure.tensors).jaxpr]
    except Exception:  # it cannot be traced again, and it is not known
        return frozenset(pure.policy.given)
    while waiting:
        for equation in waiting.pop().eqns:
            if equation.primitive.name == "name":
                found.add(equation.params["name"])
            elif equation.primitive.name not in ("checkpoint", "remat", "remat2"):
                waiting += programs_in(equation)
    return found


def programs_in(equation: Any) -> List[Any]:
    """List the programs that an equation of a program of JAX runs: those of loops, functions."""
    return [
        getattr(part, "jaxpr", part)
        for value in equation.params.values()
        for part in (value if isinstance(value, (tuple, list)) else [value])
        if hasattr(getattr(part, "jaxpr", part), "eqns")
    ]


def checkpoint(pure: PureCall) -> List[Any]:
    """Run a call; the backward pass runs it again."""

    def run(*tensors: Any) -> List[Any]:
        return pure.run(*tensors)

    # JAX names the function that it traces in its errors; what takes other arguments is behind it.
    vars(run).update(__wrapped__=pure.call, __signature__=inspect.signature(run))
    outputs: List[Any] = jax.checkpoint(run, policy=saveable(pure.policy))(*pure.tensors)
    return outputs


def saveable(policy: Policy) -> Optional[Callable[..., bool]]:
    """Return a policy as ``jax.checkpoint`` takes it."""
    if policy.is_full or policy.is_of_jax:
        return None if policy.is_full else policy.given
    return functools.partial(_is_kept, policy)


# A mask is random numbers below a rate. Other comparisons of floating-point numbers are as small.
_KINDS = {"dot_general": MATMUL, "conv_general_dilated": CONVOLUTION, "lt": MASK}


def _is_kept(policy: Policy, primitive: Any, *types: Any, **parameters: Any) -> bool:
    """Tell JAX whether to keep what a primitive gives."""
    if primitive.name == "name":
        return policy.keeps(NAMED, parameters["name"])
    kind = _KINDS.get(primitive.name)
    if kind is None or (
        kind == MASK and not jax.numpy.issubdtype(types[0].dtype, jax.numpy.floating)
    ):
        return False
    return policy.keeps(kind)
