"""TensorFlow: what tapes and accumulators see, of tensors from anywhere."""

from __future__ import annotations

import pytest

from tests.recompute.keras3.training import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("about tapes of TensorFlow", allow_module_level=True)

from perftricks.recompute.keras3 import call
from tests.recompute import tapes


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("case", tapes.CASES, ids=lambda case: case.__name__)
def test_gradients(case, in_function):
    """They reach all that a call uses, wherever it is from."""
    tapes.assert_as_plain(tapes.gradients, case, in_function)


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("case", tapes.CASES, ids=lambda case: case.__name__)
def test_gradients_of_gradients(case, in_function):
    """And so do theirs."""
    tapes.assert_as_plain(tapes.gradients_of_gradients, case, in_function)


@pytest.mark.parametrize("compute", [tapes.gradients, tapes.gradients_of_gradients])
def test_compiled(compute):
    """The same in a function that XLA compiles."""
    for case in (tapes.calls_in_calls, tapes.tape_inside):
        tapes.assert_as_plain(compute, case, True, jit_compile=True)


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("compute", [tapes.forward_mode, tapes.forward_over_reverse])
def test_forward_mode(compute, in_function):
    """An accumulator goes along with a call."""
    tapes.assert_as_plain(compute, tapes.constants, in_function)
    tapes.assert_as_plain(compute, tapes.tape_inside, in_function)
    if not in_function:  # where TensorFlow itself has no such gradient
        tapes.assert_as_plain(compute, tapes.a_variable_in_a_loop, in_function)


@pytest.mark.parametrize("in_function", [False, True])
def test_vectorized(in_function, monkeypatch):
    """What a vectorized map takes apart runs plainly, and a warning says so, once."""
    monkeypatch.setattr(call, "_warned", set())
    with pytest.warns(RuntimeWarning, match="TimeDistributed uses, is not recomputed") as warned:
        tapes.assert_as_plain(tapes.gradients, tapes.in_a_vectorized_map, in_function)
    assert len(warned) == 1
