"""Where things are measured, and by how much.

``KERAS_BACKEND`` names the backend to measure, and that it is missing is an error. Without it each
backend that is installed is measured, and the others are reported as not measured.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest

from bench.recompute.trainer import BACKENDS, missing

# They import Keras, and are run in processes of their own.
collect_ignore = ["budgets.py", "child.py", "layer_cases.py", "layer_trial.py", "models.py"]


class Place(NamedTuple):
    """Where a case is trained."""

    backend: str
    device: str


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark with a ``place`` each backend and device.

    Attributes of its function may name the only ``backends`` that it is about, and those that
    are ``quick_backends``, where the others are measured with ``--full`` alone.
    """
    if "place" in metafunc.fixturenames:
        backends = getattr(metafunc.function, "backends", BACKENDS)
        quick = getattr(metafunc.function, "quick_backends", backends)
        places = [
            pytest.param(
                Place(backend, device),
                id=f"{backend}-{device}",
                marks=() if backend in quick else pytest.mark.full,
            )
            for backend in backends
            for device in ("cpu", "gpu")
        ]
        metafunc.parametrize("place", places, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """A backend and a device that are there."""
    where: Place = request.param
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted not in (None, *BACKENDS):
        pytest.fail(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}, not {wanted!r}")
    if wanted not in (None, where.backend):
        pytest.skip(f"not measured: KERAS_BACKEND is {wanted}")
    reason = missing(*where)
    if reason is not None and wanted is not None and where.device == "cpu":
        pytest.fail(f"KERAS_BACKEND is {wanted}, but {reason}")
    if reason is not None:
        pytest.skip(f"not measured: {reason}")
    return where


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether everything is asked for, at its full size."""
    return bool(pytestconfig.getoption("--full"))
