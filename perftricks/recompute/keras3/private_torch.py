"""The only home of what torch keeps for itself, and Keras of torch.

As in ``private``, each function says what it stands for, and nothing is imported before it runs.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple


def list_of_values(layer: Any) -> Any:
    """Return the module of torch in which a layer of Keras lists its variables' values, or None."""
    return layer._modules.get("_torch_params")


def end_of_recomputation() -> Any:
    """Return the errors by which torch ends a recomputation as soon as it has all it needs."""
    from torch.utils import checkpoint

    return getattr(checkpoint, "_StopRecomputationError", ())


def dynamo_is_tracing() -> bool:
    """Tell whether torch.compile is tracing in this thread."""
    from torch._guards import CompileContext

    return CompileContext.try_get() is not None


def without_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that torch.compile runs as it is, with all that it calls."""
    import torch

    try:
        return torch.compiler.disable(  # type: ignore[no-any-return]
            function,
            reason="perftricks.recompute runs it outside of what is compiled; without "
            "fullgraph=True, what is around it is compiled",
        )
    except TypeError:  # before torch 2.8 it cannot be told why
        return torch.compiler.disable(function)  # type: ignore[no-any-return]


def function_modes() -> List[Any]:
    """List the objects of TorchFunctionMode in force in this thread, the innermost last.

    A ``torch.device`` that is entered, and a default device, are such modes.
    """
    from torch import overrides

    return overrides._get_current_function_mode_stack()  # type: ignore[no-any-return]


def dispatch_modes() -> List[Any]:
    """List the objects of TorchDispatchMode that programs have put in force in this thread.

    Left out are those by which torch itself traces (fake tensors, proxies, functionalization),
    which it keeps apart, and those of its selective checkpoint, which change no number and must see
    each operation of a recomputation once.
    """
    from torch.utils import _python_dispatch

    if not _python_dispatch._len_torch_dispatch_stack():  # nearly always
        return []
    return [
        mode
        for mode in _python_dispatch._get_current_dispatch_mode_stack()
        if getattr(mode, "_mode_key", None) is None
        and type(mode).__module__ != "torch.utils.checkpoint"
    ]


@contextlib.contextmanager
def modes_in_force(function: Sequence[Any], dispatch: Sequence[Any]) -> Iterator[None]:
    """Have these modes in force in this thread, and no others, for a while.

    What a mode does when it is entered is not done: only that of torch's own base class.
    """
    from torch.overrides import TorchFunctionMode
    from torch.utils import _python_dispatch

    with contextlib.ExitStack() as stack:
        now = dispatch_modes()
        if not _same_objects(now, dispatch):
            for _ in now:
                stack.callback(_python_dispatch._push_mode, _python_dispatch._pop_mode())
            for mode in dispatch:
                _enter(stack, _python_dispatch.TorchDispatchMode, mode)
        now = function_modes()
        if not _same_objects(now, function):
            for mode in reversed(now):
                TorchFunctionMode.__exit__(mode, None, None, None)
                stack.callback(TorchFunctionMode.__enter__, mode)
            for mode in function:
                _enter(stack, TorchFunctionMode, mode)
        yield


def _enter(stack: contextlib.ExitStack[Any], base: Any, mode: Any) -> None:
    base.__enter__(mode)
    stack.callback(base.__exit__, mode, None, None, None)


def _same_objects(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others))


# Which kernels torch chooses: ``_C._get_<name>`` tells and ``_C._set_<name>`` changes it. Programs
# do so by the contexts ``flags`` of torch.backends, sdpa_kernel and functions of torch itself.
_CHOICES = (
    "cudnn_enabled",
    "cudnn_benchmark",
    "cudnn_deterministic",
    "cudnn_depthwise_kernel",
    "cublas_allow_fp16_reduced_precision_reduction",
    "cublas_allow_bf16_reduced_precision_reduction",
    "cublas_allow_fp16_accumulation",
    "cpu_allow_fp16_reduced_precision_reduction",
    "blas_preferred_backend",
    "linalg_preferred_backend",
    "mkldnn_enabled",
    "mkldnn_deterministic",
    "nnpack_enabled",
    "math_sdp_allow_fp16_bf16_reduction",
    "sdp_priority_order",
)
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn", "overrideable", "fa3")
# Of old, and since torch 2.9; of the latter, one that is not set follows from those above it.
_TF32 = ("float32_matmul_precision", "cublas_allow_tf32", "cudnn_allow_tf32")
_PRECISIONS = (
    ("generic", "all"),
    *((kind, op) for kind in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")),
)


@functools.lru_cache(maxsize=None)
def _accessors() -> List[Tuple[Callable[[], Any], Callable[[Any], None]]]:
    """List functions that tell and that change what this version of torch has of settings."""
    import torch

    names = [("_get_" + name, "_set_" + name) for name in (*_CHOICES, *_TF32)]
    names += [("_get_%s_sdp_enabled" % x, "_set_sdp_use_" + x) for x in _ATTENTION]
    of_precision: List[Tuple[Callable[[], Any], Callable[[Any], None]]] = []
    if hasattr(torch._C, "_get_fp32_precision_getter"):
        of_precision = [
            (
                functools.partial(torch._C._get_fp32_precision_getter, *pair),
                functools.partial(torch._C._set_fp32_precision_setter, *pair),
            )
            for pair in _PRECISIONS
        ]
    return [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
        *(
            (functools.partial(_listed, hooks), functools.partial(_refill, hooks))
            for hooks in (
                torch.nn.modules.module._global_forward_pre_hooks,
                torch.nn.modules.module._global_forward_hooks,
                torch.nn.modules.module._global_forward_hooks_always_called,
                torch.nn.modules.module._global_forward_hooks_with_kwargs,
            )
        ),
        *(
            (functools.partial(_told, getattr(torch._C, tell)), getattr(torch._C, change))
            for tell, change in (
                *names,
                ("_get_torch_function_state", "_set_torch_function_state"),
            )
            if hasattr(torch._C, tell) and hasattr(torch._C, change)
        ),
        *of_precision,
    ]


_UNTOLD = object()


def _told(tell: Callable[[], Any]) -> Any:
    try:
        return tell()
    except RuntimeError:  # the old setting has no answer where a program has used the new one
        return _UNTOLD


def _listed(hooks: Dict[int, Any]) -> List[Any]:
    return [*hooks.items()]


def _refill(hooks: Dict[int, Any], items: Iterable[Any]) -> None:
    hooks.clear()
    hooks.update(items)


def settings() -> List[Any]:
    """Return the settings of torch by which the same program gives other numbers.

    They hold for all threads, but for those of its function modes; hooks for all modules are such
    a setting too.
    """
    return [tell() for tell, _ in _accessors()]


@contextlib.contextmanager
def settings_in_force(then: Sequence[Any]) -> Iterator[None]:
    """Have the settings be what ``settings`` has returned, for a while."""
    now = settings()
    if now != then:
        _set_all(then)
    try:
        yield
    finally:
        if now != then:
            _set_all(now)


def _set_all(values: Sequence[Any]) -> None:
    for (tell, change), value in zip(_accessors(), values):
        if value is not _UNTOLD and tell() != value:
            change(*value) if isinstance(value, tuple) else change(value)


class Parametrizations:
    """What ``torch.nn.utils.parametrize.cached`` keeps at one moment: computed parameters."""

    def __init__(self) -> None:
        from torch.nn.utils import parametrize

        self._module = parametrize
        self._enabled = parametrize._cache_enabled
        self._cache = dict(parametrize._cache)

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Keep what was kept then, for a while."""
        module = self._module
        if not self._enabled and not module._cache_enabled:
            yield
            return
        now = module._cache_enabled, module._cache
        module._cache_enabled, module._cache = self._enabled, dict(self._cache)
        try:
            yield
        finally:
            module._cache_enabled, module._cache = now


def saved_tensors_hooks() -> Any:
    """Return the pair of hooks by which a program has tensors saved; None if they are torch's."""
    import torch

    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)(False)
    ours = top is not None and str(getattr(top[0], "__module__", "")).startswith("torch.")
    return None if ours else top


def has_dispatch_modes() -> bool:
    """Tell whether any TorchDispatchMode is in force in this thread, torch's own ones included."""
    from torch.utils import _python_dispatch

    return bool(_python_dispatch._len_torch_dispatch_stack())


class Interception:
    """Has a function stand in for some of torch's operations below autograd, and only for these.

    A dispatch mode would be asked for each operation, in Python. Here torch itself goes by those
    that are not of interest, at no cost: it looks for a kernel under a key of its dispatcher that
    nobody else uses (torchdistx did, which has ended), and finds one for the others only.

    Dispatch modes in force come before it.

    Args:
        operations: The operations.
        stand_in: Takes an operation, its arguments and its keyword arguments; what it does is not
            intercepted where it is ``without``.
    """

    def __init__(self, operations: Iterable[Any], stand_in: Callable[..., Any]) -> None:
        import torch

        self._guards = torch._C._IncludeDispatchKeyGuard, torch._C._ExcludeDispatchKeyGuard
        self._key = torch._C._dispatch_key_parse("Fake")
        self._keys = torch._C.DispatchKeySet(self._key)
        self._by_default = torch.library.Library("_", "IMPL")
        self._by_default.fallback(torch.library.fallthrough_kernel, "Fake")
        self._kernels = torch.library.Library("aten", "IMPL")
        for operation in operations:
            self._kernels.impl(operation, self._kernel(operation, stand_in), "Fake")

    def _kernel(self, operation: Any, stand_in: Callable[..., Any]) -> Callable[..., Any]:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            return stand_in(operation, args, kwargs)

        return kernel

    def within(self) -> Any:
        """Return a context in which the operations of this thread are intercepted."""
        return self._guards[0](self._key)

    def without(self) -> Any:
        """Return a context in which they are not."""
        return self._guards[1](self._keys)


def is_transformed() -> bool:
    """Tell whether a transformation of torch.func that goes backward, or vmap, is being applied.

    Forward-mode differentiation (jvp) goes along with a call and needs nothing of autograd.
    """
    import torch

    stack = torch._C._functorch.get_interpreter_stack() or ()
    forward = torch._C._functorch.TransformType.Jvp
    return any(level.key() != forward for level in stack)


def operations_recorded() -> int:
    """Return how many operations autograd has recorded so far in this thread."""
    import torch

    return int(torch._C._autograd._get_sequence_nr())


def fills_what_it_saved(outputs: Sequence[Any], begin: int) -> bool:
    """Tell whether tensors come from an operation that fills a tensor which it saved before.

    Args:
        outputs: The tensors.
        begin: The number of operations that had been recorded before; these are not looked at.
    """
    waiting, seen = [x.grad_fn for x in outputs], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node._sequence_nr() < begin:
            continue
        seen.add(node)
        if "RreluWithNoise" in node.name():
            return True
        waiting += [before for before, _ in node.next_functions]
    return False


class _Meta(str):
    """The name of torch's device without memory, which is equal to that device, too.

    Keras makes tensors anew whose device is another than the one in force, by its name, and they
    would have no gradient any more.
    """

    def __eq__(self, other: object) -> bool:
        return str(other) == "meta"

    def __ne__(self, other: object) -> bool:
        return str(other) != "meta"

    __hash__ = str.__hash__


@contextlib.contextmanager
def without_memory() -> Iterator[str]:
    """Have Keras on torch make tensors on the device "meta"; give the name of the real one."""
    from keras.src.backend.common import global_state
    from keras.src.backend.torch import nn
    from keras.src.backend.torch import numpy as keras_numpy

    before = global_state.get_global_attribute("torch_device", None)
    functions = {
        (keras_numpy, name): _splitting_by_numbers(keras_numpy, name)
        for name in _SPLITTING
        if hasattr(keras_numpy, name)
    }
    for module in (nn, keras_numpy):
        functions[module, "get_device"] = _device_as_object(nn.get_device)
    plain = {(module, name): getattr(module, name) for module, name in functions}
    device = str(nn.get_device())
    global_state.set_global_attribute("torch_device", _Meta("meta"))
    _set_functions(functions)
    try:
        yield device
    finally:
        _set_functions(plain)
        global_state.set_global_attribute("torch_device", before)


def _set_functions(functions: Dict[Tuple[Any, str], Callable[..., Any]]) -> None:
    for (module, name), function in functions.items():
        setattr(module, name, function)


_SPLITTING = ("split", "array_split", "hsplit", "vsplit", "dsplit")


def _splitting_by_numbers(keras_numpy: Any, name: str) -> Callable[..., Any]:
    """Return a function of Keras that splits a tensor, and reads where as a tensor with numbers."""
    import torch

    plain = getattr(keras_numpy, name)

    def split(x: Any, where: Any, *args: Any, **kwargs: Any) -> Any:
        convert = keras_numpy.convert_to_tensor
        keras_numpy.convert_to_tensor = lambda y: (
            torch.as_tensor(y, device="cpu") if y is where else convert(y)
        )
        try:
            return plain(x, where, *args, **kwargs)
        finally:
            keras_numpy.convert_to_tensor = convert

    return split


def _device_as_object(plain: Callable[[], Any]) -> Callable[[], Any]:
    """Return what tells Keras the device, as an object of torch's where there is no memory.

    Where its name is "meta", Keras pools and repeats other tensors in place of those that it was
    given, which have memory and no gradient.
    """
    import torch

    def get_device() -> Any:
        device = plain()
        return torch.device("meta") if isinstance(device, _Meta) else device

    return get_device


def attention_kernel(query: Any, key: Any, value: Any, mask: Any, rate: float, causal: bool) -> str:
    """Return the name of the kernel that torch would choose for an attention, "math" for none."""
    import torch

    number = torch._fused_sdp_choice(query, key, value, mask, rate, causal)
    return str(torch.nn.attention.SDPBackend(number).name.lower())
