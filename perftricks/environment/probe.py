"""``python -m perftricks.environment.probe tensorflow``: the devices a framework sees, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

Device = tuple[str, int | None]  # its name, and its bytes of memory if the framework says


def _tensorflow() -> Iterator[Device]:
    import tensorflow as tf

    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        name = details.get("device_name")
        label = device.name.removeprefix("/physical_device:")
        yield (f"{label} {name}" if name else label), None


def _jax() -> Iterator[Device]:
    import jax

    for device in jax.devices():
        memory = (device.memory_stats() or {}).get("bytes_limit")
        yield f"{device.platform.upper()}:{device.id} {device.device_kind}", memory


def _torch() -> Iterator[Device]:
    import torch

    yield f"CPU ({torch.get_num_threads()} threads)", None
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"GPU:{number} {properties.name}", properties.total_memory
    if torch.backends.mps.is_available():
        yield "MPS", None


def main() -> None:
    """Print the devices of the framework that the first argument names."""
    probes = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    print(json.dumps(list(probes[sys.argv[1]]())))


if __name__ == "__main__":
    main()
