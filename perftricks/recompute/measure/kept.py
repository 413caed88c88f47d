"""How many bytes a forward pass of Keras 3 keeps for the backward pass, without computing anything.

Counted, not measured: frameworks are asked about tensors that have shapes and no numbers. Weights
and inputs are left out, and a tensor that is kept twice counts once.

- torch: the storages of the tensors that autograd packs, on the "meta" device, and what a policy
  keeps.
- JAX: the residuals of ``jax.vjp``, traced.
- TensorFlow: in the graph of a step, the tensors that the forward part makes and the backward part
  takes.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Sequence, Tuple

import keras

from perftricks.recompute.planning.costs import width_of
from perftricks.recompute.policies import FULL, Policy


class Spec(NamedTuple):
    """A tensor without numbers.

    Attributes:
        shape: Its shape, the batch included.
        dtype: The name of its type.
        is_trained: Whether gradients flow into it.
    """

    shape: Tuple[int, ...]
    dtype: str
    is_trained: bool

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * width_of(self.dtype)


def spec_of(variable: Any) -> Spec:
    """Return a variable as a tensor without numbers."""
    return Spec(tuple(variable.shape), variable.dtype, bool(variable.trainable))


Function = Callable[[List[Any]], Sequence[Any]]


def kept_bytes(function: Function, variables: Sequence[Any], specs: Sequence[Spec]) -> int:
    """Return the bytes that a function keeps in a plain run.

    Args:
        function: Takes and returns tensors.
        variables: The trained variables that it uses.
        specs: What it takes.
    """
    return _COUNTS[keras.backend.backend()](function, variables, specs, FULL)


def kept_under(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec], policy: Policy
) -> int:
    """Return the bytes that a policy keeps of a function beside its inputs.

    Args:
        function: Takes and returns tensors.
        variables: The trained variables that it uses.
        specs: What it takes.
        policy: The policy; not "full", which keeps nothing.
    """
    return _COUNTS[keras.backend.backend()](function, variables, specs, policy)


def _torch(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec], policy: Policy
) -> int:
    import torch

    from perftricks.recompute.keras3 import private
    from perftricks.recompute.keras3.torch_kept import Kept

    kept: Dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with private.torch_without_memory():
        values = [
            torch.empty_like(v.value, device="meta", requires_grad=bool(v.trainable))
            for v in variables
        ]
        given = [_empty(torch, spec) for spec in specs]
        scope = keras.StatelessScope(
            state_mapping=list(zip(variables, values)), collect_losses=True
        )
        keeping = Kept(policy)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with torch.enable_grad(), scope, hooks, keeping.first():
            results = function(list(given))
    if not policy.is_full:
        return keeping.nbytes
    del results
    for tensor in [*values, *given]:
        kept.pop(tensor.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in kept.values())


def _empty(torch: Any, spec: Spec) -> Any:
    dtype = getattr(torch, spec.dtype)
    return torch.empty(spec.shape, dtype=dtype, device="meta", requires_grad=spec.is_trained)


def _jax(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec], policy: Policy
) -> int:
    import jax

    from perftricks.recompute.keras3.jax import saveable

    def compute(values: Any, trained: Any, others: Any) -> Any:
        both = {False: iter(others), True: iter(trained)}
        tensors = [next(both[spec.is_trained]) for spec in specs]
        mapping = list(zip(variables, values))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            return [x for x in function(tensors) if _is_float(x)]

    run: Any = compute
    if not policy.is_full:
        run = jax.checkpoint(compute, policy=saveable(policy))

    def residuals(values: Any, trained: Any, others: Any) -> Any:
        _, backward = jax.vjp(lambda *known: run(*known, others), values, trained)
        return jax.tree.leaves(backward)

    abstract = [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in specs]
    program = jax.make_jaxpr(residuals)(
        [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables],
        [x for x, spec in zip(abstract, specs) if spec.is_trained],
        [x for x, spec in zip(abstract, specs) if not spec.is_trained],
    ).jaxpr
    return made_bytes(program)


def made_bytes(program: Any) -> int:
    """Return the bytes of what a program of JAX returns and was not given."""
    known = {id(v) for v in [*program.invars, *program.constvars]}
    made = {id(v): v.aval for v in program.outvars if not hasattr(v, "val") and id(v) not in known}
    # A key of random numbers has two words.
    return sum(math.prod(a.shape) * int(getattr(a.dtype, "itemsize", 8)) for a in made.values())


def _is_float(x: Any) -> bool:
    return "float" in str(x.dtype)


# What hands on its input, or has no bytes of its own.
HANDS_ON = {
    "ExpandDims",
    "Identity",
    "IdentityN",
    "PreventGradient",
    "Reshape",
    "Squeeze",
    "StopGradient",
}
_FREE = {"Const", "Placeholder", "ReadVariableOp", "Shape", "VarHandleOp"}


def _tensorflow(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec], policy: Policy
) -> int:
    import tensorflow as tf

    from perftricks.recompute.tensorflow_graphs.kept import wanted

    made: List[Any] = []
    products: List[Any] = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(*given: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        values = [v.value for v in variables]
        trained = [x for x, spec in zip(given, specs) if spec.is_trained]
        with tf.GradientTape() as tape:
            tape.watch(trained)
            results = [x for x in function(list(given)) if _is_float(x)]
        made.extend(graph.get_operations())
        products.extend(each.tensor for each in wanted(policy, dict.fromkeys(made), results))
        return tape.gradient(results, [*values, *trained])

    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in specs]
    graph = step.get_concrete_function(*signature).graph
    if policy.is_full:
        return tensor_bytes(taken(_behind(graph.outputs), made))
    return tensor_bytes(products)


def taken(operations: Iterable[Any], made: Sequence[Any]) -> List[Any]:
    """Return the tensors that operations take from those that a forward pass has made.

    Args:
        operations: Operations of a graph.
        made: Those of the forward pass; what they take themselves is not meant.
    """
    forward = set(made)
    found = {}
    for operation in operations:
        for tensor in operation.inputs if operation not in forward else ():
            while tensor.op.type in HANDS_ON:
                tensor = tensor.op.inputs[tensor.value_index]
            if tensor.op in forward and tensor.op.type not in _FREE:
                found[id(tensor)] = tensor
    return list(found.values())


def tensor_bytes(tensors: Sequence[Any]) -> int:
    """Return the bytes of different tensors of a graph."""
    import tensorflow as tf

    return sum(
        (tensor.shape.num_elements() or 0) * tensor.dtype.size
        for tensor in {id(x): x for x in tensors}.values()
        if tensor.dtype not in (tf.resource, tf.variant)
    )


def _behind(tensors: Sequence[Any]) -> List[Any]:
    """List the operations that tensors depend on; a tape makes others, too."""
    waiting = [tensor.op for tensor in tensors]
    found: Dict[str, Any] = {}
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found[op.name] = op
            waiting.extend(x.op for x in op.inputs)
    return list(found.values())


_COUNTS: Dict[str, Callable[..., int]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
