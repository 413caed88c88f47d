"""Train with larger batches in the same memory: recompute activations, exactly.

::

    @recompute_grad ──switch──▶ off: the plain call
      (policy)         │
                       └─▶ on: keras3: the call as a pure function of tensors and variables
                           │     │
                           │     └▶ keras3.tensorflow, .jax, .torch: keep its inputs, forget
                           │        what it computed, run it again when the gradient arrives
                           └▶ keras2: keras 2.3.1, tf.keras, tf_keras, functions of tensors

Loss, gradients and state are the same as without it: random numbers are drawn again as they were,
and moving averages, seeds, metrics and ``add_loss`` are updated once. No framework is imported
before a decorated function runs.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

from perftricks.recompute.decorator import recompute_grad
from perftricks.recompute.policies import keep
from perftricks.recompute.switch import recompute_scope

if TYPE_CHECKING:
    from perftricks.recompute.applying import apply, remove
    from perftricks.recompute.batch_sizes import LargestBatch, MaxBatchSize, max_batch_size
    from perftricks.recompute.choosing import plan
    from perftricks.recompute.inspection import Status, status
    from perftricks.recompute.planning.plans import BudgetError, Pareto, Plan, Segment
    from perftricks.recompute.planning.profiles import Profile, SegmentProfile
    from perftricks.recompute.profiling import profile
    from perftricks.recompute.verification import Verification, verify

__all__ = [
    "BudgetError",
    "LargestBatch",
    "MaxBatchSize",
    "Pareto",
    "Plan",
    "Profile",
    "Segment",
    "SegmentProfile",
    "Status",
    "Verification",
    "apply",
    "keep",
    "max_batch_size",
    "plan",
    "profile",
    "recompute_grad",
    "recompute_scope",
    "remove",
    "status",
    "verify",
]

_LAZY = {
    "BudgetError": "planning.plans",
    "LargestBatch": "batch_sizes",
    "MaxBatchSize": "batch_sizes",
    "Pareto": "planning.plans",
    "Plan": "planning.plans",
    "Profile": "planning.profiles",
    "Segment": "planning.plans",
    "SegmentProfile": "planning.profiles",
    "Status": "inspection",
    "Verification": "verification",
    "apply": "applying",
    "max_batch_size": "batch_sizes",
    "plan": "choosing",
    "profile": "profiling",
    "remove": "applying",
    "status": "inspection",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module("perftricks.recompute." + _LAZY[name])
        return getattr(module, name)
    raise AttributeError("module 'perftricks.recompute' has no attribute %r" % name)


def __dir__() -> List[str]:
    return sorted(__all__)
