"""TensorFlow 2 without sessions: what tapes and accumulators see, of tensors from anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recompute.keras2.binding import GRAPH, TF, layers

if GRAPH:
    pytest.skip("about tapes of TensorFlow", allow_module_level=True)

from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute import tapes

# Before TensorFlow 2.2 the gradients of loops and branches fail without recomputation, too.
CASES = [case for case in tapes.CASES if TF > (2, 1)] or [
    tapes.calls_in_calls,
    tapes.constants,
    tapes.tape_inside,
]


def in_a_layer(function):
    """Return a layer whose decorated call is a function."""

    class Inner(layers.Layer):
        @recompute_grad
        def call(self, x, *more):
            return function(x, *more)

    return Inner()


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_gradients(case, in_function):
    """They reach all that a call uses, wherever it is from."""
    tapes.assert_as_plain(tapes.gradients, case, in_function, in_a_layer)


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_gradients_of_gradients(case, in_function):
    """And so do theirs."""
    tapes.assert_as_plain(tapes.gradients_of_gradients, case, in_function, in_a_layer)


@pytest.mark.skipif(TF < (2, 15), reason="compiled with XLA in newer versions only")
@pytest.mark.parametrize("compute", [tapes.gradients, tapes.gradients_of_gradients])
def test_compiled(compute):
    """The same in a function that XLA compiles."""
    for case in (tapes.calls_in_calls, tapes.tape_inside):
        tapes.assert_as_plain(compute, case, True, in_a_layer, jit_compile=True)


@pytest.mark.skipif(TF <= (2, 1), reason="TensorFlow has no ForwardAccumulator yet")
@pytest.mark.parametrize("compute", [tapes.forward_mode, tapes.forward_over_reverse])
def test_forward_mode(compute):
    """In a function an accumulator goes along with a call; what runs eagerly refuses."""
    tapes.assert_as_plain(compute, tapes.constants, True, in_a_layer)
    with recompute_scope(True), pytest.raises(RuntimeError, match="ForwardAccumulator"):
        compute(tapes.constants, in_a_layer, *tapes.arrays())


@pytest.mark.skipif(TF <= (2, 1), reason="before, Keras layers have no vectorized maps")
@pytest.mark.parametrize("in_function", [False, True])
def test_vectorized(in_function):
    """A call that a vectorized map takes apart has the gradients that it has plainly."""
    tapes.assert_as_plain(tapes.gradients, tapes.in_a_vectorized_map, in_function, in_a_layer)


def test_jacobians_of_drawn_numbers():
    """A backward pass that is vectorized finds what was drawn, and draws nothing anew."""
    with recompute_scope(True):
        x, w = tapes.arrays()
        gradient, jacobian = tapes.jacobians_of_drawn_numbers(in_a_layer, x, w)
    assert 0 < np.count_nonzero(gradient) < gradient.numpy().size
    np.testing.assert_array_equal(np.einsum("bii->bi", jacobian), gradient)
