"""How many bytes a forward pass keeps for the backward pass.

Counted, not measured: the same in each run, with no batch of a size that would be seen in the
memory of a process. Weights and the inputs of the model are left out; a tensor that is kept twice
counts once. While it recomputes a segment, a backward pass holds what that keeps beside it.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import keras

from perftricks.recompute.measure.kept import made_bytes, taken, tensor_bytes


def kept_bytes(model: Any, x: Any) -> int:
    """Return the bytes that are kept by a forward pass in training; it updates the state.

    - torch: the storages of the tensors that autograd packs.
    - JAX: the residuals of ``jax.vjp``.
    - TensorFlow: in the graph of a step, the tensors that the forward part makes and the backward
      part takes.
    """
    return _COUNTS[keras.backend.backend()](model, x)


def _loss(model: Any, x: Any) -> Any:
    outputs = keras.tree.flatten(model(x, training=True))
    loss = sum(keras.ops.sum(keras.ops.square(keras.ops.cast(o, "float32"))) for o in outputs)
    return loss + sum(keras.ops.sum(extra) for extra in model.losses)


def _torch(model: Any, x: Any) -> int:
    import torch

    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    kept: Dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = _loss(model, x)
    known = [*(v.value for v in model.variables), *keras.tree.flatten(x), loss]
    for tensor in known:
        kept.pop(tensor.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in kept.values())


def _jax(model: Any, x: Any) -> int:
    import jax

    trainable = list(model.trainable_variables)
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)

    def compute(values: Any) -> Any:
        scope = keras.StatelessScope(
            state_mapping=list(zip(trainable, values)), collect_losses=True
        )
        with scope:
            return _loss(model, x)

    def residuals(values: Any) -> Any:
        return jax.tree.leaves(jax.vjp(compute, values)[1])

    program = jax.make_jaxpr(residuals)([v.value for v in trainable]).jaxpr
    return made_bytes(program)


def _tensorflow(model: Any, x: Any) -> int:
    import tensorflow as tf

    made: List[Any] = []

    @tf.function(autograph=False)
    def step(inputs: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        variables = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = _loss(model, inputs)
        made.extend(graph.get_operations())
        return tape.gradient(loss, variables)

    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    graph = step.get_concrete_function(x).graph
    return tensor_bytes(taken(graph.get_operations(), made))


_COUNTS: Dict[str, Callable[[Any, Any], int]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
