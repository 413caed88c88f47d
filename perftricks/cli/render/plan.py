"""What ``perftricks recompute-plan`` shows."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from perftricks.recompute.planning.plans import readable_size

if TYPE_CHECKING:
    from perftricks.recompute import Plan, Profile


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], object]]:
    """Say on stderr what is being done: in one place on a terminal, else a line each."""
    if not sys.stderr.isatty():
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    with Console(stderr=True).status("starting") as status:
        yield status.update


def show(profile: Profile, plan: Plan, options: dict[str, object], saved: str | None) -> None:
    """Print what a step takes, the curve and, with a budget, the plan and how to use it.

    Args:
        profile: Where the memory of a plain step goes.
        plan: The plan.
        options: What ``recompute.apply`` would be given to plan the same.
        saved: The file that the plan was saved in.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{profile.model}, a batch of {profile.batch_size}, {profile.backend}", markup=False
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name in ("weights", "gradients", "optimizer", "inputs", "activations"):
        table.add_row(name, readable_size(getattr(profile, name)))
    console.print(table)
    console.print()
    pareto = plan.pareto()
    if "budget" not in options:
        print(pareto._replace(chosen=0))
        console.print("\n--budget SIZE chooses the fastest plan that fits.", markup=False)
        return
    print(f"{pareto}\n\n{plan}")
    arguments = ", ".join(
        f"{name}={value if name in ('x', 'y') else _quoted(value)}"
        for name, value in options.items()
    )
    if saved:
        arguments = f"plan=recompute.Plan.load({_quoted(saved)})"
    console.print("\nTo use it, with the model built and before it is trained:\n", markup=False)
    console.print("    from perftricks import recompute", markup=False)
    console.print(f"    recompute.apply(model, {arguments})", markup=False)


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
