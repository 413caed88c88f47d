"""PyTorch: ``torch.utils.checkpoint``, which recomputes what autograd wanted to save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, List

import torch
from torch.utils.checkpoint import checkpoint as torch_checkpoint

if TYPE_CHECKING:
    from perftricks.recompute.engines.keras3 import PureCall


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is a tensor."""
    return isinstance(x, torch.Tensor)


def check_output(x: Any) -> None:
    """Accept anything: what is no tensor comes out as it is, or the framework complains."""


def is_recording() -> bool:
    """Tell whether autograd is on."""
    return bool(torch.is_grad_enabled())


def prepare(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as it is."""
    return call


def home() -> None:
    """Return nothing: a value is valid wherever it is read."""


def check_read(variable: Any, home: Any) -> None:
    """Refuse nothing: no function that a call has compiled keeps values of variables."""


def read(value: Any, home: None) -> Any:
    """Return the value as it is; no copy of the weights is made."""
    return value


def keep(value: Any) -> Any:
    """Return a copy, through which gradients flow: variables are updated in place."""
    return value.clone()


class _Written(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, new: Any, old: Any) -> Any:
        return new.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return None, gradient


def written(new: Any, old: Any) -> Any:
    """Return the new value as a leaf would be: its gradient is the variable's."""
    return _Written.apply(new.detach(), old)


def checkpoint(pure: PureCall) -> List[Any]:
    """Run a call; the backward pass runs it again."""
    versions: List[int] = []

    def run(*tensors: Any) -> List[Any]:
        if not pure.has_run:
            outputs = pure.run(*tensors)
            versions.extend(value._version for _, value in pure.reads.values())
            return outputs
        for version, (variable, value) in zip(versions, pure.reads.values()):
            if value._version != version:
                raise RuntimeError(
                    "the variable %s was updated between the forward and the backward pass of a "
                    "call that is to be recomputed; run backward before the update" % variable.path
                )
        return pure.run(*tensors)

    # The random numbers of Keras need no saved state, those of a wrapped torch module do.
    outputs: List[Any] = torch_checkpoint(run, *pure.tensors, use_reentrant=False)
    return outputs
