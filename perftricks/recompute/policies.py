"""Policies: what a call that is recomputed keeps for its second run, beside what it was given.

::

    "full"            nothing                                  least memory
    "save_masks"      the masks of dropout, a byte a number    random numbers are slow on a CPU
    "save_matmuls"    what matrix products and convolutions    the rest is cheap to compute again
                      give, and masks
    "save_attention"  what one fused attention operation gives
    ["a", "b"]        what was named by ``keep(x, "a")``
    a function        of the kind of an operation and its name: True to keep what it gives;
                      on JAX, one of jax.checkpoint_policies, too

A backend that cannot keep something computes it again: the result is the same either way.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import warnings
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    Iterator,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

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
_Others = Callable[[], AbstractSet[str]]


class Policy(NamedTuple):
    """What is kept.

    Attributes:
        given: As it was asked for: the name of a policy, names of tensors, or a function.
        traced: For names: takes those that ``keep`` gave in a call under the policy, when one has
            run or has been traced, and a function that finds those that were given in other ways.
            None if nobody asks.
    """

    given: Any = "full"
    traced: Optional[Callable[[AbstractSet[str], _Others], None]] = None

    @property
    def is_full(self) -> bool:
        """Whether nothing is kept."""
        return bool(self.given == "full")

    @property
    def is_of_jax(self) -> bool:
        """Whether it is one of ``jax.checkpoint_policies``, which JAX itself asks."""
        return _root(self.given) == "jax"

    def check_backend(self, backend: str) -> None:
        """Refuse a policy of JAX's where something else computes."""
        if self.is_of_jax and backend != "jax":
            raise TypeError(
                "the policy %s is one of jax.checkpoint_policies, and Keras computes with %s here; "
                "give the name of a policy, a list of names that keep gives, or a function of the "
                "kind of an operation and its name" % (self, backend)
            )

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
        if self.is_of_jax:
            return kind == NAMED
        kept = self.given(kind, name)
        if _root(type(kept)) in ("jax", "torch"):  # true, whatever it means
            raise TypeError(
                "a policy that is a function is called with the kind of an operation and a name, "
                "and returns True to keep what it gives, else False; %s returned %r" % (self, kept)
            )
        return bool(kept)

    def __str__(self) -> str:
        if isinstance(self.given, tuple):
            return "keeps " + ", ".join(self.given)
        return str(getattr(self.given, "__name__", self.given))


def _root(x: Any) -> str:
    """Return the package in which a function or a class is defined."""
    return str(getattr(x, "__module__", "")).partition(".")[0]


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


class Policies:
    """The policies of what is recomputed together: one decorated function, or a plan.

    When each of its calls has run once, names that ``keep`` gave in none of them are told: nothing
    is kept for these, and nothing else would show it.

    Args:
        where: What it is, for the warning.
        hint: What else the warning says where there are no names at all.
    """

    def __init__(self, where: str, hint: str = "") -> None:
        self._where = where
        self._hint = hint
        self._wanted: Set[str] = set()
        self._given: Set[str] = set()
        self._waiting: Set[int] = set()
        self._count = 0

    def of(self, given: Given) -> Policy:
        """Return the policy of one call; the arguments and errors are those of ``policy_of``."""
        policy = policy_of(given)
        if not isinstance(policy.given, tuple):
            return policy
        self._wanted.update(policy.given)
        self._waiting.add(self._count)
        self._count += 1
        return policy._replace(traced=functools.partial(self._has_run, self._count - 1))

    def _has_run(self, call: int, names: AbstractSet[str], others: _Others = frozenset) -> None:
        """Take note of the names that were given in a call."""
        if call not in self._waiting:
            return
        self._given.update(names)
        if not self._wanted <= self._given:
            self._given.update(others())
        self._waiting.discard(call)
        missing = sorted(self._wanted - self._given)
        if missing and not self._waiting:
            there = ", ".join(map(repr, sorted(self._given)))
            warnings.warn(
                "the policy of %s keeps what is named %s, but no keep(x, name) gives that name "
                "there, so nothing is kept for it; the names there are %s"
                % (
                    self._where,
                    " and ".join(map(repr, missing)),
                    there or "none at all" + self._hint,
                ),
                RuntimeWarning,
                stacklevel=2,
            )


_Mark = Callable[[Any, str], Any]
_Active = Tuple[Policy, _Mark, Set[str]]  # and the names that keep has given so far
_active: contextvars.ContextVar[Optional[_Active]] = contextvars.ContextVar(
    "perftricks_policy", default=None
)


@contextlib.contextmanager
def active(policy: Policy, mark: _Mark) -> Iterator[AbstractSet[str]]:
    """Have ``keep`` mark tensors for a policy while a call runs.

    Args:
        policy: The policy of the call.
        mark: Takes a tensor and its name, and returns the tensor to go on with.

    Yields:
        The names that ``keep`` has given.
    """
    names: Set[str] = set()
    token = _active.set((policy, mark, names))
    try:
        yield names
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
    now = _active.get()
    if now is None:
        return x
    policy, mark, names = now
    names.add(name)
    return mark(x, name) if policy.keeps(NAMED, name) else x
