"""What a policy keeps is not computed again, and no bit is another than without it."""

from __future__ import annotations

import contextlib
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks import recompute
from perftricks.recompute import keep, recompute_grad, recompute_scope
from tests.recompute.graphs import needed
from tests.recompute.keras3.training import (
    BACKEND,
    array,
    fresh_model,
    gradient,
    only_jax,
    only_torch,
)

WIDTH = 16


def only_products(kind, name):
    return kind == "matmul"


def named(policy):
    """Return a name for a test, the same in every process."""
    return getattr(policy, "__name__", str(policy))


POLICIES = ["full", "save_masks", "save_matmuls", "save_attention", ["up"], only_products]


class Block(layers.Layer):
    """Two products, and what is cheap around them; the result of the first one has a name."""

    def build(self, shape):
        self.up = self.add_weight(shape=(WIDTH, 2 * WIDTH), name="up")
        self.down = self.add_weight(shape=(2 * WIDTH, WIDTH), name="down")
        self.norm, self.dropout = layers.LayerNormalization(), layers.Dropout(0.3, seed=5)
        self.norm.build(shape)

    def compute(self, x):
        y = keep(ops.matmul(self.norm(x), self.up), "up")
        y = self.dropout(ops.tanh(y), training=True)
        return x + ops.sin(ops.matmul(y, self.down))

    call = compute


class Convolved(layers.Layer):
    """Convolutions of every kind, normalized and activated."""

    def build(self, shape):
        self.parts = [
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(),
            layers.SeparableConv2D(8, 3, padding="same", activation="gelu"),
            layers.Conv2DTranspose(shape[-1], 3, padding="same"),
        ]
        for part in self.parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return ops.tanh(x)


class Attentive(layers.Layer):
    """Attention of several kinds; the first may be one operation."""

    def build(self, shape):
        self.first = layers.MultiHeadAttention(2, WIDTH // 2)
        self.second = layers.MultiHeadAttention(2, WIDTH // 2, dropout=0.2, seed=3)
        for attention in (self.first, self.second):
            attention.build(shape, shape)

    def call(self, x):
        return x + self.second(ops.tanh(self.first(x, x)), x, training=True)


SHAPES = {Block: (WIDTH,), Convolved: (8, 8, 4), Attentive: (6, WIDTH)}


def with_policy(kind, policy):
    """Return a subclass of a layer whose call is recomputed under a policy."""
    return type(kind.__name__, (kind,), {"call": recompute_grad(kind.call, policy=policy)})


def as_written():
    """Have JAX run programs as they are written; XLA rounds as it likes where it fuses."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.disable_jit()


def telling(is_told):
    """Expect to be told that a policy names what keep names nowhere, or nothing of the kind."""
    return pytest.warns(RuntimeWarning, match=TOLD) if is_told else contextlib.nullcontext()


TOLD = r"the policy of \S+ keeps what is named '\w+', but no keep\(x, name\) gives that name there"


def trained(kind, policy, on):
    """Train a model of three such layers; return losses and all variables."""
    model = fresh_model(
        lambda: keras.Sequential(
            [
                keras.Input(SHAPES[kind]),
                *(with_policy(kind, policy)() for _ in range(3)),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=BACKEND == "jax")
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((8, *SHAPES[kind])), draw.standard_normal((8, 3))
    with recompute_scope(on), as_written():
        losses = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"]
    return losses, [array(v) for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize("kind", SHAPES)
def test_training_is_the_same(kind, policy):
    """Losses, weights, moving averages and seeds are those of the plain run."""
    losses, plain = trained(kind, policy, False)
    with telling(policy == ["up"] and kind is not Block):
        again, others = trained(kind, policy, True)
    assert losses == again
    for a, b in zip(plain, others, strict=True):
        np.testing.assert_array_equal(a, b)


def counted_in_a_step(policy):
    """Return how many products and draws a gradient of a block takes, and the gradients."""
    block = with_policy(Block, policy)()
    block.build((None, WIDTH))
    for number, weight in enumerate(block.weights):
        if "float" in weight.dtype and len(weight.shape) == 2:
            weight.assign(np.random.default_rng(number).standard_normal(weight.shape))
    x = np.random.default_rng(9).standard_normal((4, WIDTH)).astype("float32")
    with recompute_scope(True):
        return _COUNTS[BACKEND](block, ops.convert_to_tensor(x))


def _tensorflow(block, x):
    import tensorflow as tf

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.sum(ops.square(block(x)))
        return tape.gradient(y, [x, block.up.value, block.down.value])

    concrete = gradients.get_concrete_function(x)
    operations = needed(concrete.graph)
    draws = sum(kind.startswith("StatelessRandomUniform") for kind in operations)
    return operations.count("MatMul"), draws, [array(g) for g in concrete(x)]


def _jax(block, x):
    import jax

    up, down = block.up, block.down

    def loss(x, *values):
        with keras.StatelessScope(state_mapping=list(zip((up, down), values))):
            return ops.sum(ops.square(block(x)))

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    given = x, up.value, down.value
    program = str(jax.make_jaxpr(gradient)(*given))
    with as_written():
        gradients = [array(g) for g in gradient(*given)]
    return program.count("dot_general["), program.count("random_bits["), gradients


def _torch(block, x):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        products = draws = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            self.draws += func is torch.ops.aten.bernoulli.default
            return func(*args, **(kwargs or {}))

    x.requires_grad_(True)
    with Counting() as counting:
        ops.sum(ops.square(block(x))).backward()
    gradients = [array(v.grad) for v in (x, block.up.value, block.down.value)]
    return counting.products, counting.draws, gradients


_COUNTS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


@pytest.mark.parametrize(
    ("policy", "again", "drawn"),
    [
        ("full", 2, 1),
        ("save_masks", 2, 0),
        ("save_matmuls", 0, 0),
        (["up"], 1, 1),
        (["other"], 2, 1),
        (only_products, 0, 1),
    ],
    ids=named,
)
def test_what_is_kept_is_not_computed_again(policy, again, drawn):
    """A gradient of the block takes two products forward, four backward, and those again."""
    with telling(policy == ["other"]):
        products, draws, gradients = counted_in_a_step(policy)
    assert products == 6 + again
    # In graphs of TensorFlow the second run takes masks from the first, whatever is asked for.
    assert draws == 1 + (drawn if BACKEND != "tensorflow" else 0)
    for a, b in zip(gradients, counted_in_a_step("full")[2], strict=True):
        np.testing.assert_array_equal(a, b)


class Named(layers.Dense):
    """A product with a name."""

    def __init__(self, name):
        super().__init__(WIDTH)
        self.kept = name

    def call(self, x):
        return keep(super().call(x), self.kept)


@pytest.mark.parametrize("options", [{"every": 1}, {"layers": Named}], ids=["every", "layers"])
@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["a"], ""),
        (["a", "b"], ""),
        (["a", "c"], "'c', but .*; the names there are 'a', 'b'$"),
        (["c", "d"], "'c' and 'd', but .*; the names there are 'a', 'b'$"),
    ],
)
def test_names_that_no_part_of_a_model_gives(names, missing, options):
    """The whole plan is told of, once, for a name is rarely in each of its segments."""
    model = fresh_model(
        lambda: keras.Sequential(
            [keras.Input((WIDTH,)), layers.Dense(WIDTH), Named("a"), Named("b"), layers.Dense(1)]
        )
    )
    recompute.apply(model, policy=names, **options)
    model.compile("sgd", "mse")
    x = np.ones((4, WIDTH), "float32")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            model.fit(x, x[:, :1], epochs=2, verbose=0)
        model.evaluate(x, x[:, :1], verbose=0)
    told = [str(w.message) for w in told if "keep(" in str(w.message)]
    assert len(told) == bool(missing)
    if missing:
        assert re.match(
            "the policy of the plan of %s keeps what is named %s" % (model.name, missing), told[0]
        )


def test_names_that_a_decorated_call_does_not_give():
    """They are told, once, with those that there are."""

    @recompute_grad(policy=["inside", "outside"])
    def function(x):
        return ops.tanh(keep(ops.sin(x), "outside"))

    x = np.ones(3, "float32")
    plain = gradient(lambda x: ops.sum(function(x)), x)
    told = "of .*function keeps what is named 'inside', but .*; the names there are 'outside'$"
    with recompute_scope(True), pytest.warns(RuntimeWarning, match=told):
        again = gradient(lambda x: ops.sum(function(x)), x)
    np.testing.assert_array_equal(plain, again)
    with recompute_scope(True):
        gradient(lambda x: ops.sum(function(x)), x)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="there the first run is that of the outer call")
def test_names_in_a_call_inside_belong_to_that():
    """Its policy decides about them, and not that of the call around it."""

    @recompute_grad
    def inner(x):
        return keep(ops.sin(x), "inside")

    @recompute_grad(policy=["inside"])
    def outer(x):
        return ops.tanh(inner(x))

    told = "of .*outer keeps what is named 'inside', but .*; the names there are none at all$"
    with recompute_scope(True), pytest.warns(RuntimeWarning, match=told):
        gradient(lambda x: ops.sum(outer(x)), np.ones(3, "float32"))


@only_jax
def test_names_that_jax_gives():
    """A name of JAX's own ``checkpoint_name``, in a function inside of the call too, is a name."""
    import jax
    from jax.ad_checkpoint import checkpoint_name

    @recompute_grad(policy=["product"])
    def function(x):
        return ops.sin(jax.jit(lambda x: checkpoint_name(x @ x, "product"))(x))

    with recompute_scope(True):
        program = jax.make_jaxpr(jax.grad(lambda x: ops.sum(function(x))))(np.ones((2, 2)))
    assert str(program).count("dot_general[") == 3

    @recompute_grad(policy=["sum"])
    def other(x):
        return ops.sin(checkpoint_name(x, "product"))

    with recompute_scope(True), pytest.warns(RuntimeWarning, match="names there are 'product'"):
        gradient(lambda x: ops.sum(other(x)), np.ones(2, "float32"))


@only_jax
@pytest.mark.parametrize(("which", "again"), [("dots_saveable", 0), ("names", 1)])
def test_policies_of_jax(which, again):
    """On JAX, one of jax.checkpoint_policies does there what it does for jax.checkpoint."""
    import jax

    known = jax.checkpoint_policies
    policy = known.save_only_these_names("up") if which == "names" else known.dots_saveable
    products, _, gradients = counted_in_a_step(policy)
    assert products == 6 + again
    for a, b in zip(gradients, counted_in_a_step("full")[2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(BACKEND == "jax", reason="there they can be had")
def test_policies_of_jax_are_refused_elsewhere():
    """They would say no to everything."""

    def dots_saveable(primitive, *types, **parameters):
        return False

    dots_saveable.__module__ = "jax._src.ad_checkpoint"
    told = "dots_saveable is one of jax.checkpoint_policies, and Keras computes with " + BACKEND
    with pytest.raises(TypeError, match=told):
        recompute.apply(fresh_model(_stack), policy=dots_saveable)
    call = recompute_grad(ops.sin, policy=dots_saveable)
    with recompute_scope(True), pytest.raises(TypeError, match=told):
        gradient(lambda x: ops.sum(call(x)), np.ones(3, "float32"))


@only_torch
def test_a_function_in_the_manner_of_torch_is_refused():
    """What it returns would count as True, whatever it means."""
    from torch.utils.checkpoint import CheckpointPolicy

    def selective(context, operation, *args, **kwargs):
        return CheckpointPolicy.PREFER_RECOMPUTE

    call = recompute_grad(lambda x: ops.sin(keep(x, "x")), policy=selective)
    with recompute_scope(True), pytest.raises(TypeError, match=r"returns True to keep.*selective"):
        call(ops.ones(3))


def test_apply_with_a_policy(tmp_path):
    """A plan names the policy of its segments, in a file too, unless that is a function."""
    model = fresh_model(_stack)
    plan = recompute.apply(model, every=2, policy=["a", "b"])
    assert {s.policy for s in plan.segments if s.recomputed} == {("a", "b")}
    assert "(keeps a, b)" in str(plan)
    plan.save(tmp_path / "plan.json")
    assert recompute.Plan.load(tmp_path / "plan.json") == plan
    with pytest.raises(ValueError, match="with a plan, which has chosen, policy"):
        recompute.apply(model, plan=plan, policy="full")
    plan = recompute.plan(model, every=2, policy=only_products)
    with pytest.raises(ValueError, match="a plan whose policy is a function cannot be written"):
        plan.save(tmp_path / "plan.json")
    x = np.random.default_rng(1).standard_normal((8, WIDTH))
    weights = []
    for options in (None, {"every": 2}, {"layers": layers.Dense}):
        model = fresh_model(_stack)
        if options is not None:
            recompute.apply(model, policy="save_matmuls", **options)
        model.compile("sgd", "mse", jit_compile=False, run_eagerly=BACKEND == "jax")
        with as_written():
            model.fit(x, x, batch_size=4, shuffle=False, verbose=0)
        weights.append([array(v) for v in model.variables])
    for others in weights[1:]:
        for a, b in zip(weights[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_functions_have_policies():
    """So has a decorated function, in the functional API too."""

    @recompute_grad(policy="save_matmuls")
    def block(x):
        return ops.sin(layers.Dense(WIDTH)(layers.Dense(WIDTH, "tanh")(x)))

    def build():
        inputs = keras.Input((WIDTH,))
        return keras.Model(inputs, layers.Dense(1)(block(block(inputs))))

    x = np.random.default_rng(1).standard_normal((8, WIDTH))
    weights = []
    for on in (False, True):
        model = fresh_model(build)
        model.compile("sgd", "mse", jit_compile=False, run_eagerly=BACKEND == "jax")
        with recompute_scope(on), as_written():
            model.fit(x, x[:, :1], batch_size=4, shuffle=False, verbose=0)
        weights.append([array(v) for v in model.variables])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@only_torch
@pytest.mark.parametrize(
    "policy", ["save_masks", "save_matmuls", "save_attention", lambda kind, name: True]
)
def test_what_torch_changes_in_place_and_draws(policy):
    """An activation in place after a convolution, attention with dropout, and dropout after it."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv1d(4, 4, 3, padding=1)
            self.activation = torch.nn.ReLU(inplace=True)
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, x):
            x = torch.nn.functional.dropout(self.activation(self.convolution(x)))
            scaled = torch.nn.functional.scaled_dot_product_attention
            y = scaled(x[:, None], x[:, None], x[:, None], dropout_p=0.3)[:, 0]
            y = scaled(y[:, None], x[:, None], x[:, None])[:, 0]
            return torch.nn.functional.dropout(torch.tanh(self.linear(y)), 0.4)

    found = []
    for on in (False, True):
        torch.manual_seed(4)
        net = Net()
        call = recompute_grad(lambda x, net=net: net(x), policy=policy)
        x = torch.randn(2, 4, 8, requires_grad=True)
        with recompute_scope(on):
            y = call(x)
            y.sum().backward(retain_graph=True)
            y.square().sum().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in net.parameters()), torch.rand(3)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@only_torch
def test_one_operation_of_attention_runs_once():
    """Under save_attention, fused attention is not run again; its gradient takes what it gave."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += "attention" in func.name() and "backward" not in func.name()
            return func(*args, **(kwargs or {}))

    counts = []
    for policy in ("full", "save_attention"):

        @recompute_grad(policy=policy)
        def attend(x):
            y = torch.tanh(x)
            return torch.sin(torch.nn.functional.scaled_dot_product_attention(y, y, y))

        x = torch.randn(2, 2, 6, 8, requires_grad=True)
        with recompute_scope(True), Counting() as counting:
            attend(x).sum().backward()
        counts.append(counting.count)
    assert counts == [2, 1]


def test_status_says_what_is_kept():
    """And what cannot be kept here."""
    model = fresh_model(
        lambda: keras.Sequential(
            [keras.Input((6, WIDTH)), with_policy(Attentive, "save_attention")()]
        )
    )
    with recompute_scope(True):
        (part,) = recompute.status(model).parts
    assert part.on
    if BACKEND == "torch":
        assert part.why.endswith("; save_attention")
    else:
        assert part.why.endswith("; save_attention, of which nothing can be kept on " + BACKEND)
    recompute.apply(model := fresh_model(_stack), every=1, policy="save_matmuls")
    whys = {part.why for part in recompute.status(model).parts if part.on}
    where = ", in graphs, and nothing eagerly" if BACKEND == "tensorflow" else ""
    assert all(why.endswith("; save_matmuls" + where) for why in whys)


def _stack():
    return keras.Sequential(
        [keras.Input((WIDTH,)), *(layers.Dense(WIDTH, "tanh") for _ in range(6))]
    )


@only_torch
@pytest.mark.parametrize("inner", ["full", "save_masks", "save_matmuls", ["inside"]], ids=named)
@pytest.mark.parametrize("outer", ["full", "save_masks", "save_matmuls", ["outside"]], ids=named)
def test_policies_inside_of_each_other(outer, inner):
    """Each call keeps by its own policy, whichever way operations are noticed for it."""
    import torch

    weight = torch.linspace(-1, 1, 36).reshape(6, 6).requires_grad_()

    @recompute_grad(policy=inner)
    def inside(x):
        x = keep(torch.tanh(x @ weight), "inside")
        return torch.nn.functional.dropout(x, 0.5) @ weight

    @recompute_grad(policy=outer)
    def outside(x):
        x = inside(torch.nn.functional.dropout(torch.sin(x @ weight), 0.5))
        return keep(inside(torch.cos(x)), "outside") @ weight

    def gradients(on):
        torch.manual_seed(3)
        x = torch.linspace(-2, 2, 24).reshape(4, 6).requires_grad_()
        with recompute_scope(on):
            loss = outside(x).square().sum()
        return [loss, *torch.autograd.grad(loss, [x, weight]), torch.rand(3)]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_array_equal(array(plain), array(recomputed))
