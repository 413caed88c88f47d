"""``perftricks recompute-plan``, as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import keras
import pytest

from perftricks import recompute
from tests.recompute.keras3.training import BACKEND

PROGRAM = """
import keras
from keras import layers

def net():
    inputs = keras.Input((None, 16))
    x = inputs
    for _ in range(4):
        x = layers.LayerNormalization()(x + layers.Dense(16, activation="gelu")(x))
    return keras.Model(inputs, layers.Dense(1)(x), name="net")

class Own(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.parts = [layers.Dense(64, activation="gelu") for _ in range(4)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x

def own():
    return Own(), keras.Input((32, 16))

def alone():
    model = Own()
    model.build((2, 32, 16))
    return model

class Peeking(Own):
    def call(self, x):
        return super().call(x) * float(keras.ops.convert_to_numpy(keras.ops.sum(x)))

def peeking():
    model = Peeking()
    model.build((2, 32, 16))
    return model, keras.Input((32, 16))

class Looking(layers.Layer):
    def call(self, x):
        if not isinstance(x, keras.KerasTensor):
            float(keras.ops.convert_to_numpy(keras.ops.sum(x)))
        return x

def looking():
    inputs = keras.Input((None, 16))
    x = layers.Dense(16)(Looking()(layers.Dense(16, activation="gelu")(inputs)))
    return keras.Model(inputs, layers.Dense(1)(x))

def one():
    return keras.Sequential([keras.Input((16,)), layers.Dense(1)])

def nothing():
    return 3

def broken():
    raise OSError("no weights here")
"""


def run(folder, *arguments):
    """Run the command in a folder; return its status and what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "perftricks", "recompute-plan", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def options(*more):
    return ("--batch-size", "64", "--length", "32", "--backend", BACKEND, *more)


def test_function_and_file(tmp_path):
    """The curve of a function's model; the plan of a saved one, which fits it when it is loaded."""
    (tmp_path / "models.py").write_text(PROGRAM)
    status, out, err = run(tmp_path, "models:net", *options("--json", "net.json"))
    assert status == 0, err
    assert out.startswith(f"net, a batch of 64, {BACKEND}\nweights")
    assert "100 %" in out
    assert "--budget SIZE chooses" in out
    found = json.loads((tmp_path / "net.json").read_text())
    assert found["profile"]["optimizer"] > found["profile"]["weights"]  # Adam
    peaks = [point["peak"] for point in found["curve"]]
    assert peaks == sorted(peaks)
    assert found["plan"] is None

    scope = {}
    exec(PROGRAM, scope)
    model = scope["net"]()
    model.save(tmp_path / "net.keras")
    budget = f"{(peaks[0] + peaks[-1]) // 2}B"
    wanted = options("--budget", budget, "--save", "plan.json", "--plot", "curve.png")
    status, out, err = run(tmp_path, "net.keras", *wanted)
    assert status == 0, err
    assert "chosen" in out
    assert 'recompute.apply(model, plan=recompute.Plan.load("plan.json"))' in out
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    plan = recompute.apply(model, plan=recompute.Plan.load(tmp_path / "plan.json"))
    assert any(segment.recomputed for segment in plan.segments)
    assert plan.step_peak <= plan.budget
    copy = keras.models.load_model(tmp_path / "net.keras")
    status, out, _ = run(tmp_path, "net.keras", *options("--budget", budget, "--loss", "mae"))
    assert 'length=32, loss="mae", optimizer="adam")' in out
    line = out.strip().splitlines()[-1].strip()
    exec(line, {"recompute": recompute, "model": copy})  # what it says to type
    assert recompute.status(copy).parts


@pytest.mark.skipif(BACKEND != "torch", reason="is the same on all backends")
def test_a_call_of_its_own_and_a_single_layer(tmp_path):
    """The first comes with samples, and the second has nothing to segment; both have a curve."""
    (tmp_path / "models.py").write_text(PROGRAM)
    status, out, err = run(tmp_path, "models:own", *options("--budget", "1GiB"))
    assert status == 0, err
    assert 'loss="mse"' not in out
    assert 'optimizer="adam", x=x)' in out
    assert "dense_3 (runs plainly)" in out
    status, out, err = run(tmp_path, "models:one", *options())
    assert status == 0, err
    assert "100 %" in out


@pytest.mark.skipif(BACKEND != "torch", reason="is the same on all backends")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("gone.keras",), 1, "'gone.keras': no such file"),
        (("text.keras",), 1, "'text.keras' cannot be loaded: "),
        (("models:gone",), 1, "'models:gone' cannot be built: AttributeError: "),
        (("models:broken",), 1, "'models:broken' cannot be built: OSError: no weights here"),
        (
            ("models:nothing",),
            1,
            "'models:nothing' must return a keras.Model, not an",
        ),
        (("models:alone",), 1, "own has a call of its own, so what it takes is not known: name a"),
        (("models:looking",), 1, "'models:looking' cannot be traced without numbers: "),
        (("models:peeking",), 1, "own cannot be traced without numbers, which is how it is"),
        (("models:net", "--budget", "1kB"), 1, "and the budget is 1000 B; no batch would fit"),
        (("models",), 2, "expected FILE.keras or MODULE:FUNCTION as the model, not 'models'"),
        (
            ("models:net", "--budget", "much"),
            2,
            "expected a size such as 500MB or 2GiB",
        ),
        (("models:net", "--save", "x.json"), 2, "--save saves the plan that a --budget chooses"),
        (("models:net", "--plot", "x.txt"), 2, "expected a picture of a kind such as x.png"),
        (("models:net", "--json", "no/x.json"), 2, "folder 'no' of 'no/x.json' does not exist"),
    ],
)
def test_bad_input(tmp_path, arguments, status, message):
    """One line on stderr beside what is being done, and nothing on stdout."""
    (tmp_path / "models.py").write_text(PROGRAM)
    (tmp_path / "text.keras").write_text("no model")
    found, out, err = run(tmp_path, *arguments, *options())
    assert (found, out) == (status, "")
    (line,) = [one for one in err.splitlines() if one.startswith("perftricks recompute-plan: ")]
    assert message in line
