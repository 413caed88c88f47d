"""Forward and backward passes of a model on each framework, for ``verify``.

Nothing is updated but the state that a forward pass updates.
"""

from __future__ import annotations

import random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import keras
import numpy as np

from perftricks.recompute import references
from perftricks.recompute.comparing import same_bits
from perftricks.recompute.generators import Generators
from perftricks.recompute.keras3 import layers as keras3
from perftricks.recompute.keras3 import private
from perftricks.recompute.keras3.call import below
from perftricks.recompute.measure.counters import xla_temporaries
from perftricks.recompute.python_state import Attributes

Arrays = Dict[Tuple[str, str], Any]  # by kind (loss, gradient, state) and name


class Result(NamedTuple):
    """What a pass has produced.

    Attributes:
        arrays: Loss, gradients and state, as arrays.
        peak: The most bytes in use at once, or None if that cannot be told.
        how: How that was measured, or why it was not.
    """

    arrays: Arrays
    peak: Optional[int]
    how: str


class Snapshot:
    """Everything a pass may change: variables, attributes of layers, sources of random numbers.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        variables = [*model.variables, *model.metrics_variables]
        variables += keras3.global_random_state()
        self._values = [(v, to_array(v)) for v in variables]
        modules = torch_modules(model)
        self._attributes = Attributes([*keras3.everything_in(model), *modules])
        held = [x for module in modules for x in vars(module).values()]
        reached = references.reached([model], below)
        self._generators = Generators([random, np.random, *reached, *held])
        self._torch = TorchState(modules)

    def restore(self) -> None:
        """Put everything back."""
        for variable, value in self._values:
            if not same_bits(to_array(variable), value):
                variable.assign(value)
        self._attributes.restore()
        self._generators.restore()
        self._torch.restore()


class TorchState:
    """torch's own random numbers and buffers at one moment; nothing on other backends.

    Args:
        modules: The modules whose buffers may be updated.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._state = None
        if private.keras_backend() == "torch":
            import torch

            devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
            self._state = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]
            self._buffers = _engine().Buffers(modules)

    def restore(self) -> None:
        """Put it back."""
        if self._state is not None:
            import torch

            torch.set_rng_state(self._state[0])
            for device, state in enumerate(self._state[1]):
                torch.cuda.set_rng_state(state, device)
            self._buffers.restore()


def run(
    model: Any, compute_loss: Callable[[Any], Any], x: Any, steps: int, measure: bool = True
) -> Result:
    """Run forward and backward passes.

    Args:
        model: A built model.
        compute_loss: Takes what the model returns and returns a scalar.
        x: The inputs of the model, as tensors.
        steps: How many passes; the state is carried on from one to the next.
        measure: Whether to measure memory, for which JAX compiles the whole program.
    """
    arrays: Arrays = {}
    passes = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[private.keras_backend()]
    state = [v for v in model.variables if not _in(v, model.trainable_variables)]
    names = [_name(variable, model) for variable in state]
    names += [name for name, _ in _buffers(model)]
    measured = passes(model, compute_loss, x, state, steps, measure)
    for number, (loss, gradients, values) in enumerate(measured.passes, 1):
        at = " at step %d" % number if steps > 1 else ""
        arrays["loss", "loss" + at] = to_array(loss)
        for variable, gradient in zip(model.trainable_variables, gradients):
            if gradient is not None:
                arrays["gradient", _name(variable, model) + at] = to_array(gradient)
        for name, value in zip(names, values):
            arrays["state", name + at] = to_array(value)
    return Result(arrays, measured.peak, measured.how)


def to_array(x: Any) -> Any:
    """Return a tensor or a variable as an array of its own."""
    return np.array(keras.ops.convert_to_numpy(x))


def _in(x: Any, things: List[Any]) -> bool:
    return any(x is thing for thing in things)


def _name(variable: Any, model: Any) -> str:
    """Return the path of a variable, with its number where another one has the same path."""
    twins = [v for v in model.variables if v.path == variable.path]
    if len(twins) == 1:
        return str(variable.path)
    return "%s (%d)" % (variable.path, [v is variable for v in twins].index(True) + 1)


def torch_modules(model: Any) -> List[Any]:
    """List the modules of torch in a model or layer that are no layers."""
    if private.keras_backend() != "torch":
        return []
    modules: List[Any] = _engine().modules(references.reached([model], below))
    return modules


def _engine() -> Any:
    from perftricks.recompute.keras3 import torch as engine

    return engine


def _buffers(model: Any) -> List[Tuple[str, Any]]:
    """List the buffers of these modules, with a name each."""
    return [
        ("buffer %s of module %d (%s)" % (name, number, type(module).__name__), buffer)
        for number, module in enumerate(torch_modules(model), 1)
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


class _Measured(NamedTuple):
    passes: List[Tuple[Any, List[Any], List[Any]]]
    peak: Optional[int]
    how: str


def _tensorflow(
    model: Any, compute_loss: Any, x: Any, state: Any, steps: int, measure: bool
) -> _Measured:
    import tensorflow as tf

    devices = ["GPU:%d" % i for i, _ in enumerate(tf.config.list_logical_devices("GPU"))]
    devices = devices if measure else []
    for device in devices:
        tf.config.experimental.reset_memory_stats(device)
    passes = []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = compute_loss(model(x, training=True))
        variables = [v.value for v in model.trainable_variables]
        gradients = [
            g if g is None else tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)
        ]
        passes.append((loss, gradients, [to_array(v) for v in state]))
    if not devices:
        return _Measured(passes, None, "not measured: TensorFlow counts memory on GPUs only")
    peak = max(tf.config.experimental.get_memory_info(device)["peak"] for device in devices)
    return _Measured(passes, peak, "TensorFlow's counter of the GPU, weights included")


def _torch(
    model: Any, compute_loss: Any, x: Any, state: Any, steps: int, measure: bool
) -> _Measured:
    import torch

    on_gpu = measure and any(v.value.is_cuda for v in model.variables)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    passes = []
    for _ in range(steps):
        loss = compute_loss(model(x, training=True))
        variables = [v.value for v in model.trainable_variables]
        gradients = torch.autograd.grad(loss, variables, allow_unused=True)
        buffers = [buffer for _, buffer in _buffers(model)]
        passes.append((loss.detach(), list(gradients), [to_array(v) for v in [*state, *buffers]]))
    if not on_gpu:
        return _Measured(passes, None, "not measured: torch counts memory on GPUs only")
    peak = torch.cuda.max_memory_allocated()
    return _Measured(passes, peak, "torch's counter of the GPU, weights included")


def _jax(model: Any, compute_loss: Any, x: Any, state: Any, steps: int, measure: bool) -> _Measured:
    import jax

    trainable = list(model.trainable_variables)

    def compute(values: Any, states: Any) -> Any:
        mapping = [*zip(trainable, values), *zip(state, states)]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            loss = compute_loss(model(x, training=True))
            after = [scope.get_current_value(v) for v in state]
        return loss, [old if new is None else new for old, new in zip(states, after)]

    both = jax.value_and_grad(compute, has_aux=True)
    values = [v.value for v in trainable]
    states = [v.value for v in state]
    # The whole program as XLA would run it tells the memory. It is not what is compared: XLA fuses
    # operations in other groups when some are there twice, which rounds differently.
    peak = xla_temporaries(jax.jit(both).lower(values, states)) if measure else None
    passes = []
    for _ in range(steps):
        with jax.disable_jit():
            (loss, states), gradients = both(values, states)
        passes.append((loss, gradients, states))
    if peak is None:
        return _Measured(passes, None, "not measured: this XLA has no memory_analysis()")
    how = "XLA's buffer assignment (memory_analysis), weights not included"
    return _Measured(passes, peak, how)
