"""What TensorFlow keeps of graphs for the life of the process, and how tests give it back."""

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
