"""``apply`` on a part of the zoo that is quick, each model for what sets it apart.

The whole zoo is trained by ``nox -s zoo``. Every row of Keras 3 installs keras-hub; where it is
missing the models cannot be built, and so the tests fail.
"""

from __future__ import annotations

import keras
import pytest

from perftricks import recompute
from perftricks.recompute import recompute_scope
from tests.recompute.keras3.applied import (
    applied,
    assert_removed_without_trace,
    assert_saved_without_us,
)
from tests.recompute.keras3.kept import kept_bytes
from tests.recompute.keras3.training import BACKEND, GROWN, fit, fresh_model, steps
from tests.recompute.keras3.zoo import CASES

# What Keras says plainly, too: a masked language model does not use BERT's pooler, and there are
# layers that cannot be quantized.
pytestmark = [
    pytest.mark.timeout(1800),  # TensorFlow builds large graphs, which a busy machine is slow at
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method"),
]
# XLA groups the operations of these in other ways, whatever the flags in conftest say.
ROUNDED = {"Gemma, int8 and LoRA", "Mixtral"} if BACKEND == "jax" else set()
# Each for what sets it apart; whether its blocks are chosen.
QUICK = [
    ("BERT", False),  # a nested model, padding, dropout, a softmax
    ("BERT, masked LM, tied", False),  # a weight that is used in two segments
    ("GPT-2, LoRA", True),  # weights that are not trained inside of what is recomputed
    ("Gemma, int8 and LoRA", True),  # weights that have no gradient, and quantized_call
    ("Mixtral", False),  # experts, of which each token takes two
    ("ViT", True),  # blocks inside of one layer
]


def options_of(name, blocks):
    """Return how to apply: to the whole model, or to its blocks."""
    return {"layers": CASES[name].is_block} if blocks else {}


def train(name, on, **options):
    """Train a model of the zoo for two steps of fit, recomputed by apply or not."""
    case = CASES[name]
    loss = case.loss if isinstance(case.loss, str) else case.loss()
    return fit(applied(case.build, **options), *case.data(), on, loss=loss)


@pytest.mark.parametrize(("name", "blocks"), QUICK)
def test_exact(name, blocks):
    """Losses, weights, momentum and state of two steps of fit are those of the plain run."""
    options = options_of(name, blocks)
    plain = train(name, False, **options)
    plain.assert_same(train(name, True, **options), GROWN if name in ROUNDED else 0.0)


def test_exact_gradients():
    """Gradients and state of two steps of a loop of one's own are those of the plain run."""
    case = CASES["GPT-2, LoRA"]
    build, (x, _) = applied(case.build), case.data()
    plain = steps(build, x, 0.25, False)
    plain.assert_same(steps(build, x, 0.25, True))


@pytest.mark.parametrize("name", ["BERT", "Mixtral"])
def test_less_is_kept(name):
    """The forward pass keeps a third or less of what it keeps plainly."""
    model, (x, _) = fresh_model(applied(CASES[name].build)), CASES[name].data()
    with recompute_scope(False):
        plain = kept_bytes(model, x)
    assert 3 * kept_bytes(model, x) < plain


def test_kept_bytes():
    """What a forward pass keeps is counted once, without weights and inputs."""
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="tanh")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(16, activation="tanh")(hidden))
    outputs = 2 * 4 * 16 * 4  # two layers, four samples, sixteen floats
    twice = BACKEND == "jax"  # which keeps one minus the output, too
    assert kept_bytes(model, keras.ops.ones((4, 8))) == outputs * (1 + twice)


@pytest.mark.parametrize("name", ["BERT", "GPT-2, LoRA"])
def test_a_segment_for_each_block(name):
    """Each block is in a segment of its own, though the backbone is a model inside of the model."""
    plan = recompute.apply(fresh_model(CASES[name].build))
    blocks = [
        [layer for layer in segment.layers if layer.startswith("transformer_layer")]
        for segment in plan.segments
    ]
    assert [one for one in blocks if one] == [[f"transformer_layer_{i}"] for i in range(4)]


@pytest.mark.parametrize(("name", "blocks"), [("BERT", False), ("ViT", True)])
def test_saved_and_removed(name, blocks, tmp_path):
    """It is saved without a trace of perftricks, and remove leaves none."""
    case, options = CASES[name], options_of(name, blocks)
    x, y = case.data()
    y = keras.ops.convert_to_numpy(keras.ops.one_hot(y, 4)) if y.ndim == 1 else y
    assert_saved_without_us(case.build, x, y, tmp_path, "keras_hub", **options)
    assert_removed_without_trace(case.build, **options)
