"""Keras 2 on TensorFlow: keras 2.3.1, tf.keras and tf_keras; also plain functions of TensorFlow.

::

    graph (v1, tf.function):   call ──▶ operations ──▶ outputs ──▶ one operation with our gradient
                                            │                               │
                               keras2_slice: those that lead from           ▼
                               what is kept to the outputs  ──────▶ copied into the backward pass

    eager:                     call, unrecorded ──▶ outputs; called again in the backward pass

In a graph nothing is called twice: the operations that a call has created stay as they are, and the
pure ones are copied. What has state (random numbers, variables, assignments) happens once, and what
it gave is kept: a dropout layer keeps its mask, a byte for each number.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence, Tuple

import tensorflow as tf

from perftricks.recompute.keras2 import private
from perftricks.recompute.keras2.tensors import structures
from perftricks.recompute.policies import FULL, Policy
from perftricks.recompute.tracers import keep_autograph_out


@keep_autograph_out
def checkpointed_call(
    call: Callable[..., Any],
    args: Tuple[Any, ...],
    kwargs: Dict[str, Any],
    layers: Sequence[Any] = (),
    policy: Policy = FULL,
) -> Any:
    """Return ``call(*args, **kwargs)``; the backward pass computes it again.

    Args:
        call: A layer's call, bound or with the layer first in ``args``, or any function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        layers: The layers that ``call`` runs, if they are not found by themselves; see ``keras3``.
        policy: What is kept, in a graph; eagerly nothing can be.
    """
    policy.check_backend("tensorflow")
    leaves = structures.flatten((args, kwargs))
    if _is_empty(leaves):
        return call(*args, **kwargs)
    if not tf.executing_eagerly():
        call = private.converted(call)
        graph = tf.compat.v1.get_default_graph()
        if private.is_saving() or private.is_only_inference(graph):
            return call(*args, **kwargs)
        from perftricks.recompute.keras2 import graph as in_graph

        return in_graph.checkpointed(call, args, kwargs, policy)
    symbol = next((x for x in leaves if private.is_in_graph_of_symbols(x)), None)
    if symbol is not None:  # a function that builds a model of keras 2.3.1, between its layers
        with symbol.graph.as_default():
            return checkpointed_call(call, args, kwargs, layers, policy)
    from perftricks.recompute.keras2 import eager

    return eager.checkpointed(call, args, kwargs, layers)


def _is_empty(leaves: Sequence[Any]) -> bool:
    """Tell whether a tensor of a graph is known to have no elements.

    Grappler divides by their number where it looks into a normalization of what is computed twice,
    and the process ends.
    """
    if tf.executing_eagerly():
        return False
    shapes = [x.shape for x in leaves if isinstance(x, tf.Tensor)]
    return any(shape.rank is not None and shape.num_elements() == 0 for shape in shapes)
