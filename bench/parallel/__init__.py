"""How executors fail: the same faults tried on each of them, and a storm of faults on ours.

::

    conformance  ── a process for each fault and executor ──▶  trial: faults on adapters
    storm        ── a process for each round              ──▶  a run with faults drawn by a seed
         └─ supervision: ends what hangs, finds what is left behind
"""
