"""How long a step takes, by what it computes: counted on shapes, for nothing is run.

Kinds of work are told apart, since each has a ceiling of its own: arithmetic of products and
convolutions, bytes read and written by everything else, where they fit into a cache and where they
do not, functions such as the exponential, random numbers, and, where operations are begun one by
one, their number. On a CPU functions and random numbers cost more than products at small widths; on
a GPU it is the other way round. The ceilings of a device are measured once, with some arrays of at
most 16 MiB.

Source: Williams et al., "Roofline: an insightful visual performance model", CACM 52 (4), 2009.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import keras

from perftricks.recompute.measure.kept import (
    HANDS_ON,
    Function,
    Spec,
    jax_program,
    tensorflow_step,
    torch_forward,
)

_FUNCTIONS = {
    *("exp", "exp2", "expm1", "log", "log1p", "log2", "pow", "sin", "cos", "tan", "tanh", "erf"),
    *("erfc", "erf_inv", "sigmoid", "logistic", "softplus", "elu", "selu", "gelu", "silu", "mish"),
    *("softmax", "_softmax", "logsoftmax", "_log_softmax", "logsigmoid", "log_sigmoid_forward"),
}


_CACHE = 24 << 20  # bytes of an operation that may still be in a cache


class Work(NamedTuple):
    """What is computed.

    Attributes:
        products: Additions and multiplications of matrix products and convolutions.
        near: Bytes that everything else reads and writes, in operations on little.
        far: Likewise, in operations on more than a cache holds.
        functions: Values of exponentials and the like.
        draws: Random numbers.
        operations: Operations.
    """

    products: float = 0.0
    near: float = 0.0
    far: float = 0.0
    functions: float = 0.0
    draws: float = 0.0
    operations: float = 0.0

    def plus(self, other: Work) -> Work:
        """Return the sum."""
        return Work(*(a + b for a, b in zip(self, other)))

    def less(self, other: Work) -> Work:
        """Return the difference, nothing below 0."""
        return Work(*(max(0.0, a - b) for a, b in zip(self, other)))

    def seconds(self, per_second: Work) -> float:
        """Return how long it takes where so much of each is done in a second."""
        return sum(amount / speed for amount, speed in zip(self, per_second))


def work_of(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec]
) -> Tuple[Work, Work]:
    """Count what a function does, and what its backward pass does.

    Args:
        function: Takes and returns tensors.
        variables: The trained variables that it uses.
        specs: What it takes.
    """
    forward, backward = _COUNTS[keras.backend.backend()](function, variables, specs)
    return _sum(forward), _sum(backward)


def _sum(works: Iterable[Work]) -> Work:
    return functools.reduce(Work.plus, works, Work())


def _torch(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec]
) -> Tuple[List[Work], List[Work]]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    from perftricks.recompute.keras3 import torch_meta

    found: List[Work] = []

    class Counter(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            results = func(*args, **(kwargs or {}))
            packet = _formulas().get(func._overloadpacket, func._overloadpacket)
            given = [x for x in args if isinstance(x, torch.Tensor)]
            made = results if isinstance(results, (tuple, list)) else [results]
            made = [x for x in made if isinstance(x, torch.Tensor)]
            size = sum(x.numel() for x in made)
            if packet in flop_registry:
                count = flop_registry[packet](*args, **(kwargs or {}), out_val=results)
                found.append(Work(products=count, operations=1))
            elif not func.is_view:
                draws = torch.Tag.nondeterministic_seeded in func.tags
                found.append(
                    _other(packet.__name__, size, draws, sum(x.nbytes for x in [*given, *made]))
                )
            return results

    counter = Counter()
    _, results = torch_forward(function, variables, specs, counter)
    forward = found.copy()
    found.clear()
    ends = [x for x in results if isinstance(x, torch.Tensor) and x.requires_grad]
    if ends:
        with torch_meta.without_memory(), counter:
            torch.autograd.backward(ends, [torch.ones_like(x) for x in ends])
    return forward, found


@functools.lru_cache(maxsize=None)
def _formulas() -> Dict[Any, Any]:
    """Return operations of torch by those that compute as much, and have no formula themselves."""
    import torch

    fused = "_scaled_dot_product_flash_attention"
    ends = ("", "_backward")
    found = {
        getattr(torch.ops.aten, fused + "_for_cpu" + end, None): getattr(
            torch.ops.aten, fused + end, None
        )
        for end in ends
    }
    return {one: other for one, other in found.items() if one is not None and other is not None}


def _other(name: str, size: int, draws: bool, moved: float) -> Work:
    """Return the work of what is no product."""
    functions = size if name.lower().rstrip("_") in _FUNCTIONS else 0.0
    is_near = moved < _CACHE
    return Work(
        near=moved if is_near else 0.0,
        far=0.0 if is_near else moved,
        functions=functions,
        draws=size if draws else 0.0,
        operations=1,
    )


def _jax(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec]
) -> Tuple[Iterable[Work], List[Work]]:
    forward = list(_of_equations(jax_program(function, variables, specs), 1))
    both = _of_equations(jax_program(function, variables, specs, with_backward=True), 1)
    return forward, [_sum(both).less(_sum(forward))]


def _of_equations(program: Any, times: int) -> Iterator[Work]:
    from perftricks.recompute.keras3.jax import programs_in

    for equation in program.eqns:
        name = equation.primitive.name
        inner = programs_in(equation)
        if inner:
            repeat = equation.params.get("length", 1) if name == "scan" else 1
            for part in inner:
                yield from _of_equations(part, times * repeat)
            continue
        made = [v.aval for v in equation.outvars]
        size = sum(math.prod(a.shape) for a in made) * times
        if name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            yield Work(products=2.0 * size * math.prod(shape[i] for i in left))
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            order = equation.params["dimension_numbers"].rhs_spec
            yield Work(products=2.0 * size * math.prod(kernel) / kernel[order[0]])
        else:
            # XLA fuses what goes from one of these to the next: each writes, at most.
            width = int(getattr(made[0].dtype, "itemsize", 4)) if made else 0
            draws = name in ("random_bits", "threefry2x32")
            yield _other(name, size, draws, float(size * width))


def _tensorflow(
    function: Function, variables: Sequence[Any], specs: Sequence[Spec]
) -> Tuple[Iterable[Work], Iterable[Work]]:
    forward, backward, _ = tensorflow_step(function, variables, specs)
    return _of_operations(forward), _of_operations(backward)


def _of_operations(operations: Iterable[Any]) -> Iterator[Work]:
    for op in operations:
        shapes = [_shape(x) for x in op.outputs]
        size = sum(math.prod(shape) for shape in shapes)
        count = _tensorflow_products(op, size)
        if count:
            yield Work(products=count)
        elif op.inputs and op.type not in HANDS_ON and op.type != "ReadVariableOp":
            moved = sum(math.prod(_shape(x)) * x.dtype.size for x in [*op.inputs, *op.outputs])
            yield _other(op.type, size, "Random" in op.type, float(moved))


def _shape(tensor: Any) -> Sequence[int]:
    shape = tensor.shape
    return tuple(shape) if shape.is_fully_defined() else ()


def _tensorflow_products(op: Any, size: int) -> float:
    """Return the additions and multiplications of a product or convolution; 0 for others."""
    if op.type in ("MatMul", "BatchMatMulV2", "BatchMatMulV3"):
        left = _shape(op.inputs[0])
        names = [a for a in ("transpose_a", "adj_x") if a in op.node_def.attr]
        rows = any(op.get_attr(name) for name in names)
        return 2.0 * size * left[-2 if rows else -1]
    if op.type == "Einsum":
        letters = op.get_attr("equation").decode().partition("->")[0].split(",")
        sizes = {c: n for text, x in zip(letters, op.inputs) for c, n in zip(text, _shape(x))}
        return 2.0 * math.prod(sizes.values())
    if op.type in ("Conv1D", "Conv2D", "Conv3D"):
        return 2.0 * size * math.prod(_shape(op.inputs[1])[:-1])
    if op.type == "DepthwiseConv2dNative":
        return 2.0 * size * math.prod(_shape(op.inputs[1])[:2])
    if "BackpropInput" in op.type or "BackpropFilter" in op.type:  # of a convolution
        is_filter = "BackpropFilter" in op.type
        kernel = _shape(op.outputs[0] if is_filter else op.inputs[1])
        each = kernel[:2] if op.type.startswith("Depthwise") else kernel[:-1]
        return 2.0 * math.prod(_shape(op.inputs[2])) * math.prod(each)
    return 0.0


_COUNTS: Dict[str, Callable[..., Tuple[Iterable[Work], Iterable[Work]]]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}


@functools.lru_cache(maxsize=None)
def ceilings() -> Work:
    """Return how much of each kind the device that Keras computes on does in a second; measured."""
    from keras import ops

    side = 768
    square = ops.ones((side, side))
    size = 1 << 19
    near, far = ops.ones((size,)), ops.ones((8 * size,))
    # A sum reads two numbers and writes one, of 4 bytes each. The large ones come first: what they
    # free, allocators have for the small ones, as in the midst of training.
    far_speed, near_speed = (12.0 * x.shape[0] / _seconds(ops.add, x, x) for x in (far, near))

    def beyond(seconds: float) -> float:
        """Return what a function takes beside the bytes that it moves."""
        return float(max(seconds - 8.0 * size / near_speed, 0.05 * seconds))

    # A seed and names of its own: what the caller draws and builds next is what it would have been.
    seeds = keras.random.SeedGenerator(0, name="ceilings")
    return Work(
        products=2.0 * side**3 / _seconds(ops.matmul, square, square),
        near=near_speed,
        far=far_speed,
        functions=size / beyond(_seconds(ops.exp, near)),
        draws=size / beyond(_seconds(lambda: keras.random.dropout(near, 0.5, seed=seeds))),
        operations=_begun_in_a_second(),
    )


def _begun_in_a_second() -> float:
    """Return how many operations of a layer can be begun in a second; no end where it compiles."""
    if keras.backend.backend() != "torch":
        return math.inf
    layer = keras.layers.LayerNormalization(name="ceilings")
    layer.build((None, 8))
    forward, _ = work_of(lambda x: [layer(x[0])], layer.variables, [Spec((1, 8), "float32", True)])
    return float(forward.operations / _seconds(layer, keras.ops.ones((1, 8))))


def _seconds(function: Callable[..., Any], *given: Any) -> float:
    """Return the least time that a function takes, of some runs."""
    run = function
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        run = jax.jit(function)
    elif backend == "tensorflow":
        import tensorflow as tf

        run = tf.function(function, autograph=False)
    least = math.inf
    for _ in range(4):  # the first compiles
        began = time.perf_counter()
        result = run(*given)
        # To see a number of it is to wait for all of it.
        float(keras.ops.convert_to_numpy(keras.ops.ravel(result)[0]))
        least = min(least, time.perf_counter() - began)
    return least
