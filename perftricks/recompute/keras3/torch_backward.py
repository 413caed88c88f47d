"""Backward passes that a recomputed call of torch runs itself.

``loss.backward()`` within a call adds to the gradients of weights, and would add to them once more
when the call runs again. ``torch.autograd.grad`` adds to none.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import torch

_Reached = Callable[[], Tuple[Sequence[Any], Sequence[Any]]]


class _Running(threading.local):
    """The first run of a call in this thread: what its backward passes must not reach."""

    reached: Optional[_Reached] = None


_running = _Running()
_plain = torch.autograd.backward  # which Tensor.backward calls


@functools.wraps(_plain)
def _backward(*args: Any, **kwargs: Any) -> None:
    if _running.reached is None:
        _plain(*args, **kwargs)
        return
    weights, inputs = _running.reached()
    before = [(w, w.grad, -1 if w.grad is None else w.grad._version) for w in weights]
    found: List[Any] = []
    hooks = [x.register_hook(found.append) for x in inputs if x.requires_grad]
    try:
        _plain(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    changed = (w.grad is not g or (g is not None and g._version != n) for w, g, n in before)
    if found or any(changed):
        raise RuntimeError(
            "a call that is to be recomputed runs backward() itself, which adds to gradients, and "
            "would do so each time it runs: take derivatives by torch.autograd.grad, or leave this "
            "call out"
        )


@contextlib.contextmanager
def watched(reached: _Reached) -> Iterator[None]:
    """Refuse backward passes in the first run of a call that would not stay within it.

    Args:
        reached: Returns the weights that the call has used so far, and what it was given.
    """
    if torch.autograd.backward is _plain:
        torch.autograd.backward = _backward
    before, _running.reached = _running.reached, reached
    try:
        yield
    finally:
        _running.reached = before
