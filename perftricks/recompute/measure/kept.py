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
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

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


def kept_bytes(
    function: Function,
    variables: Sequence[Any],
    specs: Sequence[Spec],
    policy: Policy = FULL,
    with_results: bool = True,
) -> int:
    """Return the bytes that a function keeps in a plain run, or that a policy keeps of it.

    Args:
        function: Takes and returns tensors.
        variables: The trained variables that it uses.
        specs: What it takes.
        policy: "full" for a plain run; else the policy under which it is recomputed.
        with_results: Whether what it returns is counted, where that is kept.
    """
    return _COUNTS[keras.backend.backend()](function, variables, specs, policy, with_results)


def _torch(
    function: Function,
    variables: Sequence[Any],
    specs: Sequence[Spec],
    policy: Policy,
    with_results: bool,
) -> int:
    import torch

    from perftricks.recompute.keras3.torch_kept import Kept

    kept: Dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        keeping = Kept(policy)
        given, results = torch_forward(function, variables, specs, keeping.first())
    if not policy.is_full:
        kept = keeping.storages
    for tensor in [*given, *(() if with_results else results)]:
        kept.pop(tensor.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in kept.values())


def torch_forward(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec], mode: Any
) -> Tuple[List[Any], Any]:
    """Run a function on torch, of tensors without numbers, in a mode; return those, and results."""
    import torch

    from perftricks.recompute.keras3 import torch_meta

    with torch_meta.without_memory():
        values = [torch_empty(spec_of(v)) for v in variables]
        given = [torch_empty(spec) for spec in specs]
        scope = keras.StatelessScope(
            state_mapping=list(zip(variables, values)), collect_losses=True
        )
        with torch.enable_grad(), scope, mode:
            results = function(list(given))
    return [*values, *given], results


def torch_empty(spec: Spec) -> Any:
    """Return a tensor of torch without numbers."""
    import torch

    dtype = getattr(torch, spec.dtype)
    return torch.empty(spec.shape, dtype=dtype, device="meta", requires_grad=spec.is_trained)


def _jax(
    function: Function,
    variables: Sequence[Any],
    specs: Sequence[Spec],
    policy: Policy,
    with_results: bool,
) -> int:
    import jax

    from perftricks.recompute.keras3.jax import saveable

    compute = _jax_function(function, variables, specs)
    run: Any = compute
    if not policy.is_full:
        run = jax.checkpoint(compute, policy=saveable(policy))

    def residuals(values: Any, trained: Any, others: Any) -> Any:
        results, backward = jax.vjp(lambda *known: run(*known, others), values, trained)
        return jax.tree.leaves(backward), results

    program, shape = jax.make_jaxpr(residuals, return_shape=True)(*_jax_arguments(variables, specs))
    return made_bytes(program.jaxpr, len(shape[0]), with_results)


def jax_forward(function: Function, variables: Sequence[Any], specs: Sequence[Spec]) -> None:
    """Trace a function on JAX, with tangents of what is trained."""
    import jax

    compute = _jax_function(function, variables, specs)

    def run(values: Any, trained: Any, others: Any) -> Any:
        def forward(values: Any, trained: Any) -> Any:
            return compute(values, trained, others)

        return jax.jvp(forward, (values, trained), (values, trained))

    jax.eval_shape(run, *_jax_arguments(variables, specs))


def jax_program(
    function: Function,
    variables: Sequence[Any],
    specs: Sequence[Spec],
    with_backward: bool = False,
) -> Any:
    """Return what a function does, and its backward pass if that is asked for, in JAX's terms."""
    import jax

    compute: Any = _jax_function(function, variables, specs)

    def both(values: Any, trained: Any, others: Any) -> Any:
        results, backward = jax.vjp(lambda *known: compute(*known, others), values, trained)
        return backward([jax.numpy.ones_like(x) for x in results])

    run = both if with_backward else compute
    return jax.make_jaxpr(run)(*_jax_arguments(variables, specs)).jaxpr


def _jax_function(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec]
) -> Callable[[Any, Any, Any], Any]:
    def compute(values: Any, trained: Any, others: Any) -> Any:
        both = {False: iter(others), True: iter(trained)}
        tensors = [next(both[spec.is_trained]) for spec in specs]
        mapping = list(zip(variables, values))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            return [x for x in function(tensors) if _is_float(x)]

    return compute


def _jax_arguments(variables: Sequence[Any], specs: Sequence[Spec]) -> Tuple[Any, Any, Any]:
    import jax

    abstract = [jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in specs]
    return (
        [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables],
        [x for x, spec in zip(abstract, specs) if spec.is_trained],
        [x for x, spec in zip(abstract, specs) if not spec.is_trained],
    )


def made_bytes(program: Any, count: Optional[int] = None, with_others: bool = True) -> int:
    """Return the bytes of what a program of JAX returns and was not given.

    Args:
        program: The program.
        count: How many of the first results are meant; None for all.
        with_others: Whether those are counted that are among the other results, too.
    """
    results = list(program.outvars)
    first, others = (results, []) if count is None else (results[:count], results[count:])
    left_out = [*program.invars, *program.constvars, *(() if with_others else others)]
    known = set(map(id, left_out))
    made = {id(v): v.aval for v in first if not hasattr(v, "val") and id(v) not in known}
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
    function: Function,
    variables: Sequence[Any],
    specs: Sequence[Spec],
    policy: Policy,
    with_results: bool,
) -> int:
    from perftricks.recompute.tensorflow_graphs.kept import wanted

    kept: List[Any] = []

    def keep(made: List[Any], results: List[Any]) -> None:
        kept.extend(each.tensor for each in wanted(policy, dict.fromkeys(made), results))

    made, backward, results = tensorflow_step(function, variables, specs, keep)
    if policy.is_full:
        kept = taken(backward, made)
    left_out = set() if with_results else {id(x) for x in results}
    return tensor_bytes([x for x in kept if id(x) not in left_out])


def tensorflow_step(
    function: Function,
    variables: Sequence[Any],
    specs: Sequence[Spec],
    between: Callable[[List[Any], List[Any]], object] = lambda made, results: None,
) -> Tuple[List[Any], List[Any], List[Any]]:
    """Trace a function and its gradient on TensorFlow.

    Args:
        function: Takes and returns tensors.
        variables: The trained variables that it uses.
        specs: What it takes.
        between: Is given the operations and results of the function before there is a gradient.

    Returns:
        The operations of the function, those of its gradient, and its results.
    """
    import tensorflow as tf

    made: List[Any] = []
    results: List[Any] = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(*given: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        values = [v.value for v in variables]
        trained = [x for x, spec in zip(given, specs) if spec.is_trained]
        with tf.GradientTape() as tape:
            tape.watch(trained)
            results.extend(x for x in function(list(given)) if _is_float(x))
        made.extend(graph.get_operations())
        between(made, results)
        return tape.gradient(results, [*values, *trained])

    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in specs]
    graph = step.get_concrete_function(*signature).graph
    forward = set(made)
    return made, [op for op in _behind(graph.outputs) if op not in forward], results


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
