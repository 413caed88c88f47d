"""The peak of a whole training step of Keras 3, found out without running one.

- torch: the step runs on the "meta" device, where tensors have shapes and no numbers, and the bytes
  of all storages that are alive are added up.
- JAX: XLA compiles the step for arrays that are not there, and tells what it assigns.
- TensorFlow: the graph of the step is gone through in the order in which it becomes ready, and the
  bytes of all tensors that are still to be used are added up.

What kernels need for themselves is not in it, nor what an allocator keeps in reserve.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

import keras

from perftricks.recompute.measure.counters import tensorflow_allocations, xla_buffers, xla_memory
from perftricks.recompute.measure.kept import HANDS_ON, Spec, spec_of, torch_empty


class Step(NamedTuple):
    """A training step.

    Attributes:
        model: The model, with whatever has been applied to it.
        inputs: The tensors it takes.
        targets: The tensors that the loss compares with.
        loss: Takes the values of ``inputs`` and ``targets``, calls the model, and gives the loss
            and what the model returned.
        optimizer: The optimizer; None to leave the update out.
        slots: Bytes of what the optimizer keeps.
    """

    model: Any
    inputs: Sequence[Spec]
    targets: Sequence[Spec]
    loss: Callable[[List[Any], List[Any]], Tuple[Any, Any]]
    optimizer: Any
    slots: int

    @property
    def batch(self) -> int:
        """Bytes of a batch."""
        return sum(spec.nbytes for spec in [*self.inputs, *self.targets])

    @property
    def idle(self) -> int:
        """Bytes of all variables, those of the optimizer included."""
        return self.slots + sum(spec_of(v).nbytes for v in self.model.variables)


def peak_bytes(step: Step) -> int:
    """Return the bytes in use at the peak of a step, all variables and the batch included."""
    return _PEAKS[keras.backend.backend()](step)


def _torch(step: Step) -> int:
    import torch

    from perftricks.recompute.keras3 import torch_meta

    with torch_meta.without_memory():
        # What is there before a step is made outside of the ledger, and so not entered.
        state = [(v, torch_empty(spec_of(v))) for v in step.model.variables]
        trained = [x for v, x in state if v.trainable]
        batch = [[torch_empty(spec) for spec in some] for some in (step.inputs, step.targets)]
        scope = keras.StatelessScope(state_mapping=state, collect_losses=True)
        with torch.enable_grad(), scope, _torch_ledger() as ledger:
            # Keras forgets the gradients of the step before after the forward pass.
            before = [torch.empty_like(x) for x in trained]
            loss, results = step.loss(*batch)
            before.clear()
            loss.backward()
            del loss, results  # which Keras holds as long
            gradients = ledger.bytes
    update = _torch_update(step.optimizer) * sum(x.nbytes for x in trained)
    return step.idle + step.batch + int(max(ledger.peak, gradients + update))


def torch_steps_bytes(model: Any, run: Callable[[], object]) -> int:
    """Return the most bytes that real steps of training make on torch, at once.

    Args:
        model: The model.
        run: Trains a step. It is called three times: before the first, Keras builds what it counts
            by; the gradients of the second are there in the third.
    """
    run()
    for variable in model.trainable_variables:
        variable.value.grad = None
    with _torch_ledger() as ledger:
        run()
        run()
    return int(ledger.peak)


def counted_peak(model: Any, x: Any, y: Any) -> int:
    """Return the bytes in use at the peak of a real step, all variables and the batch included.

    Args:
        model: A compiled model. On torch it trains three steps, on TensorFlow one; on JAX nothing
            is run.
        x: The inputs of a batch.
        y: Its targets.

    Returns:
        The bytes that are counted on torch and TensorFlow, and that XLA assigns on JAX.
    """
    backend = keras.backend.backend()
    idle = idle_bytes(model)
    if backend == "torch":  # which would share the memory of arrays, and count nothing
        x, y = keras.tree.map_structure(
            lambda array: None if array is None else keras.ops.convert_to_tensor(array), (x, y)
        )
    batch = sum(array.nbytes for array in keras.tree.flatten((x, y)) if array is not None)
    if backend == "torch":
        return int(idle + batch + torch_steps_bytes(model, lambda: model.train_on_batch(x, y)))
    if backend == "tensorflow":
        model.train_on_batch(x, y)
        return int(idle + batch + tensorflow_allocations(model, x, y))
    return int(idle + batch + xla_buffers(model, x, y))


def idle_bytes(model: Any) -> int:
    """Return the bytes of all variables of a compiled model, those of its optimizer included."""
    model.optimizer.build(model.trainable_variables)
    return sum(spec_of(v).nbytes for v in [*model.variables, *model.optimizer.variables])


def _torch_ledger() -> Any:
    """Return a mode of torch that adds up the bytes of storages that are made and alive."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ledger(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bytes = self.peak = 0
            self._alive: Dict[int, Any] = {}

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Optional[Dict[str, Any]] = None
        ) -> Any:
            results = func(*args, **(kwargs or {}))
            # A view has the storage of what it is a view of, which may have been made before.
            if not (func.is_view or _is_in_place(func)):
                for x in results if isinstance(results, (tuple, list)) else [results]:
                    if isinstance(x, torch.Tensor):
                        self._enter(x.untyped_storage())
            return results

        def _enter(self, storage: Any) -> None:
            key, size = storage._cdata, storage.nbytes()
            if key not in self._alive:
                self.bytes += size
                self.peak = max(self.peak, self.bytes)
                self._alive[key] = weakref.ref(storage, lambda _: self._strike(key, size))

        def _strike(self, key: int, size: int) -> None:
            if self._alive.pop(key, None) is not None:
                self.bytes -= size

    return Ledger()


def _is_in_place(operation: Any) -> bool:
    return bool(operation._schema.is_mutable)


def _torch_update(optimizer: Any) -> float:
    """Return how many times the weights an update holds for a while: Keras does all at once."""
    import torch

    if optimizer is None:
        return 0.0
    size = 4096
    copy = type(optimizer).from_config(optimizer.get_config())
    with keras.device("cpu"):
        weights = [keras.Variable(torch.zeros(size)) for _ in range(2)]
        copy.build(weights)
        with torch.no_grad(), _torch_ledger() as ledger:
            copy.apply([torch.zeros(size) for _ in weights], weights)
    return float(max(0.0, ledger.peak / (4 * size * len(weights)) - 1))  # the gradients are ours


def _jax(step: Step) -> int:
    import jax

    trained = list(step.model.trainable_variables)
    others = list(step.model.non_trainable_variables)
    updates = step.optimizer is not None
    slots = (
        jax.eval_shape(lambda: [v.value for v in _jax_optimizer(step).variables]) if updates else []
    )

    def run(state: Any, inputs: Any, targets: Any) -> Any:
        values, fixed, kept = state

        def loss_of(values: Any) -> Any:
            pairs = [*zip(trained, values), *zip(others, fixed)]
            with keras.StatelessScope(state_mapping=pairs, collect_losses=True) as scope:
                loss, _ = step.loss(inputs, targets)
            moved = [scope.get_current_value(v) for v in others]
            return loss, [x if new is None else new for x, new in zip(fixed, moved)]

        (_, moved), gradients = jax.value_and_grad(loss_of, has_aux=True)(values)
        if not updates:
            return gradients, moved
        new, kept = _jax_optimizer(step).stateless_apply(kept, gradients, values)
        return new, moved, kept

    def abstract(spec: Spec) -> Any:
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype)

    weights = [[abstract(spec_of(v)) for v in some] for some in (trained, others)]
    state = (*weights, slots)
    batch = ([abstract(spec) for spec in some] for some in (step.inputs, step.targets))
    donated = (0,) if updates else ()
    memory = xla_memory(jax.jit(run, donate_argnums=donated).lower(state, *batch))
    if memory is None:
        raise NotImplementedError("this XLA does not tell what it assigns (memory_analysis)")
    size = memory.argument_size_in_bytes + memory.output_size_in_bytes
    size += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    return int(size)


def _jax_optimizer(step: Step) -> Any:
    """Return an optimizer like that of a step, built: where JAX traces, that takes no memory."""
    copy = type(step.optimizer).from_config(step.optimizer.get_config())
    copy.build(list(step.model.trainable_variables))
    return copy


# Operations of TensorFlow that write into what they were given, where nobody else needs it.
_IN_PLACE = {
    *("Add", "AddV2", "AddN", "BiasAdd", "Div", "Erf", "Exp", "Maximum", "Minimum", "Mul", "Neg"),
    *("RealDiv", "Relu", "ReluGrad", "Rsqrt", "SelectV2", "Sigmoid", "SigmoidGrad", "Softmax"),
    *("Sqrt", "Square", "SquaredDifference", "Sub", "Tanh", "TanhGrad"),
}


def _tensorflow(step: Step) -> int:
    import tensorflow as tf

    trained = list(step.model.trainable_variables)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def run(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            loss, _ = step.loss(list(inputs), list(targets))
        return tape.gradient(loss, [v.value for v in trained])

    batch = [
        [tf.TensorSpec(spec.shape, spec.dtype) for spec in some]
        for some in (step.inputs, step.targets)
    ]
    graph = run.get_concrete_function(*batch).graph
    return step.idle + step.batch + _graph_peak(graph)


def _graph_peak(graph: Any) -> int:
    """Return the most bytes that are in use at once in one run of a graph of TensorFlow."""
    import tensorflow as tf

    operations = _needed(graph)
    waits = {op: len(op.inputs) + len(op.control_inputs) for op in operations}
    after: Dict[Any, List[Any]] = {op: [] for op in operations}
    uses: Dict[int, int] = {}
    home: Dict[int, int] = {}  # tensor -> the one whose bytes it has
    size: Dict[int, int] = {}

    def origin(tensor: Any) -> int:
        return home.get(id(tensor), id(tensor))

    for op in operations:
        for x in op.inputs:
            after[x.op].append(op)
            uses[id(x)] = uses.get(id(x), 0) + 1
        for before in op.control_inputs:
            after[before].append(op)
    for x in graph.outputs:
        uses[id(x)] = uses.get(id(x), 0) + 1
    # Uses of what hands on its input are uses of that.
    held: Dict[int, int] = {}
    now = peak = 0
    ready: Deque[Any] = deque(op for op in operations if not waits[op])
    while ready:
        op = ready.popleft()
        is_free = op.type in ("Placeholder", "VarHandleOp", "ReadVariableOp")
        for number, x in enumerate(op.outputs):
            wanted = uses.get(id(x), 0)
            source = None
            if op.type in HANDS_ON and number < len(op.inputs):
                source = origin(op.inputs[number])
            elif op.type in _IN_PLACE and number == 0:
                source = next(
                    (
                        origin(y)
                        for y in op.inputs
                        if held.get(origin(y), 0) == 1 and size.get(origin(y)) == _nbytes(tf, x)
                    ),
                    None,
                )
            if source is not None:
                home[id(x)] = source
                held[source] = held.get(source, 0) + wanted
            else:
                size[id(x)] = 0 if is_free else _nbytes(tf, x)
                held[id(x)] = wanted
                now += size[id(x)]
        peak = max(peak, now)
        for x in op.inputs:
            held[origin(x)] -= 1
        for key in {origin(x) for x in (*op.inputs, *op.outputs)}:
            if not held[key]:  # nobody uses it any more, or ever
                now -= size.pop(key, 0)
        for follower in after[op]:
            waits[follower] -= 1
            if not waits[follower]:
                ready.append(follower)
    return peak


def _needed(graph: Any) -> List[Any]:
    """List the operations that are run: TensorFlow leaves out what nobody needs."""
    found = {x.op for x in graph.outputs}.union(graph.control_outputs)
    waiting = list(found)
    while waiting:
        op = waiting.pop()
        more = {x.op for x in op.inputs}.union(op.control_inputs) - found
        found |= more
        waiting.extend(more)
    return [op for op in graph.get_operations() if op in found]


def _nbytes(tf: Any, tensor: Any) -> int:
    if tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    shape = tensor.shape
    return math.prod(shape) * tensor.dtype.size if shape.is_fully_defined() else 0


_PEAKS: Dict[str, Callable[[Step], int]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
