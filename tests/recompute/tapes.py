"""What tapes and accumulators of TensorFlow see of a decorated function; for both contracts.

Each case is a function of two tensors and of ``decorated``, which decorates. Some use tensors that
run eagerly, of which a graph has a constant if they are small and a placeholder else.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import tensorflow as tf

from perftricks.recompute import recompute_grad, recompute_scope

WIDTH = 4
SMALL = tf.constant(np.linspace(0.5, 1.5, WIDTH), "float32")
LARGE = tf.constant(np.linspace(-1.0, 1.0, 200 * WIDTH).reshape(200, WIDTH), "float32")
ORDER = tf.constant(range(40)[::-1])
KERNEL = tf.Variable(np.linspace(-1.5, 1.5, WIDTH * WIDTH).reshape(WIDTH, WIDTH), dtype="float32")


def arrays():
    """Return the two tensors."""
    random = np.random.RandomState(0)
    shapes = (3, WIDTH), (WIDTH, WIDTH)
    return [tf.constant(random.normal(size=shape), "float32") for shape in shapes]


def always(then, otherwise):
    """Return the first of two results, and a graph does not know it."""
    return tf.cond(tf.reduce_sum(tf.abs(SMALL)) > 0.0, then, otherwise)


def thrice(body, x):
    """Return what a loop makes of a tensor in three turns."""
    return tf.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, body(y)), (0, x), maximum_iterations=3
    )[1]


def constants(decorated, x, w):
    """Tensors that run eagerly are taken from outside."""
    return decorated(lambda x: tf.sin(x * SMALL) + tf.reduce_sum(LARGE**2) * x)(x)


def constants_in_a_branch(decorated, x, w):
    """The same in a branch, with numbers of rows as well."""

    def rows(x):
        found = tf.gather(LARGE, tf.gather(ORDER, tf.range(3)))
        return tf.sin(x * SMALL) * found * tf.cast(found < 0.0, "float32")

    return always(lambda: decorated(rows)(x), lambda: x)


def constants_as_arguments(decorated, x, w):
    """A branch and a loop give a call tensors that run eagerly."""
    call = decorated(lambda some, more: tf.reduce_sum(tf.sin(some * SMALL) * more))
    y = always(lambda: call(LARGE, SMALL) * x, lambda: x)
    return y + thrice(lambda z: z + call(LARGE, z[0]), x)


def a_variable_in_a_branch(decorated, x, w):
    """A variable that no layer owns is read there."""
    h = tf.tanh(x)
    return always(lambda: decorated(lambda h: tf.sin(h @ KERNEL) * tf.sigmoid(h))(h), lambda: h)


def a_variable_in_a_loop(decorated, x, w):
    """A variable that no layer owns is read in each turn."""
    h = tf.tanh(x)
    return thrice(decorated(lambda z: tf.sin(z @ KERNEL) * tf.sigmoid(h)), h)


def branch_in_branch(decorated, x, w):
    """A call in a branch has branches itself."""
    h = tf.sin(x @ w)
    call = decorated(lambda z: always(lambda: z * h, lambda: z + h))
    return always(lambda: call(x), lambda: x)


def numbered_branch_of_one_call(decorated, x, w):
    """A branch chosen by number is differentiated twice, as ``loop_and_branch_of_one_call``."""

    def call(x):
        number = tf.cast(tf.reduce_sum(tf.abs(SMALL)) > 0.0, "int32")
        h = tf.switch_case(number, [lambda: x, lambda: tf.tanh(x @ w) * tf.sin(x)])
        inner = decorated(lambda z: tf.tanh(tf.sigmoid(z) * (z @ KERNEL) + h))
        return always(lambda: inner(h), lambda: h) @ tf.transpose(h) @ h

    return decorated(call)(x)


def loop_in_branch(decorated, x, w):
    """A call in a branch has a loop."""
    h = tf.sin(x @ w)
    call = decorated(lambda z: thrice(lambda y: tf.tanh(y * h), z))
    return always(lambda: call(x), lambda: x)


def branch_in_loop(decorated, x, w):
    """A call in a loop has branches, in a call that is recomputed as a whole."""
    h = tf.sin(x @ w)
    inner = decorated(lambda z: tf.cos(z) * h)
    call = decorated(lambda z: always(lambda: inner(z) * h, lambda: z + h))
    return decorated(lambda x: thrice(call, x))(x)


def loop_and_branch_of_one_call(decorated, x, w):
    """The gradient goes through a loop twice: as it was, and as it is computed again."""

    def call(x):
        h = thrice(lambda y: tf.tanh(y @ w) + x, x)
        inner = decorated(lambda z: tf.tanh(tf.sigmoid(z) * (z @ KERNEL) + h))
        return always(lambda: inner(h), lambda: h) @ tf.transpose(h) @ h

    return decorated(call)(x)


def function_in_branch(decorated, x, w):
    """A call in a branch runs a tf.function on a tensor from outside."""
    inner = tf.function(lambda z: tf.tanh(z))
    h = tf.sin(x @ w)
    return always(lambda: decorated(lambda z: z * inner(h))(h), lambda: h)


def own_gradient_in_loop(decorated, x, w):
    """A call in a loop runs a function with a gradient of its own on a tensor from outside."""

    @tf.custom_gradient
    def inner(z):
        return tf.tanh(z), lambda upstream: upstream * 3.0

    h = tf.sin(x @ w)
    return thrice(decorated(lambda z: tf.sin(z) * inner(h)), x)


def array(x):
    """Return a TensorArray of two tensors."""
    found = tf.TensorArray(tf.float32, 2, clear_after_read=False, element_shape=(3, WIDTH))
    return found.write(0, tf.sin(x)).write(1, tf.cos(x))


def array_from_outside(decorated, x, w):
    """A TensorArray is read that was written before."""
    found = array(x @ w)
    return decorated(lambda x: tf.tanh(x) * found.read(1))(x)


def array_as_an_argument(decorated, x, w):
    """A TensorArray is handed over."""
    return decorated(lambda x, found: tf.tanh(x) * found.read(1))(x, array(x @ w))


def tape_inside(decorated, x, w):
    """A call differentiates something itself, and is differentiated."""

    def call(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.tanh(x @ w) ** 3)
        return tf.sin(x) * tape.gradient(y, x)

    return decorated(call)(x)


def tape_inside_around_a_call(decorated, x, w):
    """A call differentiates another one."""
    inner = decorated(lambda x: tf.tanh(x @ w) ** 3)

    def call(x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = inner(x)
            with tape.stop_recording():
                z = tf.cos(x)
            total = tf.reduce_sum(y * z)
        return tf.sin(x) * tape.gradient(total, x) + tape.gradient(y, x)

    return decorated(call)(x)


def calls_in_calls(decorated, x, w):
    """A call runs another one twice."""
    inner = decorated(lambda x: tf.tanh(x @ w))
    return decorated(lambda x: inner(inner(x)) * tf.reduce_sum(w))(x)


def in_a_vectorized_map(decorated, x, w):
    """A call is vectorized: TensorFlow makes new operations of its own."""
    call = decorated(lambda row: tf.sin(tf.linalg.matvec(KERNEL, row) * SMALL) * tf.reduce_sum(w))
    return tf.vectorized_map(call, x) + tf.vectorized_map(call, x[: tf.shape(x)[0]])


def jacobians_of_drawn_numbers(decorated, x, w):
    """The backward pass is vectorized, of a call that draws random numbers."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = decorated(lambda x: tf.sin(x) * tf.cast(tf.random.uniform([3, WIDTH]) < 0.5, x.dtype))(
            x
        )
    return tape.gradient(y, x), tape.batch_jacobian(y, x)


CASES = [
    calls_in_calls,
    constants,
    constants_in_a_branch,
    constants_as_arguments,
    a_variable_in_a_branch,
    a_variable_in_a_loop,
    branch_in_branch,
    numbered_branch_of_one_call,
    loop_in_branch,
    branch_in_loop,
    loop_and_branch_of_one_call,
    function_in_branch,
    own_gradient_in_loop,
    array_from_outside,
    array_as_an_argument,
    tape_inside,
    tape_inside_around_a_call,
]


def gradients(case, decorated, x, w):
    """Return the value of a case and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch([x, w, SMALL, LARGE])
        y = case(decorated, x, w)
        total = tf.reduce_sum(y**2)
    found = tape.gradient(total, [x, w, SMALL, LARGE, KERNEL])
    return [total, *(tf.zeros([]) if dx is None else tf.convert_to_tensor(dx) for dx in found)]


def gradients_of_gradients(case, decorated, x, w):
    """Return the gradients of the squares of the gradients."""
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        total = tf.add_n([tf.reduce_sum(dx**2) for dx in gradients(case, decorated, x, w)[1:3]])
    found = tape.gradient(total, [x, w])
    return [total, *(tf.zeros([]) if dx is None else dx for dx in found)]


def forward_mode(case, decorated, x, w):
    """Return the derivative in a direction."""
    with tf.autodiff.ForwardAccumulator([x, w], [tf.cos(x), tf.sin(w)]) as accumulator:
        y = case(decorated, x, w)
    return [y, accumulator.jvp(y)]


def forward_over_reverse(case, decorated, x, w):
    """Return the derivative of the gradient in a direction."""
    with tf.autodiff.ForwardAccumulator(x, tf.cos(x)) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(case(decorated, x, w) ** 2)
        dx = tape.gradient(total, x)
    return [dx, accumulator.jvp(dx)]


def assert_as_plain(compute, case, in_function, decorate=recompute_grad, tolerance=2e-5, **options):
    """Compare what is computed of a case with and without recomputation, and without decorator.

    Options are those of the tf.function.
    """
    found = []
    for on, decorated in [(False, lambda f: f), (False, decorate), (True, decorate)]:
        run = functools.partial(compute, case, decorated)
        with recompute_scope(on):
            found.append(
                [
                    x.numpy()
                    for x in (tf.function(run, **options) if in_function else run)(*arrays())
                ]
            )
    assert max(np.abs(x).max() for x in found[0][1:]) > 1e-3
    for other, (i, x) in itertools.product(found[1:], enumerate(found[0])):
        size = max(np.abs(x).max(), 0.1)
        np.testing.assert_allclose(other[i], x, rtol=0, atol=tolerance * size, err_msg=str(i))
