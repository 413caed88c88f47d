"""What ``jax`` and ``torch`` answer alike, of the functions that ``call`` asks of a framework.

Their tensors are dense: nothing is made of several.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence


def parts(x: Any) -> None:
    """Return nothing: what is no tensor is not made of tensors that a call would return."""


def whole(x: Any, parts: Sequence[Any]) -> Any:
    """Return ``x``, of which ``parts`` knows none."""
    return x


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
