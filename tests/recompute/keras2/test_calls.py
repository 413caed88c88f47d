"""What a decorated call may take, return, use and change."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.comparison import recomputed
from tests.recompute.keras2.binding import GRAPH, STANDALONE, K, clear_session, keras, layers, tf
from tests.recompute.keras2.programs import WIDTH, WithDense, around, data
from tests.recompute.keras2.training import (
    FEW_ULP,
    OFF,
    ON,
    assert_exact,
    fresh_model,
    steps,
    values,
    way,
)


class Noisy(WithDense):
    """A layer with a Dense, a Dropout and a BatchNormalization inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.4)
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)
        super().build(shape)


def test_several_inputs_and_outputs():
    """A decorated call with a list of inputs, a list of outputs, and what is no tensor."""

    class Mixed(WithDense):
        def build(self, shapes):
            super().build(shapes[0])

        @recompute_grad
        def call(self, pair, scale=2, mode=None, flag=True):
            first, second = pair
            assert mode == "sum"
            assert flag is False
            y = self.dense(first) * scale + second
            return [y, first * y]

        def compute_output_shape(self, shapes):
            return [tuple(shapes[0]), tuple(shapes[0])]

        def compute_mask(self, inputs, mask=None):
            return [None, None]

    def build():
        inputs = [layers.Input((WIDTH,)), layers.Input((WIDTH,))]
        x = [layers.Dense(WIDTH)(i) for i in inputs]
        out = Mixed()(x, scale=3, mode="sum", flag=False)
        return keras.models.Model(inputs, layers.Add()([*out, x[0]]))

    x, y = data()
    assert_exact(build, [x, x[::-1]], y, tolerance=4e-6)


def test_nested_structures():
    """Dictionaries, tuples and lists within each other, in and out, with None and integers."""

    class Outer(WithDense):
        @recompute_grad
        def inner(self, pair, options, scale=2):
            first, more = pair
            assert options == {"on": True, "none": None, "text": "a"}
            y = self.dense(first) * scale + more["second"]
            index = tf.argmax(y, axis=-1)
            return {"y": y, "both": (first, [y * 2]), "index": index, "nothing": None, "n": 3}

        def call(self, x):
            options = {"on": True, "none": None, "text": "a"}
            out = self.inner((x, {"second": x * 3}), options, scale=3)
            assert out["nothing"] is None
            assert out["n"] == 3
            assert isinstance(out["both"], tuple)
            picked = tf.expand_dims(tf.cast(out["index"], "float32"), -1)
            return out["y"] + out["both"][0] + out["both"][1][0] + picked

    assert_exact(around(Outer), *data(), tolerance=4e-6)


def test_dictionaries_keep_their_order():
    """A call, and who takes what it returns, find the keys as they were put in."""

    class Outer(WithDense):
        @recompute_grad
        def inner(self, features):
            assert list(features) == ["user", 1, "item"]
            first, _, second = features.values()
            return {"z": self.dense(first) * second, 0: first}

        def call(self, x):
            first, second = self.inner({"user": x, 1: None, "item": x * 2}).values()
            return first - second

    assert_exact(around(Outer), *data(), tolerance=4e-6)


@pytest.mark.skipif(STANDALONE, reason="Keras 2.3.1 takes tensors and lists of tensors only")
def test_a_tuple_and_a_dictionary_as_the_input_of_a_layer():
    """Layers take nested inputs where this Keras lets them."""

    class Mixed(WithDense):
        def build(self, shapes):
            super().build((None, WIDTH))

        @recompute_grad
        def call(self, inputs):
            return {"y": self.dense(inputs["a"]) * inputs["b"], "z": inputs["a"]}

    def build():
        inputs = layers.Input((WIDTH,))
        x = layers.Dense(WIDTH)(inputs)
        out = Mixed()({"a": x, "b": x * 2})
        return keras.models.Model(inputs, layers.Add()([out["y"], out["z"]]))

    assert_exact(build, *data(), tolerance=4e-6)


def test_tensor_keyword_arguments():
    """Tensors passed by keyword get their gradients."""

    class Gated(WithDense):
        def build(self, shape):
            self.gate = layers.Dense(WIDTH, activation="sigmoid")
            self.gate.build(shape)
            super().build(shape)

        @recompute_grad
        def inner(self, x, gate=None):
            return self.dense(x) * gate

        def call(self, x):
            return self.inner(x, gate=self.gate(x))

    assert_exact(around(Gated), *data())


@pytest.mark.parametrize("how", ["context", "keyword", "position"])
def test_training(how):
    """``training`` reaches the layers inside whichever way it is passed."""

    class ByContext(Noisy):
        @recompute_grad
        def call(self, x):
            return self.norm(self.dropout(self.dense(x)))

    class ByKeyword(Noisy):
        @recompute_grad
        def call(self, x, training=None):
            return self.norm(self.dropout(self.dense(x), training=training), training=training)

    class ByPosition(Noisy):
        @recompute_grad
        def inner(self, x, training):
            return self.norm(self.dropout(self.dense(x), training=training), training=training)

        def call(self, x, training=None):
            return self.inner(x, training)

    layer = {"context": ByContext, "keyword": ByKeyword, "position": ByPosition}[how]
    assert_exact(around(layer), *data())


@pytest.mark.parametrize("training", [False, True])
def test_training_that_is_fixed(training):
    """``training=True`` drops in inference too, ``training=False`` never."""

    class Fixed(Noisy):
        @recompute_grad
        def call(self, x):
            return self.norm(self.dropout(self.dense(x), training=training), training=training)

    assert_exact(around(Fixed), *data())


@pytest.mark.parametrize("how", [OFF, ON])
def test_dropout_is_active_in_fit_and_only_there(how):
    """A model whose only random layer is decorated is still told that it trains."""

    def build():
        inputs = layers.Input((WIDTH,))
        x = recomputed(layers.Dropout)(0.5)(inputs)
        return keras.models.Model(inputs, layers.Dense(WIDTH, use_bias=False)(x))

    with way(how):
        model = fresh_model(build)
        model.set_weights([np.eye(WIDTH, dtype="float32")])
        model.compile("sgd", "mse")
        ones = np.ones((8, WIDTH), "float32")
        # Each output is 0 or 2 with dropout, and 1 without.
        assert model.train_on_batch(ones, ones) == pytest.approx(1.0)
        model.set_weights([np.eye(WIDTH, dtype="float32")])
        assert model.test_on_batch(ones, ones) == 0
        np.testing.assert_array_equal(model.predict(ones), ones)


def test_captured_tensors_and_variables():
    """What a call uses from outside gets the same gradients: tensors, other layers' variables."""

    class Outer(WithDense):
        def build(self, shape):
            self.other = layers.Dense(WIDTH)
            self.other.build(shape)
            super().build(shape)

        def call(self, x):
            captured = self.other(x) * 2
            kernel = self.other.kernel

            @recompute_grad
            def inner(x):
                return self.dense(x) * captured + tf.matmul(captured, kernel) + captured

            return inner(x) + captured

    build = around(Outer)
    # What is used inside and outside has the parts of its gradient added in another order.
    assert_exact(build, *data(), tolerance=4e-6)
    assert sum(name.startswith("gradient of") for name in steps(build, *data(), ON).arrays) == 9


def test_a_captured_tensor_alone():
    """The gradient of a captured tensor arrives even if nothing else needs one."""

    class Outer(WithDense):
        def call(self, x):
            hidden = self.dense(x)
            function = recompute_grad(lambda n: tf.tanh(hidden) * n)
            return function(3)

    assert_exact(around(Outer), *data())


def test_a_captured_tensor_that_is_also_an_argument():
    """Both ways in count: the gradient is the sum, once each."""

    class Outer(WithDense):
        def call(self, x):
            hidden = self.dense(x)
            function = recompute_grad(lambda a: tf.tanh(hidden) * tf.exp(a))
            return function(hidden)

    assert_exact(around(Outer), *data())


def test_an_argument_that_is_returned():
    """An output that is an input, twice, with its gradient."""

    class Outer(WithDense):
        @recompute_grad
        def inner(self, x):
            return x, self.dense(x), x

        def call(self, x):
            a, b, c = self.inner(x)
            return a * b + c

    assert_exact(around(Outer), *data())


def test_an_output_that_nobody_uses():
    """An output without a gradient is left out of the backward pass."""

    class Outer(WithDense):
        @recompute_grad
        def inner(self, x):
            y = self.dense(x)
            return tf.exp(y), y

        def call(self, x):
            return self.inner(x)[1]

    assert_exact(around(Outer), *data())


def test_plain_functions_that_run_layers():
    """A function around layers is exact too, with dropout, moving averages and losses."""

    class Outer(Noisy):
        def call(self, x):
            def run(x):
                return self.norm(self.dropout(self.dense(x)))

            return recompute_grad(run)(x)

    assert_exact(around(Outer), *data())


def test_layers_that_are_used_twice():
    """A shared decorated layer with dropout and moving averages is updated by each call, once."""

    class Shared(WithDense):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dropout = layers.Dropout(0.4)
            # In a graph nothing says in which order the updates of one average happen.
            self.last = layers.Activation("tanh") if GRAPH else layers.BatchNormalization()

        def build(self, shape):
            self.last.build(shape)
            super().build(shape)

        @recompute_grad
        def call(self, x):
            return self.last(self.dropout(self.dense(x)))

    def build():
        inputs = layers.Input((WIDTH,))
        shared = Shared()
        x = shared(shared(inputs))
        x = layers.Add()([x, shared(layers.Dense(WIDTH)(inputs))])
        return keras.models.Model(inputs, x)

    assert_exact(build, *data(), tolerance=4e-6)


def test_decorated_layers_inside_decorated_layers():
    """Nested recomputation: three levels with state in each."""

    class Block(layers.Layer):
        def __init__(self, depth, **kwargs):
            super().__init__(**kwargs)
            self.inner = (
                Block(depth - 1) if depth else recomputed(layers.Dense)(WIDTH, activation="tanh")
            )
            self.dropout = recomputed(layers.Dropout)(0.3)
            self.norm = recomputed(layers.BatchNormalization)()

        def build(self, shape):
            self.inner.build(shape)
            self.norm.build(shape)
            super().build(shape)

        @recompute_grad
        def call(self, x):
            return self.norm(self.dropout(self.inner(x)))

    assert_exact(around(lambda: Block(2)), *data())


def test_losses_are_counted_once():
    """Losses belong to the layers that added them."""

    class Lossy(WithDense):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.regularizer = layers.ActivityRegularization(l2=0.1)

        @recompute_grad
        def call(self, x):
            y = self.regularizer(self.dense(x))
            if STANDALONE:
                self.add_loss([tf.reduce_mean(y), tf.reduce_sum(tf.square(x))], inputs=x)
            else:
                self.add_loss([tf.reduce_mean(y), tf.reduce_sum(tf.square(x))], inputs=True)
            return y

    build = around(Lossy)
    assert_exact(build, *data(), tolerance=4e-6)


def test_frozen_layers():
    """A frozen decorated layer keeps its weights and passes the gradient on."""

    def frozen():
        layer = recomputed(layers.Dense)(WIDTH, activation="tanh")
        layer.trainable = False
        return layer

    assert_exact(around(frozen), *data())


def test_layers_that_are_built_by_the_call():
    """A call may create variables when it runs first, as layers without ``build`` do."""

    class Lazy(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(WIDTH, activation="tanh")
            self.norm = layers.BatchNormalization()

        @recompute_grad
        def call(self, x):
            return self.norm(self.dense(x))

    assert_exact(around(Lazy), *data())
    assert len(fresh_model(around(Lazy)).weights) == 10


def test_the_weights_of_a_decorated_layer():
    """A decorated layer has the weights and the names of the plain one."""

    class Decorated(Noisy):
        @recompute_grad
        def call(self, x):
            return self.norm(self.dropout(self.dense(x)))

    found = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(around(Decorated))
        found.append([(v.name, tuple(v.shape)) for v in model.weights])
    assert found[0] == found[1]


def test_initial_weights_do_not_depend_on_recompute():
    """Whatever draws numbers while a model is built draws as it would without recompute."""

    def build():
        inputs = layers.Input((WIDTH,))
        x = recomputed(layers.Dense)(WIDTH)(inputs)
        x = recomputed(layers.Dropout)(0.3)(x)
        return keras.models.Model(inputs, layers.Dense(WIDTH)(x))

    found = []
    for how in (OFF, ON):
        clear_session()
        with way(how):
            found.append(values(build().weights))
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)


def test_assignments_happen_once():
    """A counter that a call moves on counts calls, not recomputations."""

    class Counting(WithDense):
        def build(self, shape):
            self.count = self.add_weight(
                name="count", shape=(), initializer="zeros", trainable=False
            )
            super().build(shape)

        @recompute_grad
        def call(self, x):
            if STANDALONE:
                self.add_update(K.update_add(self.count, K.constant(1.0)), x)
            elif GRAPH:
                self.add_update(K.update_add(self.count, K.constant(1.0)))
            else:
                self.count.assign_add(1.0)
            return self.dense(x) * 2.0

    assert_exact(around(Counting), *data())
    with way(ON):
        model = fresh_model(around(Counting))
        model.set_weights([w if w.ndim else np.float32(0) for w in model.get_weights()])
        model.compile("sgd", "mse")
        model.fit(*data(), batch_size=4, epochs=3, verbose=0)
        (count,) = (w for w in model.get_weights() if w.ndim == 0)
    assert count == 6


def test_a_variable_of_a_closure_that_changes():
    """The second run sees the count of the first, and counts no further."""
    count = 0

    class Counting(WithDense):
        @recompute_grad
        def call(self, x):
            nonlocal count
            count += 1
            return K.sin(self.dense(x) * count)

    def build():
        nonlocal count
        count = 0
        return around(Counting)()

    found = []
    for how in (OFF, ON):
        run = steps(build, *data(), how)
        found.append((run, count))
    assert found[0][1] == found[1][1]
    found[0][0].assert_same(found[1][0], FEW_ULP)


@pytest.mark.skipif(GRAPH, reason="in a graph a mask is kept and not drawn again")
@pytest.mark.parametrize("how", ["function", "method", "keyword"])
def test_dropout_that_a_call_refers_to(how):
    """A layer that counts its masks counts each once, wherever a call has it from."""

    def masks(on):
        dropout = layers.Dropout(0.5, seed=3)

        class Outer(layers.Layer):
            @recompute_grad
            def call(self, x):
                return dropout(tf.tanh(x), training=True)

        call = {
            "function": recompute_grad(lambda x: dropout(x, training=True)),
            "method": Outer(),
            "keyword": functools.partial(
                recompute_grad(lambda x, layer: layer(x, training=True)), layer=dropout
            ),
        }[how]
        x, found = tf.ones([4, WIDTH]), []
        tf.random.set_seed(5)
        with recompute_scope(on):
            for _ in range(4):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = call(x)
                found.extend([y.numpy(), tape.gradient(y, x).numpy()])
        return found

    np.testing.assert_array_equal(masks(False), masks(True))


def test_as_many_updates():
    """The update operations of BatchNormalization are there once."""
    if not GRAPH:
        pytest.skip("updates are operations of a graph")
    counts = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(around(lambda: recomputed(layers.BatchNormalization)()))
        counts.append(len(model.updates))
    assert counts == [2, 2]


@pytest.mark.skipif(GRAPH, reason="about what is assigned and read within a call, eagerly")
def test_what_is_read_after_an_assignment():
    """The replay sees the values that the call saw, before and after an assignment."""

    class Assigning(WithDense):
        def build(self, shape):
            self.total = self.add_weight(
                name="total", shape=(WIDTH,), initializer="zeros", trainable=False
            )
            super().build(shape)

        @recompute_grad
        def call(self, x):
            y = self.dense(x) * self.total
            self.total.assign_add(tf.reduce_mean(x, axis=0))
            return y + self.total * tf.tanh(x)

    assert_exact(around(Assigning), *data())


def test_predict_and_evaluate_are_the_same():
    """Inference through a decorated layer gives what the plain layer gives."""
    x, y = data()
    results = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(around(lambda: recomputed(layers.Dense)(WIDTH, activation="tanh")))
            model.compile("sgd", "mse")
            results.append((model.predict(x), model.evaluate(x, y, verbose=0)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_a_model_with_decorated_layers_saves_and_loads(tmp_path):
    """Weights of a decorated model fit the plain one, and its file loads without the decorator."""
    with way(ON):
        model = fresh_model(around(lambda: recomputed(layers.Dense)(WIDTH, activation="tanh")))
        expected = model.predict(data()[0])
        model.save_weights(str(tmp_path / "weights.h5"))
        model.save(str(tmp_path / "model.h5"))
    plain = fresh_model(around(lambda: layers.Dense(WIDTH, activation="tanh")))
    plain.load_weights(str(tmp_path / "weights.h5"))
    np.testing.assert_array_equal(plain.predict(data()[0]), expected)
    whole = keras.models.load_model(str(tmp_path / "model.h5"))
    np.testing.assert_array_equal(whole.predict(data()[0]), expected)


def test_the_environment_variable_switches_it_on(monkeypatch):
    """RECOMPUTE=1 is read when the layer runs, and an invalid word is an error."""
    build = around(lambda: recomputed(layers.Dense)(WIDTH, activation="tanh"))
    monkeypatch.setenv("RECOMPUTE", "perhaps")
    with pytest.raises(ValueError, match=r"RECOMPUTE='perhaps' means neither on nor off"):
        fresh_model(build).predict(data()[0])
    monkeypatch.setenv("RECOMPUTE", "1")
    model = fresh_model(build)
    model.compile("sgd", "mse")
    assert np.isfinite(model.train_on_batch(*data()))


def test_a_function_without_keras():
    """A decorated function of tensors alone: gradients by tf.gradients or a tape."""
    function = recompute_grad(lambda x, y: tf.tanh(x * y) * y)
    x, y = (np.array(a, "float32") for a in ([0.3, -0.4], [1.5, 2.0]))

    def compute():
        if tf.executing_eagerly():
            a, b = tf.constant(x), tf.constant(y)
            with tf.GradientTape() as tape:
                tape.watch([a, b])
                z = tf.reduce_sum(function(a, b))
            return [g.numpy() for g in tape.gradient(z, [a, b])]
        with tf.Graph().as_default():
            a, b = tf.constant(x), tf.constant(y)
            gradients = tf.gradients(tf.reduce_sum(function(a, b)), [a, b])
            with tf.compat.v1.Session() as session:
                return session.run(gradients)

    plain = compute()
    with recompute_scope(True):
        for a, b in zip(plain, compute()):
            np.testing.assert_array_equal(a, b)
    expected = y * y * (1 - np.tanh(x * y) ** 2)
    np.testing.assert_allclose(plain[0], expected, rtol=1e-5)


def test_integer_and_boolean_tensors():
    """Arguments that have no gradient pass through, also as outputs."""

    class Outer(WithDense):
        @recompute_grad
        def inner(self, x, index, flags):
            y = self.dense(tf.where(flags, x, x * 2))
            return y * tf.cast(index, "float32"), index + 1, tf.logical_not(flags)

        def call(self, x):
            y, index, flags = self.inner(x, tf.cast(x > 0, "int32"), x > 0.5)
            return y + tf.cast(index, "float32") + tf.cast(flags, "float32")

    assert_exact(around(Outer), *data())


def test_control_flow():
    """Loops and branches inside of a decorated call."""

    class Outer(WithDense):
        @recompute_grad
        def call(self, x):
            y = self.dense(x)
            y = tf.cond(tf.reduce_sum(x) > 0, lambda: tf.sin(y), lambda: tf.cos(y) * x)
            return tf.while_loop(
                lambda i, z: i < 3, lambda i, z: [i + 1, tf.tanh(z) * y], [tf.constant(0), y]
            )[1]

    assert_exact(around(Outer), *data())


@pytest.mark.parametrize("is_nested", [False, True])
def test_calls_inside_of_loops_and_branches(is_nested):
    """A decorated call in the body of a loop, or in a branch, takes what was made outside of it."""
    step = recompute_grad(lambda z, y: tf.tanh(z * y) + tf.sin(z + y))

    class Outer(WithDense):
        def inner(self, x):
            y = self.dense(x)
            turn = recompute_grad(lambda z: step(z, y) * y) if is_nested else lambda z: step(z, y)
            z = tf.while_loop(
                lambda i, z: i < 3, lambda i, z: [i + 1, turn(z)], [tf.constant(0), y]
            )
            return tf.cond(tf.reduce_sum(y) > -1e3, lambda: turn(z[1]) + turn(y), lambda: y)

        def call(self, x):
            return recompute_grad(self.inner)(x) if is_nested else self.inner(x)

    # What is made outside is used by each turn of the loop, and inside of the calls, twice.
    assert_exact(around(Outer), *data(), tolerance=FEW_ULP)


def test_branches_that_draw():
    """Random numbers drawn in a branch, and in a branch of a branch, are drawn once."""

    class Outer(WithDense):
        @recompute_grad
        def call(self, x):
            y = self.dense(x)

            def noisy():
                z = tf.nn.dropout(tf.sin(y), rate=0.4)
                drawn = tf.cond(
                    tf.reduce_max(x) > 0,
                    lambda: tf.nn.dropout(tf.exp(z), rate=0.3),
                    lambda: z * tf.random.normal(tf.shape(z)),
                )
                return drawn + z * tf.random.normal(tf.shape(z))

            return tf.tanh(tf.cond(tf.reduce_min(x) < 0, noisy, lambda: tf.cos(y) * x))

    assert_exact(around(Outer), *data(), tolerance=4e-6)
    assert_exact(around(lambda: recomputed(Outer)()), *data(), tolerance=4e-6)


@pytest.mark.parametrize("limit", [-1e9, 1e9], ids=["else", "then"])
def test_branches_that_read(limit):
    """Variables that are read in one branch, or in both, get their gradients, zero or not."""

    class Outer(WithDense):
        def build(self, shape):
            self.other = layers.Dense(WIDTH)
            self.other.build(shape)
            super().build(shape)

        @recompute_grad
        def call(self, x):
            y = tf.exp(self.dense(x))
            return tf.cond(
                tf.reduce_sum(x) < limit,
                lambda: tf.nn.dropout(tf.matmul(y, self.dense.kernel), rate=0.4),
                lambda: tf.sin(tf.matmul(self.other(y), self.dense.kernel)),
            )

    assert_exact(around(Outer), *data(), tolerance=4e-6)
    assert_exact(around(lambda: recomputed(Outer)()), *data(), tolerance=4e-6)


def test_gradients_of_its_own():
    """A custom gradient inside of a decorated call is the one that is used."""

    @tf.custom_gradient
    def tripled(x):
        return tf.identity(x), lambda dy: 3 * dy

    class Outer(WithDense):
        @recompute_grad
        def call(self, x):
            return tf.tanh(tripled(self.dense(x)) * x)

    assert_exact(around(Outer), *data())


def test_stopped_gradients():
    """``stop_gradient`` inside of a decorated call stops."""

    class Outer(WithDense):
        @recompute_grad
        def call(self, x):
            return tf.stop_gradient(self.dense(x)) * self.dense(x)

    assert_exact(around(Outer), *data())
