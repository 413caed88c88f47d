"""torch's memory budget: prints a line of JSON, the gradients at some budgets against budget 1.

Usage: ``python -m bench.recompute.zoo_budget``. A model of torch's own layers, as Dynamo takes
minutes for one of Keras: blocks with dropout. ``torch.compile`` compiles it for the CPU, and
recomputes what ``activation_memory_budget`` does not allow it to keep; one loss and one backward
pass, from equal weights and an equal state of torch's random numbers.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
import torch._functorch.config
from torch import nn

BUDGETS = (0.5, 0.1, 0.0)
WIDTH, DEPTH, BATCH = 32, 4, 16


class Block(nn.Module):
    """A residual block of a transformer without its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Any) -> Any:
        """Return what comes in, plus two layers of it."""
        y = self.down(nn.functional.gelu(self.up(self.norm(x))))
        return x + self.dropout(y)


def main() -> None:
    """Compare the budgets."""
    warnings.simplefilter("ignore")
    loss, gradients = _step(1.0)
    found = {}
    for budget in BUDGETS:
        other_loss, others = _step(budget)
        pairs = list(zip(gradients, others, strict=True))
        found[str(budget)] = {
            "same_loss": loss == other_loss,
            "different": sum(not torch.equal(one, other) for one, other in pairs),
            "gradients": len(pairs),
            "largest": max(
                float((one - other).abs().max() / one.abs().max()) for one, other in pairs
            ),
        }
    print(json.dumps({"torch": torch.__version__, "budgets": found}))


def _step(budget: float) -> tuple[float, list[Any]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(*[Block() for _ in range(DEPTH)])
    x = torch.randn(BATCH, WIDTH)
    torch.manual_seed(1)
    with torch._functorch.config.patch(activation_memory_budget=budget):
        # The partitioner that the budget is for, without generated code.
        compiled = torch.compile(model, backend="aot_eager_decomp_partition")
        loss = compiled(x).square().mean()
        loss.backward()
    return loss.item(), [parameter.grad for parameter in model.parameters()]


if __name__ == "__main__":
    main()
