"""The contract of recompute on Keras 2, bound to the Keras that PERFTRICKS_KERAS names.

One process, one Keras: ``PERFTRICKS_KERAS=tf.keras pytest tests/recompute/keras2``. Without the
variable nothing here is collected, so that the ordinary session needs no framework; with it, a
framework that is missing is an error and not a skip. All of it runs on Python 3.7 with pytest 7.
"""

from __future__ import annotations

import os

import pytest

if "PERFTRICKS_KERAS" not in os.environ:
    collect_ignore_glob = ["*"]
else:
    from perftricks.recompute.tensorflow_graphs import products
    from tests.recompute.graphs import forgotten
    from tests.recompute.keras2.binding import K, clear_session


def pytest_collection_modifyitems(items):
    for item in items:
        if os.path.dirname(__file__) in str(item.path):
            # Those of the frameworks, about each other and about newer Pythons.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.filterwarnings("error:.*perftricks"))
            item.add_marker(pytest.mark.timeout(1800))  # four models a test, on slow machines too


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test starts with a fresh Keras and with nothing switched."""
    monkeypatch.delenv("RECOMPUTE", raising=False)
    # So that products are kept in the tests' small layers, too.
    monkeypatch.setattr(products, "_SHORT", 1)
    clear_session()
    with forgotten():
        yield
    K.set_floatx("float32")
