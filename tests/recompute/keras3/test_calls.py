"""What a decorated call may take, return, use and change."""

from __future__ import annotations

import collections
import functools
import os
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from perftricks import recompute
from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.comparison import recomputed
from tests.recompute.keras3.training import (
    BACKEND,
    FEW_ULP,
    array,
    assert_exact,
    fresh_model,
    gradient,
    marked,
    only_tensorflow,
    only_torch,
    since,
    step,
    steps,
)

WIDTH = 6


def data(*shape):
    """Return inputs and targets."""
    random = np.random.default_rng(0)
    x = random.normal(size=shape or (8, WIDTH)).astype("float32")
    return x, np.tanh(x[..., ::-1]).astype("float32")


def around(layer, **kwargs):
    """Return a builder of a model that calls a layer on something that needs a gradient."""

    def build():
        inputs = keras.Input((WIDTH,))
        x = layers.Dense(WIDTH, activation="tanh")(inputs)
        return keras.Model(inputs, layers.Dense(WIDTH)(layer()(x, **kwargs)))

    return build


class WithDense(layers.Layer):
    """A layer with a Dense inside, to derive from."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(WIDTH, activation="tanh")

    def build(self, shape):
        self.dense.build(shape)


class Noisy(WithDense):
    """A layer with a Dense, a Dropout and a BatchNormalization inside."""

    def __init__(self):
        super().__init__()
        self.dropout = layers.Dropout(0.4)
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        super().build(shape)
        self.norm.build(shape)


def test_structures_in_and_out():
    """Nested inputs and outputs, None, numbers, strings, booleans and integer tensors."""

    class Mixed(WithDense):
        def build(self, shape):
            super().build(shape[0])

        @recompute_grad
        def call(self, pair, scale=2, *, mode=None, flags=None):
            first, more = pair
            assert mode == "sum"
            assert flags == {"on": True, "none": None}
            y = self.dense(first) * scale + more["second"]
            index = ops.argmax(y, axis=-1)
            return {"y": y, "both": (first, [y * 2]), "index": index}

        def compute_output_spec(self, pair, scale=2, *, mode=None, flags=None):
            y = keras.KerasTensor(pair[0].shape, pair[0].dtype)
            return {"y": y, "both": (y, [y]), "index": keras.KerasTensor(y.shape[:-1], "int32")}

    def build():
        inputs = keras.Input((WIDTH,))
        x = layers.Dense(WIDTH)(inputs)
        out = Mixed()((x, {"second": x * 3}), scale=3, mode="sum", flags={"on": True, "none": None})
        picked = ops.expand_dims(ops.cast(out["index"], "float32"), -1)
        return keras.Model(inputs, out["y"] + out["both"][0] + out["both"][1][0] + picked)

    assert_exact(build, *data())


Pair = collections.namedtuple("Pair", "one other")


@pytest.mark.parametrize("how", ["decorated", "applied"])
def test_dictionaries_keep_their_order(how):
    """A call, and who takes what it returns, find the keys as they were put in."""

    class Towers(layers.Layer):
        def __init__(self):
            super().__init__()
            self.towers = [layers.Dense(WIDTH), layers.Dense(WIDTH, activation="tanh")]

        def build(self, shapes):
            for tower in self.towers:
                tower.build((None, WIDTH))

        def call(self, features):
            return {n: tower(x) for tower, (n, x) in zip(self.towers, features.items())}

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.towers, self.last = Towers(), layers.Dense(WIDTH)

        def call(self, x):
            first, second = self.towers({"user": x, "item": x * 2}).values()
            return self.last(first - second * first)

    def build():
        model = Model()
        model(np.zeros((1, WIDTH), "float32"))
        return model

    if how == "decorated":
        Towers.call = recompute_grad(Towers.call)
        assert_exact(build, *data())
        return
    models = [fresh_model(build) for _ in range(2)]
    recompute.apply(models[1], layers=[Towers])
    plain, found = (step(model, *data(), on=True) for model in models)
    plain.assert_same(found, FEW_ULP)


def test_containers_of_every_kind():
    """Python's containers come in and out as they are, with keys that cannot be compared, too."""
    seen = []

    @recompute_grad
    def function(things):
        seen.append(things)
        return things

    x, y = ops.ones((2,)), ops.zeros((2,))
    things = {
        "b": [x, (y, None)],
        1: collections.OrderedDict(z=x, a=y),
        "a": Pair(x, {"z": y, 2: x}),
        None: collections.defaultdict(list, d=[x], c=[]),
    }
    with recompute_scope(True):
        found = function(things)

    def described(x):
        if isinstance(x, dict):
            return type(x), getattr(x, "default_factory", 0), [*map(described, x.items())]
        if isinstance(x, (list, tuple)):
            return type(x), [*map(described, x)]
        return array(x).tolist() if ops.is_tensor(x) else x

    assert described(found) == described(things)
    assert all(described(each) == described(things) for each in seen)


@pytest.mark.parametrize(
    "returned",
    [
        lambda y: {"y": y}.values(),
        lambda y: {"y": y}.items(),
        lambda y: iter([y]),
        lambda y: map(ops.tanh, [y]),
        lambda y: (z for z in [y]),
    ],
)
def test_iterators_are_refused(returned):
    """What nobody can look into without using it up would lose its gradient."""

    def total(x):
        return sum(ops.sum(z) for z in recompute_grad(lambda x: [returned(ops.sin(x))])(x)[0])

    with recompute_scope(True), pytest.raises(TypeError, match="return a list or a tuple"):
        gradient(total, np.ones((3,), "float32"))


# The generators that a program may have, and how numbers are drawn from them.
GENERATORS = random.Random(1), np.random.default_rng(2), np.random.RandomState(3)
DRAWS = {
    "random": random.random,
    "numpy.random": np.random.rand,
    "random.Random": GENERATORS[0].random,
    "numpy.random.Generator": GENERATORS[1].random,
    "numpy.random.RandomState": GENERATORS[2].rand,
}


@pytest.mark.parametrize("way", DRAWS)
def test_random_numbers_of_python_and_numpy(way):
    """They are drawn again as they were, and what comes after goes on as if nothing had been."""
    draw, drawn = DRAWS[way], []

    @recompute_grad
    def function(x):
        assert GENERATORS  # what a call refers to is what is found
        number = float(draw())
        drawn.append(number)
        return ops.sin(x) * number

    with recompute_scope(True):
        found = gradient(lambda x: ops.sum(function(x)), np.zeros((3,), "float32"))
    after = draw()
    assert len(set(drawn)) == 1
    assert after != drawn[0]
    if BACKEND != "jax":  # which traces a call as often as it likes
        assert len(drawn) == 2
    np.testing.assert_array_equal(found, np.full((3,), drawn[0], "float32"))


def test_what_is_no_tensor_comes_back_as_it_is():
    """Outputs that are None, numbers, strings or objects are those of the call."""
    thing = object()

    @recompute_grad
    def function(x, n):
        return x + n, None, n, "text", thing

    with recompute_scope(True):
        out = function(ops.ones((2,)), 3)
    assert out[1:] == (None, 3, "text", thing)
    np.testing.assert_array_equal(array(out[0]), [4, 4])


def test_tensor_keyword_arguments():
    """Tensors passed by keyword get their gradients."""

    class Gated(WithDense):
        @recompute_grad
        def call(self, x, gate=None):
            return self.dense(x) * gate

    def build():
        inputs = keras.Input((WIDTH,))
        gate = layers.Dense(WIDTH, activation="sigmoid")(inputs)
        return keras.Model(inputs, Gated()(inputs, gate=gate))

    assert_exact(build, *data())


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

    assert_exact(
        around({"context": ByContext, "keyword": ByKeyword, "position": ByPosition}[how]), *data()
    )


def test_captured_tensors_and_variables():
    """What a call uses from outside gets the same gradients: tensors, other layers' variables."""

    class Outer(WithDense):
        def __init__(self):
            super().__init__()
            self.other = layers.Dense(WIDTH)

        def build(self, shape):
            super().build(shape)
            self.other.build(shape)

        def call(self, x):
            captured = self.other(x) * 2
            kernel = self.other.kernel

            @recompute_grad
            def inner(x):
                return self.dense(x) * captured + ops.matmul(captured, kernel) + captured

            return inner(x) + captured

    build = around(Outer)
    assert_exact(build, *data(), regrouped=True)
    assert sum("gradient of outer/" in name for name in steps(build, *data(), True).arrays) == 4


def test_a_captured_tensor_alone():
    """The gradient of a captured tensor arrives even if nothing else needs one."""

    class Outer(WithDense):
        def call(self, x):
            hidden = self.dense(x)
            function = recompute_grad(lambda n: ops.tanh(hidden) * n)
            return function(3)

    assert_exact(around(Outer), *data())


def test_a_captured_tensor_that_is_also_an_argument():
    """Both ways in count: the gradient is the sum, once each."""

    class Outer(WithDense):
        def call(self, x):
            hidden = self.dense(x)
            function = recompute_grad(lambda a: ops.tanh(hidden) * ops.exp(a))
            return function(hidden)

    # Of the one tensor JAX makes two, and adds their gradients outside of the recomputed call.
    assert_exact(around(Outer), *data(), regrouped=BACKEND == "jax")


def test_plain_functions_that_run_layers():
    """A function around layers is exact too, with dropout, moving averages and losses."""

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = [
                layers.Dense(WIDTH, activity_regularizer="l2"),
                layers.BatchNormalization(),
                layers.Dropout(0.4),
            ]

        def build(self, shape):
            for layer in self.inner:
                layer.build(shape)

        def call(self, x):
            def run(x):
                for layer in self.inner:
                    x = layer(x)
                return x

            return recompute_grad(run)(x)

    assert_exact(around(Outer), *data())


def test_layers_that_are_used_twice():
    """A shared decorated layer with dropout and moving averages is updated by each call, once."""

    class Shared(Noisy):
        @recompute_grad
        def call(self, x):
            x = self.norm(self.dropout(self.dense(x)))
            return self.norm(self.dropout(self.dense(x)))

    def build():
        inputs = keras.Input((WIDTH,))
        shared = Shared()
        return keras.Model(inputs, shared(shared(inputs)) + shared(inputs * 2))

    # With larger steps, inputs that differ in the last bit make this model differ as much.
    slowly = keras.optimizers.SGD
    assert_exact(build, *data(), regrouped=True, optimizer=lambda: slowly(0.01))


def test_decorated_layers_inside_decorated_layers():
    """Nested recomputation: three levels with state in each."""

    class Block(layers.Layer):
        def __init__(self, depth):
            super().__init__()
            self.inner = Block(depth - 1) if depth else recomputed(layers.Dense)(WIDTH, "gelu")
            self.dropout = recomputed(layers.Dropout)(0.3)
            self.norm = recomputed(layers.BatchNormalization)()

        def build(self, shape):
            self.inner.build(shape)
            self.norm.build(shape)

        @recompute_grad
        def call(self, x):
            x = self.norm(self.dropout(self.inner(x)))
            self.add_loss(ops.mean(ops.square(x)))
            return x

    assert_exact(around(lambda: Block(2)), *data())


def test_losses_are_counted_once():
    """Losses belong to the layers that added them, also after the backward pass."""

    class Lossy(WithDense):
        def __init__(self):
            super().__init__()
            self.regularizer = layers.ActivityRegularization(l2=0.1)

        @recompute_grad
        def call(self, x):
            y = self.regularizer(self.dense(x))
            self.add_loss([ops.mean(y), ops.sum(ops.square(x))])
            return y

    build = around(Lossy)
    assert_exact(build, *data(), regrouped=True)
    if BACKEND != "jax":  # there losses are returned, and assert_exact has compared them
        model = fresh_model(build)
        step(model, *data(), True)
        lossy = next(layer for layer in model.layers if isinstance(layer, Lossy))
        assert [len(lossy.losses), len(lossy.regularizer.losses), len(model.losses)] == [3, 1, 3]


@pytest.mark.skipif(BACKEND == "jax", reason="Keras refuses it on JAX, decorated or not")
def test_metrics_are_counted_once():
    """A metric that a layer updates sees each batch once."""

    class Measured(WithDense):
        def __init__(self):
            super().__init__()
            self.mean = keras.metrics.Mean(name="activation")

        @recompute_grad
        def call(self, x):
            y = self.dense(x)
            self.mean.update_state(y)
            return y

    assert_exact(around(Measured), *data())
    model = fresh_model(around(Measured))
    step(model, *data(), True)
    assert array(model.layers[2].mean.count) == 8


def test_assignments_are_leaves():
    """What is read after an assignment is the variable's own, as in the plain call."""

    class Assigning(WithDense):
        def build(self, shape):
            super().build(shape)
            self.total = self.add_weight(shape=(WIDTH,), initializer="zeros", trainable=False)
            self.scale = self.add_weight(shape=(WIDTH,), initializer="ones")

        @recompute_grad
        def call(self, x):
            # Autograd of torch refuses to go back to before an update in place.
            y = self.dense(x) * (1 if BACKEND == "torch" else self.total)
            self.total.assign_add(ops.mean(x, axis=0))
            self.total.assign_add(ops.ones(WIDTH))
            self.scale.assign(ops.tanh(self.scale) + ops.mean(x))
            return y + self.total * self.scale * x

    assert_exact(around(Assigning), *data())


def test_attributes_that_a_call_sets():
    """Tensors, numbers and lists that a call leaves on the layer are there once, and usable."""

    class Remembering(WithDense):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.seen = []

        @recompute_grad
        def call(self, x):
            self.calls += 1
            self.seen.append(self.calls)
            self.last = ops.tanh(x)
            return self.dense(x) * self.calls

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Remembering()

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            self.inner.calls = 0
            return self.inner(x) + self.inner.last + self.inner(x)

    build = around(Outer)
    assert_exact(build, *data(), regrouped=True)
    model = fresh_model(build)
    inner = model.layers[2].inner
    inner.seen.clear()
    step(model, *data(), True)
    assert inner.calls == 2
    assert list(inner.seen) == [1, 2]


@pytest.mark.parametrize(
    "how", ["second", "list", "keyword", "closure", "partial", "default", "method"]
)
def test_layers_that_a_call_is_given_or_refers_to(how):
    """What they count in attributes is what it was when the call runs again."""

    class Counter(WithDense):
        calls = 0

        def call(self, x):
            self.calls += 1
            return self.dense(x) * self.calls

    counters = []

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            counters.append(Counter())
            counter = counters[-1]
            self.weights_of = counter

            class Closure(layers.Layer):
                @recompute_grad
                def call(self, x):
                    return ops.sin(counter(x))

            self.run = {
                "second": lambda x: recompute_grad(lambda x, y: ops.sin(y(x)))(x, counter),
                "list": lambda x: recompute_grad(lambda x, y: ops.sin(y[0](x)))(x, [counter]),
                "keyword": lambda x: recompute_grad(lambda x, y: ops.sin(y(x)))(x, y=counter),
                "closure": Closure(),
                "partial": recompute_grad(functools.partial(lambda y, x: ops.sin(y(x)), counter)),
                "default": recompute_grad(lambda x, y=counter: ops.sin(y(x))),
                "method": recompute_grad(lambda x, y=counter.call: ops.sin(y(x))),
            }[how]

        def build(self, shape):
            self.weights_of.build(shape)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def call(self, x):
            return self.run(self.run(x))

    assert_exact(around(Outer), *data())
    off, on = counters[-2:]
    assert on.calls == off.calls > 0


def test_arrays_of_numpy_that_are_filled_again():
    """A buffer that is an argument may hold other numbers by the time of the backward pass."""
    buffer, x = np.ones(5, "float32"), np.linspace(0, 1, 5).astype("float32")
    function = recompute_grad(lambda x, y: ops.sin(x * ops.convert_to_tensor(y)))
    found = []
    for on in (False, True):
        with recompute_scope(on):
            buffer[:] = 2.0

            def call(x):
                y = function(x, buffer)
                buffer[:] = 0.0
                return ops.sum(y)

            found.append(gradient(call, x))
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert np.abs(found[0]).max() > 0.5


def test_assignments_in_mixed_precision():
    """What a call reads after an assignment is what the plain call reads, be it the old value."""

    class Assigning(WithDense):
        def __init__(self):
            super().__init__()
            self.dtype_policy = "mixed_bfloat16"

        def build(self, shape):
            super().build(shape)
            self.total = self.add_weight(shape=(), initializer="ones", trainable=False)

        def call(self, x):
            self.total.assign_add(1.0)
            return self.dense(x) * self.total

    assert_exact(around(recomputed(Assigning)), *data())


def test_calls_inside_of_branches_and_loops():
    """They use what was made outside, given to them or not, also in each other."""
    step_ = recompute_grad(lambda z, y: ops.tanh(z * y) + ops.sin(z + y))

    class Outer(WithDense):
        def call(self, x):
            y = self.dense(x)
            inner = recompute_grad(lambda z: step_(z, y) * y)
            z = ops.cond(ops.sum(y) > -1e3, lambda: inner(y) + y * step_(y, y), lambda: y)
            if BACKEND == "jax":  # whose loops of this kind have no gradient
                return inner(z)
            return ops.while_loop(lambda i, _: i < 3, lambda i, z: (i + 1, inner(z)), (0, z))[1]

    # What is made outside is used by each turn of the loop, and inside of the calls, twice.
    assert_exact(around(Outer), *data(), regrouped=True)


def _rotate(held):
    key = next(iter(held))
    held[key] = held.pop(key)
    return held[key]


def _turn(held):
    held[f"key {len(held)}"] = 1.0
    held.move_to_end(next(iter(held)))
    return held.popitem()[1] + len(held)


def _add_keys(held):
    held[len(held)] = 1.0
    held["z"], held["a"] = 2.0, 3.0
    return float(len(held))


def _append(held):
    held["counts"][0].append(1)
    return float(len(held["counts"][0]))


def _move(held):
    held["now"].append(len(held["all"]))
    held["all"].append(held["now"])
    held["now"] = []
    return float(len(held["all"]))


def _push(held):
    held.append(1.0)
    return float(len(held))


CONTAINERS = {
    "a dict's order": (lambda: {"a": 1.0, "b": 2.0, "c": 3.0}, _rotate),
    "an OrderedDict": (lambda: collections.OrderedDict(a=1.0, b=2.0), _turn),
    "keys of several types": (dict, _add_keys),
    "a list in a tuple in a dict": (lambda: {"counts": ([],)}, _append),
    "a list that goes into another": (lambda: {"now": [], "all": []}, _move),
    "a deque": (collections.deque, _push),
}


@pytest.mark.parametrize("name", marked(CONTAINERS, {"an OrderedDict": since(3, 14)}))
def test_containers_that_a_call_changes(name):
    """Each run of a step sees what the first saw; afterwards containers hold what they should."""
    initial, change = CONTAINERS[name]

    class Holding(WithDense):
        def __init__(self):
            super().__init__()
            self.held = initial()

        @recompute_grad
        def call(self, x):
            factor = change(self.held)
            self.shape_seen = x.shape
            return ops.exp(ops.tanh(self.dense(x) * factor))

    results = []
    for on in (False, True):
        model = fresh_model(around(Holding))
        runs = [step(model, *data(), on) for _ in range(3)]
        layer = model.layers[2]
        results.append((runs, repr(layer.held), type(layer.shape_seen)))
    for plain, recomputing in zip(results[0][0], results[1][0]):
        plain.assert_same(recomputing)
    assert results[0][1:] == results[1][1:]


def test_masks_are_taken_away_as_in_the_plain_call():
    """Attention takes the mask off its inputs; so does the decorated one."""
    x = ops.ones((2, 3, 4))
    attention = recomputed(layers.MultiHeadAttention)(1, 2)
    attention.build(x.shape, x.shape)
    seen = []
    for on in (False, True):
        keras.src.backend.set_keras_mask(x, ops.ones((2, 3), "bool"))
        with recompute_scope(on):
            y = attention(x, x)
        seen.append(
            (keras.src.backend.get_keras_mask(x) is None, keras.src.backend.get_keras_mask(y))
        )
    assert seen[0][0] == seen[1][0]
    np.testing.assert_array_equal(array(seen[0][1]), array(seen[1][1]))


@pytest.mark.skipif(BACKEND == "jax", reason="Keras refuses it on JAX, decorated or not")
def test_random_numbers_without_a_seed():
    """Unseeded ``keras.random`` draws from the global generator, which moves on once."""

    class Unseeded(WithDense):
        @recompute_grad
        def call(self, x):
            return self.dense(x) + keras.random.normal(ops.shape(x)) * x

    def build():
        keras.random.normal((1,))  # the generator exists, as it would in a program that uses it
        return around(Unseeded)()

    assert_exact(build, *data())
    assert_exact(around(Unseeded), *data())


@pytest.mark.skipif(BACKEND != "jax", reason="about random numbers on JAX")
def test_random_numbers_without_a_seed_on_jax():
    """Where Keras cannot trace them it says so, and what to do, decorated or not."""
    call = recompute_grad(lambda x: x * keras.random.normal(ops.shape(x)))
    with recompute_scope(True):
        assert call(ops.ones(3)).shape == (3,)  # nothing is traced, nothing is differentiated
        with pytest.raises(ValueError, match="only use seeded random ops"):
            keras.src.backend.jax.core.jax.jit(call)(ops.ones(3))
    with pytest.raises(ValueError, match="only use seeded random ops"):
        keras.src.backend.jax.core.jax.jit(call)(ops.ones(3))


class Box:
    """Holds something, and is known to nobody."""

    def __init__(self, content):
        self.content = content


class Slot:
    """The same without a dictionary of attributes."""

    __slots__ = ("content",)

    def __init__(self, content):
        self.content = content


HOLDERS = [Box, Slot, lambda y: lambda: y, lambda y: Box([{"a": Slot(y)}])]


@pytest.mark.parametrize("holder", HOLDERS)
def test_tensors_in_objects(holder):
    """A tensor inside of an object keeps its gradient on torch; elsewhere there is an error."""

    def content(box):
        if isinstance(box, (Box, Slot)):
            return content(box.content)
        if isinstance(box, list):
            return box[0]["a"].content
        return box() if callable(box) else box

    class Boxing(WithDense):
        @recompute_grad
        def boxed(self, x):
            return holder(self.dense(x)), Box(3)

        def call(self, x):
            box, three = self.boxed(x)
            assert three.content == 3
            return ops.tanh(content(box))

    if BACKEND == "torch":
        assert_exact(around(Boxing), *data())
        return
    steps(around(Boxing), *data(), False)
    words = {"tensorflow": "whose gradient would be lost", "jax": "side effect|leaked|escaped"}
    with pytest.raises(Exception, match=words[BACKEND]):
        steps(around(Boxing), *data(), True)


def test_layers_that_are_built_by_the_call():
    """The first call may create layers and variables; it runs plainly, the next ones do not."""

    class Lazy(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(WIDTH)
            self.norm = layers.BatchNormalization()

        @recompute_grad
        def call(self, x):
            return self.norm(self.dense(x), training=True)

    x, _ = data()
    results = []
    for on in (False, True):
        keras.utils.set_random_seed(3)
        keras.utils.clear_session()
        layer = Lazy()
        layer.built = True
        with recompute_scope(on):
            outputs = [array(ops.stop_gradient(layer(ops.convert_to_tensor(x)))) for _ in range(3)]
        results.append([*outputs, *[array(v.value) for v in layer.variables]])
    assert len(results[0]) == len(results[1]) == 9
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_frozen_layers():
    """A frozen decorated layer keeps its weights and passes the gradient on."""

    def frozen():
        layer = recomputed(layers.Dense)(WIDTH, "tanh")
        layer.trainable = False
        return layer

    assert_exact(around(frozen), *data())


def test_symbolic_calls_go_straight_through():
    """A functional model is built through decorated layers as through plain ones."""
    with recompute_scope(True):
        model = around(lambda: recomputed(layers.Dense)(3))()
    assert model.output_shape == (None, WIDTH)
    assert [type(layer).__name__ for layer in model.layers].count("Dense") == 3


def test_a_model_with_decorated_layers_saves_and_loads(tmp_path):
    """A decorated subclass saves its weights as before."""
    model = fresh_model(around(lambda: recomputed(layers.Dense)(3)))
    model.save_weights(tmp_path / "a.weights.h5")
    again = fresh_model(around(lambda: layers.Dense(3)))
    again.load_weights(tmp_path / "a.weights.h5")
    for a, b in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_predict_and_evaluate_are_the_same():
    """Inference through a decorated layer gives what the plain layer gives."""
    x, y = data()
    model = fresh_model(around(lambda: recomputed(layers.Dense)(WIDTH)))
    model.compile("sgd", "mse")
    results = []
    for on in (False, True):
        model.make_predict_function(force=True)
        model.make_test_function(force=True)
        with recompute_scope(on):
            results.append((model.predict(x, verbose=0), model.evaluate(x, y, verbose=0)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=FEW_ULP)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=FEW_ULP)


def changing():
    """Return a layer whose call does something else when it is run again."""

    class Changing(WithDense):
        runs = 0

        def build(self, shape):
            super().build(shape)
            self.scale = self.add_weight(shape=(), initializer="ones")

        @recompute_grad
        def call(self, x):
            type(self).runs += 1
            return self.dense(x * self.scale if type(self).runs % 2 == 0 else x)

    return Changing


@pytest.mark.skipif(BACKEND == "jax", reason="JAX traces once and cannot go two ways")
def test_a_call_that_reads_other_variables_the_second_time_is_an_error():
    """Reading a variable for the first time in the recomputation names it."""
    model = fresh_model(around(changing()))
    kind = type(model.layers[2])
    kind.runs = 0
    with pytest.raises(RuntimeError, match="did not read it at first"):
        step(model, *data(), True)


@only_tensorflow
def test_variables_that_keras_does_not_know():
    """A captured tf.Variable gets its gradient, in a graph and eagerly."""
    import tensorflow as tf

    v = tf.Variable([1.0, 2.0])
    function = recompute_grad(lambda x: tf.tanh(x * v) * v)

    def gradients():
        x = tf.constant([0.3, 0.4])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(function(x) * v)
        return tape.gradient(y, [x, v])

    for run in (gradients, tf.function(gradients), tf.function(gradients, jit_compile=True)):
        found = []
        for on in (False, True):
            with recompute_scope(on):
                found.append(
                    [g.numpy() for g in (tf.function(run) if run is not gradients else run)()]
                )
        np.testing.assert_allclose(*found, rtol=1e-6)


@only_tensorflow
@pytest.mark.parametrize("graph", [False, True])
def test_what_tensorflow_cannot_repeat_is_refused(graph):
    """Assigning a raw tf.Variable, or drawing from TensorFlow's own generator, is an error."""
    import tensorflow as tf

    v, row = tf.Variable(1.0), tf.Variable([1.0, 2.0])
    generator = tf.random.Generator.from_seed(1)
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    key, label = tf.constant(1, tf.int64), tf.constant([[1]], tf.int64)
    queue = tf.queue.FIFOQueue(9, [tf.float32], [()])
    queue.enqueue(1.0)
    rows = iter(tf.data.Dataset.from_tensors(1.0).repeat())
    weights, biases = tf.ones((9, 2)), tf.zeros(9)
    functions = {
        "assigns a tf.Variable": [
            lambda x: x * v.assign_add(1.0),
            lambda x: x * row[:1].assign([3.0]),
            lambda x: x * row.scatter_add(tf.IndexedSlices([3.0], [1])),
            lambda x: x * row.scatter_nd_update([[1]], [3.0]),
        ],
        "draws random numbers of TensorFlow": [
            lambda x: x * tf.random.normal([2]),
            lambda x: x * tf.cast(generator.binomial([2], 9.0, 0.5), tf.float32),
            lambda x: tf.nn.sampled_softmax_loss(weights, biases, label, x[None], 3, 9),
            lambda x: tf.nn.fractional_max_pool(tf.ones((1, 9, 9, 1)) * x[0], 1.4)[0],
        ],
        "a table, a queue or an iterator": [
            lambda x: (table.insert(key, 1.0), x * 2.0)[1],
            lambda x: x * queue.dequeue(),
            lambda x: x * next(rows),
        ],
    }
    for words, function in [(words, each) for words, some in functions.items() for each in some]:

        def run(function=function):
            x = tf.constant([1.0, 2.0])
            with tf.GradientTape() as tape:
                tape.watch(x)
                return tape.gradient(recompute_grad(function)(x), x)

        with recompute_scope(True), pytest.raises(RuntimeError, match=words):
            (tf.function(run) if graph else run)()


@only_tensorflow
def test_what_begins_anew_may_be_run_twice():
    """A pool that is drawn by a seed of its own, a table that is read, an iterator of the call."""
    import tensorflow as tf

    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 3.0)
    numbers = tf.data.Dataset.from_tensor_slices([0.5, 2.0])

    @recompute_grad
    def block(x):
        x = tf.sin(tf.nn.fractional_max_pool(tf.sin(x), 1.4, pseudo_random=True, seed=4)[0])
        return tf.tanh(x * next(iter(numbers))) * table.lookup(tf.constant(1, tf.int64))

    x = tf.random.stateless_normal((2, 9, 9, 1), [1, 2])
    found = []
    for on in (False, True):
        with recompute_scope(on), tf.GradientTape() as tape:
            tape.watch(x)
            y = block(x)
        found.append(tape.gradient(y, x).numpy())
    np.testing.assert_array_equal(*found)


@only_tensorflow
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("place", ["branch", "loop", "function", "function in a branch"])
@pytest.mark.parametrize("what", ["assigns a tf.Variable", "draws random numbers of TensorFlow"])
def test_what_cannot_be_repeated_is_found_in_functions(what, place, graph):
    """The same, inside of control flow and of a tf.function."""
    import tensorflow as tf

    v = tf.Variable(1.0)

    def body(x):
        return x * (v.assign_add(1.0) if what.startswith("assigns") else tf.random.normal([2]))

    def branch(body, x):
        return tf.cond(tf.reduce_sum(x) > 0.0, lambda: body(x), lambda: x)

    function = tf.function(body)
    place = {
        "branch": lambda x: branch(body, x),
        "loop": lambda x: tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, body(x)), (0, x)),
        "function": function,
        "function in a branch": lambda x: branch(function, x),
    }[place]
    if not graph and place is not function:
        inner = place
        place = tf.function(inner) if what.startswith("assigns") else inner  # both ways to hide it

    def run():
        x = tf.constant([1.0, 2.0])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nest.flatten(recompute_grad(place)(x))[-1]
            return tape.gradient(y, x)

    with recompute_scope(True), pytest.raises(RuntimeError, match=what):
        (tf.function(run) if graph else run)()


@only_torch
def test_an_update_before_backward_is_an_error():
    """Weights that change between forward and backward would give another gradient."""
    layer = recomputed(layers.Dense)(WIDTH)
    x = ops.convert_to_tensor(data()[0])
    layer.build(x.shape)
    with recompute_scope(True):
        y = ops.sum(ops.square(layer(x)))
    layer.kernel.assign(layer.kernel * 2)
    with pytest.raises(RuntimeError, match="was updated between the forward and the backward"):
        y.backward()


@only_torch
def test_random_numbers_of_torch():
    """A wrapped torch module draws the same numbers again."""
    import torch

    def build():
        inputs = keras.Input((WIDTH,))
        dropout = recomputed(layers.TorchModuleWrapper)(
            torch.nn.Dropout(0.5), output_shape=(None, WIDTH)
        )
        return keras.Model(inputs, layers.Dense(WIDTH)(dropout(layers.Dense(WIDTH)(inputs))))

    assert_exact(build, *data())


@only_torch
@pytest.mark.parametrize(
    "kind",
    [
        *("wrapped", "attribute", "list", "function", "helper", "method", "applied", "segment"),
        *("argument", "keyword", "partial", "default"),
    ],
)
def test_buffers_of_torch(kind):
    """Moving averages of a torch module are updated once a step; verify compares and keeps them."""
    import torch

    class Counter(torch.nn.Module):
        """Changes a buffer in place, another one by assignment, and an attribute."""

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("mean", torch.zeros(WIDTH))
            self.seen = 1

        def forward(self, x):
            self.calls.add_(1)
            self.mean = 0.5 * self.mean + x.detach().mean(0)
            self.seen += 1
            return torch.tanh(x) * self.calls.clone() / self.seen + torch.sin(self.mean * x)

    class Module(torch.nn.Sequential):
        def __init__(self):
            bias = torch.nn.Linear(WIDTH, WIDTH)
            super().__init__(bias, torch.nn.BatchNorm1d(WIDTH), Counter(), torch.nn.Tanh())
            for parameter in self.parameters():
                parameter.data.fill_(0.2)

    modules, captured = [], {}

    def build():
        inputs = keras.Input((WIDTH,))
        x = layers.Dense(WIDTH)(inputs)
        modules.append(Module().to(ops.zeros(1).device))
        captured["module"] = modules[-1]
        for _ in range(2):
            if kind in ("wrapped", "applied"):
                cls = layers.TorchModuleWrapper
                cls = recomputed(cls) if kind == "wrapped" else cls
                x = cls(modules[-1], output_shape=(None, WIDTH))(x)
            else:
                x = Around(modules[-1])(x)
        model = keras.Model(inputs, layers.Dense(WIDTH)(x))
        if kind == "applied":
            recompute.apply(model, layers=layers.TorchModuleWrapper)
        if kind == "segment":
            recompute.apply(model, every=1)
        return model

    def helper(x):
        return captured["module"](x)

    class Around(layers.Layer):
        def __init__(self, module):
            super().__init__()
            self.one = module if kind == "attribute" else None
            self.some = [module] if kind == "list" else []
            self.function = {
                "function": recompute_grad(lambda x: module(x)),
                "argument": lambda x: recompute_grad(lambda x, run: run(x))(x, module),
                "keyword": lambda x: recompute_grad(lambda x, run: run(x))(x, run=module),
                "partial": recompute_grad(functools.partial(lambda run, x: run(x), module)),
                "default": recompute_grad(lambda x, run=module: run(x)),
            }.get(kind)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def call(self, x):
            if kind == "segment":
                return self.inner(x)
            return self.function(x) if self.function else self.recomputed(x)

        @recompute_grad
        def recomputed(self, x):
            return self.inner(x)

        def inner(self, x):
            if kind == "helper":
                return helper(x)
            if kind in ("method", "segment"):
                return captured["module"](x)
            return (self.one if kind == "attribute" else self.some[0])(x)

    assert_exact(build, *data())
    for off, on in zip(modules[::2], modules[1::2]):
        for (name, a), (_, b) in zip(off.named_buffers(), on.named_buffers()):
            np.testing.assert_array_equal(array(a), array(b), err_msg=name)
        assert off[2].seen == on[2].seen
    before = {name: array(b) for name, b in modules[-1].named_buffers()}
    model = fresh_model(build)
    for name, buffer in modules[-1].named_buffers():
        buffer.data = ops.convert_to_tensor(before[name])
    found = recompute.verify(model, *data(), loss="mse", steps=2)
    assert found.bitwise, found
    assert sum("buffer" in d.name for d in found.differences) == 2 * len(before)
    for name, buffer in modules[-1].named_buffers():
        np.testing.assert_array_equal(array(buffer), before[name])


@only_torch
def test_parameters_of_torch_that_change_before_the_backward_pass():
    """The call cannot be run again with other weights than at first, and says so."""
    import torch

    module = torch.nn.Linear(WIDTH, WIDTH)
    with recompute_scope(True):
        y = recompute_grad(lambda x: torch.tanh(module(x)))(torch.ones(2, WIDTH)).sum()
    with torch.no_grad():
        module.bias.add_(1.0)
    with pytest.raises(RuntimeError, match="the parameter bias was updated between the forward"):
        y.backward()


def test_an_error_leaves_nothing_in_force():
    """What follows a call that fails is not recomputed, though the error lives on."""
    errors = []

    @recompute_grad
    def fails(x):
        raise ValueError(x.shape)

    def call(x):
        try:
            fails(x)
        except ValueError as error:
            errors.append(error)
        return ops.sum(x * x)

    x = np.arange(3, dtype="float32")
    with recompute_scope(True):
        np.testing.assert_array_equal(array(gradient(call, x)), 2 * x)
    assert len(errors) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="Keras' numpy backend needs JAX to be installed")
def test_a_backend_without_training_runs_plainly():
    """On a backend that is not known the decorated function runs plainly, with one warning."""
    code = (
        "import warnings, keras\n"
        "from perftricks.recompute import *\n"
        "f = recompute_grad(lambda x: keras.ops.sum(x))\n"
        "with recompute_scope(True), warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    assert [float(f(keras.ops.ones(3))) for _ in range(2)] == [3, 3]\n"
        "messages = [str(w.message) for w in caught if w.category is RuntimeWarning]\n"
        "assert len(messages) == 1 and \"not 'numpy'\" in messages[0], messages"
    )
    environment = dict(os.environ, KERAS_BACKEND="numpy")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_segment_of_several_layers():
    """The engine takes any function that runs layers, as models cut into segments need it."""
    from perftricks.recompute.keras3 import call as keras3

    class Segmented(keras.Sequential):
        on = False

        def call(self, inputs, training=None, mask=None):
            def segment(x):
                for layer in self.layers:
                    x = layer(x)
                return x

            if not self.on:
                return segment(inputs)
            return keras3.checkpointed_call(segment, (inputs,), {}, layers=self.layers)

    def build(on):
        inner = Segmented(
            [
                keras.Input((WIDTH,)),
                layers.Dense(WIDTH, "gelu", activity_regularizer="l2"),
                layers.BatchNormalization(),
                layers.Dropout(0.4),
            ]
        )
        inner.on = on
        inputs = keras.Input((WIDTH,))
        return keras.Model(inputs, layers.Dense(WIDTH)(inner(layers.Dense(WIDTH)(inputs))))

    off, on = (steps(lambda on=on: build(on), *data(), True) for on in (False, True))
    off.assert_same(on)
