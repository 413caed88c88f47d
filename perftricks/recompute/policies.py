"""Policies: what a call that is recomputed keeps for its second run, beside what it was given.

::

    "full"            nothing                                  least memory
    "save_masks"      the masks of dropout, a byte a number    random numbers are slow on a CPU
    "save_matmuls"    what matrix products and convolutions    the rest is cheap to compute again
                      give, and masks
    "save_attention"  what one fused attention operation gives
    ["a", "b"]        what was named by ``keep(x, "a")``
    a function        of the kind of an operation and its name: True to keep what it gives

A backend that cannot keep something computes it again: the result is the same either way.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

from perftricks.recompute.tracers import keep_autograph_out

MATMUL, CONVOLUTION, MASK = "matmul", "convolution", "mask"
ATTENTION, NAMED = "attention", "named"
_Keeps = Callable[[str, Optional[str]], bool]
Given = Union[str, Sequence[str], _Keeps]

_KINDS: Dict[str, Tuple[str, ...]] = {
    "full": (),
    "save_masks": (MASK,),
    "save_matmuls": (MATMUL, CONVOLUTION, MASK),
    "save_attention": (ATTENTION,),
}


NAMES = tuple(_KINDS)


class Policy(NamedTuple):
    """What is kept.

    Attributes:
        given: As it was asked for: the name of a policy, names of tensors, or a function.
    """

    given: Any = "full"

    @property
    def is_full(self) -> bool:
        """Whether nothing is kept."""
        return bool(self.given == "full")

    def keeps(self, kind: str, name: Optional[str] = None) -> bool:
        """Tell whether to keep what an operation gives.

        Args:
            kind: "matmul", "convolution", "mask", "attention" or "named".
            name: The name, if that is its kind.
        """
        if isinstance(self.given, str):
            return kind in _KINDS[self.given]
        if isinstance(self.given, tuple):
            return kind == NAMED and name in self.given
        return bool(self.given(kind, name))

    def __str__(self) -> str:
        if isinstance(self.given, tuple):
            return "keeps " + ", ".join(self.given)
        return str(getattr(self.given, "__name__", self.given))


FULL = Policy()


def policy_of(given: Given) -> Policy:
    """Return the policy that is asked for.

    Raises:
        TypeError: If it is neither a name, nor names, nor a function of two arguments.
        ValueError: If there is no policy of this name.
    """
    if isinstance(given, Policy):
        return given
    if isinstance(given, str):
        if given not in _KINDS:
            raise ValueError(
                "policy must be one of %s, a list of names that keep gives, or a function, not %r"
                % (", ".join(map(repr, _KINDS)), given)
            )
        return Policy(given)
    if callable(given):
        with contextlib.suppress(ValueError):  # some builtins have no signature
            try:
                inspect.signature(given).bind(MATMUL, None)
            except TypeError:
                raise TypeError(
                    "a policy that is a function takes the kind of an operation and a name (None "
                    "unless keep gave one), and %r does not take two arguments" % (given,)
                ) from None
        return Policy(given)
    names = tuple(given) if isinstance(given, (list, tuple, set, frozenset)) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "policy takes the name of a policy, a list of names that keep gives, or a function of "
            "a kind and a name, got %r" % (given,)
        )
    return Policy(tuple(sorted(names)))


_Mark = Callable[[Any, str], Any]
_active: contextvars.ContextVar[Tuple[Policy, Optional[_Mark]]] = contextvars.ContextVar(
    "perftricks_policy", default=(FULL, None)
)


@contextlib.contextmanager
def active(policy: Policy, mark: _Mark) -> Iterator[None]:
    """Have ``keep`` mark tensors for a policy while a call runs.

    Args:
        policy: The policy of the call.
        mark: Takes a tensor and its name, and returns the tensor to go on with.
    """
    token = _active.set((policy, mark))
    try:
        yield
    finally:
        _active.reset(token)


@keep_autograph_out
def keep(x: Any, name: str) -> Any:
    """Name a tensor inside of a call, so that a policy can have it kept.

    Where the call is recomputed under a policy that keeps this name, the second run takes the
    tensor from the first. Everywhere else nothing happens.

    Args:
        x: A tensor.
        name: Its name; several may have the same.

    Returns:
        The tensor, to be used in place of ``x``.

    Raises:
        TypeError: If the name is no text.

    Example:
        >>> from perftricks import recompute
        >>> @recompute.recompute_grad(policy=["square"])
        ... def block(x):
        ...     return recompute.keep(x * x, "square") + 1
        >>> block(3)
        10
    """
    if not isinstance(name, str):
        raise TypeError("keep takes a tensor and a name, got %r as the name" % (name,))
    policy, mark = _active.get()
    if mark is None or not policy.keeps(NAMED, name):
        return x
    return mark(x, name)
