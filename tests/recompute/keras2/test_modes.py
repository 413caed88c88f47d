"""The ways of training: graphs, tapes, functions, mixed precision, several devices and threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.comparison import recomputed
from tests.recompute.keras2.binding import (
    GRAPH,
    NAME,
    STANDALONE,
    TF,
    TF_EAGER,
    K,
    clear_session,
    keras,
    layers,
    sgd,
    tf,
)
from tests.recompute.keras2.training import (
    FEW_ULP,
    OFF,
    ON,
    REORDERED,
    Steps,
    assert_exact,
    assert_gradient_of_its_own_loss,
    fit,
    fresh_model,
    initial,
    steps,
    way,
)

WIDTH = 6
only_eager = pytest.mark.skipif(GRAPH, reason="about tapes and tf.function")
only_sessions = pytest.mark.skipif(TF_EAGER, reason="about sessions")


class Block(layers.Layer):
    """A transformer block of our own: attention, dropout, normalization."""

    def __init__(self, normalized=True, **kwargs):
        super().__init__(**kwargs)
        self.query, self.key, self.value = (layers.Dense(WIDTH) for _ in range(3))
        self.dense = layers.Dense(WIDTH, activation="tanh")
        self.attention_dropout = layers.Dropout(0.2)
        self.dropout = layers.Dropout(0.3)
        self.norm = layers.BatchNormalization() if normalized else layers.Activation("linear")

    def build(self, shape):
        for layer in (self.query, self.key, self.value, self.dense, self.norm):
            layer.build(shape)
        super().build(shape)

    @recompute_grad
    def call(self, x):
        scores = tf.matmul(self.query(x), self.key(x), transpose_b=True)
        weights = self.attention_dropout(tf.nn.softmax(scores / WIDTH**0.5))
        x = x + self.dropout(tf.matmul(weights, self.value(x)))
        return self.norm(x + self.dense(x))


def build(**options):
    """Return a model of two blocks."""
    inputs = layers.Input((4, WIDTH))
    x = layers.Dense(WIDTH)(inputs)
    for _ in range(2):
        x = Block(**options)(x)
    return keras.models.Model(inputs, layers.Dense(WIDTH)(x))


def data():
    """Return inputs and targets."""
    x = np.random.RandomState(0).normal(size=(8, 4, WIDTH)).astype("float32")
    return x, np.tanh(x)


def simple():
    """Return a model in which nothing is used twice."""
    inputs = layers.Input((4, WIDTH))
    x = recomputed(layers.Dense)(WIDTH, activation="tanh")(inputs)
    x = recomputed(layers.BatchNormalization)()(x)
    x = recomputed(layers.Dropout)(0.3)(x)
    return keras.models.Model(inputs, layers.Dense(WIDTH)(x))


def assert_same(runs):
    """Compare two lists of arrays."""
    for a, b in zip(*runs):
        np.testing.assert_allclose(a, b, rtol=REORDERED, atol=REORDERED)


def compare_fits(tolerance=0.0, make=build, **options):
    """Compare training with and without recomputation."""
    fit(make, *data(), how=OFF, **options).assert_same(
        fit(make, *data(), how=ON, **options), tolerance
    )


def test_fit_and_steps():
    """Transformer blocks, by fit and in a custom loop."""
    assert_exact(build, *data())


def test_the_gradient_is_that_of_the_loss():
    """The same without a plain run to compare with."""
    # BatchNormalization of Keras 2.3.1 knows single precision only.
    assert_gradient_of_its_own_loss(lambda: build(normalized=False), *data())


def test_a_recomputation_that_redraws_is_noticed():
    """A recompute as it is often published, which calls the layer again, fails the check."""

    def redrawing(call):
        def wrapper(self, x):
            @tf.custom_gradient
            def function(x):
                def grad(dy):
                    if tf.executing_eagerly():
                        with tf.GradientTape() as tape:
                            tape.watch(x)
                            y = call(self, x)
                        return tape.gradient(y, x, dy)
                    return tf.gradients(call(self, x), x, dy)[0]

                return call(self, x), grad

            return function(x)

        return wrapper

    class Redrawing(layers.Layer):
        call = redrawing(lambda self, x: tf.nn.dropout(x, rate=0.5))

    def redrawn():
        inputs = layers.Input((WIDTH,))
        x = layers.Dense(WIDTH)(inputs)
        return keras.models.Model(inputs, layers.Dense(WIDTH)(Redrawing()(x)))

    x = np.random.RandomState(0).normal(size=(8, WIDTH)).astype("float32")
    with pytest.raises(AssertionError):
        assert_gradient_of_its_own_loss(redrawn, x, np.tanh(x))


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adagrad"])
def test_optimizers_with_slots(name):
    """Optimizers that keep something for each variable."""
    optimizers = getattr(keras.optimizers, "legacy", keras.optimizers)
    optimizers = optimizers if GRAPH else keras.optimizers
    for chance in range(20, 0, -1):
        try:
            compare_fits(REORDERED, simple, optimizer=lambda: getattr(optimizers, name)(0.01))
            return
        except AssertionError:
            # Adam of keras 2.3.1 reads its count of steps while that is increased, in no order:
            # a plain run gives one of two results, and so must a recomputed one.
            if keras.__version__ != "2.3.1" or name != "Adam" or chance == 1:
                raise


def test_fit_with_grappler():
    """With graphs rewritten as they are by default, the runs differ by rounding at most."""
    runs = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(build, grappler=True)
            model.compile(sgd(0.1), "mse")
            x, y = data()
            losses = [model.train_on_batch(x, y) for _ in range(3)]
            runs.append([np.array(losses), *model.get_weights()])
    for a, b in zip(*runs):
        np.testing.assert_allclose(a, b, rtol=FEW_ULP, atol=FEW_ULP)


def test_random_streams_do_not_drift():
    """Evaluating and predicting in between leaves the next steps as they are without recompute."""

    def run(how):
        with way(how):
            model = fresh_model(build)
            x, y = data()
            model.compile(sgd(0.1), "mse")
            found = []
            for _ in range(2):
                found += model.fit(x, y, batch_size=4, shuffle=False, verbose=0).history["loss"]
                found.append(model.evaluate(x, y, verbose=0))
                found.append(model.predict(x).sum())
                found.append(model.train_on_batch(x, y))
        return found

    assert_same([run(OFF), run(ON)])


@pytest.mark.skipif(not GRAPH, reason="about K.gradients and K.function")
def test_each_learning_phase():
    """A function of the learning phase: with 1 it drops, with 0 it does not; gradients for both."""
    found = {}
    for how in (OFF, ON):
        with way(how):
            for training in (True, False):
                step = Steps(build, *data(), training=training)
                found[how, training] = step()
    for training in (True, False):
        found[OFF, training].assert_same(found[ON, training])
    assert found[ON, True].losses != found[ON, False].losses


@pytest.mark.skipif(not GRAPH, reason="K.set_learning_phase decides in graphs")
def test_a_learning_phase_that_is_set():
    """``K.set_learning_phase(1)`` before the model is built."""

    def fixed():
        K.set_learning_phase(1)
        return build()

    assert_exact(fixed, *data())


def test_generators():
    """``fit`` from a generator of batches."""
    runs = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(build)
            model.compile(sgd(0.1), "mse")
            x, y = data()
            batches = ((x[i % 2 :: 2], y[i % 2 :: 2]) for i in range(20))
            train = model.fit_generator if STANDALONE else model.fit
            # One after another, where there is a choice: the newest asks for it by one worker.
            workers = 1 if TF >= (2, 16) else 0
            history = train(
                batches, steps_per_epoch=3, epochs=2, verbose=0, workers=workers, max_queue_size=1
            )
        runs.append([np.array(history.history["loss"]), *model.get_weights()])
    assert_same(runs)


@only_eager
def test_eager_fit():
    """``run_eagerly=True``."""
    compare_fits(run_eagerly=True)


@only_eager
def test_custom_loops():
    """A tf.function with a tape, with tf.gradients, and differentiated from outside."""

    def run(how, kind):
        with way(how):
            model = fresh_model(build)
            x, y = (tf.constant(a) for a in data())
            weights = model.trainable_weights

            def loss():
                return tf.reduce_mean((model(x, training=True) - y) ** 2)

            def with_tape():
                with tf.GradientTape() as tape:
                    value = loss()
                return tape.gradient(value, weights)

            if kind == "tape":
                return tf.function(with_tape)()
            if kind == "eager":
                return with_tape()
            if kind == "tf.gradients":
                return tf.function(lambda: tf.gradients(loss(), weights))()
            function = tf.function(loss)
            with tf.GradientTape() as outer:
                value = function()
            return outer.gradient(value, weights)

    for kind in ("eager", "tape", "tf.gradients", "outside"):
        for a, b in zip(run(OFF, kind), run(ON, kind)):
            tolerance = 0.0 if kind == "eager" else FEW_ULP
            np.testing.assert_allclose(a.numpy(), b.numpy(), tolerance, tolerance, err_msg=kind)


_inner = recompute_grad(lambda x, w: tf.tanh(tf.matmul(x, w)))
_outer = recompute_grad(
    lambda x, w: _inner(x, w) * tf.sin(x) + tf.matmul(_inner(_inner(x, w), w), w)
)


def derivatives(order, x, w):
    """Return the derivatives of a nested call; those of an order are of the squares of the last."""

    def value():
        if order == 1:
            return tf.reduce_mean(_outer(x, w) ** 3)
        return tf.add_n([tf.reduce_sum(d**2) for d in derivatives(order - 1, x, w)])

    if not TF_EAGER:
        return tf.gradients(value(), [x, w])
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        squares = value()
    return tape.gradient(squares, [x, w])


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "kind",
    ["plainly", "in a function", *(["compiled"] if TF >= (2, 15) else [])]
    if TF_EAGER
    else ["in a graph"],
)
def test_derivatives_of_derivatives(kind, order):
    """A gradient penalty, as of a gradient whose norm is held down: right, up to rounding."""
    x = np.random.RandomState(0).normal(size=(4, WIDTH)).astype("float32")
    w = np.random.RandomState(1).normal(size=(WIDTH, WIDTH)).astype("float32")

    def run(how):
        with recompute_scope(how == ON):
            if kind == "in a graph":
                with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                    return session.run(derivatives(order, tf.constant(x), tf.constant(w)))
            options = {"jit_compile": True} if kind == "compiled" else {}
            function = derivatives if kind == "plainly" else tf.function(derivatives, **options)
            return [d.numpy() for d in function(order, tf.constant(x), tf.constant(w))]

    for plain, recomputed_ in zip(run(OFF), run(ON)):
        scale = np.abs(plain).max()
        assert scale > 1e-3
        np.testing.assert_allclose(recomputed_, plain, rtol=1e-4, atol=1e-5 * scale)


@only_eager
@pytest.mark.skipif(TF < (2, 15), reason="compile took no jit_compile then")
def test_compiled_fit():
    """``jit_compile=True``: XLA fuses other groups of operations, so the last bits differ."""

    def deterministic():
        inputs = layers.Input((4, WIDTH))
        x = recomputed(layers.Dense)(WIDTH, activation="tanh")(inputs)
        x = recomputed(layers.BatchNormalization)()(x)
        return keras.models.Model(inputs, recomputed(layers.Dense)(WIDTH)(x))

    compare_fits(FEW_ULP, deterministic, jit_compile=True)


@only_eager
@pytest.mark.skipif(TF < (2, 15), reason="it came with newer versions")
def test_several_steps_per_execution():
    """``steps_per_execution=2``: the step is traced inside a loop."""
    compare_fits(REORDERED, simple, steps_per_execution=2)


@pytest.mark.skipif(
    STANDALONE or not hasattr(keras, "mixed_precision"), reason="this Keras has no mixed precision"
)
def test_mixed_precision():
    """The replay computes in the same precision; float16 scales the loss."""
    mixed = keras.mixed_precision
    if hasattr(mixed, "set_global_policy"):
        set_policy = mixed.set_global_policy
    elif hasattr(mixed.experimental, "set_policy") and TF >= (2, 0):
        set_policy = mixed.experimental.set_policy
    else:
        pytest.skip("this Keras has no policies, or none that can be set for all layers")

    def half():
        inputs = layers.Input((WIDTH,))
        x = recomputed(layers.Dense)(WIDTH, activation="tanh")(inputs)
        x = recomputed(layers.Dropout)(0.3)(x)
        x = recomputed(layers.Dense)(WIDTH, activation="tanh")(x)
        return keras.models.Model(inputs, layers.Dense(2, dtype="float32")(x))

    x = np.random.RandomState(0).normal(size=(8, WIDTH)).astype("float32")
    set_policy("mixed_float16")
    try:
        runs = [fit(half, x, x[:, :2], how) for how in (OFF, ON)]
    finally:
        set_policy("float32")
    runs[0].assert_same(runs[1], REORDERED)


def test_threads():
    """Several threads run models of their own at once, some with recomputation, some without."""
    if GRAPH and not STANDALONE and TF >= (2, 0):
        pytest.skip("graphs of this Keras belong to their thread")
    # Layers of Keras are named, built and seeded one after another; steps run at once.
    found, made = {}, []
    expected = None
    for how in (OFF, ON, OFF, ON):
        with way(how):
            model = fresh_model(build)
            if GRAPH:
                expected = expected or Steps(build, *data())().losses
                continue
        made.append((how, model))
    if GRAPH:
        graphs_in_threads()
        return

    def train(i):
        how, model = made[i]
        with recompute_scope(how == ON), tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(data()[0], training=False)))
        found[i] = [
            g.numpy() for g in tape.gradient(loss, model.trainable_weights) if g is not None
        ]

    run_all([threading.Thread(target=train, args=(i,)) for i in range(4)])
    assert len(found) == 4
    for i in range(1, 4):
        for a, b in zip(found[0], found[i]):
            np.testing.assert_array_equal(a, b)


def graphs_in_threads():
    """Build and run a graph in each of several threads."""
    block = recompute_grad(lambda x: tf.sin(tf.tanh(x) * x))
    found = {}

    def train(i):
        with recompute_scope(i % 2 == 0), tf.Graph().as_default():
            x = tf.constant(data()[0])
            gradient = tf.gradients(block(block(x)), x)
            with tf.compat.v1.Session() as session:
                found[i] = session.run(gradient)[0]

    run_all([threading.Thread(target=train, args=(i,)) for i in range(4)])
    assert len(found) == 4
    for i in range(1, 4):
        np.testing.assert_array_equal(found[0], found[i])


def run_all(threads):
    """Run threads to their end."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.skipif(
    not hasattr(keras.utils, "multi_gpu_model") or not STANDALONE, reason="Keras 2.3.1 has it"
)
def test_multi_gpu_model(monkeypatch):
    """``multi_gpu_model`` of Keras 2.3.1, its towers placed on the processor."""
    from keras.utils import multi_gpu_utils

    devices = ["/cpu:0", "/gpu:0", "/gpu:1"]
    monkeypatch.setattr(multi_gpu_utils, "_get_available_devices", lambda: devices)
    monkeypatch.setattr(multi_gpu_utils, "_normalize_device_name", lambda name: name)
    if TF_EAGER:
        tf.config.set_soft_device_placement(True)
    else:
        allow_soft_placement()

    def towers():
        clear_session()
        if not TF_EAGER:
            allow_soft_placement()
        inputs = layers.Input((WIDTH,))
        x = recomputed(layers.Dense)(WIDTH, activation="tanh")(inputs)
        x = recomputed(layers.BatchNormalization)()(x)
        x = recomputed(layers.Dropout)(0.3)(x)
        model = keras.models.Model(inputs, layers.Dense(WIDTH)(x))
        return multi_gpu_utils.multi_gpu_model(model, gpus=2)

    runs = []
    for how in (OFF, ON):
        with way(how):
            model = towers()
            model.set_weights(initial(model.get_weights()))
            model.compile(sgd(0.1), "mse")
            x, y = (a[:, 0] for a in data())
            losses = [model.train_on_batch(x, y) for _ in range(3)]
        runs.append([np.array(losses), *model.get_weights()])
    averages = [i for i, v in enumerate(model.weights, 1) if "/moving_" in v.name]
    assert len(averages) == 2
    for i, (a, b) in enumerate(zip(*runs)):
        # Both towers move the averages by a hundredth, and TensorFlow leaves open whether the
        # second sees what the first has done: no two plain runs need be the same there.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 if i in averages else 0)


def allow_soft_placement():
    """Let a session place on the processor what was placed on devices that are not there."""
    options = tf.compat.v1.ConfigProto(
        allow_soft_placement=True, intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
    )
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    K.set_session(tf.compat.v1.Session(config=options))


@pytest.mark.skipif(GRAPH or TF < (2, 1), reason="TensorFlow tells how functions were rewritten")
def test_reads_come_before_assignments():
    """Whatever Grappler does, no variable is assigned to before the backward pass has read it."""
    from tests.recompute import reads

    clear_session(grappler=True)
    assert reads.late(keras) == []


@pytest.mark.skipif(STANDALONE, reason="Keras 2.3.1 knows no strategies")
@pytest.mark.skipif(NAME == "tf_keras" and GRAPH, reason="strategies of newer versions run eagerly")
def test_mirrored_strategy():
    """Two replicas on two virtual devices, in a process of their own."""
    run_alone("mirrored_strategy")


@pytest.mark.skipif(
    STANDALONE or TF >= (2, 16) or not (TF_EAGER or TF[0] == 1), reason="estimators are gone"
)
def test_estimator():
    """``model_to_estimator`` trains, and gives the variables of the plain run."""
    run_alone("estimator")


def run_alone(name):
    """Run a program beside this one, which needs a process of its own."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.recompute.keras2.alone", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "%s: same" % name in done.stdout


class Choosing(layers.Layer):
    """Has conditions that AutoGraph has to rewrite."""

    @recompute_grad
    def call(self, x):
        y = tf.sin(x)
        if tf.reduce_sum(y) > 0:
            y = y * 2
        return y - x


@pytest.mark.skipif(STANDALONE, reason="Keras 2.3.1 does without AutoGraph")
def test_autograph_on_symbols():
    """AutoGraph rewrites a decorated call where a model is built, as it does a plain one."""

    def build():
        inputs = layers.Input((WIDTH,))
        return keras.models.Model(inputs, layers.Dense(WIDTH)(Choosing()(inputs)))

    x = np.random.RandomState(0).normal(size=(4, WIDTH)).astype("float32")
    steps(build, x, x, OFF).assert_same(steps(build, x, x, ON), FEW_ULP)


@only_eager
def test_a_decorated_tf_function():
    """The decorator above ``@tf.function`` is not passed by."""

    class Outer(layers.Layer):
        @recompute_grad
        @tf.function
        def call(self, x):
            return tf.sin(x) * x

    def build():
        inputs = layers.Input((WIDTH,))
        return keras.models.Model(inputs, layers.Dense(WIDTH)(Outer()(inputs)))

    x = np.random.RandomState(0).normal(size=(4, WIDTH)).astype("float32")
    assert_exact(build, x, x)
