"""PyTorch: ``torch.utils.checkpoint``, which recomputes what autograd wanted to save."""

from __future__ import annotations

import contextlib
import gc
import sys
import traceback
from types import FrameType
from typing import Any, Callable, Iterator, List, Optional, Sequence, Set, Tuple

import keras
import torch
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from perftricks.recompute import references
from perftricks.recompute.keras3 import private, private_torch
from perftricks.recompute.keras3.dense import check_output as check_output
from perftricks.recompute.keras3.dense import home as home
from perftricks.recompute.keras3.dense import is_empty as is_empty
from perftricks.recompute.keras3.dense import is_in_function as is_in_function
from perftricks.recompute.keras3.dense import is_vectorized as is_vectorized
from perftricks.recompute.keras3.dense import may_assign as may_assign
from perftricks.recompute.keras3.dense import noticed as noticed
from perftricks.recompute.keras3.dense import other_names as other_names
from perftricks.recompute.keras3.dense import outline as outline
from perftricks.recompute.keras3.dense import parts as parts
from perftricks.recompute.keras3.dense import prepare as prepare
from perftricks.recompute.keras3.dense import read as read
from perftricks.recompute.keras3.dense import whole as whole
from perftricks.recompute.keras3.pure import NotBuilt, PureCall
from perftricks.recompute.keras3.torch_backward import watched
from perftricks.recompute.keras3.torch_kept import Kept, suspended
from perftricks.recompute.keras3.torch_kept import mark as mark

CHANGEABLE: Tuple[type, ...] = (torch.Tensor,)


def is_tensor(x: Any) -> bool:
    """Tell whether ``x`` is a tensor."""
    return isinstance(x, torch.Tensor)


def is_recording() -> bool:
    """Tell whether autograd is on."""
    return bool(torch.is_grad_enabled())


def modules(reached: Sequence[Any]) -> List[Any]:
    """List the modules of torch among what a call can reach, and those below them, each once.

    A layer of Keras is itself a module, but keeps its state in variables; it is left out, and so is
    the module in which it lists the values of these.
    """
    layers = references.of_classes(reached, lambda kind: issubclass(kind, keras.Layer))
    lists = {id(private_torch.list_of_values(layer)) for layer in layers}
    found = {
        id(below): below
        for x in references.of_classes(reached, _is_kind_of_module)
        if id(x) not in lists
        for below in x.modules()
        if _is_kind_of_module(below.__class__)
    }
    return list(found.values())


def _is_kind_of_module(kind: type) -> bool:
    return issubclass(kind, torch.nn.Module) and not issubclass(kind, keras.Layer)


class Buffers:
    """The buffers of modules, with the values they have at one moment.

    They are updated in place, as the moving averages of a batch normalization.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        buffers = {
            id(buffer): buffer
            for module in modules
            for buffer in module._buffers.values()
            if buffer is not None
        }
        self._saved = [
            (buffer, buffer._version, buffer.data.clone()) for buffer in buffers.values()
        ]

    def forget_unchanged(self) -> None:
        """Keep no copy of what was not changed since, as far as torch tells.

        Its native batch normalization updates moving averages and does not count that as a change.
        """
        self._saved = [
            (buffer, version, value)
            for buffer, version, value in self._saved
            if buffer._version != version or buffer.is_floating_point()
        ]

    def restore(self) -> None:
        """Put the values back, for good."""
        with torch.no_grad():
            for buffer, _, value in self._saved:
                buffer.copy_(value)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Put copies of the values in their place for a while; autograd takes no notice."""
        now = [(buffer, buffer.data) for buffer, _, _ in self._saved]
        for buffer, _, value in self._saved:
            buffer.data = value.clone()
        try:
            yield
        finally:
            for buffer, data in now:
                buffer.data = data


class Referred:
    """Tensors that a call refers to, be they attributes, of closures or global, at one moment.

    Args:
        tensors: The tensors.
        known: The ids of those that somebody else looks after: arguments, weights, buffers.
    """

    def __init__(self, tensors: Sequence[Any], known: Set[int]) -> None:
        self._saved = [
            (x, x._version, x.detach().clone() if _is_small(x) else None)
            for x in tensors
            if id(x) not in known and not x.is_inference()
        ]

    def check_unchanged_by_call(self) -> None:
        """Refuse a call that has just changed one of which there is no copy."""
        for x, version, value in self._saved:
            if x._version != version and value is None:
                raise RuntimeError(
                    "a call that is to be recomputed changes a tensor of shape %s in place, which "
                    "it was not given (an attribute, a variable of a closure, a global), and that "
                    "would happen twice; make it a variable (add_weight), or a buffer of a module, "
                    "or recompute what is around the change" % (tuple(x.shape),)
                )

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Have them as they were for a while; autograd takes no notice."""
        changed = []
        for x, version, value in self._saved:
            if x._version == version:
                continue
            if value is None:
                raise RuntimeError(
                    "a tensor of shape %s, which a call that is to be recomputed refers to (an "
                    "attribute, a variable of a closure, a global), was changed in place between "
                    "its forward and its backward pass; change it later, or put a new tensor in "
                    "its place" % (tuple(x.shape),)
                )
            changed.append((x, value.clone()))
        now = [(x, x.data) for x, _ in changed]
        for x, value in changed:
            x.data = value
        try:
            yield
        finally:
            for x, data in now:
                x.data = data


def _is_small(x: Any) -> bool:
    """Tell whether to keep a copy of a tensor that a call refers to, in case that it changes."""
    is_plain = type(x) is torch.Tensor and not x.requires_grad and not x._is_view()
    return is_plain and _has_few_bytes(x)


def _copy_of_small(x: Any) -> Any:
    """Return a copy of the value of a variable, in case that it changes; None if it is large."""
    is_small = type(x) in (torch.Tensor, torch.nn.Parameter) and _has_few_bytes(x)
    return x.detach().clone() if is_small else None


_MOST_BYTES = 2**16


def _has_few_bytes(x: Any) -> bool:
    return bool(x.numel() * x.element_size() <= _MOST_BYTES)


class Surroundings:
    """What of torch is in force at one moment, beside autocast, which its checkpoint sees to."""

    def __init__(self) -> None:
        self._modes = private_torch.function_modes(), private_torch.dispatch_modes()
        self._settings = private_torch.settings()
        self._parametrizations = private_torch.Parametrizations()

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Have it in force again for a while, and nothing else; in whatever thread this is."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._parametrizations.in_force())
            stack.enter_context(private_torch.settings_in_force(self._settings))
            stack.enter_context(private_torch.modes_in_force(*self._modes))
            yield


def keep(value: Any) -> Any:
    """Return a copy, through which gradients flow: variables are updated in place."""
    return value.clone()


def takes_effect(variable: Any) -> bool:
    """Tell whether an assignment would change the variable now.

    Where a layer computes in another precision, Keras on torch assigns to the copy that it casts.
    """
    value = private.own_value(variable)
    return private.autocast(variable, value) is value


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


def _check(tensors: Sequence[Any]) -> None:
    """Refuse what cannot be exact, given what a call that begins now is given."""
    if private_torch.is_transformed():
        raise RuntimeError(
            "recompute cannot be used inside of a transformation of torch.func (grad, vmap, jvp): "
            "these do not support what recomputing needs of autograd. Call the transformation "
            "inside of recompute_scope(False)"
        )
    hooks = private_torch.saved_tensors_hooks()
    if hooks is None:
        return
    pack, unpack = hooks
    with torch.no_grad():
        for x in tensors:
            if x.is_floating_point() and not torch.equal(unpack(pack(x)), x):
                raise RuntimeError(
                    "the saved_tensors_hooks in force give back other numbers than they are given: "
                    "a call cannot be run again exactly from those. Use hooks that only move "
                    "tensors, or enter recompute_scope(False) where these are in force"
                )


class _Used:
    """A weight that a call uses, as it is at one moment.

    Args:
        kind: What kind of weight it is.
        name: Its name.
        value: Its tensor.
        is_copied: Whether to keep a copy where it is small and not trained: a moving average, which
            another call may update before the backward pass.
    """

    def __init__(self, kind: str, name: str, value: Any, is_copied: bool = False) -> None:
        self.value = value
        self.is_trained = value.requires_grad
        self._name = kind, name
        self._version = value._version
        self._place = _place(value)
        self._copy = _copy_of_small(value) if is_copied and not self.is_trained else None

    @property
    def as_it_was(self) -> Any:
        """Its tensor, or a copy if that has changed since."""
        return self.value if self.value._version == self._version else self._copy

    def check_unchanged_by_call(self) -> None:
        """Refuse a call that has just changed it: it would be changed twice."""
        if self.value._version != self._version or _place(self.value) != self._place:
            raise RuntimeError(
                "a call that is to be recomputed changes the %s %s itself (a moving average of "
                "weights, max_norm of an embedding), which would happen twice; make it a buffer "
                "(register_buffer), or recompute what is around the change" % self._name
            )

    def check(self) -> None:
        """Refuse to go on if it has changed since, and there is no copy."""
        if self.as_it_was is None:
            raise RuntimeError(
                "the %s %s was updated between the forward and the backward pass of a call "
                "that is to be recomputed; run backward before the update" % self._name
            )


def _place(x: Any) -> Any:
    """Return where the numbers of a plain tensor are; others may be anywhere at any time."""
    return x.data_ptr() if type(x) in (torch.Tensor, torch.nn.Parameter) else None


@contextlib.contextmanager
def _trained(used: Sequence[_Used]) -> Iterator[None]:
    """Have weights ask for gradients, or not, as they did; else autograd saves other tensors."""
    changed = [x for x in used if x.value.requires_grad != x.is_trained]
    for x in changed:
        x.value.requires_grad_(x.is_trained)
    try:
        yield
    finally:
        for x in changed:
            x.value.requires_grad_(not x.is_trained)


def checkpoint(pure: PureCall) -> List[Any]:
    """Run a call; the backward pass runs it again."""
    _check(pure.tensors)
    weights = [x for module in pure.modules for x in module._parameters.values()]
    if any(x is not None and torch.nn.parameter.is_lazy(x) for x in weights):
        raise NotBuilt
    buffers = Buffers(pure.modules)
    surroundings = Surroundings()
    used = [
        _Used("parameter", name, x)
        for module in pure.modules
        for name, x in module._parameters.items()
        if x is not None
    ]
    known = {id(x) for module in pure.modules for x in module._buffers.values()}
    known.update(map(id, pure.tensors), (id(x.value) for x in used))
    referred = Referred(pure.referents.tensors, known)
    given = [x.requires_grad for x in pure.tensors]
    kept = None if pure.policy.is_full else Kept(pure.policy)
    failures: List[BaseException] = []
    filled_late: List[bool] = []
    variables: List[_Used] = []
    has_begun: List[bool] = []

    def reached(tensors: Sequence[Any]) -> Callable[[], Tuple[Sequence[Any], Sequence[Any]]]:
        return lambda: ([x for x in pure.values() if x.requires_grad], tensors)

    def run(*tensors: Any) -> List[Any]:
        cycles = _Cycles()
        begin = private_torch.operations_recorded()
        if not has_begun:
            has_begun.append(True)
            try:
                keeping = contextlib.nullcontext() if kept is None else kept.first()
                with keeping, watched(reached(tensors)):
                    outputs = pure.run(*tensors)
                for x in used:
                    x.check_unchanged_by_call()
                referred.check_unchanged_by_call()
            except BaseException as failure:
                # Up to torch 2.12 an error that comes through its checkpoint leaves the hooks of
                # that in force for as long as the error lives.
                failures.append(failure)
                return []
            variables.extend(
                _Used("variable", v.path, x, is_copied=x is private.own_value(v))
                for v, x in pure.reads.values()
            )
            used.extend(variables)
            buffers.forget_unchanged()
            filled_late.append(private_torch.fills_what_it_saved(outputs, begin))
            if filled_late[0]:
                _Last.apply(torch.zeros(1, requires_grad=True))
            cycles.free()
            return outputs
        for x in used:
            x.check()
        tensors = tuple(
            x if x.requires_grad == was else x.detach().requires_grad_(was)
            for x, was in zip(tensors, given)
        )
        try:
            keeping = contextlib.nullcontext() if kept is None else kept.again()
            if not pure.has_run:  # it asks for gradients itself, before it is over
                keeping = suspended()
            held = _trained(used), buffers.replayed(), referred.replayed()
            with held[0], held[1], held[2], surroundings.in_force(), keeping:
                values = [x.as_it_was for x in variables]
                again = pure.replay(tensors, values if pure.has_run else pure.values())
                if filled_late and filled_late[0]:
                    _Last.apply(torch.zeros(1, requires_grad=True))
                return again
        except private_torch.end_of_recomputation() as end:
            _forget_frames(end)
            cycles.free()
            raise

    # The random numbers of Keras need no saved state, those of a wrapped torch module do.
    outputs: List[Any] = torch_checkpoint(run, *pure.tensors, use_reentrant=False)
    if failures:
        raise failures.pop()
    return outputs


class _Last(torch.autograd.Function):  # type: ignore[misc]
    """Saves something. Recomputation ends as soon as the last thing is saved that was at first.

    An operation that fills what it has saved, as torch's rrelu does with its noise, must not be the
    last: https://github.com/pytorch/pytorch/issues/193671.
    """

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient


class _Cycles:
    """What a run, which begins now, leaves in cycles.

    On torch Keras flattens structures with ``torch.utils._pytree``, whose recursive helper function
    refers to itself and to what it flattens: the arguments of each layer. What recomputing saves
    would come back, piece by piece, until the next collection of its own accord.
    """

    def __init__(self) -> None:
        self._collections = gc.get_count()[1]

    def free(self) -> None:
        """Free the activations in them, unless the collector is switched off.

        Only what is youngest is looked at. What has outlived a collection meanwhile is no longer
        among it, so then the next older is, too. What outlives that counts as old, and when there
        is much of it the collector goes through all that the process has: not to be done each time.
        """
        if gc.isenabled():
            gc.collect(0 if gc.get_count()[1] == self._collections else 1)


def _forget_frames(error: BaseException) -> None:
    """Drop what the frames hold that an error came through, up to the caller's.

    Keras keeps the error that it is about to raise in a variable: a cycle, in which all that was
    recomputed would stay until the next collection. The frame of that variable is no longer in the
    traceback, which Keras filters, but it is behind one that still is.
    """
    here, seen = sys._getframe(1), set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        back: Optional[FrameType] = frame
        while back is not None and back is not here and back not in seen:
            seen.add(back)
            with contextlib.suppress(RuntimeError):  # a frame that still runs
                back.clear()
            back = back.f_back
