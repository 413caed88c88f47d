"""What a call meets on TensorFlow: functions, gradients of others, composite tensors, exports."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from perftricks import recompute
from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.keras3.training import BACKEND, FEW_ULP, assert_exact, fresh_model

if BACKEND != "tensorflow":
    pytest.skip("about TensorFlow's own API", allow_module_level=True)

import tensorflow as tf

WIDTH = 6
X = np.random.default_rng(0).normal(size=(8, WIDTH)).astype("float32")
Y = np.tanh(X[:, ::-1])
GRAPH = pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])


def gradients(function, sources, on, graph):
    """Return the gradients of a function without arguments, whose result is added up."""

    def run():
        with tf.GradientTape() as tape:
            tape.watch([x for x in sources if isinstance(x, tf.Tensor)])
            y = tf.reduce_sum(function())
        return tape.gradient(y, sources)

    with recompute_scope(on):
        return (tf.function(run) if graph else run)()


def assert_same_gradients(function, sources, graph):
    """Compare gradients with and without recomputation; none may be missing in one of them."""
    plain, again = (gradients(function, sources, on, graph) for on in (False, True))
    for a, b in zip(plain, again):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a).max() > 0


def built_dense():
    dense = layers.Dense(WIDTH, "tanh")
    dense.build((None, WIDTH))
    return dense


@GRAPH
def test_a_function_inside_reads_weights_as_they_are(graph):
    """A tf.function that is traced inside of a call does not keep the weights it first saw."""
    dense = built_dense()
    inner = tf.function(lambda x: dense(x) * 2.0)
    x = tf.constant(X)
    block = recompute_grad(lambda: inner(x) + dense(x))
    sources = [dense.kernel.value, dense.bias.value, x]
    for _ in range(2):
        assert_same_gradients(block, sources, graph)
        dense.kernel.assign(dense.kernel * 1.5)
    with recompute_scope(True):
        gradients(block, sources, True, graph)
    np.testing.assert_array_equal(inner(x), dense(x) * 2.0)  # outside of a call, too
    dense.kernel.assign(dense.kernel * 0.5)
    np.testing.assert_array_equal(inner(x), dense(x) * 2.0)


@GRAPH
def test_a_function_that_was_traced_before(graph):
    """It reads weights by itself; their gradients are there, also of what is read besides."""
    dense = built_dense()
    inner = tf.function(lambda x: dense(x) * 2.0)
    x = tf.constant(X)
    inner(x)
    block = recompute_grad(lambda: inner(x) * dense(x))
    assert_same_gradients(block, [dense.kernel.value, dense.bias.value, x], graph)


@GRAPH
def test_functions_in_functions_and_branches(graph):
    """Weights are found wherever in a function they are read."""
    dense = built_dense()
    innermost = tf.function(lambda x: dense(x))

    @tf.function
    def inner(x):
        return tf.cond(tf.reduce_sum(x) > 1e9, lambda: x, lambda: dense(innermost(x)))

    x = tf.constant(X)
    sources = [dense.kernel.value, dense.bias.value, x]
    assert_same_gradients(recompute_grad(lambda: inner(x)), sources, graph)


def changed_between(kind, mode, on):
    """Return gradients of a call whose variable is assigned to before they are taken."""
    keras.utils.set_random_seed(1)
    dense = built_dense()
    kernel = tf.Variable(dense.kernel.value, trainable=kind != "frozen")
    x, scale = tf.constant(X), tf.Variable(0.5)
    inner = tf.function(lambda x: dense(tf.tanh(x @ kernel)))

    @recompute_grad
    def block(x):
        if kind == "function":
            return tf.sin(inner(x))
        if kind == "rows":
            return tf.sin(tf.tanh(tf.nn.embedding_lookup(kernel, [0, 2, 2])))
        return tf.tanh(tf.sin(x @ kernel) * tf.concat([kernel[:1]], 0)) * scale

    call = tf.function(block) if mode == "backward function" else block

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(call(x) ** 2)
        for v in (kernel, dense.kernel, scale):
            v.assign(v * 3.0)
        return tape.gradient(y, [x, kernel, dense.kernel.value])

    with recompute_scope(on):
        found = (tf.function(run) if mode == "graph" else run)()
    left = [kernel, dense.kernel]
    return [None if t is None else tf.convert_to_tensor(t).numpy() for t in (*found, *left)]


@pytest.mark.parametrize("mode", ["eager", "graph", "backward function"])
@pytest.mark.parametrize("kind", ["trained", "frozen", "rows", "function"])
def test_variables_that_change_before_the_gradient(kind, mode):
    """The second run sees what the first saw, and leaves what is there now."""
    if kind == "function" and mode == "backward function":
        pytest.skip("nothing tells that a variable has changed between two functions")
    plain = changed_between(kind, mode, False)
    if kind == "function" and mode == "graph":
        with pytest.raises(RuntimeError, match="assigned to before the gradient is taken"):
            changed_between(kind, mode, True)
        return
    for a, b in zip(plain, changed_between(kind, mode, True)):
        assert (a is None) is (b is None)
        np.testing.assert_allclose(0 if a is None else a, 0 if b is None else b, 1e-5, 1e-6)


def test_a_function_may_read_what_is_assigned_to_after_the_gradient():
    """As a training step does."""
    dense = built_dense()
    inner = tf.function(lambda x: dense(x) * 2.0)
    block = recompute_grad(lambda x: tf.sin(inner(x)))

    def step(x):
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(block(x) ** 2)
            dense.kernel.assign_sub(0.1 * tape.gradient(loss, dense.kernel.value))
        return loss

    found = []
    for on in (False, True):
        dense.kernel.assign(tf.ones_like(dense.kernel.value))
        with recompute_scope(on):
            found.append([tf.function(step)(tf.constant(X)).numpy(), dense.kernel.numpy()])
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@GRAPH
def test_assignments_in_a_function_are_refused(graph):
    """They would happen twice, or never."""
    norm = layers.BatchNormalization()
    norm.build((None, WIDTH))
    inner = tf.function(lambda x: norm(x, training=True))
    with pytest.raises(RuntimeError, match="that assigns to the variable"):
        gradients(recompute_grad(lambda: inner(tf.constant(X))), [norm.gamma.value], True, graph)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv2D(4, 3, groups=2),
        lambda: layers.DepthwiseConv2D(3),
        lambda: layers.SeparableConv1D(4, 3),
        lambda: layers.Conv2DTranspose(4, 3),
    ],
    ids=["grouped", "depthwise", "separable", "transposed"],
)
def test_convolutions(layer, jit):
    """Keras runs grouped convolutions in a function of its own."""

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.convolution = layer()

        def build(self, shape):
            self.convolution.build(shape)

        @recompute_grad
        def call(self, x):
            return keras.ops.tanh(self.convolution(x))

    separable = "1d" in layer().name
    shape = (9, 4) if separable else (6, 6, 4)
    pool = layers.GlobalAveragePooling1D if separable else layers.GlobalAveragePooling2D
    random = np.random.default_rng(0)

    def build():
        return keras.Sequential([keras.Input(shape), Block(), pool(), layers.Dense(1)])

    x, y = random.normal(size=(8, *shape)).astype("float32"), random.normal(size=(8, 1))
    assert_exact(build, x, y.astype("float32"), jit_compile=jit)


def straight_through(function):
    """Return a function with the gradient of another one, which uses weights."""

    @tf.custom_gradient
    def quantized(x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = function(x)

        def gradient(dy, variables=None):
            found = tape.gradient(y, [x, *variables], dy)
            return found[0], found[1:]

        return tf.round(y * 8) / 8, gradient

    return quantized


INNER = {
    "recompute_grad": tf.recompute_grad,
    "remat": keras.remat,
    "custom gradient": straight_through,
    "twice": lambda function: tf.recompute_grad(lambda x: tf.recompute_grad(function)(x) * 2.0),
}


@GRAPH
@pytest.mark.parametrize("inner", INNER)
def test_weights_in_a_gradient_of_somebody_else(inner, graph):
    """Weights that are used inside of a tf.custom_gradient in a call have their gradients."""
    first, second = built_dense(), built_dense()
    x = tf.constant(X)
    inside = INNER[inner](lambda z: second(first(z)))
    block = recompute_grad(lambda: inside(x * 2.0) * first(x))
    sources = [first.kernel.value, first.bias.value, second.kernel.value, second.bias.value, x]
    assert_same_gradients(block, sources, graph)


class Inner(layers.Layer):
    """A layer that saves memory in its own way."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.dense = layers.Dense(WIDTH, "gelu")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return INNER[self.inner](lambda z: self.dense(z))(x) + x


@pytest.mark.parametrize("inner", ["recompute_grad", "custom gradient"])
def test_a_model_of_such_layers(inner):
    """The same in fit, where they are recomputed as segments."""

    def build():
        model = keras.Sequential(
            [keras.Input((WIDTH,)), *(Inner(inner) for _ in range(4)), layers.Dense(WIDTH)]
        )
        recompute.apply(model, every=1)
        return model

    assert_exact(build, X, Y)


@GRAPH
def test_gradients_inside_of_a_call(graph):
    """A call may take gradients with respect to its own weights."""
    dense = built_dense()
    x = tf.constant(X)

    @recompute_grad
    def penalty():
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(dense(x) ** 2)
        return tape.gradient(y, dense.kernel.value) ** 2

    assert_same_gradients(penalty, [dense.kernel.value, x], graph)


RAGGED = tf.ragged.constant([[1.0, 2.0], [3.0], [], [4.0, 5.0, 6.0]])
SPARSE = tf.sparse.from_dense([[0.0, 2.0], [3.0, 0.0]])


@GRAPH
@pytest.mark.parametrize(
    ("given", "dense"), [(RAGGED, lambda x: x.to_tensor()), (SPARSE, tf.sparse.to_dense)]
)
def test_ragged_and_sparse_tensors(given, dense, graph):
    """They may come in and go out, with gradients of their values and of what is outside."""
    w = tf.constant(2.0)
    flat = tf.nest.flatten(given, expand_composites=True)
    values = next(x for x in flat if x.dtype == tf.float32)
    map_values = tf.ragged.map_flat_values if given is RAGGED else tf.sparse.map_values

    @recompute_grad
    def block(x):
        return map_values(lambda v: tf.tanh(v * w), x), {"given": x}

    def run():
        y, same = block(given)
        assert type(y) is type(given)
        return tf.reduce_sum(dense(y) ** 2) + tf.reduce_sum(dense(same["given"]))

    assert_same_gradients(run, [values, w], graph)


def test_a_tensor_array_is_refused():
    """Its gradient would be lost."""

    def run():
        return recompute_grad(lambda x: tf.TensorArray(tf.float32, 1).write(0, x))(w).read(0)

    w = tf.constant(2.0)
    with pytest.raises(TypeError, match="returned a TensorArray"):
        gradients(run, [w], True, False)


@pytest.mark.parametrize("layer", [layers.LayerNormalization, layers.BatchNormalization])
def test_nothing_at_all(layer):
    """A batch that is known to be empty is no reason to end the process."""
    normal = layer()
    normal.build((None, 3, 4))
    block = recompute_grad(lambda x: normal(x, training=True))
    plain, again = (
        gradients(lambda: block(tf.zeros((0, 3, 4))), [normal.gamma.value], on, True)
        for on in (False, True)
    )
    np.testing.assert_array_equal(plain, again)


class Block(layers.Layer):
    """A decorated layer to export."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(WIDTH, "gelu")

    def build(self, shape):
        self.dense.build(shape)

    @recompute_grad
    def call(self, x):
        return x + self.dense(x)


def trained(how):
    """Return a model that has been trained with recompute, on how it was asked for."""
    model = fresh_model(
        lambda: keras.Sequential([keras.Input((WIDTH,)), *(Block() for _ in range(3))])
    )
    if how == "applied":
        recompute.apply(model, every=1)
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    return model


@pytest.fixture(params=["decorated", "applied"])
def model(request):
    with recompute_scope(True):
        yield trained(request.param)


def test_export(model, tmp_path):
    """What is exported predicts as the model does, and knows nothing of perftricks."""
    model.export(tmp_path / "export", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_array_equal(loaded.serve(X), model(X, training=False))
    assert b"erftricks" not in (tmp_path / "export" / "saved_model.pb").read_bytes()


def test_archive_with_a_training_function(model, tmp_path):
    """A function that trains is exported, and what is loaded has the same gradients."""
    archive = keras.export.ExportArchive()
    archive.track(model)

    @tf.function(input_signature=[tf.TensorSpec((None, WIDTH))])
    def forward(x):
        return model(x, training=True)

    archive.add_endpoint("forward", forward)
    archive.write_out(tmp_path / "archive", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "archive")
    ours = [v.value for v in model.trainable_variables]
    theirs = [next(v for v in loaded.variables if v.name == w.name) for w in ours]
    found = []
    for function, variables in [(forward, ours), (loaded.forward, theirs)]:
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(function(X) ** 2)
        found.append(tape.gradient(y, variables))
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=FEW_ULP)


def test_saved_model_of_a_module(model, tmp_path):
    """tf.saved_model.save of the model itself, and of a module with a training step, works."""

    class Trainer(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec((None, WIDTH)), tf.TensorSpec((None, WIDTH))])
        def step(self, x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.model(x, training=True) - y) ** 2)
            variables = [v.value for v in self.model.trainable_variables]
            for variable, gradient in zip(variables, tape.gradient(loss, variables)):
                variable.assign_sub(0.1 * gradient)
            return loss

    trainer = Trainer()
    tf.saved_model.save(trainer, str(tmp_path / "module"))
    loaded = tf.saved_model.load(tmp_path / "module")
    ours = [float(trainer.step(X, Y)) for _ in range(3)]
    assert [float(loaded.step(X, Y)) for _ in range(3)] == ours
    assert ours[2] < ours[0]
    tf.saved_model.save(model, str(tmp_path / "model"))


def test_lite(model):
    """The converter for small devices takes the model."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    assert len(converter.convert()) > 1000
