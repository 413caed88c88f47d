"""What ``jax`` and ``torch`` answer alike, of the functions that ``call`` asks of a framework.

Their tensors are dense: nothing is made of several.
"""

from __future__ import annotations

from typing import AbstractSet, Any, Callable, Sequence


def parts(x: Any) -> None:
    """Return nothing: what is no tensor is not made of tensors that a call would return."""


def outline(x: Any) -> Any:
    """Return ``x``, of which ``parts`` knows none."""
    return x


def whole(outline: Any, parts: Sequence[Any]) -> Any:
    """Return the same."""
    return outline


def is_empty(x: Any) -> bool:
    """Say no: what has no elements is recomputed as anything else."""
    return False


def is_vectorized() -> bool:
    """Say no: this framework's own transformations know our gradient."""
    return False


def check_output(x: Any) -> None:
    """Accept anything: what is no tensor comes out as it is, or the framework complains."""


def prepare(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as it is."""
    return call


def home() -> None:
    """Return nothing: a value is valid wherever it is read."""


def is_in_function(home: Any) -> bool:
    """Say no: no function that a call has compiled keeps values of variables."""
    return False


def may_assign(home: Any) -> bool:
    """Say yes: the framework itself complains where it cannot be."""
    return True


def noticed(variable: Any, value: Any) -> None:
    """Tell nobody: gradients flow to whatever tensor was used."""


def other_names(pure: Any) -> AbstractSet[str]:
    """Return nothing: only ``keep`` gives names."""
    return frozenset()


def read(value: Any, home: None) -> Any:
    """Return the value as it is; no copy of the weights is made."""
    return value
