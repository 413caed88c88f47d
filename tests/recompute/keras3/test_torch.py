"""What torch has in force in a thread or a process: as it was at the call when that runs again."""

from __future__ import annotations

import contextlib
import functools
import threading

import keras
import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.comparison import POLICY
from tests.recompute.keras3.training import BACKEND, array, only_torch

if BACKEND == "torch":
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Doubling(TorchFunctionMode):
        """Doubles what a function of torch gives, and does not like to be entered again."""

        def __init__(self, name):
            super().__init__()
            self.name = name
            self.entered = 0

        def __enter__(self):
            self.entered += 1
            return super().__enter__()

        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            return result * 2 if function is getattr(torch, self.name) else result

    class Adding(TorchDispatchMode):
        """Adds 1 to what an operation of torch gives."""

        def __init__(self, name):
            super().__init__()
            self.operation = getattr(torch.ops.aten, name).default

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            return result + 1 if function is self.operation else result

    class Symmetric(torch.nn.Module):
        """A parametrization."""

        def forward(self, w):
            return torch.tanh(w + w.T)


pytestmark = only_torch
WIDTH = 6


def inputs():
    """Return a leaf that asks for gradients."""
    return torch.linspace(-1.0, 1.0, WIDTH**2).reshape(WIDTH, WIDTH).clone().requires_grad_()


def linear():
    """Return a module of torch with the same weights each time."""
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, WIDTH)


def dense():
    """Return a layer of Keras with the same weights each time."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(WIDTH)
    layer.build((WIDTH, WIDTH))
    return layer


def assert_same(run):
    """Compare what a function returns with recompute off and on, a tuple of tensors."""
    found = []
    for on in (False, True):
        with recompute_scope(on):
            found.append([None if x is None else array(x.detach()) for x in run()])
    for off, on in zip(*found):
        np.testing.assert_array_equal(off, on)


def backward(y, in_thread):
    """Take gradients, in this thread or, as autograd does for a GPU, in another one."""
    if not in_thread:
        y.sum().backward()
        return
    thread = threading.Thread(target=lambda: y.sum().backward())
    thread.start()
    thread.join()


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("after", [(), ("f",), ("d",), ("f", "d")])
@pytest.mark.parametrize("before", [("f",), ("d",), ("f", "d"), ("f", "f", "d", "d"), ()])
def test_modes(before, after, in_thread):
    """Function and dispatch modes of the call, and no others, see it when it runs again."""

    def run():
        make = {"f": lambda: Doubling("sin"), "d": lambda: Adding("tanh")}
        x = inputs()
        with contextlib.ExitStack() as stack:
            modes = [stack.enter_context(make[kind]()) for kind in before]
            y = recompute_grad(lambda x: torch.tanh(torch.sin(x)) * torch.sin(torch.tanh(x)))(x)
        with contextlib.ExitStack() as stack:
            for kind in after:
                stack.enter_context(make[kind]())
            in_force = torch.overrides._get_current_function_mode_stack()
            backward(y, in_thread)
            assert torch.overrides._get_current_function_mode_stack() == in_force
            probe = torch.sin(torch.ones(1)), torch.tanh(torch.ones(1))
        assert all(mode.entered == 1 for mode in modes if isinstance(mode, Doubling))
        assert not torch.overrides._get_current_function_mode_stack()
        assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
        return (x.grad, *probe)

    assert_same(run)


def test_default_device():
    """What a call creates is created on the device that a scope has named."""

    def run():
        x = inputs()
        with torch.device("meta"):
            y = recompute_grad(lambda x: torch.tanh(x) if torch.ones(1).is_meta else x)(x)
        backward(y, False)
        return (x.grad,)

    assert_same(run)


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def matmul_precision():
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


SETTINGS = {
    "precision": (matmul_precision, lambda: torch.backends.cuda.matmul.allow_tf32),
    "default dtype": (default_dtype, lambda: torch.get_default_dtype()),
    "attention": (
        lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        lambda: (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
    ),
    "mkldnn": (
        lambda: torch.backends.mkldnn.flags(enabled=False, allow_tf32=None),
        lambda: torch.backends.mkldnn.enabled,
    ),
    "cudnn": (
        lambda: torch.backends.cudnn.flags(enabled=False, deterministic=True, allow_tf32=False),
        lambda: (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic),
    ),
    "function modes": (torch._C.DisableTorchFunction, torch._C._is_torch_function_all_disabled)
    if BACKEND == "torch"
    else (),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name):
    """Settings are those of the call while it runs again, and then what they were."""
    enter, tell = SETTINGS[name]
    seen = []

    def call(x):
        seen.append(tell())
        return torch.tanh(torch.sin(x))

    x, outside = inputs(), tell()
    with recompute_scope(True), enter():
        y = recompute_grad(call)(x)
    backward(y, False)
    assert seen[0] == seen[1] != outside
    assert tell() == outside


@pytest.mark.parametrize("first", ["outside", "inside"])
def test_parametrizations_that_are_cached(first):
    """A parameter computed once for all its uses is so when the call runs again."""

    def run():
        x, module = inputs(), linear()
        torch.nn.utils.parametrize.register_parametrization(module, "weight", Symmetric())
        with torch.nn.utils.parametrize.cached():
            before = module(x) if first == "outside" else 0
            y = recompute_grad(lambda x: torch.tanh(module(torch.tanh(module(x)))))(x) + before
        backward(y, False)
        assert not torch.nn.utils.parametrize._cache_enabled
        return x.grad, module.parametrizations.weight.original.grad

    assert_same(run)


@pytest.mark.parametrize("when", ["removed", "added", "for all modules"])
@pytest.mark.parametrize("make", [linear, dense])
def test_hooks_that_replace_an_output(make, when):
    """A forward hook of a layer or a module inside of a call is the same in both runs."""

    def hook(module, args, output):
        return torch.tanh(output) * 2

    def run():
        x, layer = inputs(), make()
        if when == "removed":
            handle = layer.register_forward_hook(hook)
        if when == "for all modules":
            handle = torch.nn.modules.module.register_module_forward_hook(hook)
        y = recompute_grad(lambda x: torch.tanh(layer(x)))(x)
        if when == "added":
            handle = layer.register_forward_hook(hook)
        else:
            handle.remove()
        backward(y, False)
        handle.remove()
        return (y, x.grad, *(p.grad for p in layer.parameters()))

    assert_same(run)


def test_hooks_run_in_both_runs_inside_and_in_one_around():
    """A forward hook inside of a recomputed call is called twice, one of the layer itself once."""
    inner = dense()

    class Outer(keras.layers.Layer):
        @recompute_grad
        def call(self, x):
            return torch.tanh(inner(x))

    outer, calls = Outer(), []
    inner.register_forward_hook(lambda *_: calls.append("inner"))
    outer.register_forward_hook(lambda *_: calls.append("outer"))
    with recompute_scope(True):
        backward(outer(inputs()), False)
    assert calls == ["inner", "outer", "inner"]


@pytest.mark.parametrize("to", [False, True])
@pytest.mark.parametrize("what", ["weight of torch", "weight of Keras", "layer", "input"])
def test_training_that_is_switched_on_or_off_before_the_backward_pass(what, to):
    """Weights frozen or set free between the passes give the gradients of the plain run."""

    def run():
        x, layer = inputs(), dense() if what in ("weight of Keras", "layer") else linear()
        kernel = {"weight of torch": "weight", "weight of Keras": "_kernel", "input": None}
        tensor = x if what == "input" else getattr(layer, kernel.get(what) or "_kernel")
        tensor = getattr(tensor, "value", tensor)

        def switch(on):
            if what == "layer":
                layer.trainable = on
            else:
                tensor.requires_grad_(on)

        switch(not to)
        y = recompute_grad(lambda x: torch.tanh(layer(torch.tanh(layer(x)))))(x)
        switch(to)
        backward(y, False)
        assert tensor.requires_grad == to
        return x.grad, tensor.grad, *(p.grad for p in layer.parameters())

    assert_same(run)


def test_saved_tensors_hooks():
    """Hooks that move tensors are fine; those that change numbers are refused."""

    def run():
        x = inputs()
        with torch.autograd.graph.save_on_cpu():
            y = recompute_grad(lambda x: torch.tanh(torch.sin(x) * x))(x)
        backward(y, False)
        return (x.grad,)

    assert_same(run)
    hooks = torch.autograd.graph.saved_tensors_hooks
    refused = pytest.raises(RuntimeError, match="give back other numbers than they are given")
    with recompute_scope(True), hooks(torch.Tensor.half, torch.Tensor.float), refused:
        recompute_grad(torch.sin)(inputs())
    with recompute_scope(True), hooks(lambda t: [t], lambda t: t[0]):
        recompute_grad(torch.sin)(inputs())


@pytest.mark.parametrize("name", ["grad", "vmap"])
def test_transformations_of_torch_are_refused(name):
    """torch.func around a recomputed call is an error that says what to do."""
    function = recompute_grad(lambda x: torch.sum(torch.sin(x)))
    with recompute_scope(True), pytest.raises(RuntimeError, match="transformation of torch"):
        getattr(torch.func, name)(function)(inputs().detach())


@pytest.fixture
def dynamo():
    """Return torch.compile's counters, fresh; nothing is compiled when the test is over."""
    import torch._dynamo.utils

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def compiled(function, weight, on, **options):
    """Run a compiled function twice; return its results and gradients."""
    x, weight.grad = inputs(), None
    with recompute_scope(on):
        step = torch.compile(function, backend="eager", **options)
        y = [step(x), step(x)][-1]
        y.sum().backward()
    return [array(a.detach()) for a in (y, x.grad, weight.grad)]


def block_in_a_step():
    """Return a step around a block, plain and decorated, and the weight of the block."""
    weight = inputs()

    def block(x, scale=2.0):
        return torch.tanh(x @ weight) * scale

    decorated = recompute_grad(block)
    return (
        lambda x: torch.sin(block(torch.cos(x))),
        lambda x: torch.sin(decorated(torch.cos(x))),
        weight,
    )


def test_a_compiled_step_is_in_one_piece_with_recompute_off(dynamo):
    """What is decorated does not break what torch.compile makes, even with fullgraph=True."""
    plain, decorated, weight = block_in_a_step()
    expected = compiled(plain, weight, False)
    dynamo.clear()
    found = compiled(decorated, weight, False, fullgraph=True)
    np.testing.assert_array_equal(found, expected)
    assert dynamo["stats"]["unique_graphs"] == 1
    assert not dynamo["graph_break"]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, where it breaks a graph
def test_a_compiled_step_with_recompute_on(dynamo):
    """A recomputed call runs as it is between two compiled pieces; nothing of ours is compiled."""
    plain, decorated, weight = block_in_a_step()
    expected = compiled(plain, weight, False)
    dynamo.clear()
    np.testing.assert_array_equal(compiled(decorated, weight, True), expected)
    assert dynamo["stats"]["unique_graphs"] == 2  # the cosine and the sine
    assert len(dynamo["graph_break"]) == 1
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="runs it outside of what is"):
        compiled(decorated, weight, True, fullgraph=True)


@pytest.mark.skipif(POLICY != "full", reason="torch compiles nothing below a dispatch mode")
def test_a_block_that_is_compiled_itself(dynamo):
    """A decorated function may be one that torch.compile has made; it is compiled in both runs."""
    weight, ran = inputs(), []

    def counting(graph, example):
        def run(*args):
            ran.append(graph)
            return graph.forward(*args)

        return run

    @recompute_grad
    @functools.partial(torch.compile, backend=counting)
    def block(x):
        return torch.tanh(torch.sin(x @ weight)) * x

    def run():
        x, weight.grad = inputs(), None
        block(x).sum().backward()
        return x.grad, weight.grad

    assert_same(run)
    assert len(ran) == 3
    assert all(graph is ran[0] for graph in ran)


def rounded(x, weight):
    """Return a product of rounded numbers, with the gradient of one that is not rounded."""

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return (torch.round(x * 4) / 4) @ weight

        @staticmethod
        def backward(ctx, gradient):
            x, weight = ctx.saved_tensors
            return gradient @ weight.T, x.T @ gradient

    return Rounded.apply(x, weight)


def by_torch(function):
    """Checkpoint a function as torch does."""
    return lambda x: torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)


OTHERS = {
    "function of autograd": lambda s, x: rounded(x, s.kernel.value),
    "straight through": lambda s, x: (
        x @ (s.kernel + keras.ops.stop_gradient(keras.ops.round(s.kernel * 4) / 4 - s.kernel))
    ),
    "checkpoint": lambda s, x: by_torch(lambda x: s.dense(torch.tanh(x @ s.kernel.value)))(x),
    "remat": lambda s, x: keras.remat(lambda x: torch.tanh(s.dense(x) @ s.kernel.value))(x),
    # Keras' own seeds and moving averages move on once more when these are run again, which makes
    # the gradients of a plain run what they are.
    "dropout": lambda s, x: s.second(
        by_torch(lambda x: s.first(s.dense(x), training=True))(s.first(x, training=True)),
        training=True,
    ),
    "dropout in remat": lambda s, x: keras.remat(lambda x: s.first(s.dense(x), training=True))(
        s.second(x, training=True)
    ),
    "averages": lambda s, x: by_torch(lambda x: s.norm(s.dense(x), training=True))(x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_do_to_gradients_inside_of_a_call(name):
    """Weights in functions of autograd, and in other checkpoints, have the plain gradients."""

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(WIDTH, "tanh")
            self.norm = keras.layers.BatchNormalization()
            self.first, self.second = (keras.layers.Dropout(0.4) for _ in range(2))

        def build(self, shape):
            self.dense.build(shape)
            self.norm.build(shape)
            self.kernel = self.add_weight(shape=(WIDTH, WIDTH), name="kernel")

        @recompute_grad
        def call(self, x):
            return OTHERS[name](self, x)

    def run():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        layer, x = Outer(), inputs()
        for _ in range(2):
            layer(torch.tanh(x)).square().sum().backward()
        trained = [v.value.grad for v in layer.trainable_variables]
        return (x.grad, *trained, *(v.value for v in layer.non_trainable_variables))

    assert_same(run)


def test_a_generator_of_a_module():
    """It draws the same mask again, and goes on from where it was."""

    class Drop(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator()
            self.generator.manual_seed(3)
            self.masks = []

        @recompute_grad
        def forward(self, x):
            self.masks.append((torch.rand(x.shape, generator=self.generator) > 0.5).float())
            return torch.sin(x) * self.masks[-1]

    found = []
    for on in (False, True):
        layer, x = Drop(), torch.zeros(20, requires_grad=True)
        with recompute_scope(on):
            for _ in range(2):
                layer(x).sum().backward()
        found.append([x.grad.tolist(), torch.rand(3, generator=layer.generator).tolist()])
    assert found[0] == found[1]


@pytest.mark.parametrize("how", ["in place", "replaced", "max_norm"])
def test_a_parameter_that_a_call_changes(how):
    """It would be changed twice: the call is refused."""

    class Changing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slow = torch.nn.Parameter(torch.ones(3), requires_grad=False)
            self.table = torch.nn.Embedding(4, 3, max_norm=0.1)

        @recompute_grad
        def forward(self, x):
            if how == "max_norm":
                return x * self.table(torch.tensor([0, 1, 2]))
            if how == "replaced":
                self.slow.data = self.slow.data * 0.9
            else:
                with torch.no_grad():
                    self.slow.mul_(0.9)
            return x * self.slow

    with recompute_scope(True), pytest.raises(RuntimeError, match="changes the parameter"):
        Changing()(torch.ones(3, requires_grad=True))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("after", ["nothing", "a sum", "a layer"])
def test_an_operation_that_fills_what_it_has_saved(inplace, after):
    """The noise of rrelu is drawn after autograd has saved it; recomputing does not end between."""
    first, second = torch.nn.Linear(3, 64), torch.nn.Linear(64, 2)
    ends = {"nothing": lambda y: y, "a sum": lambda y: y.sum() + 1.0, "a layer": second}

    @recompute_grad
    def block(x):
        y = torch.nn.functional.rrelu(first(x), 0.1, 0.9, training=True, inplace=inplace)
        return ends[after](y)

    gradients = []
    for on in (False, True):
        torch.manual_seed(5)
        x = torch.ones(2, 3, requires_grad=True)
        with recompute_scope(on):
            block(x).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_lazy_modules():
    """The call in which their parameters come to be runs plainly, the next one does not."""
    runs = []

    class Lazy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.LazyLinear(3)

        @recompute_grad
        def forward(self, x):
            runs.append(x)
            return torch.tanh(self.linear(x))

    layer = Lazy()
    with recompute_scope(True):
        for expected in (1, 3):
            layer(torch.ones(2, 4, requires_grad=True)).sum().backward()
            assert len(runs) == expected


def test_verify_of_a_model_with_a_generator():
    """Both runs draw the same numbers, and the generator is where it was."""

    class Noisy(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator()
            self.generator.manual_seed(3)

        def call(self, x):
            return x * torch.rand(x.shape, generator=self.generator)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(WIDTH), Noisy()])
    before = model.layers[-1].generator.get_state()
    x = np.ones((4, WIDTH), "float32")
    recompute.apply(model, layers=[Noisy])
    assert recompute.verify(model, x, x, loss="mse").ok
    assert torch.equal(before, model.layers[-1].generator.get_state())


@pytest.mark.parametrize("kernel", ["efficient_attention", "cudnn_attention", "flash_attention"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_memory_is_a_fused_kernel(monkeypatch, kernel, masked):
    """It keeps no scores, whichever kernel a device would choose; "math" keeps them."""
    import torch

    from perftricks.recompute.keras3 import private_torch, torch_meta

    def kept(chosen):
        monkeypatch.setattr(private_torch, "attention_kernel", lambda *given: chosen)
        q, k, v = (torch.empty(2, 4, 256, 16, device="meta", requires_grad=True) for _ in range(3))
        mask = torch.ones(2, 1, 256, 256, dtype=torch.bool, device="meta") if masked else None
        sizes = []
        with (
            torch.autograd.graph.saved_tensors_hooks(
                lambda x: sizes.append(x.untyped_storage().nbytes()) or x, lambda x: x
            ),
            torch_meta.attention("cpu"),
        ):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert out.shape == q.shape
        out.sum().backward()
        assert q.grad.shape == q.shape
        return max(sizes)

    scores = 2 * 4 * 256 * 256 * 4
    assert kept("math") >= scores
    assert kept(kernel) < scores


@pytest.mark.parametrize("create", [True, False], ids=["differentiable", "constant"])
@pytest.mark.parametrize("policy", ["full", "save_masks", "save_matmuls", ["inner"]])
def test_gradients_that_a_call_asks_for_itself(policy, create):
    """A call that takes derivatives of what it computes, as physics in a network does, is exact."""

    class Physics(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(WIDTH, "softplus")
            self.norm = keras.layers.BatchNormalization()
            self.dropout = keras.layers.Dropout(0.4)
            self.count = 0

        def build(self, shape):
            self.dense.build(shape)
            self.norm.build(shape)

        @recompute_grad(policy=policy)
        def call(self, x):
            self.count += 1
            y = recompute.keep(self.dropout(self.dense(x), training=True), "inner")
            y = self.norm(y, training=True)
            (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(
                first[0].sum(), x, create_graph=create, retain_graph=True
            )
            return torch.tanh(self.dense(x)) * (first + second) + y

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Physics()

        def build(self, shape):
            self.inner.build(shape)

        @recompute_grad
        def call(self, x):
            return self.inner(torch.sin(x))

    def run():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        layers, x = (Physics(), Outer(), Physics()), inputs()
        for _ in range(2):
            y = x
            for layer in layers:
                y = layer(y)
            y.square().sum().backward()
        assert [layers[0].count, layers[1].inner.count, layers[2].count] == [2, 2, 2]
        trained = [v.value.grad for layer in layers for v in layer.trainable_variables]
        state = [v.value for layer in layers for v in layer.non_trainable_variables]
        return (x.grad, *trained, *state)

    assert_same(run)


@pytest.mark.parametrize("how", ["another call", "a call without gradients", "by hand"])
def test_averages_that_change_before_the_backward_pass(how):
    """Moving averages that a call has used may be updated before the gradients are taken."""

    def run():
        keras.utils.clear_session()
        norm, x = keras.layers.BatchNormalization(), inputs()
        norm.build(x.shape)
        call = recompute_grad(lambda x: torch.tanh(norm(torch.sin(x), training=False)))
        for _ in range(2):
            loss = call(x).square().sum()
            if how == "another call":
                loss = loss + norm(x, training=True).pow(4).sum()
            elif how == "by hand":
                norm.moving_mean.assign(norm.moving_mean + 1)
            else:
                with torch.no_grad():
                    norm(x, training=True)
            loss.backward()
        return (x.grad, *(v.value.grad for v in norm.trainable_variables), norm.moving_mean.value)

    assert_same(run)


@pytest.mark.parametrize("inside", [True, False])
def test_a_backward_pass_of_a_call(inside):
    """One that stays within the call is exact; one that adds to gradients of others is refused."""

    class Descent(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(WIDTH, "softplus")

        def build(self, shape):
            self.dense.build(shape)

        @recompute_grad
        def call(self, x):
            z = x.detach().requires_grad_() if inside else x * 1
            energy = (z**2).sum() if inside else self.dense(z).sum()
            energy.backward(retain_graph=True)
            return self.dense(x) * (z.grad if inside else 1)

    def run():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        layer, x = Descent(), inputs()
        layer(layer(x)).square().sum().backward()
        return (x.grad, *(v.value.grad for v in layer.trainable_variables))

    if inside:
        assert_same(run)
        return
    with pytest.raises(RuntimeError, match=r"runs backward\(\) itself"), recompute_scope(True):
        run()
