"""JAX: a call is recomputed where a program is transformed; elsewhere it runs plainly."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest

from perftricks import recompute
from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.comparison import recomputed
from tests.recompute.keras3.training import BACKEND, array, fresh_model, only_jax, variables_of

if BACKEND == "jax":
    import jax
    import jax.numpy as jnp
    from jax.experimental import sparse

pytestmark = only_jax
WIDTH = 6


def inputs():
    """Return an array."""
    return jnp.linspace(-1.0, 1.0, 4 * WIDTH).reshape(4, WIDTH)


def looking(seen):
    """Return a decorated function that looks at values, if it can, and says what it was given."""

    @recompute_grad
    def looks(x):
        seen.append(isinstance(x, jax.core.Tracer))
        return jnp.tanh(x) if float(jnp.sum(x)) > 1.0 else jnp.sin(x)

    return looks


def plainly(function):
    """Run a function eagerly."""
    return function(inputs())


def without_jit(function):
    """Run a function that would be compiled."""
    with jax.disable_jit():
        return jax.jit(function)(inputs())


def while_tracing(function):
    """Run a function on what is known while another one is compiled."""

    def traced(x):
        with jax.ensure_compile_time_eval():
            return x + function(inputs())

    return jax.jit(traced)(inputs())


@pytest.mark.parametrize("how", [plainly, without_jit, while_tracing])
def test_a_call_may_look_at_values_where_they_are_there(how):
    """Eager calls are not traced with recompute on, and give what they give without it."""
    seen, found = [], []
    for on in (False, True):
        with recompute_scope(on):
            found.append(array(how(looking(seen))))
    assert seen == [False, False]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("train", [False, True])
def test_eager_calls_leave_the_same_state(train):
    """Dropout, moving averages, losses and seeds of an eager call are those of a plain one."""

    def build():
        layer = recomputed(keras.layers.BatchNormalization)()
        dense = recomputed(keras.layers.Dense)(WIDTH, activity_regularizer="l2")
        dropout = recomputed(keras.layers.Dropout)(0.5)
        return keras.Sequential([keras.Input((WIDTH,)), dense, layer, dropout])

    found = []
    for on in (False, True):
        model = fresh_model(build)
        with recompute_scope(on):
            y = model(inputs(), training=train)
        found.append({**variables_of(model), "y": array(y), "losses": array(model.losses)})
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)


def transformations():
    """Return functions that transform a function and run it, by name; those with gradients."""
    x = inputs()
    return {
        "grad": lambda f: jax.grad(lambda x: jnp.sum(f(x)))(x),
        "vjp": lambda f: jax.vjp(f, x)[1](x)[0],
        "linearize": lambda f: jax.linearize(f, x)[1](x),
        "jit": lambda f: jax.jit(jax.grad(lambda x: jnp.sum(f(x))))(x),
        "vmap": lambda f: jax.grad(lambda x: jnp.sum(jax.vmap(f)(x)))(x),
        "grad of a row": lambda f: jax.vmap(jax.grad(lambda x: jnp.sum(f(x))))(x),
        "hessian": lambda f: jax.hessian(lambda x: jnp.sum(f(x)))(x[0]),
        "without jit": lambda f: without_jit(jax.grad(lambda x: jnp.sum(f(x)))),
        "scan": lambda f: jax.grad(
            lambda x: jnp.sum(jax.lax.scan(lambda c, row: (f(c + row), c), x[0], x)[0])
        )(x),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("grad", "vjp", "linearize", "jit", "vmap", "grad of a row", "hessian", "without jit"),
        "scan",
    ],
)
def test_transformations_recompute(name):
    """Whatever asks for gradients gets them from a call that is run again, eagerly too."""
    transform = transformations()[name]
    outside = jnp.cos(inputs()[0])  # closed over, as weights are
    function = recompute_grad(lambda x: jnp.tanh(jnp.sin(x) * outside))

    def found(on):
        with recompute_scope(on):
            return array(transform(function)), str(jax.make_jaxpr(lambda: transform(function))())

    (off, plain), (on, again) = found(False), found(True)
    np.testing.assert_allclose(off, on, rtol=1e-6)
    if name not in ("without jit", "linearize"):  # of the former, JAX shows nothing
        assert plain.count(" tanh ") < again.count(" tanh ")


@pytest.mark.parametrize("name", ["grad", "jit"])
def test_a_traced_call_that_looks_at_values_is_named(name):
    """The error is JAX's own, and says which function of the program it is about."""
    transform = transformations()[name]
    with recompute_scope(True), pytest.raises(jax.errors.ConcretizationTypeError) as error:
        transform(looking([]))
    assert "the function looks at %s:" % __file__ in str(error.value)


def test_predict_compiles_and_does_not_recompute():
    """``predict`` and a compiled stateless_call give what they give without recompute."""
    model = fresh_model(
        lambda: keras.Sequential(
            [keras.Input((WIDTH,)), recomputed(keras.layers.Dense)(WIDTH, "tanh")]
        )
    )
    found = []
    for on in (False, True):
        model.make_predict_function(force=True)
        call = jax.jit(lambda w, x: model.stateless_call(w, [], x, training=False)[0])
        with recompute_scope(on):
            predicted = array(model.predict(inputs(), verbose=0))
            weights = [v.value for v in model.trainable_variables]  # predict donates the old ones
            found.append((predicted, array(call(weights, inputs()))))
    np.testing.assert_array_equal(*found)


def test_nothing_leaks():
    """No tracer of a call outlives its trace."""
    layer = recomputed(keras.layers.BatchNormalization)()
    layer.build((None, WIDTH))

    def loss(gamma):
        mapping = [(layer.gamma, gamma)]
        with keras.StatelessScope(state_mapping=mapping):
            return jnp.sum(layer(inputs(), training=True) ** 2)

    with jax.checking_leaks(), recompute_scope(True):
        gradient = jax.grad(loss)(layer.gamma.value)
    assert np.abs(array(gradient)).max() > 0


def quantized(w):
    """Return a function from an array to a product with rounded weights; its gradient is ours."""

    @jax.custom_vjp
    def product(x, w):
        return x @ (jnp.round(w * 4) / 4)

    product.defvjp(
        lambda x, w: (product(x, w), (x, w)),
        lambda saved, g: (g @ saved[1].T, saved[0].T @ g),
    )
    return lambda x: product(x, w)


OTHERS = {
    "custom_vjp": lambda w, x: quantized(w)(x),
    "straight through": lambda w, x: x @ (w + jax.lax.stop_gradient(jnp.round(w * 4) / 4 - w)),
    "checkpoint": lambda w, x: jax.checkpoint(lambda x: jnp.tanh(x @ w))(x),
    "remat": lambda w, x: keras.remat(lambda x: jnp.tanh(x @ w))(x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_do_to_gradients_inside_of_a_call(name):
    """Weights in custom gradients and other checkpoints in a call have the plain gradients."""
    weights = jnp.cos(jnp.arange(WIDTH**2, dtype="float32")).reshape(WIDTH, WIDTH)

    class Outer(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(WIDTH, WIDTH))

        @recompute_grad
        def call(self, x):
            return OTHERS[name](self.kernel.value, x)

    layer = Outer()
    layer.build((4, WIDTH))

    def loss(weights, x):
        return jnp.sum(jnp.square(layer.stateless_call([weights], [], x)[0]))

    found = []
    for on in (False, True):
        with recompute_scope(on):
            found.append(jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, inputs()))
    for off, on in zip(*found):
        assert np.abs(off).max() > 0.1
        np.testing.assert_allclose(off, on, rtol=1e-5, atol=1e-6)


class Pair:
    """Two arrays, which Keras takes for one thing, and a name."""

    def __init__(self, first, second, name):
        self.first, self.second, self.name = first, second, name

    def tree_flatten(self):
        return (self.first, self.second), self.name

    @classmethod
    def tree_unflatten(cls, name, children):
        return cls(*children, name)


if BACKEND == "jax":
    jax.tree_util.register_pytree_node_class(Pair)


def doubled(x):
    """Return a sparse array, where it is one at first."""
    return sparse.BCOO((jnp.sin(x.data) * 2, x.indices), shape=x.shape)


OBJECTS = {
    "registered": (
        lambda x: Pair(jnp.sin(x), x, "name"),
        lambda pair: Pair(jnp.cos(pair.first) * pair.second, pair.first, pair.name),
        lambda pair: pair.first * pair.second,
    ),
    "nested": (
        lambda x: {"pair": Pair(jnp.sin(x), [x, 3], None), "none": None},
        lambda found: (found["pair"], found["none"], Pair(1, 2, None)),
        lambda found: found[0].first * found[0].second[0] * found[2].first,
    ),
    "sparse": (
        lambda x: sparse.BCOO.fromdense(x, nse=4 * WIDTH),
        doubled,
        lambda x: x.todense(),
    ),
    "partial": (
        lambda x: jax.tree_util.Partial(jnp.multiply, x),
        lambda function: jax.tree_util.Partial(jnp.cos, jnp.sin(function.args[0])),
        lambda function: function(),
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_that_jax_knows(name):
    """Arrays in objects of registered classes come in and go out, with their gradients."""
    before, within, after = OBJECTS[name]
    before, within = (recompute_grad(f) for f in (before, within))
    found = []
    for on in (False, True):
        with recompute_scope(on), jax.checking_leaks():
            found.append(jax.grad(lambda x: jnp.sum(after(within(before(x)))))(inputs()))
    assert np.abs(found[0]).max() > 0.1
    np.testing.assert_allclose(*found, rtol=1e-6)


class Again(keras.layers.Layer):
    """A layer that may have another one computed again, by Keras."""

    def __init__(self, again):
        super().__init__()
        self.again = again
        self.inner = keras.layers.Dense(WIDTH, "tanh")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return keras.remat(self.inner.call)(x) if self.again else self.inner(x)


@pytest.mark.parametrize("how", ["scope", "call"])
def test_layers_that_keras_checkpoints(how):
    """JAX knows functions that it has traced; the ``call`` of a layer is another one each time."""

    def build(again):
        kind = Again if how == "call" else lambda again: keras.layers.Dense(WIDTH, "tanh")
        with keras.RematScope("full") if how == "scope" and again else contextlib.nullcontext():
            return keras.Sequential(
                [keras.Input((WIDTH,)), kind(again), kind(again), keras.layers.Dense(1)]
            )

    x, found = inputs(), []
    for again in (False, True):  # without recompute, JAX itself may take an earlier trace
        model = fresh_model(lambda again=again: build(again))
        if again:
            recompute.apply(model, layers=keras.layers.Dense)
        model.compile("sgd", "mse")
        model.fit(x, x[:, :1], epochs=2, verbose=0, batch_size=2, shuffle=False)
        model.predict(x, verbose=0)
        model.fit(x, x[:, :1], verbose=0, batch_size=2, shuffle=False)
        found.append(variables_of(model))
        recompute.remove(model)
        assert not any("call" in vars(layer) for layer in model._flatten_layers())
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)
