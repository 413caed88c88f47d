"""Train the same model in several ways, and compare everything."""

from __future__ import annotations

import contextlib

import numpy as np

from perftricks.recompute import recompute_scope
from tests.recompute.comparison import Run
from tests.recompute.keras2.binding import GRAPH, STANDALONE, K, clear_session, keras_graph, sgd, tf

OFF, ON = "off", "on"

FEW_ULP = 4e-5  # the last bits, after a few steps of training
# Inside of a tf.function, as in fit, a tape adds the parts of the gradient of what is used more
# than once in another order than tf.gradients, which differentiates what is computed again there.
REORDERED = 0.0 if GRAPH else FEW_ULP


@contextlib.contextmanager
def way(name):
    """Run or trace what is inside without recomputation, or with it."""
    with recompute_scope(name != OFF):
        yield


def listed(x):
    """Return the tensors or arrays of a model's side: one, or a list."""
    return list(x) if isinstance(x, (list, tuple)) else [x]


def names_of(variables):
    """Name variables by position and last name; the scopes count the models of a process."""
    return ["%d.%s" % (i, v.name.split("/")[-1]) for i, v in enumerate(variables)]


def values(variables):
    """Return variables as arrays, by name."""
    arrays = [np.array(a) for a in K.batch_get_value(list(variables))]
    return dict(zip(names_of(variables), arrays))


def fresh_model(build, grappler=False):
    """Build a model as if the process had just begun, with no weight that is zero."""
    clear_session(grappler)
    model = build()
    model.set_weights(initial(model.get_weights()))
    return model


def initial(weights):
    """Return other weights: matrices of small numbers of both signs, vectors of positive ones."""
    generator = np.random.RandomState(5)
    return [
        generator.uniform(-0.6 if w.ndim > 1 else 0.2, 0.6, w.shape).astype(w.dtype)
        if w.dtype.kind == "f"
        else w
        for w in weights
    ]


def fit(build, x, y, how, epochs=2, batch_size=4, optimizer=None, loss="mse", **options):
    """Train with fit, four steps by default; return losses and all variables."""
    with way(how):
        model = fresh_model(build)
        optimizer = optimizer() if optimizer else sgd(0.1, momentum=0.9)
        model.compile(optimizer, loss, **options)
        history = model.fit(
            x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0
        ).history
    return Run(history["loss"], {**values(model.weights), **state_of(model.optimizer)})


def state_of(optimizer):
    """Return the variables of an optimizer, by position."""
    if hasattr(optimizer, "get_weights"):
        weights = optimizer.get_weights()
    else:
        weights = [v.numpy() for v in optimizer.variables]
    return {"optimizer %d" % i: np.array(w) for i, w in enumerate(weights)}


def loss_of(outputs, y, losses):
    """Return mean square error plus what layers have added."""
    loss = sum(tf.reduce_mean(tf.square(tf.cast(o, y.dtype) - y)) for o in listed(outputs))
    return loss + sum(tf.reduce_sum(tf.cast(extra, y.dtype)) for extra in losses)


def updates_of(model):
    """List the assignments that belong to a step of a graph, as ``fit`` of each Keras does."""
    if STANDALONE:
        return model.updates
    # In TensorFlow 1.15 there are also those of a model in a layer, called on its own inputs.
    return [*model.get_updates_for(None), *model.get_updates_for(model.inputs)]


class Steps:
    """A model and how to compute its loss and gradients; to be built and called in one way.

    The gradients are those of the inputs that are floats and of all trainable variables.

    Attributes:
        model: The model, freshly built.
        inputs: Its inputs, arrays.
    """

    def __init__(self, build, x, y, training=True):
        self.model = fresh_model(build)
        self.inputs = [np.asarray(a) for a in listed(x)]
        self._y = y
        self._training = training
        self._run = self._graph() if GRAPH else self._eager

    def compute(self):
        """Run one step; return the loss, and the gradients as arrays or None."""
        return self._run()

    def __call__(self):
        """Run one step; return loss, gradients, and the state after it."""
        loss, gradients = self.compute()
        names = ["input %d" % i for i in self.floats()]
        names += names_of(self.model.trainable_weights)
        arrays = {"gradient of " + n: g for n, g in zip(names, gradients) if g is not None}
        arrays.update(values(self.model.non_trainable_weights))
        return Run([np.array(loss)], arrays)

    def floats(self):
        """List the positions of the inputs that are floats."""
        return [i for i, a in enumerate(self.inputs) if a.dtype.kind == "f"]

    def _graph(self):
        model = self.model
        with keras_graph():
            y = K.placeholder(shape=(None, *self._y.shape[1:]))
            loss = loss_of(model.outputs, y, model.losses)
            sources = [model.inputs[i] for i in self.floats()] + model.trainable_weights
            gradients = K.gradients(loss, sources)
            there = [i for i, g in enumerate(gradients) if g is not None]
            placeholders = [*model.inputs, y]
            phase = K.learning_phase()
            if not isinstance(phase, int):
                placeholders = [*placeholders, phase]
            function = K.function(
                placeholders,
                [loss, *(tf.convert_to_tensor(gradients[i]) for i in there)],
                updates=updates_of(model),
            )

        def run():
            fed = [*self.inputs, self._y, int(self._training)]
            loss, *found = function(fed[: len(placeholders)])
            arrays = dict(zip(there, found))
            return loss, [arrays.get(i) for i in range(len(sources))]

        return run

    def _eager(self):
        x = [tf.convert_to_tensor(a) for a in self.inputs]
        sources = [x[i] for i in self.floats()]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = self.model(x if len(x) > 1 else x[0], training=self._training)
            loss = loss_of(outputs, tf.convert_to_tensor(self._y), self.model.losses)
        gradients = tape.gradient(loss, sources + self.model.trainable_weights)
        arrays = [None if g is None else tf.convert_to_tensor(g).numpy() for g in gradients]
        return loss.numpy(), arrays


def steps(build, x, y, how, count=2, **options):
    """Build a model and run some steps; return the last, whose state has seen them all."""
    with way(how):
        step = Steps(build, x, y, **options)
        for _ in range(count):
            run = step()
    return run


def assert_exact(build, x, y, tolerance=0.0, **options):
    """Compare runs without and with recomputation: steps of a custom loop, then fit.

    Bit by bit, except for fit where it is traced, unless a tolerance is given: where something is
    used inside and outside of recomputed calls, the parts of its gradient are added in another
    order. Steps of training make the last bits grow, the more the larger they are.
    """
    if tolerance:
        options.setdefault("optimizer", lambda: sgd(0.01))
    steps(build, x, y, OFF).assert_same(steps(build, x, y, ON), tolerance)
    off, on = (fit(build, x, y, how, **options) for how in (OFF, ON))
    off.assert_same(on, max(10 * tolerance, REORDERED))


def assert_gradient_of_its_own_loss(build, x, y, how=ON, tolerance=1e-6):
    """Check a gradient against differences of the very same loss, whatever the plain run does.

    In double precision, from the same seeds each time, the weights and inputs are moved a little
    to and fro; the difference of the losses is what the gradient says. A mask that is not the one
    of the forward pass makes the gradient wrong by its own size.
    """
    K.set_floatx("float64")
    x = [a.astype("float64") if a.dtype.kind == "f" else a for a in listed(x)]
    y = y.astype("float64")
    distance = 1e-5

    def run(offset):
        generator = np.random.RandomState(11)
        with way(how):
            step = Steps(build, x, y)
            weights = step.model.trainable_weights
            sources = [step.inputs[i] for i in step.floats()] + K.batch_get_value(weights)
            directions = [generator.normal(size=a.shape) for a in sources]
            moved = [a + offset * d for a, d in zip(sources, directions)]
            for i in step.floats():
                step.inputs[i] = moved.pop(0)
            K.batch_set_value(list(zip(weights, moved)))
            loss, gradients = step.compute()
        slopes = [(g * d).sum() for g, d in zip(gradients, directions) if g is not None]
        return float(loss), sum(slopes)

    here = run(0.0)
    assert run(0.0) == here
    slope = (run(distance)[0] - run(-distance)[0]) / (2 * distance)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(here[1], slope, rtol=tolerance, atol=tolerance)
