"""What the frameworks do around a call: transformations, tapes, hooks, loops, compilers.

Each program is run plainly and recomputed, whole, and leaves the same losses and gradients.
"""

from __future__ import annotations

import functools
import warnings

import keras
import numpy as np
from keras import layers

from tests.recompute.comparison import Run
from tests.recompute.keras3.programs import WIDTH, data, fitted, network, sgd
from tests.recompute.keras3.training import (
    BACKEND,
    GROWN,
    ROUNDING,
    array,
    assert_same_program,
    in_turn,
    variables_of,
)

PROGRAMS = {}


def program(backend, tolerance=ROUNDING):
    """Add a program of one backend; within a tolerance where it adds in another order."""

    def add(function):
        if backend == BACKEND:
            PROGRAMS[function] = tolerance
        return function

    return add


def gradients(model, values, loss=0.0):
    """Return gradients of all trainable variables; None stays None."""
    pairs = zip(model.trainable_variables, values)
    return Run([float(loss)], {v.path: array(g) for v, g in pairs if g is not None})


def values_of(variables):
    return [v.value for v in variables]


def jax_loss(model, training=True):
    """Return a function of weights, state and a batch that gives a loss and the new state."""

    def loss(weights, state, x, y):
        outputs, state = model.stateless_call(weights, state, x, training=training)
        return ((outputs - y) ** 2).mean(), state

    return loss


def jax_state(model):
    return values_of(model.trainable_variables), values_of(model.non_trainable_variables)


@program("jax")
def donation(way):
    """A step that is compiled and is given its own state to overwrite."""
    import jax

    model, optimizer = network(way), sgd()
    optimizer.build(model.trainable_variables)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(weights, state, moments, x, y):
        compute = jax.value_and_grad(jax_loss(model), has_aux=True)
        (loss, state), found = compute(weights, state, x, y)
        weights, moments = optimizer.stateless_apply(moments, found, weights)
        return loss, weights, state, moments

    held = jax.tree.map(jax.numpy.array, (*jax_state(model), values_of(optimizer.variables)))
    losses = []
    for seed in range(3):
        loss, *held = step(*held, *data(seed))
        losses.append(float(loss))
    return Run(losses, {str(i): np.array(x) for i, x in enumerate(jax.tree.leaves(held))})


@program("jax")
def scanned_steps(way):
    """Steps in ``lax.scan``."""
    import jax

    model, optimizer = network(way), sgd()
    optimizer.build(model.trainable_variables)

    def step(held, batch):
        weights, state, moments = held
        compute = jax.value_and_grad(jax_loss(model), has_aux=True)
        (loss, state), found = compute(weights, state, *batch)
        weights, moments = optimizer.stateless_apply(moments, found, weights)
        return (weights, state, moments), loss

    batches = [np.stack(some) for some in zip(*map(data, range(3)))]
    held, losses = jax.jit(functools.partial(jax.lax.scan, step))(
        (*jax_state(model), values_of(optimizer.variables)), batches
    )
    found = {str(i): np.array(x) for i, x in enumerate(jax.tree.leaves(held))}
    return Run([*map(float, losses)], found)


@program("jax")
def scanned_layers(way):
    """A model in the body of ``lax.scan``, of ``fori_loop`` and of ``cond``."""
    import jax

    model = network(way)
    weights, state = jax_state(model)
    x, y = data()

    def loss(weights):
        def run(x):
            return model.stateless_call(weights, state, x, training=False)[0]

        h, means = jax.lax.scan(lambda h, _: (run(h), h.mean()), x, None, length=2)
        h = jax.lax.fori_loop(0, 2, lambda _, h: run(h), h)
        h = jax.lax.cond(means.sum() < 1e9, run, lambda h: h, h)
        return ((h - y) ** 2).mean()

    value, found = jax.jit(jax.value_and_grad(loss))(weights)
    return gradients(model, found, value)


@program("jax")
def vmapped(way):
    """Gradients for each example, and two sets of weights at once."""
    import jax

    model = network(way)
    weights, state = jax_state(model)
    x, y = data()

    def loss(weights, x, y):
        return jax_loss(model, False)(weights, state, x, y)[0]

    each = jax.vmap(jax.grad(loss), (None, 0, 0))(weights, x[:, None], y[:, None])
    pairs = [jax.numpy.stack([w, 2 * w]) for w in weights]
    both = jax.jit(jax.vmap(jax.grad(loss), (0, None, None)))(pairs, x, y)
    first, second = gradients(model, each), gradients(model, both)
    return Run([], {**first.arrays, **{f"both {k}": v for k, v in second.arrays.items()}})


@program("jax", GROWN)
def derivatives_of_derivatives(way):
    """``jvp``, ``linearize``, ``jacrev`` over ``jacfwd``."""
    import jax

    model = network(way)
    weights, state = jax_state(model)
    x, y = data(rows=2)

    def run(x):
        return model.stateless_call(weights, state, x, training=False)[0]

    found = {
        "jvp": jax.jvp(run, (x,), (y,))[1],
        "linear": jax.linearize(run, x)[1](y),
        "hessian": jax.hessian(lambda x: run(x).sum())(x),
    }
    return Run([], {k: np.array(v) for k, v in found.items()})


@program("jax")
def checkpointed_twice(way):
    """The whole loss in ``jax.checkpoint``, with a policy."""
    import jax

    model = network(way)
    policy = jax.checkpoint_policies.dots_saveable

    @functools.partial(jax.checkpoint, policy=policy)
    def loss(weights):
        return jax_loss(model)(weights, state, *data())[0]

    weights, state = jax_state(model)
    value, found = jax.jit(jax.value_and_grad(loss))(weights)
    return gradients(model, found, value)


@program("jax")
def looking_for_nans(way):
    """``jax.debug_nans`` and ``jax.checking_leaks`` around a fit."""
    import jax

    model = network(way)
    model.compile(sgd(), "mse")
    with jax.debug_nans(True):
        first = fitted(model, epochs=1)
    model.compile(sgd(), "mse")
    with jax.checking_leaks():
        second = fitted(model, epochs=1)
    return Run(first.losses + second.losses, second.arrays)


class StraightThrough(layers.Layer):
    """Rounds weights and passes the gradient through, by a ``custom_vjp`` of JAX."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], WIDTH), name="kernel")

    def call(self, x):
        import jax

        @jax.custom_vjp
        def rounded(x, kernel):
            return x @ (jax.numpy.round(8 * kernel) / 8)

        def forward(x, kernel):
            return rounded(x, kernel), (x, kernel)

        def backward(kept, upstream):
            x, kernel = kept
            return upstream @ kernel.T, x.T @ upstream

        rounded.defvjp(forward, backward)
        return x + rounded(x, self.kernel.value)


@program("jax")
def straight_through(way):
    """A ``custom_vjp`` inside of a call is the gradient of the call."""
    inputs = keras.Input((WIDTH,))
    x = inputs
    for _ in range(2):
        x = way.layer(StraightThrough)()(x)
    model = way.model(inputs, layers.Dense(WIDTH)(x))
    model.compile(sgd(), "mse")
    return fitted(model)


def tensorflow_data(seed=0, rows=8):
    import tensorflow as tf

    return [tf.constant(x) for x in data(seed, rows)]


def mean_square(x, y):
    return keras.ops.mean((x - y) ** 2)


@program("tensorflow")
def persistent_tape(way):
    """Two losses of one forward pass, each with a gradient of its own, eagerly and in a graph."""
    import tensorflow as tf

    model = network(way)
    x, y = tensorflow_data()

    def run():
        with tf.GradientTape(persistent=True) as tape:
            outputs = model(x, training=True)
            losses = mean_square(outputs, y), keras.ops.mean(abs(outputs))
        return [tape.gradient(loss, values_of(model.trainable_variables)) for loss in losses]

    found = [*run(), *tf.function(run)()]
    return Run(
        [],
        {f"{i} {k}": v for i, g in enumerate(found) for k, v in gradients(model, g).arrays.items()},
    )


@program("tensorflow")
def two_tapes(way):
    """A generator and a critic, of which each has a tape around the same forward pass."""
    import tensorflow as tf

    parts, optimizers = (network(way), network(way, outputs=1)), (sgd(), sgd())
    for part, optimizer in zip(parts, optimizers):
        optimizer.build(part.trainable_variables)

    @tf.function
    def step(x, noise):
        with tf.GradientTape() as first, tf.GradientTape() as second:
            fake = parts[1](parts[0](noise, training=True), training=True)
            real = parts[1](x, training=True)
            losses = (
                keras.ops.mean(keras.ops.softplus(-fake)),
                keras.ops.mean(keras.ops.softplus(fake) + keras.ops.softplus(-real)),
            )
        for tape, loss, part, optimizer in zip((first, second), losses, parts, optimizers):
            weights = part.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return losses

    losses = [float(loss) for seed in range(2) for loss in step(*tensorflow_data(seed))]
    return Run(losses, variables_of(*parts, *optimizers))


@program("tensorflow")
def jacobians(way):
    """``jacobian`` and ``batch_jacobian``, which vectorize the backward pass."""
    import tensorflow as tf

    model = network(way)
    x, y = tensorflow_data(rows=3)

    @tf.function
    def run():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            outputs = model(x, training=False)
            losses = keras.ops.mean((outputs - y) ** 2, -1)
        weights = values_of(model.trainable_variables)
        return tape.jacobian(losses, weights), tape.batch_jacobian(outputs, x)

    found, of_inputs = run()
    return Run([], {**gradients(model, found).arrays, "inputs": array(of_inputs)})


@program("tensorflow", GROWN)
def loops_of_tensorflow(way):
    """A model in ``tf.while_loop``, in ``map_fn`` and in a branch."""
    import tensorflow as tf

    model = network(way)
    x, y = tensorflow_data(rows=3)

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            h = tf.map_fn(lambda row: model(row[None], training=False)[0], x)
            for _ in tf.range(2):
                h = model(h, training=True)
            if tf.reduce_sum(h) < 1e9:
                h = model(h, training=False)
            loss = mean_square(h, y)
        return loss, tape.gradient(loss, values_of(model.trainable_variables))

    loss, found = run()
    run = gradients(model, found, loss)
    return Run(run.losses, {**run.arrays, **variables_of(model)})


@program("tensorflow")
def steps_in_a_loop(way):
    """A loop over a dataset, traced, with tape and update inside."""
    import tensorflow as tf

    model, optimizer = network(way), sgd()
    optimizer.build(model.trainable_variables)

    @tf.function
    def run(batches):
        total = 0.0
        for x, y in batches:
            with tf.GradientTape() as tape:
                loss = mean_square(model(x, training=True), y)
            weights = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
            total += loss
        return total

    loss = run(tf.data.Dataset.from_tensor_slices(data()).batch(4))
    return Run([float(loss)], variables_of(model, optimizer))


@program("tensorflow", GROWN)
def penalty(way):
    """WGAN-GP: the norm of a gradient is part of the loss."""
    import tensorflow as tf

    model, optimizer = network(way, outputs=1), sgd()
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                outputs = model(x, training=True)
            norms = tf.norm(inner.gradient(outputs, x), axis=1)
            loss = tf.reduce_mean(outputs) + 10 * tf.reduce_mean((norms - 1) ** 2)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return loss

    losses = [float(step(tensorflow_data(seed)[0])) for seed in range(2)]
    return Run(losses, variables_of(model, optimizer))


@program("tensorflow")
def parts_of_a_gradient(way):
    """Only what is watched, with an upstream gradient, next to what is not recorded."""
    import tensorflow as tf

    model = network(way)
    x, y = tensorflow_data()
    some = values_of(model.trainable_variables)[2:5]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(some)
        with tape.stop_recording():
            before = model(x, training=True)
        outputs = model(x + before, training=True)
    found = tape.gradient(outputs, some, output_gradients=y)
    return Run([], {str(i): array(g) for i, g in enumerate(found)})


@program("tensorflow")
def adversarial(way):
    """FGM: an embedding is moved along its gradient, and moved back before the update."""
    import tensorflow as tf

    tokens = keras.Input((5,), dtype="int32")
    x = way.layer(layers.Dense)(WIDTH, "gelu")(layers.Embedding(11, WIDTH)(tokens))
    model, optimizer = way.model(tokens, layers.Dense(1)(x)), sgd()
    optimizer.build(model.trainable_variables)
    x = tf.constant(np.random.default_rng(0).integers(0, 11, (8, 5)), tf.int32)

    @tf.function
    def step():
        table, *_ = weights = model.trainable_variables
        with tf.GradientTape() as tape:
            first = tf.reduce_mean((model(x, training=True) - 1) ** 2)
        direction = tf.convert_to_tensor(tape.gradient(first, table.value))
        direction *= 0.5 / tf.norm(direction)
        table.assign_add(direction)
        with tf.GradientTape() as tape:
            second = tf.reduce_mean((model(x, training=True) - 1) ** 2)
        found = tape.gradient(second, values_of(weights))
        table.assign_sub(direction)
        optimizer.apply_gradients(zip(found, weights))
        return first, second

    losses = [float(loss) for _ in range(2) for loss in step()]
    return Run(losses, variables_of(model, optimizer))


@program("tensorflow", GROWN)
def checked_numerics(way):
    """``tf.debugging.enable_check_numerics`` rewrites each operation."""
    import tensorflow as tf

    model = network(way)
    model.compile(sgd(), "mse")
    tf.debugging.enable_check_numerics()
    try:
        return fitted(model)
    finally:
        tf.debugging.disable_check_numerics()


@program("torch")
def torch_loop(way):
    """An optimizer, a schedule and clipping of torch; train and eval, with and without grad."""
    import torch

    model = network(way)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    losses = []
    for seed in range(2):
        x, y = torch_data(seed)
        model.train()
        loss = mean_square(model(x, training=True), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            second = mean_square(model(x), y)
        with torch.inference_mode():
            third = mean_square(model(x), y)
        losses += map(float, (loss.detach(), norm, second, third))
    return Run(losses, variables_of(model))


def torch_data(seed=0, rows=8):
    import torch

    return [torch.from_numpy(x) for x in data(seed, rows)]


def torch_step(model, call, *batches, rate=0.05):
    """Take a step of gradient descent; return the loss."""
    import torch

    loss = sum(mean_square(call(x), y) for x, y in batches)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= rate * weight.grad
    return float(loss.detach())


@program("torch")
def autocast(way):
    """``torch.autocast``: the backward pass, outside of it, computes again inside of it."""
    import torch

    model = network(way)

    def call(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x, training=True).float()

    losses = [torch_step(model, call, torch_data(seed)) for seed in range(2)]
    return Run(losses, variables_of(model))


@program("torch")
def several_gradients(way):
    """A graph is kept for a second backward pass, and for a gradient of a gradient."""
    import torch

    model = network(way, outputs=1)
    x, y = torch_data()
    loss = mean_square(model(x.requires_grad_(), training=True), y[:, :1])
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    ((dx.norm(dim=1) - 1) ** 2).mean().backward()
    return gradients(model, [v.value.grad for v in model.trainable_variables], loss.detach())


@program("torch")
def hooks(way):
    """Hooks of gradients change them once; a weight is updated as soon as its gradient is there."""
    model, seen = network(way), []
    for weight in model.parameters():
        if weight.requires_grad:
            weight.register_hook(lambda gradient: seen.append(1) or 0.5 * gradient)
            weight.register_post_accumulate_grad_hook(_updated)
    losses = []
    for seed in range(2):
        x, y = torch_data(seed)
        loss = mean_square(model(x, training=True), y)
        loss.backward()
        losses.append(float(loss.detach()))
    return Run([*losses, len(seen)], variables_of(model))


def _updated(weight):
    weight.data -= 0.05 * weight.grad
    weight.grad = None


@program("torch")
def kept_elsewhere(way):
    """``save_on_cpu`` and anomaly detection around a step."""
    import torch

    model = network(way)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Anomaly Detection")
        anomalies = torch.autograd.detect_anomaly()
    with torch.autograd.graph.save_on_cpu(), anomalies:
        loss = torch_step(model, lambda x: model(x, training=True), torch_data())
    return Run([loss], variables_of(model))


@program("torch")
def modules_of_torch(way):
    """Modules of torch inside of decorated layers, and a model of Keras inside of a module."""
    import torch

    class Inner(layers.Layer):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def call(self, x, training=None):
            return self.module.train(bool(training))(x)

    class Outer(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.head = model, torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.head(self.model(x, training=True))

    torch.manual_seed(0)
    inputs = x = keras.Input((WIDTH,))
    for _ in range(2):
        x = way.layer(Inner)(
            torch.nn.Sequential(
                torch.nn.Linear(WIDTH, WIDTH),
                torch.nn.BatchNorm1d(WIDTH),
                torch.nn.ReLU(inplace=True),
                torch.nn.Dropout(0.3),
            )
        )(x)
    module = Outer(way.model(inputs, layers.Dense(WIDTH)(x)))
    losses = [torch_step(module, module, torch_data(seed)) for seed in range(2)]
    return Run(losses, {k: v.numpy().copy() for k, v in module.state_dict().items()})


@program("torch")
def second_order_optimizer(way):
    """L-BFGS runs the model as often as it likes."""
    import torch

    model = network(way)
    # Keras lists its seeds, whole numbers, among the parameters.
    optimizer = torch.optim.LBFGS([v.value for v in model.trainable_variables], max_iter=3)
    x, y = torch_data()
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = mean_square(model(x, training=False), y)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    return Run(losses, variables_of(model))


@program("torch", GROWN)
def forward_mode(way):
    """``torch.func.jvp`` and a Hessian by autograd."""
    import torch

    model = network(way)
    x, y = torch_data(rows=2)

    def run(x):
        return model(x, training=False)

    found = {
        "jvp": torch.func.jvp(run, (x,), (y,))[1],
        "hessian": torch.autograd.functional.hessian(lambda x: run(x).sum(), x),
    }
    return Run([], {k: array(v.detach()) for k, v in found.items()})


@in_turn(PROGRAMS)
def test_exact(program, way):
    """The same losses, gradients and variables."""
    assert_same_program(way, program, tolerance=PROGRAMS[program])
