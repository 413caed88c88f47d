"""What recompute_grad accepts, and that it costs nothing while it is off; no framework needed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from perftricks.recompute import recompute_grad, recompute_scope


def double(x, times=2, *, training=None):
    """Double it."""
    return x * times


@pytest.mark.parametrize("decorate", [recompute_grad, recompute_grad()])
def test_bare_and_called(decorate):
    """Both forms keep name, signature, docstring and the original function."""
    wrapped = decorate(double)
    assert wrapped(2) == 4
    assert wrapped(2, times=3) == 6
    assert wrapped.__wrapped__ is double
    assert (wrapped.__name__, wrapped.__doc__) == ("double", "Double it.")
    assert inspect.signature(wrapped) == inspect.signature(double)


def test_options_are_keywords():
    """A second positional argument is an error, so that options may come."""
    with pytest.raises(TypeError, match="positional argument"):
        recompute_grad(double, "everything")


class Layer:
    """Looks like a layer."""

    name = "dense_1"

    def call(self, x):
        return x


def generator(x):
    yield x


async def coroutine(x):
    return x


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (Layer, "the class Layer"),
        (Layer(), "dense_1, an instance of Layer "),
        ("call", "'call', which cannot be called "),
        (3, "3, which cannot be called "),
        (staticmethod(double), "below @staticmethod"),
        (property(double), "below @property"),
        (generator, "does not run when it is called"),
        (coroutine, "does not run when it is called"),
    ],
)
def test_what_is_no_layer_call_is_refused(thing, words):
    """The error names what was received and says where the decorator belongs."""
    with pytest.raises(TypeError, match="expects a layer's call") as caught:
        recompute_grad(thing)
    assert words in str(caught.value)


def stderr_of(code):
    """Run code in a fresh interpreter; return what it writes to stderr."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr


def test_without_keras_it_says_so():
    """A function that is on and finds no framework names itself and what was found."""
    code = (
        "from perftricks.recompute import *\n"
        "f = recompute_grad(lambda x: x)\n"
        "assert f(1) == 1\n"
        "with recompute_scope(True): f(1)"
    )
    stderr = stderr_of(code)
    assert "RuntimeError: recompute_grad needs Keras 3 or TensorFlow 1.14 or newer" in stderr
    assert "keras: not imported" in stderr


def test_a_keras_3_that_is_too_old_is_refused():
    """With Keras 3.9, some losses would be counted twice."""
    code = (
        "import sys, types\n"
        "from perftricks.recompute import *\n"
        "sys.modules['keras'] = types.ModuleType('keras')\n"
        "sys.modules['keras'].__version__ = '3.9.2'\n"
        "with recompute_scope(True): recompute_grad(lambda x: x)(1)"
    )
    refused = "RuntimeError: recompute needs Keras 3.10 or newer, and found 3.9.2"
    assert refused in stderr_of(code)


def test_off_is_the_plain_call(monkeypatch):
    """While it is off no engine is looked for, so anything may be passed."""
    monkeypatch.setenv("RECOMPUTE", "1")
    with recompute_scope(False):
        assert recompute_grad(double)("ab") == "abab"


@pytest.mark.parametrize("policy", [len, lambda kind: True, lambda: True, lambda a, b, c: True])
def test_a_policy_that_does_not_take_what_it_is_called_with(policy):
    """It is refused where it is given, not in the middle of the first step."""
    with pytest.raises(TypeError, match="does not take two arguments"):
        recompute_grad(policy=policy)


@pytest.mark.parametrize("policy", [lambda kind, name: True, lambda *a: True, lambda k, n=1: True])
def test_policies_of_two_arguments(policy):
    """All of these can be called with two."""
    assert callable(recompute_grad(policy=policy))
