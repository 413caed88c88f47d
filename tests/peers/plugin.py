"""What pytest does for Keras' tests: decorate every layer, compare steps, write down the results.

Environment:
    PERFTRICKS_PEERS: "plain" or "recompute".
    PERFTRICKS_PEERS_RESULTS: The file to write, JSON.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest

from tests.peers import steps

RECOMPUTED = os.environ["PERFTRICKS_PEERS"] == "recompute"
_results: dict[str, dict] = {}


def pytest_configure():
    """Decorate the layers that there are, and those that tests define later."""
    if not RECOMPUTED:
        return
    os.environ["RECOMPUTE"] = "1"
    import keras
    from keras.src.testing.test_case import TestCase

    waiting = [keras.Layer]
    while waiting:
        kind = waiting.pop()
        decorate(kind)
        waiting.extend(kind.__subclasses__())

    @classmethod
    def decorated_later(kind, **options):
        super(keras.Layer, kind).__init_subclass__(**options)
        decorate(kind)

    keras.Layer.__init_subclass__ = decorated_later
    TestCase.run_layer_test = compared(TestCase.run_layer_test)


def decorate(kind):
    """Decorate the call of a class of layers; models are what layers are in."""
    import keras

    from perftricks.recompute import recompute_grad

    call = vars(kind).get("call")
    if issubclass(kind, keras.Model) or not callable(call) or hasattr(call, "perftricks_decorated"):
        return
    if kind is not keras.Layer:
        kind.call = recompute_grad(call)


def compared(run_layer_test):
    """Return Keras' test of a layer that also compares a plain with a recomputed training step."""

    @functools.wraps(run_layer_test)
    def run(self, layer_cls, init_kwargs, *args, **kwargs):
        with steps.first_call_noted(layer_cls) as noted:
            run_layer_test(self, layer_cls, init_kwargs, *args, **kwargs)
        _found.append(steps.outcome(layer_cls, init_kwargs, noted))

    return run


_found: list[str] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """Send what a test has compared along with its report."""
    _found.clear()
    yield
    item.user_properties.append(("steps", list(_found)))


def pytest_runtest_logreport(report):
    """Write down how a test ended; where tests run in several processes, in the one that asks."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return
    found = _results.setdefault(report.nodeid, {"outcome": "passed", "steps": [], "error": ""})
    if report.outcome != "passed":
        found["outcome"] = report.outcome
        found["error"] = str(report.longrepr).strip().rpartition("\n")[2][:300]
    if report.when == "call" or report.outcome == "failed":
        found["steps"] = dict(report.user_properties).get("steps", [])


def pytest_collectreport(report):
    """Write down a file of tests that cannot be imported: none of its tests is run."""
    if report.failed and not os.environ.get("PYTEST_XDIST_WORKER"):
        error = str(report.longrepr).strip().rpartition("\n")[2][:300]
        _results[report.nodeid] = {"outcome": "not collected", "steps": [], "error": error}


def pytest_sessionfinish():
    """Leave the results behind."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        path = Path(os.environ["PERFTRICKS_PEERS_RESULTS"])
        path.write_text(json.dumps(_results, indent=1, sort_keys=True), encoding="utf-8")
