"""What ``perftricks recompute-demo`` shows."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from perftricks.recompute.measure.batches import LARGEST_TRIED

if TYPE_CHECKING:
    from perftricks.recompute.demo import Comparison, Run


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], object] | None]:
    """Say on stderr, if it is a terminal, what is being done."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(stderr=True).status("starting") as status:
        yield status.update


def show(comparison: Comparison, largest: tuple[int, ...] | None, room: int | None) -> None:
    """Print both ways beside each other, with bars on a terminal, and whether they are equal."""
    console = Console(highlight=False)
    plain, recomputed = comparison.plain, comparison.recomputed
    config = comparison.config
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "plain", "recompute", "ratio"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    batch = config.batch_size
    table.add_row(
        "peak memory", _size(plain), _size(recomputed), f"{comparison.memory_ratio:.2f}x less"
    )
    table.add_row(
        "time per step",
        f"{plain.step_seconds:.3f} s",
        f"{recomputed.step_seconds:.3f} s",
        f"{comparison.time_ratio:.2f}x",
    )
    table.add_row(
        "time per sample",
        f"{plain.step_seconds / batch * 1e3:.1f} ms",
        f"{recomputed.step_seconds / batch * 1e3:.1f} ms",
        f"{comparison.time_ratio:.2f}x",
    )
    table.add_row("loss, last step", f"{plain.losses[-1]:.6f}", f"{recomputed.losses[-1]:.6f}", "")
    if largest is not None:
        ratio = f"{largest[1] / largest[0]:.2f}x" if largest[0] else ""
        # A plus says that the search ended there, and not the memory.
        batches = [f"{one}+" if one >= LARGEST_TRIED else str(one) for one in largest]
        table.add_row("largest batch", *batches, ratio)
    console.print(table)
    if console.is_terminal:
        _bars(console, "peak memory", plain.peak_bytes, recomputed.peak_bytes)
        _bars(console, "time per step", plain.step_seconds, recomputed.step_seconds)
    console.print()
    compiled = {
        "gradients": comparison.gradient_difference,
        "losses": comparison.loss_difference,
        "variables": comparison.state_difference,
    }
    if comparison.by_operation is None or comparison.error is None:
        _differences(console, compiled, "")
    else:
        kinds = {"gradients": "gradient", "losses": "loss", "variables": "state"}
        uncompiled = {what: comparison.by_operation[kind] for what, kind in kinds.items()}
        how = ", operation by operation"
        if comparison.compared_batch is not None:
            how += f" with a batch of {comparison.compared_batch}"
        _differences(console, uncompiled, how)
        words = "differ by rounding" if comparison.rounding else "are NOT equal"
        numbers = ", ".join(f"{what} {difference:.3g}" for what, difference in compiled.items())
        errors = ", ".join(f"{way} {error:.3g}" for way, error in comparison.error.items())
        console.print(f"compiled by XLA, which fuses operations, they {words}:")
        console.print(f"  {numbers}")
        console.print(f"  rounding of gradients against the above: {errors}")
    console.print()
    details = Table.grid(padding=(0, 2))
    versions = ", ".join(f"{name} {version}" for name, version in plain.versions.items())
    details.add_row("model", f"{config.model}, {plain.parameters:,} parameters, batch {batch}")
    details.add_row("measured", f"{plain.measured}, {plain.device}")
    details.add_row("with", versions)
    if config.policy != "full":
        details.add_row("policy", config.policy)
    if config.budget is not None and recomputed.planned_bytes is not None:
        sizes = (f"{size / 2**20:,.0f} MiB" for size in (recomputed.planned_bytes, config.budget))
        details.add_row("plan", "a whole step takes {}, of a budget of {}".format(*sizes))
    if room is not None:
        details.add_row("largest batch", f"in {room / 2**20:,.0f} MiB above the idle model")
    console.print(details)


def _differences(console: Console, differences: dict[str, float], how: str) -> None:
    for what, difference in differences.items():
        equal = "yes" if difference == 0 else "no"
        console.print(f"{what} identical{how}: {equal} (max difference {difference:.3g})")


def _size(run: Run) -> str:
    return f"{run.peak_bytes / 2**20:,.0f} MiB"


def _bars(console: Console, title: str, plain: float, recomputed: float) -> None:
    longest = max(plain, recomputed)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=16, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(title, "")
    grid.add_row("  plain", Bar(longest, 0, plain, color="red"))
    grid.add_row("  recompute", Bar(longest, 0, recomputed, color="green"))
    console.print(grid)


def picture_kinds() -> set[str]:
    """Return the kinds of pictures that can be drawn, as names of files end."""
    from matplotlib.figure import Figure

    return set(Figure().canvas.get_supported_filetypes())


def draw(comparison: Comparison, path: str) -> None:
    """Draw peak memory and time of a step as two bar charts."""
    from matplotlib.figure import Figure

    plain, recomputed = comparison.plain, comparison.recomputed
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    memory, duration = figure.subplots(1, 2)
    names, colors = ["plain", "recompute"], ["#c44e52", "#55a868"]
    peaks = [run.peak_bytes / 2**20 for run in (plain, recomputed)]
    memory.bar_label(memory.bar(names, peaks, color=colors), fmt="%.0f")
    memory.set(title="peak memory of a step", ylabel="MiB")
    seconds = [plain.step_seconds, recomputed.step_seconds]
    duration.bar_label(duration.bar(names, seconds, color=colors), fmt="%.3g")
    duration.set(title="time of a step", ylabel="s")
    for axes in (memory, duration):
        axes.spines[["top", "right"]].set_visible(False)
    config = comparison.config
    figure.suptitle(f"{config.model} on {config.backend}, batch {config.batch_size}")
    figure.savefig(path, dpi=150)
