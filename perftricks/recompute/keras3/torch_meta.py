"""Where tensors of torch have no numbers, the kernels that a real device would run.

On the device "meta" some operations lay out or take apart what real ones do not: what is kept for
the backward pass would be another.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, Iterator

from perftricks.recompute.keras3 import private_torch


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Have Keras on torch make tensors that have shapes and no numbers, and gradients."""
    with private_torch.without_memory() as device, layouts(), attention(device):
        yield


def layouts() -> Any:
    """Return a mode in which operations without memory give what real ones do.

    Real convolutions keep channels last where they were; those on the device "meta" put them
    second, and what comes after them would copy, or not, where it really does not, or does. The
    loss for sequences without alignment (CTC) is missing there.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten

    def has_channels_last(x: Any) -> bool:
        if x.dim() != 4:
            return False
        if x.shape[1] > 1:
            return bool(x.stride(1) == 1)
        # One channel is the last one where it would be if there were several.
        return bool(1 == x.stride(1) < x.stride(0) and x.stride(2) >= x.shape[3])

    def with_channels_last(x: Any) -> Any:
        return torch.empty_like(x, memory_format=torch.channels_last)

    def ctc_loss(scores: Any, labels: Any, *_: Any, **__: Any) -> Any:
        steps, samples, _ = scores.shape
        if labels.dim() != 2:
            raise NotImplementedError("labels of a CTC loss that follow each other, not in rows")
        paths = scores.new_empty((samples, steps, 2 * labels.shape[1] + 1))
        return scores.new_empty((samples,)), paths

    def ctc_loss_backward(gradient: Any, scores: Any, *_: Any, **__: Any) -> Any:
        return torch.empty_like(scores)

    # Torch has none for tensors without memory.
    missing = {
        aten._ctc_loss.default: ctc_loss,
        aten._ctc_loss.Tensor: ctc_loss,
        aten._ctc_loss_backward.default: ctc_loss_backward,
        aten._ctc_loss_backward.Tensor: ctc_loss_backward,
    }

    class Layouts(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in missing and args[0].is_meta:
                return missing[func](*args, **(kwargs or {}))
            results = func(*args, **(kwargs or {}))
            if func is aten.convolution.default and results.device.type == "meta":
                return with_channels_last(results) if has_channels_last(args[0]) else results
            if func is aten.convolution_backward.default and args[1].device.type == "meta":
                first, *others = results
                if first is not None and has_channels_last(args[1]):
                    return (with_channels_last(first), *others)
            return results

    return Layouts()


def attention(device: str) -> Any:
    """Return a mode in which attention without memory is the kernel that a device would choose.

    On the device "meta" torch takes it apart, and would keep scores, which no fused kernel does.

    Args:
        device: The name of the real device.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    plain = torch.nn.functional.scaled_dot_product_attention

    def kernel_of(query: Any, key: Any, value: Any, mask: Any, rate: float, causal: bool) -> str:
        # The choice goes by types, widths and masks; small tensors have the same.
        given = [
            torch.empty((1, 1, 8, x.shape[-1]), dtype=x.dtype, device=device, requires_grad=True)
            for x in (query, key, value)
        ]
        if mask is not None:
            mask = torch.zeros((1, 1, 8, 8), dtype=mask.dtype, device=device)
        query, key, value = given
        name = private_torch.attention_kernel(query, key, value, mask, rate, causal)
        return name + "_for_cpu" * (name == "flash_attention" and device.startswith("cpu"))

    def run(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: Any = None,
        enable_gqa: bool = False,
    ) -> Any:
        given = (query, key, value)
        name = ""
        if query.device.type == "meta" and not enable_gqa and all(x.dim() == 4 for x in given):
            name = kernel_of(*given, attn_mask, dropout_p, is_causal)
        kernel = getattr(torch.ops.aten, "_scaled_dot_product_" + name, None)
        if kernel is None:
            more = {"enable_gqa": True} if enable_gqa else {}
            return plain(*given, attn_mask, dropout_p, is_causal, scale=scale, **more)
        mask = attn_mask
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, torch.full((), -math.inf, dtype=query.dtype))
        if name == "flash_attention_for_cpu":
            return kernel(*given, dropout_p, is_causal, attn_mask=mask, scale=scale)[0]
        if name == "flash_attention":
            return kernel(*given, dropout_p, is_causal, scale=scale)[0]
        if mask is not None:
            mask = mask.expand(*query.shape[:-1], key.shape[-2])
        return kernel(*given, mask, True, dropout_p, is_causal, scale=scale)[0]

    class Attention(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return (run if func is plain else func)(*args, **(kwargs or {}))

    return Attention()
