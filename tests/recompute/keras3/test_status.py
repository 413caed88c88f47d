"""What of a model would be recomputed now, and why not where not."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from perftricks import recompute
from perftricks.recompute import recompute_grad, recompute_scope
from tests.recompute.comparison import recomputed
from tests.recompute.keras3.test_blocks import WIDTH, X, Y
from tests.recompute.keras3.training import BACKEND, assert_exact, fresh_model

SWITCHED = {
    None: (False, "RECOMPUTE is not set"),
    "1": (True, "RECOMPUTE=1"),
    "No": (False, "RECOMPUTE=No"),
}


def decorated():
    return keras.Sequential(
        [keras.Input((WIDTH,)), recomputed(layers.Dense)(WIDTH), layers.Dense(WIDTH)]
    )


@pytest.mark.parametrize("word", SWITCHED)
def test_decorated_layers(word, monkeypatch):
    """They are off until the switch is set; a scope beats it."""
    if word is not None:
        monkeypatch.setenv("RECOMPUTE", word)
    model = fresh_model(decorated)
    (part,) = recompute.status(model).parts
    assert (part.name, part.by) == ("dense", "decorator")
    assert (part.on, part.why) == SWITCHED[word]
    with recompute_scope(True):
        (part,) = recompute.status(model).parts
    assert (part.on, part.why) == (True, "recompute_scope(True)")


def test_plans():
    """Segments of apply are on unless switched off; one that saves nothing says so."""
    model = fresh_model(
        lambda: keras.Sequential(
            [keras.Input((WIDTH,)), *(layers.Dense(WIDTH, "gelu") for _ in range(4))]
        )
    )
    assert "nothing is recomputed" in str(recompute.status(model))
    recompute.apply(model, every=1)
    status = recompute.status(model)
    assert [part.on for part in status.parts] == [True, True, True, False]
    assert status.parts[-1].why == "nothing would be saved"
    assert status.on
    assert "3 of 4 parts would be recomputed" in str(status)
    with recompute_scope(False):
        assert not recompute.status(model).on
    recompute.remove(model)
    assert recompute.status(model).parts == ()


def test_wrong_arguments():
    """What is no built model is refused."""
    with pytest.raises(TypeError, match="expects a built model"):
        recompute.status(layers.Dense(2))
    with pytest.raises(ValueError, match="is not built"):
        recompute.status(keras.Sequential([layers.Dense(2)]))


# Eagerly on TensorFlow, Keras' own float8 layers cannot be trained.
@pytest.mark.parametrize("mode", ["int8"] if BACKEND == "tensorflow" else ["int8", "float8"])
def test_quantized_layers(mode):
    """Keras calls another method of a quantized layer, which apply recomputes as well."""

    def build():
        model = keras.Sequential(
            [keras.Input((WIDTH,)), *(layers.Dense(WIDTH, "gelu") for _ in range(3))]
        )
        for layer in model.layers:
            layer.quantize(mode)
            if mode == "int8":
                layer.enable_lora(2)
        recompute.apply(model, layers=layers.Dense)
        return model

    # On JAX, XLA multiplies with the scales of int8 weights in another place: the last bits differ.
    assert_exact(build, X, Y, regrouped=(mode, BACKEND) == ("int8", "jax"))
    hooks = [vars(layer)["quantized_call"] for layer in fresh_model(build).layers]
    assert all(hooks)


class Dense(layers.Dense):
    """A decorated layer of a class of its own, which is quantized as its base class."""

    @recompute_grad
    def call(self, x, training=None):
        return super().call(x, training=training)

    def quantize(self, mode, **options):
        return super().quantize(mode, type_check=False, **options)


def test_a_decorated_layer_that_is_quantized():
    """Its call does not run any more, and status says so."""
    model = fresh_model(lambda: keras.Sequential([keras.Input((WIDTH,)), Dense(WIDTH)]))
    with recompute_scope(True):
        assert recompute.status(model).on
        model.layers[0].quantize("int8")
        (part,) = recompute.status(model).parts
    assert not part.on
    assert "quantized_call" in part.why
