"""The peak of a step as a framework itself counts it, where it does so on a CPU."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Callable, Optional


def allocated_peak(step_stats: Any) -> int:
    """Return the peak of the bytes that the allocation records of a traced run add up to.

    Args:
        step_stats: What a session of TensorFlow has told of a run with ``FULL_TRACE``.
    """
    changes = sorted(
        (record.alloc_micros, record.alloc_bytes)
        for device in step_stats.dev_stats
        for node in device.node_stats
        for memory in node.memory
        for record in memory.allocation_records
    )
    alive = highest = 0
    for _, change in changes:
        alive += change
        highest = max(highest, alive)
    return highest


def xla_buffers(model: Any, x: Any, y: Any) -> int:
    """Return the bytes of the temporary buffers that XLA assigns to a training step; it is not run.

    Args:
        model: A compiled model of Keras 3 on JAX.
        x: The inputs of a batch.
        y: Its targets.
    """
    import jax

    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in group] for group in variables)
    found = xla_temporaries(jax.jit(model.train_step, donate_argnums=0).lower(state, (x, y)))
    assert found is not None, "this XLA has no memory_analysis()"
    return found


def xla_temporaries(lowered: Any) -> Optional[int]:
    """Return the bytes of the temporary buffers that XLA assigns to a program; it is not run.

    Args:
        lowered: What ``jax.jit(function).lower(...)`` returns.

    Returns:
        The bytes; None where XLA does not tell.
    """
    memory = xla_memory(lowered)
    return None if memory is None else int(memory.temp_size_in_bytes)


def xla_memory(lowered: Any) -> Any:
    """Return what XLA assigns to a program, by its use; None where it does not tell.

    Args:
        lowered: What ``jax.jit(function).lower(...)`` returns.
    """
    return lowered.compile().memory_analysis()


def torch_allocations(step: Callable[[], object]) -> int:
    """Return the most bytes in use at once, of those that a step allocates, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profiler.export_chrome_trace(path)
        with open(path, encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
    return int(max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]"))
