"""What tests ask of graphs of TensorFlow, and how they give back what it keeps of them."""

from __future__ import annotations

import contextlib


@contextlib.contextmanager
def forgotten():
    """Forget, at the end, the gradients that ``tf.custom_gradient`` has registered meanwhile.

    TensorFlow keeps each of them by name for ever, and with it the whole graph that it was called
    in: some 20 MiB for each model that is trained, plainly or not, and gigabytes in hundreds of
    tests, which garbage collection then walks through. Their graphs are not differentiated again.
    """
    from tensorflow.python.framework import ops

    registry = getattr(ops, "gradient_registry", None) or ops._gradient_registry
    before = set(registry._registry)
    try:
        yield
    finally:
        for name in set(registry._registry) - before:
            if name.startswith("CustomGradient-"):
                del registry._registry[name]


def needed(graph, tensors=None):
    """List the types of the operations that outputs and side effects of a graph depend on.

    Or those that some tensors depend on.
    """
    if tensors is None:
        waiting = [output.op for output in graph.outputs] + list(graph.control_outputs)
    else:
        waiting = [tensor.op for tensor in tensors]
    found = {}
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found[op.name] = op.type
            waiting += [*(x.op for x in op.inputs), *op.control_inputs]
    return list(found.values())
