"""Keras' own tests, run on decorated layers: other people's programs as the contract.

``python -m tests.peers`` (``nox -s "peers(torch)"``) downloads the source archive of the Keras that
is installed, which has its tests, and runs them twice, each file's tests in the same process:

::

    archive ──▶ pytest -p tests.peers.plugin, plainly ────────┐
            └─▶ the same, every layer decorated, RECOMPUTE=1 ─┤
                └─ each run_layer_test also compares a plain  ├─▶ table, and whether what differs
                   with a recomputed training step            │   is what differences.toml says
                                                              ┘
The archive's own copy of Keras is what is tested: it is the same version, and its tests import each
other as parts of it. Nothing of it is kept in the repository.
"""
