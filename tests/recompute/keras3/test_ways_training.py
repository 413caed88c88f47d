"""Loops that people write around a model: GANs, accumulation, averages, frozen parts, two towers.

Each program is run plainly and recomputed, whole, and leaves the same losses and variables.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
from keras import layers, ops

from tests.recompute.comparison import Run
from tests.recompute.keras3.programs import WIDTH, Block, data, fitted, network, sgd, squares
from tests.recompute.keras3.training import (
    BACKEND,
    array,
    assert_same_program,
    in_turn,
    update,
    variables_of,
)


class Gan(keras.Model):
    """Two models with an optimizer each."""

    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def call(self, x, training=None):
        return self.discriminator(self.generator(x, training=training), training=training)

    def compile(self, first, second):
        super().compile(optimizer=first, loss=None)
        self.second = second
        first.build(self.discriminator.trainable_variables)
        second.build(self.generator.trainable_variables)

    def judge(self, x, noise):
        """Return the loss of the discriminator."""
        real = self.discriminator(x, training=True)
        fake = self.discriminator(self.generator(noise, training=True), training=True)
        return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))

    def fool(self, x, noise):
        """Return the loss of the generator."""
        fake = self.discriminator(self.generator(noise, training=True), training=True)
        return ops.mean(ops.softplus(-fake))

    def turns(self):
        return [
            (self.judge, self.discriminator, self.optimizer),
            (self.fool, self.generator, self.second),
        ]


def gan(way):
    """A GAN in a custom loop, two optimizers; the frozen half passes the gradient on."""
    model = Gan(network(way), network(way, outputs=1))
    model.compile(keras.optimizers.Adam(1e-2, beta_1=0.5), keras.optimizers.Adam(1e-2))
    losses = []
    for seed in range(3):
        x, noise = data(seed)
        for loss, part, optimizer in model.turns():
            losses.append(update([model], part.trainable_variables, optimizer, loss, x, noise))
    return Run(losses, variables_of(model, model.optimizer, model.second))


def gan_in_fit(way):
    """A GAN whose train_step takes both steps, as Keras' examples have it."""
    x, y = data()
    model = _GANS[BACKEND](network(way), network(way, outputs=1))
    model(x)
    model.compile(keras.optimizers.Adam(1e-2, beta_1=0.5), keras.optimizers.Adam(1e-2))
    if BACKEND == "jax":
        return model.train(x, y)
    history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    return Run(
        [*history["first"], *history["second"]],
        variables_of(model, model.optimizer, model.second),
    )


class TensorFlowGan(Gan):
    def train_step(self, batch):
        import tensorflow as tf

        x, noise = batch
        losses = []
        for loss, part, optimizer in self.turns():
            with tf.GradientTape() as tape:
                losses.append(loss(x, noise))
            weights = part.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(losses[-1], weights), weights))
        return {"first": losses[0], "second": losses[1]}


class TorchGan(Gan):
    def train_step(self, batch):
        import torch

        x, noise = batch
        losses = []
        for loss, part, optimizer in self.turns():
            self.zero_grad()
            losses.append(loss(x, noise))
            losses[-1].backward()
            with torch.no_grad():
                weights = part.trainable_variables
                optimizer.apply([v.value.grad for v in weights], weights)
        return {"first": losses[0].detach(), "second": losses[1].detach()}


class JaxGan(Gan):
    """On JAX both steps are one function of the state, compiled, which is donated."""

    def train(self, x, y):
        import jax

        owners = [self, self.optimizer, self.second]
        variables = [v for owner in owners for v in owner.variables]

        def step(state, x, noise):
            with keras.StatelessScope(state_mapping=zip(variables, state)) as scope:
                losses = []
                for loss, part, optimizer in self.turns():
                    weights = part.trainable_variables

                    def compute(values, loss=loss, weights=weights):
                        mapping = [
                            *((v, scope.get_current_value(v)) for v in variables),
                            *zip(weights, values),
                        ]
                        with keras.StatelessScope(state_mapping=mapping) as inner:
                            found = loss(x, noise)
                        return found, [inner.get_current_value(v) for v in variables]

                    values = [scope.get_current_value(v) for v in weights]
                    (found, state), gradients = jax.value_and_grad(compute, has_aux=True)(values)
                    for v, value in zip(variables, state):
                        scope.add_update((v, value))
                    optimizer.apply(gradients, weights)
                    losses.append(found)
                return losses, [scope.get_current_value(v) for v in variables]

        step = jax.jit(step, donate_argnums=0)
        state, losses = [v.value for v in variables], []
        for _ in range(2):
            for i in (0, 4):
                found, state = step(state, x[i : i + 4], y[i : i + 4])
                losses += map(float, found)
        for v, value in zip(variables, state):
            v.assign(value)
        return Run(losses, variables_of(*owners))


_GANS = {"tensorflow": TensorFlowGan, "jax": JaxGan, "torch": TorchGan}


def accumulation_by_the_optimizer(way):
    """``gradient_accumulation_steps`` of Adam, with clipping and decay."""
    model = network(way)
    model.compile(
        keras.optimizers.AdamW(1e-2, gradient_accumulation_steps=2, global_clipnorm=0.1), "mse"
    )
    return fitted(model, epochs=3, batch_size=2)


def accumulation_by_hand(way):
    """Gradients of several batches are added up before the update."""
    model, optimizer = network(way), sgd()
    losses = []
    for seed in range(2):
        batches = [data(2 * seed + i) for i in range(2)]
        losses.append(
            update([model], model.trainable_variables, optimizer, squares(model), *batches)
        )
    return Run(losses, variables_of(model, optimizer))


def moving_averages(way):
    """``use_ema``: the averaged weights take the place of the others now and then."""
    model = network(way)
    model.compile(sgd(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3), "mse")
    return fitted(model, epochs=4)


def loss_scale(way):
    """Mixed float16 with a scale that grows, and is too large at first."""
    keras.config.set_dtype_policy("mixed_float16")
    model = network(way)
    optimizer = keras.optimizers.LossScaleOptimizer(
        sgd(), initial_scale=2.0**24, dynamic_growth_steps=2
    )
    model.compile(optimizer, "mse")
    return fitted(model, epochs=6)


def batches_by_hand(way):
    """``train_on_batch``, ``test_on_batch`` and ``predict_on_batch`` in turn."""
    model = network(way)
    model.compile(sgd(), "mse", metrics=["mae"])
    losses = []
    for seed in range(3):
        x, y = data(seed)
        losses += [model.train_on_batch(x, y, return_dict=True)["loss"]]
        losses += [model.test_on_batch(x, y)[0], model.predict_on_batch(x).sum()]
        losses += model.train_on_batch(x, y, class_weight=None, sample_weight=np.arange(8.0))
    return Run(list(map(float, losses)), variables_of(model, model.optimizer))


def weighted_samples(way):
    """Sample weights, and weights of classes; weighted metrics beside them."""
    x, _ = data()
    model = network(way, outputs=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(sgd(), loss, weighted_metrics=["accuracy"])
    y = np.arange(8, dtype="int32") % 3
    first = fitted(model, x, y, sample_weight=np.linspace(0, 2, 8).astype("float32"))
    second = fitted(model, x, y, class_weight={0: 1.0, 1: 0.5, 2: 3.0})
    return Run(first.losses + second.losses, second.arrays)


def frozen_and_thawed(way):
    """Train, freeze a half, compile again, train, thaw, train."""
    model = network(way)
    losses = []
    for trainable in (True, False, True):
        for layer in model.layers[:3]:
            layer.trainable = trainable
        model.compile(sgd(), "mse")
        run = fitted(model)
        losses += run.losses
    return Run(losses, run.arrays)


def frozen_averages(way):
    """Fine-tuning calls the pretrained part with ``training=False``: its averages stay."""
    inner = network(way)
    inputs = keras.Input((WIDTH,))
    model = keras.Model(inputs, layers.Dense(WIDTH)(inner(inputs, training=False)))
    model.compile(sgd(), "mse")
    return fitted(model)


def frozen_features(way):
    """A frozen pretrained part under a head; then everything is trained at a low rate."""
    inner = network(way)
    inner.trainable = False
    inputs = keras.Input((WIDTH,))
    model = keras.Model(inputs, way.layer(layers.Dense)(WIDTH)(inner(inputs)))
    model.compile(sgd(), "mse")
    first = fitted(model)
    inner.trainable = True
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    second = fitted(model)
    return Run(first.losses + second.losses, second.arrays)


def augmented(way):
    """A model around another augments what it is given, in training only."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", padding="same")(inputs)
    x = way.layer(layers.Conv2D)(4, 3, activation="gelu", padding="same")(x)
    x = way.layer(layers.BatchNormalization)()(x)
    inner = way.model(inputs, layers.Dense(1)(layers.GlobalAveragePooling2D()(x)))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.RandomFlip(seed=1),
            layers.RandomRotation(0.1, seed=2),
            layers.Rescaling(0.5),
            inner,
        ]
    )
    model.compile(sgd(), "mse")
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    return fitted(model, x, x[:, 0, 0, :1])


def two_towers(way):
    """One encoder on two views, and a loss of the distances between all pairs."""
    encoder = network(way)
    a, b = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    views = [ops.normalize(encoder(view), axis=-1) for view in (a, b)]
    model = keras.Model([a, b], ops.matmul(views[0], ops.transpose(views[1])) / 0.1)
    model.compile(sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    (x, y), labels = data(), np.arange(8, dtype="int32") % 4
    return fitted(model, [x, y], labels)


def distilled(way):
    """A frozen teacher is run in the student's loss, in inference."""
    teacher, student, optimizer = network(way), network(way), sgd()
    x, y = data()

    def loss(x, y):
        told = ops.softmax(teacher(x, training=False) / 2.0)
        found = ops.log_softmax(student(x, training=True) / 2.0)
        return -ops.mean(ops.sum(ops.stop_gradient(told) * found, -1))

    losses = [
        update([student, teacher], student.trainable_variables, optimizer, loss, x, y)
        for _ in range(2)
    ]
    return Run(losses, variables_of(student, teacher, optimizer))


def mean_teacher(way):
    """A clone follows the weights of the model, and makes its targets."""
    model, optimizer = network(way), sgd()
    teacher = keras.models.clone_model(model)
    teacher.set_weights(model.get_weights())
    losses = []
    for seed in range(3):
        x, _ = data(seed)
        y = array(teacher(x, training=False))
        losses.append(
            update([model], model.trainable_variables, optimizer, squares(model), (x, y + 1))
        )
        for a, b in zip(teacher.weights, model.weights):
            if "seed" not in b.path:
                a.assign(0.9 * a.value + 0.1 * b.value)
    return Run(losses, variables_of(model, teacher, optimizer))


class Variational(keras.Model):
    """A VAE: it draws, adds a loss, and counts it in a metric."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.seeds = keras.random.SeedGenerator(5)
        self.divergence = keras.metrics.Mean(name="divergence")

    def call(self, x, training=None):
        mean, log_variance = ops.split(self.encoder(x, training=training), 2, axis=-1)
        loss = -0.5 * ops.mean(1 + log_variance - mean**2 - ops.exp(log_variance))
        self.add_loss(loss)
        if BACKEND != "jax":  # where Keras has no metrics of layers
            self.divergence.update_state(loss)
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return self.decoder(mean + ops.exp(0.5 * log_variance) * noise, training=training)


def variational(way):
    """A VAE whose parts, or which as a whole, is recomputed: its loss and its metric count once."""
    inputs = keras.Input((3,))
    x = way.layer(layers.Dense)(WIDTH, "gelu")(way.layer(layers.Dense)(WIDTH, "gelu")(inputs))
    model = way.layer(Variational)(network(way), way.model(inputs, layers.Dense(WIDTH)(x)))
    model(data()[0])
    model.compile(sgd(), "mse")
    x, _ = data()
    history = model.fit(x, x, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    return Run([*itertools.chain(*history.values())], variables_of(model, model.optimizer))


class Quantizer(layers.Layer):
    """Vector quantization: the nearest code, straight through, with two losses."""

    def build(self, shape):
        self.codes = self.add_weight(shape=(shape[-1], 5), initializer="normal", name="codes")

    def call(self, x):
        distances = (
            ops.sum(x**2, -1, keepdims=True)
            + ops.sum(self.codes**2, 0)
            - 2 * ops.matmul(x, self.codes)
        )
        chosen = ops.one_hot(ops.argmin(distances, -1), 5)
        found = ops.matmul(chosen, ops.transpose(self.codes))
        self.add_loss(0.25 * ops.mean((ops.stop_gradient(found) - x) ** 2))
        self.add_loss(ops.mean((found - ops.stop_gradient(x)) ** 2))
        return x + ops.stop_gradient(found - x)


def quantized_codes(way):
    """A VQ-VAE: gradients pass straight through what has none."""
    inputs = keras.Input((WIDTH,))
    x = way.layer(Quantizer)()(way.layer(layers.Dense)(4, "gelu")(inputs))
    model = way.model(inputs, layers.Dense(WIDTH)(way.layer(layers.Dense)(4, "gelu")(x)))
    model.compile(sgd(), "mse")
    return fitted(model)


class Endpoint(layers.Layer):
    """A head that is given the targets, adds the loss and returns predictions."""

    def __init__(self):
        super().__init__()
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.BinaryAccuracy(name="accuracy")

    def call(self, targets, logits, sample_weight=None):
        self.add_loss(self.loss(targets, logits, sample_weight))
        if BACKEND != "jax":  # where Keras has no metrics of layers
            self.accuracy.update_state(targets, logits, sample_weight)
        return ops.sigmoid(logits)


def endpoint(way):
    """The loss is added by a layer that is given the targets."""
    inputs, targets = keras.Input((WIDTH,), name="inputs"), keras.Input((1,), name="targets")
    logits = way.layer(layers.Dense)(1)(way.layer(Block)()(layers.Dense(WIDTH)(inputs)))
    model = way.model([inputs, targets], way.layer(Endpoint)()(targets, logits))
    model.compile(sgd())
    x, _ = data()
    return fitted(model, [x, (x[:, :1] > 0).astype("float32")])


PROGRAMS = [
    gan_in_fit,
    accumulation_by_the_optimizer,
    accumulation_by_hand,
    moving_averages,
    loss_scale,
    batches_by_hand,
    weighted_samples,
    frozen_and_thawed,
    frozen_averages,
    frozen_features,
    augmented,
    two_towers,
    distilled,
    mean_teacher,
    variational,
    quantized_codes,
    endpoint,
]
if BACKEND != "jax":  # where a custom loop is compiled as a whole, as ``gan_in_fit`` is
    PROGRAMS.append(gan)


@in_turn(PROGRAMS)
def test_exact(program, way):
    """The same losses and variables."""
    assert_same_program(way, program)
