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


def tensorflow_allocations(model: Any, x: Any, y: Any) -> int:
    """Return the most bytes in use at once, of those that TensorFlow allocates in a training step.

    A session tells of each allocation. So the graph of the step runs in one, on copies of all
    variables, as it would run in ``fit`` without XLA.

    Args:
        model: A compiled model of Keras 3 on TensorFlow that has trained a step.
        x: The inputs of a batch.
        y: Its targets.
    """
    import keras
    import tensorflow as tf

    v1 = tf.compat.v1
    arrays = keras.tree.flatten((x, y))
    specs = keras.tree.map_structure(lambda a: tf.TensorSpec(a.shape, a.dtype), (x, y))
    step = tf.function(model.train_step).get_concrete_function(specs).graph
    handles = {id(variable.handle): variable for variable in step.variables}
    captured = [
        (placeholder, handles[id(outer)].numpy() if id(outer) in handles else outer.numpy())
        for outer, placeholder in step.captures
    ]
    fed = [x for x in step.inputs if not any(x is placeholder for placeholder, _ in captured)]
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        known = {
            placeholder.name: v1.Variable(value, use_resource=True).handle
            if placeholder.dtype == tf.resource
            else tf.constant(value)
            for placeholder, value in captured
        }
        tf.graph_util.import_graph_def(step.as_graph_def(), input_map=known, name="")
        session.run(v1.global_variables_initializer())
        wanted = [op.name for op in (*(x.op for x in step.outputs), *step.control_outputs)]
        feeds = {x.name: array for x, array in zip(fed, arrays)}
        told = v1.RunMetadata()
        options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
        session.run(wanted, feeds)  # the first run compiles kernels
        session.run(wanted, feeds, options=options, run_metadata=told)
    return allocated_peak(told.step_stats)


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
