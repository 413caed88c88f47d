"""What recompute saves and costs, beside the plain run and beside other tools.

::

    bench_*.py ──Case──▶ trainer.Trainer ──stdin, stdout──▶ child.py: a process of its own
      (pytest-benchmark)     │   step, step, ...               models.py: the model, by some tool
                             └▶ time of each step, peak, losses

A process for each case, because memory that one has freed would be there for the next to use. The
benchmark times the step from outside; a step takes a few thousand times as long as asking for it.
"""
