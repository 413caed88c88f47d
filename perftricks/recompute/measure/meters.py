"""The peak of the memory that a framework uses, on GPUs and on the CPU."""

from __future__ import annotations

import gc
import sys
from typing import Any, Callable, Optional

from perftricks import glibc


class PeakMeter:
    """Measures the peak of memory between ``start`` and ``stop``, above what is used at ``start``.

    On a GPU it reads the framework's own counters. On the CPU it reads the resident set of this
    process, which is why a measurement wants a process of its own: memory that an earlier step has
    returned to the allocator but not to the system would hide the peak.

    Attributes:
        source: What is measured, in words.
        device: "gpu" or "cpu".
        baseline: Bytes that were used at ``start``.
    """

    def __init__(
        self,
        source: str,
        reset: Callable[[], int],
        peak: Callable[[], int],
        free: Optional[Callable[[], int]] = None,
        device: str = "gpu",
    ) -> None:
        self.source = source
        self.device = device
        self._reset = reset
        self._peak = peak
        self._free = free
        self.baseline = 0

    def start(self) -> None:
        """Note what is in use now, and forget any higher peak of the past."""
        gc.collect()
        self.baseline = self._reset()

    def stop(self) -> int:
        """Return the peak since ``start``, in bytes above what was in use then."""
        return max(0, self._peak() - self.baseline)

    def free(self) -> Optional[int]:
        """Return how many more bytes the framework may take now; None if that is not known."""
        return None if self._free is None else self._free()


def peak_meter(backend: str) -> PeakMeter:
    """Return the meter for the device that a Keras backend computes on.

    Args:
        backend: "tensorflow", "jax" or "torch"; the framework must be installed.

    Returns:
        A meter of the first GPU's memory if the framework sees one, else of this process.

    Raises:
        ValueError: If the backend is unknown.
        OSError: If there is no GPU and the system is not Linux.
    """
    makers = {"tensorflow": _tensorflow_gpu, "jax": _jax_gpu, "torch": _torch_gpu}
    if backend not in makers:
        raise ValueError(
            "backend must be one of %s, not %r" % (", ".join(map(repr, makers)), backend)
        )
    return makers[backend]() or _resident_set()


def _tensorflow_gpu() -> Any:
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None

    def reset() -> int:
        tf.config.experimental.reset_memory_stats("GPU:0")
        return int(tf.config.experimental.get_memory_info("GPU:0")["current"])

    def peak() -> int:
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])

    return PeakMeter("TensorFlow's counter of GPU memory", reset, peak)


def _torch_gpu() -> Any:
    import torch

    if not torch.cuda.is_available():
        return None

    def reset() -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())

    def free() -> int:
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + unused)

    return PeakMeter("torch's counter of GPU memory", reset, torch.cuda.max_memory_allocated, free)


def _jax_gpu() -> Any:
    import jax

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return None

    def reset() -> int:
        return int(device.memory_stats()["bytes_in_use"])

    def peak() -> int:
        return int(device.memory_stats()["peak_bytes_in_use"])

    def free() -> int:
        return int(device.memory_stats()["bytes_limit"] - reset())

    # The peak of JAX's counter cannot be reset: it is that of the process so far.
    return PeakMeter("JAX's counter of device memory, since the process began", reset, peak, free)


def _resident_set() -> PeakMeter:
    if sys.platform != "linux":
        raise OSError(
            "memory on the CPU is measured through /proc, which only Linux has; use a GPU"
        )

    def reset() -> int:
        glibc.give_back()  # so that what is free does not hide
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # VmHWM begins anew: man 5 proc
        return _status("VmRSS")

    return PeakMeter("resident set of the process", reset, lambda: _status("VmHWM"), device="cpu")


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no %s" % key)
