"""Programs that need a process of their own: ``python -m tests.recompute.keras2.alone NAME``."""

from __future__ import annotations

import sys
import tempfile

import numpy as np

from tests.recompute.comparison import recomputed
from tests.recompute.keras2.binding import TF_EAGER, clear_session, keras, layers, sgd, tf
from tests.recompute.keras2.training import OFF, ON, REORDERED, fresh_model, initial, way

WIDTH = 6


def build():
    """Return a model of decorated stock layers."""
    inputs = layers.Input((4, WIDTH), name="x")
    x = recomputed(layers.Dense)(WIDTH, activation="tanh")(inputs)
    x = recomputed(layers.BatchNormalization)()(x)
    x = recomputed(layers.LSTM)(WIDTH, return_sequences=True)(x)
    x = recomputed(layers.Dropout)(0.3)(x)
    return keras.models.Model(inputs, layers.Dense(WIDTH, name="y")(x))


def data():
    """Return inputs and targets."""
    x = np.random.RandomState(0).normal(size=(16, 4, WIDTH)).astype("float32")
    return x, np.tanh(x)


def two_devices():
    """Make two devices of one processor."""
    if TF_EAGER:
        cpu = tf.config.experimental.list_physical_devices("CPU")[0]
        configuration = tf.config.experimental.VirtualDeviceConfiguration()
        tf.config.experimental.set_virtual_device_configuration(cpu, [configuration] * 2)


def two_devices_in_a_session():
    """Do the same where there are sessions."""
    if not TF_EAGER:
        options = tf.compat.v1.ConfigProto(device_count={"CPU": 2})
        tf.compat.v1.keras.backend.set_session(tf.compat.v1.Session(config=options))


def mirrored_strategy(how):
    """Train on two replicas; return losses and weights."""
    clear_session()
    two_devices_in_a_session()
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert strategy.num_replicas_in_sync == 2
    with way(how):
        with strategy.scope():
            inputs = layers.Input((4, WIDTH))
            x = recomputed(layers.Dense)(WIDTH, activation="tanh")(inputs)
            x = recomputed(layers.BatchNormalization)()(x)
            x = recomputed(layers.LSTM)(WIDTH, return_sequences=True)(x)
            model = keras.models.Model(inputs, layers.Dense(WIDTH)(x))
            model.compile(sgd(0.1, momentum=0.9), "mse")
            model.set_weights(initial(model.get_weights()))  # TensorFlow 1 has a session by now
        history = model.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return [np.array(history.history["loss"]), *model.get_weights()]


def estimator(how):
    """Train an estimator that was made of a model; return its variables."""
    with way(how), tempfile.TemporaryDirectory() as folder:
        model = fresh_model(build)
        model.compile(tf.compat.v1.train.MomentumOptimizer(0.1, 0.9), "mse")
        options = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
        )
        config = tf.estimator.RunConfig(model_dir=folder, session_config=options, tf_random_seed=7)
        trained = keras.estimator.model_to_estimator(model, config=config)

        def batches():
            x, y = data()
            return tf.data.Dataset.from_tensor_slices(({"x": x}, y)).batch(8).repeat()

        trained.train(batches, steps=4)
        names = sorted(n for n in trained.get_variable_names() if "/.OPTIMIZER_SLOT" not in n)
        return [np.array(trained.get_variable_value(name)) for name in names]


def main(name):
    """Run a program without and with recomputation, and compare what it returns."""
    if name == "mirrored_strategy":
        two_devices()
    off, on = (globals()[name](how) for how in (OFF, ON))
    assert len(off) == len(on) > 5
    assert any(a.dtype.kind == "f" and np.abs(a).max() > 0.1 for a in off)
    for a, b in zip(off, on):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=REORDERED, atol=REORDERED)
        else:
            np.testing.assert_array_equal(a, b)
    print("%s: same" % name)


if __name__ == "__main__":
    main(*sys.argv[1:])
