"""What a policy keeps is not computed again in a graph, and no bit is another than without it."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute import keep, recompute_grad
from tests.recompute.graphs import needed
from tests.recompute.keras2.binding import GRAPH, TF_EAGER, K, keras, layers, tf
from tests.recompute.keras2.training import OFF, ON, fit, fresh_model, way

WIDTH = 16


def only_products(kind, name):
    return kind == "matmul"


class Block(layers.Layer):
    """Two short products, and what is cheap around them; the result of the first has a name."""

    def build(self, shape):
        self.up = self.add_weight("up", (WIDTH, 2 * WIDTH), initializer="glorot_uniform")
        self.down = self.add_weight("down", (2 * WIDTH, WIDTH), initializer="glorot_uniform")
        super().build(shape)

    def call(self, x):
        y = tf.tanh(keep(tf.matmul(x, self.up), "up"))
        return x + tf.sin(tf.matmul(y * y, self.down))

    def compute_output_shape(self, shape):
        return shape


class Convolved(layers.Layer):
    """Convolutions, normalized, activated and dropped."""

    def build(self, shape):
        self.first = layers.Conv2D(4, 3, padding="same", activation="relu")
        self.second = layers.Conv2D(4, 3, padding="same")
        self.norm, self.dropout = layers.BatchNormalization(), layers.Dropout(0.2, seed=3)
        for part in (self.first, self.second, self.norm):
            part.build(shape)
        super().build(shape)

    def call(self, x):
        return tf.sin(self.dropout(self.norm(self.second(self.first(x)))))

    def compute_output_shape(self, shape):
        return shape


SHAPES = {Block: (WIDTH,), Convolved: (6, 6, 4)}


def stack(kind, policy):
    """Return what builds a model of three layers that are recomputed under a policy."""
    call = recompute_grad(kind.call, policy=policy)
    decorated = type(kind.__name__, (kind,), {"call": call})

    def build():
        inputs = x = layers.Input(SHAPES[kind])
        for _ in range(3):
            x = decorated()(x)
        return keras.models.Model(inputs, x)

    return build


@pytest.mark.parametrize("policy", ["save_matmuls", "save_attention", ["up"], only_products])
@pytest.mark.parametrize("kind", SHAPES)
def test_training_is_the_same(kind, policy):
    """Losses, weights and moving averages are those of the plain run."""
    x = np.random.RandomState(0).randn(8, *SHAPES[kind]).astype("float32")
    build = stack(kind, policy)
    plain = fit(build, x, np.tanh(x), OFF)
    is_told = policy == ["up"] and kind is Convolved and (GRAPH or TF_EAGER)
    with told("call") if is_told else contextlib.nullcontext():
        again = fit(build, x, np.tanh(x), ON)
    plain.assert_same(again)


def told(where, names="none at all"):
    """Expect to be told of a name that no keep gives there."""
    keeps = "the policy of .*%s keeps what is named '[a-z]+', but no keep.*; the names there are %s"
    return pytest.warns(RuntimeWarning, match=keeps % (where, names))


def products_of_a_gradient(policy):
    """Return how many matrix products the gradient of three blocks takes in a graph."""
    with way(ON):
        model = fresh_model(stack(Block, policy))
        if GRAPH:
            loss = tf.reduce_sum(tf.square(model.outputs[0]))
            graph = loss.graph
            with graph.as_default():
                gradients = K.gradients(loss, model.trainable_weights)
            return needed(graph, gradients).count("MatMul")

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x, training=True)))
            return tape.gradient(loss, model.trainable_weights)

        return needed(step.get_concrete_function(tf.ones((4, WIDTH))).graph).count("MatMul")


@pytest.mark.parametrize(
    ("policy", "again"), [("full", 6), ("save_matmuls", 0), (["up"], 3), (only_products, 0)]
)
def test_what_is_kept_is_not_computed_again(policy, again):
    """Three blocks take six products forward and eleven backward, and some of the first again."""
    assert products_of_a_gradient(policy) == 17 + again


@pytest.mark.parametrize(("names", "there"), [(["up"], ""), (["dwon"], "'up'$")])
def test_names_that_no_part_of_a_model_gives(names, there):
    """A plan is told of, once; in a graph that was there before it, keep has named nothing."""
    model = fresh_model(stack(Block, "full"))
    x = np.ones((4, WIDTH), "float32")
    is_static = GRAPH or not TF_EAGER
    there = "none at all .the graph was there before the plan" if is_static else there
    with told("plan of " + model.name, there) if there else contextlib.nullcontext():
        recompute.apply(model, every=1, policy=names)
        model.compile("sgd", "mse")
        model.fit(x, x, epochs=2, verbose=0)


@pytest.mark.skipif(not TF_EAGER or GRAPH, reason="about what runs eagerly")
def test_eagerly_nothing_is_kept():
    """What cannot be kept is computed again: the gradients are the same."""
    x = np.random.RandomState(0).randn(8, WIDTH).astype("float32")
    build = stack(Block, "save_matmuls")
    plain, again = (fit(build, x, x, how, run_eagerly=True) for how in (OFF, ON))
    plain.assert_same(again)
