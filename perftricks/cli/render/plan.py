"""What ``perftricks recompute-plan`` shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from perftricks.cli.render.terminal import print_facts, print_line
from perftricks.recompute.planning.plans import readable_size

if TYPE_CHECKING:
    from perftricks.recompute import Plan, Profile


def show(profile: Profile, plan: Plan, options: dict[str, object], saved: str | None) -> None:
    """Print what a step takes, the curve and, with a budget, the plan and how to use it.

    Args:
        profile: Where the memory of a plain step goes.
        plan: The plan.
        options: What ``recompute.apply`` would be given to plan the same.
        saved: The file that the plan was saved in.
    """
    print_line(f"{profile.model}, a batch of {profile.batch_size}, {profile.backend}")
    parts = ("weights", "gradients", "optimizer", "inputs", "activations")
    sizes = {name: readable_size(getattr(profile, name)) for name in parts}
    width = max(map(len, sizes.values()))
    print_facts({name: size.rjust(width) for name, size in sizes.items()})
    print_line()
    pareto = plan.pareto()
    if "budget" not in options:
        print(pareto._replace(chosen=0))
        print_line("\n--budget SIZE chooses the fastest plan that fits.")
        return
    print(f"{pareto}\n\n{plan}")
    arguments = ", ".join(
        f"{name}={value if name in ('x', 'y') else _quoted(value)}"
        for name, value in options.items()
    )
    if saved:
        arguments = f"plan=recompute.Plan.load({_quoted(saved)})"
    print_line("\nTo use it, with the model built and before it is trained:\n")
    print_line("    from perftricks import recompute")
    print_line(f"    recompute.apply(model, {arguments})")


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
