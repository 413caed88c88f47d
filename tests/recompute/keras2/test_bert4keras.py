"""A client: BERT of bert4keras with our decorator in place of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.recompute.keras2.binding import STANDALONE, TF, K
from tests.recompute.keras2.training import (
    OFF,
    ON,
    assert_exact,
    assert_gradient_of_its_own_loss,
    fresh_model,
    steps,
    way,
)

if not STANDALONE:
    pytest.skip("bert4keras is tested with Keras 2.3.1", allow_module_level=True)
if importlib.util.find_spec("bert4keras") is None:
    pytest.skip("this row does without bert4keras", allow_module_level=True)

from tests.recompute.keras2.bert import (
    FAMILIES,
    builder,
    data,
    gated_attention_units,
    inputs_of,
)


def test_its_layers_have_our_decorator():
    """Attention, feed-forward and normalization of bert4keras are decorated by us."""
    builder()
    from bert4keras import layers

    for name in ("MultiHeadAttention", "FeedForward", "LayerNormalization"):
        call = getattr(layers, name).call
        assert call.__wrapped__.__module__ == "bert4keras.layers"
        assert "perftricks" in call.__code__.co_filename


def test_the_same_losses_gradients_and_weights():
    """Steps and fit, with padding masks and both kinds of dropout."""
    # What goes into attention goes past it, too: its gradient is added up in another order.
    assert_exact(builder(), *data(8), tolerance=4e-6)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families(family):
    """Other ways to tell positions, shared layers, causal masks, decoders that read an encoder."""
    if family == "nezha" and TF >= (2,):
        pytest.skip("bert4keras cannot build it here, recomputed or not")
    build = builder(family=family, depth=2 if family == "albert" else 1)
    x, y = inputs_of(build)
    steps(build, x, y, OFF).assert_same(steps(build, x, y, ON), 4e-6)


def test_gated_attention_units():
    """Units with rotary positions, a mask, and dropout of their own."""
    build = gated_attention_units()
    x, y = inputs_of(build)
    steps(build, x, y, OFF).assert_same(steps(build, x, y, ON), 4e-6)


def distance_of_pairs(y_true, y_pred):
    """Return the error, and how far apart two passes of the same rows are (R-Drop)."""
    first, second = K.softmax(y_pred[::2]), K.softmax(y_pred[1::2])
    divergence = K.sum((first - second) * (K.log(first) - K.log(second)), axis=-1)
    return K.mean(K.square(y_true - y_pred)) + K.mean(divergence)


def test_two_passes_that_drop_something_else():
    """R-Drop: each row twice in a batch, each with masks of its own, drawn again in the replay."""
    (tokens, segments), targets = data(4)
    x, y = [tokens.repeat(2, 0), segments.repeat(2, 0)], targets.repeat(2, 0)
    assert_exact(builder(), x, y, tolerance=4e-6, loss=distance_of_pairs)


def test_moving_averages_of_weights():
    """The optimizer of bert4keras that keeps averages of the weights keeps the same ones."""
    builder()
    from bert4keras.optimizers import Adam, extend_with_exponential_moving_average

    averaging = extend_with_exponential_moving_average(Adam)
    found = []
    for how in (OFF, ON):
        with way(how):
            model = fresh_model(builder())
            optimizer = averaging(1e-3, ema_momentum=0.5)
            model.compile(optimizer, "mse")
            model.fit(*data(8), batch_size=4, epochs=2, shuffle=False, verbose=0)
            before = model.get_weights()
            optimizer.apply_ema_weights()
            found.append(model.get_weights())
            assert any((a != b).any() for a, b in zip(before, found[-1]))
    for plain, recomputed in zip(*found):
        np.testing.assert_allclose(recomputed, plain, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_loss():
    """The same without a plain run to compare with."""
    assert_gradient_of_its_own_loss(builder(), *data())


def test_it_learns(monkeypatch):
    """With ``RECOMPUTE=1`` the loss goes down."""
    monkeypatch.setenv("RECOMPUTE", "1")
    model = fresh_model(builder())
    model.compile("adam", "mse")
    x, y = data(8)
    losses = model.fit(x, y, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2


def test_inference_is_the_same():
    """``predict`` drops nothing and gives the same numbers."""
    found = []
    for how in (OFF, ON):
        with way(how):
            found.append(fresh_model(builder()).predict(data()[0]))
    np.testing.assert_array_equal(*found)


def test_it_needs_less_memory():
    """Training a wider BERT raises the resident set by a third as much, or less."""
    # Tensors are mapped one by one, so that the resident set is what lives and not what malloc
    # keeps for later: that depends on which threads have run at the same time.
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
    peaks = []
    for how in (OFF, ON):
        command = [sys.executable, "-W", "ignore", "-m", "tests.recompute.keras2.bert", how]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] / 3, peaks


@pytest.mark.parametrize("name", ["bert4keras.md", "zh/bert4keras.md"])
def test_the_guide(name, tmp_path):
    """The blocks of the page run one after another, in a process of their own."""
    root = Path(__file__).parent.parent.parent.parent
    page = (root / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    program = tmp_path / "guide.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        cwd=str(tmp_path),
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stdout[-3000:]
