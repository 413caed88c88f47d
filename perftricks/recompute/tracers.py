"""What frameworks that read the code of a program are told about functions of ours."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def keep_autograph_out(function: F) -> F:
    """Tell TensorFlow's AutoGraph to run a function as it is written.

    AutoGraph rewrites whatever a traced function calls. It shall rewrite what is decorated, where
    it would have done so without the decorator, and nothing of ours.
    """
    function.autograph_info__ = {}  # type: ignore[attr-defined]
    return function


def known_to_dynamo(function: F) -> F:
    """Tell torch.compile to take what a function returns, while it traces, for a constant.

    It neither looks inside nor asks again when what it has traced runs.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
