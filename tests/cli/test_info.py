"""What the environment is said to be."""

from __future__ import annotations

import json
import platform
import stat
import sys
from importlib import metadata

import pytest

import perftricks
from perftricks.compatibility import matching_rows
from perftricks.environment import devices, packages
from perftricks.parallel import available_cores
from tests.cli.conftest import command
from tests.conftest import PATIENCE
from tests.test_imports import loaded_by


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    """Nothing in the environment chooses."""
    for name in ("RECOMPUTE", "KERAS_BACKEND", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_screen(call):
    """The screen has a section for each kind of thing, and a line for each thing."""
    result = call("info")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "this machine",
        "installed packages",
        "recompute: training in less memory",
        "wordcount: what it keeps on the disk to start fast",
    ]
    facts = dict(line.split(maxsplit=1) for line in lines if line.startswith(" "))
    assert facts["perftricks"] == perftricks.__version__
    assert facts["python"] == platform.python_version()
    assert facts["numpy"] == metadata.version("numpy")
    assert facts["cores"].split()[0] == str(available_cores())
    assert facts["RECOMPUTE"].startswith("not set: @recompute_grad is off, ")


def test_json(call):
    """The same for machines."""
    result = call("info", "--json", "-")
    assert result.status == 0
    record = result.json
    assert record["packages"]["jieba"] == metadata.version("jieba")
    assert record["cores"] == available_cores()
    assert record["memory"] > 2**20
    assert record["devices"] is None
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"pythons-{version}: Python {version}" in record["rows"]
    assert record["recompute"]["meaning"] == "unset"


@pytest.mark.parametrize(
    ("value", "meaning"),
    [("1", "on"), (" Yes ", "on"), ("0", "off"), ("OFF", "off"), ("maybe", "invalid"), ("", None)],
)
def test_switch(call, monkeypatch, value, meaning):
    """RECOMPUTE is said to be what recompute takes it for; a wrong value with what is right."""
    monkeypatch.setenv("RECOMPUTE", value)
    record = call("info", "--json", "-").json["recompute"]
    assert (record["value"], record["meaning"]) == (value, meaning or "invalid")
    line = next(line for line in call("info").out.splitlines() if "RECOMPUTE" in line)
    if record["meaning"] == "invalid":
        assert f"INVALID: RECOMPUTE={value!r} means neither on nor off: use one of 1/true" in line
    else:
        assert f"{value!r}, {meaning}: " in line


@pytest.mark.parametrize(
    ("keras", "torch", "told"),
    [
        (None, None, "nothing: Keras 3 is not installed"),
        ("2.15.0", None, "nothing: Keras 3 is not installed"),
        (
            "3.15.0",
            None,
            "tensorflow, which is not installed; pip install 'perftricks[tensorflow]'",
        ),
        ("3.15.0", "2.13.0", "tensorflow, which is not installed; KERAS_BACKEND=torch would help"),
    ],
)
def test_what_keras_runs_on(call, monkeypatch, tmp_path, keras, torch, told):
    """Where the backend of Keras is missing, the screen says what to do."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = {**dict.fromkeys(packages.PACKAGES), "keras": keras, "torch": torch}
    monkeypatch.setattr("perftricks.environment.versions", lambda: found)
    shown = call("info").out
    assert f"  Keras runs on   {told}" in shown
    assert ("pip install 'perftricks[torch]'\n" in shown) == (torch is None)


def test_looking_imports_nothing_heavy():
    """No framework and no segmenter is imported to find their versions."""
    statement = "from perftricks.environment import describe; describe()"
    assert loaded_by(statement) == set()


@pytest.mark.parametrize(
    ("python", "have", "backend", "rows"),
    [
        ((3, 9), {}, None, ()),
        ((3, 12), {}, None, ("pythons-3.12: Python 3.12",)),
        (
            (3, 11),
            {"keras": "3.15.0", "jax": "0.10.1", "tensorflow": "2.21.0"},
            "jax",
            ("pythons-3.11: Python 3.11", "keras3(jax): Keras 3.15, JAX 0.10"),
        ),
        ((3, 11), {"keras": "3.15.0"}, "torch", ("pythons-3.11: Python 3.11",)),
        ((3, 11), {"keras": "3.15.0"}, "openvino", ("pythons-3.11: Python 3.11",)),
        (
            (3, 10),
            {"keras": "2.15.0", "tensorflow": "2.15.1"},
            None,
            (
                "pythons-3.10: Python 3.10",
                "keras2(tf2.15-tf.keras): TensorFlow 2.15, its own tf.keras",
            ),
        ),
    ],
)
def test_rows(python, have, backend, rows):
    """A row needs its Python, its framework and the backend that Keras will choose."""
    assert matching_rows(python, have, backend) == rows


def test_backend(monkeypatch, tmp_path):
    """The backend is the variable's, then the configuration file's, then TensorFlow."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert packages.keras_backend("3.15.0") == "tensorflow"
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    assert packages.keras_backend("3.15.0") == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert packages.keras_backend("3.15.0") == "jax"
    (tmp_path / "keras.json").write_text("no JSON")
    monkeypatch.delenv("KERAS_BACKEND")
    assert packages.keras_backend("3.15.0") == "tensorflow"


@pytest.fixture
def fake_driver(tmp_path, monkeypatch):
    """Put a program called nvidia-smi first on the path."""

    def fake_driver(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return fake_driver


def test_gpus(fake_driver, call):
    """GPUs are those of nvidia-smi, with their memory where it says so."""
    fake_driver("echo 'NVIDIA H200, 143771, 3'; echo 'NVIDIA GB10, [N/A], [N/A]'")
    first, second = devices.find_gpus()
    assert first == devices.Gpu("NVIDIA H200", 143771 * 2**20, 3 * 2**20)
    assert second == devices.Gpu("NVIDIA GB10", None, None)
    assert "NVIDIA H200, 140.4 GiB, 0.0 GiB in use; NVIDIA GB10" in call("info").out


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60"])
def test_driver_that_fails(fake_driver, script):
    """A driver that fails or hangs is no GPU, and nobody waits for it."""
    fake_driver(script)
    assert devices.find_gpus(timeout=0.5) == ()


@pytest.fixture
def framework(tmp_path, monkeypatch):
    """Stand in for torch with a module of some lines."""

    def framework(source):
        (tmp_path / "torch.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return framework


def test_asking_a_framework(framework):
    """What a framework sees comes back from a process of its own, whatever else it prints."""
    framework(
        "import types\n"
        "print('welcome')\n"
        "get_num_threads = lambda: 2\n"
        "gpu = types.SimpleNamespace(name='X', total_memory=5)\n"
        "cuda = types.SimpleNamespace(\n"
        "    device_count=lambda: 1, get_device_properties=lambda number: gpu)\n"
        "mps = types.SimpleNamespace(is_available=lambda: False)\n"
        "backends = types.SimpleNamespace(mps=mps)\n"
    )
    assert devices.ask("torch") == devices.Sight(
        "torch", (("CPU (2 threads)", None), ("GPU:0 X", 5))
    )


@pytest.mark.parametrize(
    ("source", "timeout", "problem"),
    [
        (
            "raise ImportError('libcudart: missing')",
            PATIENCE,
            "importing it fails: ImportError: lib",
        ),
        ("import time; time.sleep(1000)", 2, "no answer in 2 s"),
    ],
)
def test_framework_that_fails(framework, source, timeout, problem):
    """A framework that cannot be imported, or never comes back, is said to be so."""
    framework(source)
    assert devices.ask("torch", timeout=timeout).problem.startswith(problem)


def test_real_command():
    """--devices says so where there is no framework, and the status is 0."""
    done = command("info", "--devices", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    installed = [name for name in devices.FRAMEWORKS if record["packages"][name]]
    assert [sight["framework"] for sight in record["devices"]] == installed
