"""Train with larger batches in the same memory: recompute activations, exactly.

::

    @recompute_grad ──switch──▶ off: the plain call
      (policy)         │
                       └─▶ on: engines.keras3: the call as a pure function of tensors and variables
                                 │
                                 └▶ engines.tensorflow, .jax, .torch: keep its inputs, forget
                                    what it computed, run it again when the gradient arrives

Loss, gradients and state are the same as without it: random numbers are drawn again as they were,
and moving averages, seeds, metrics and ``add_loss`` are updated once. No framework is imported
before a decorated function runs.
"""

from perftricks.recompute.decorator import recompute_grad
from perftricks.recompute.switch import recompute_scope

__all__ = ["recompute_grad", "recompute_scope"]
