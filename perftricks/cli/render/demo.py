"""What ``perftricks recompute-demo`` shows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from perftricks.cli.render.terminal import print_facts, print_line, show_table
from perftricks.files import replacing
from perftricks.recompute.demo import mebibytes
from perftricks.recompute.measure.batches import LARGEST_TRIED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from perftricks.recompute.demo import Comparison


def show(comparison: Comparison, largest: tuple[int, ...] | None, room: int | None) -> None:
    """Print both ways beside each other, with bars on a terminal, and whether they are equal."""
    plain, recomputed = comparison.plain, comparison.recomputed
    config = comparison.config
    batch = config.batch_size
    slower = f"{comparison.time_ratio:.2f}x"
    saving = less_or_more(plain.peak_bytes, recomputed.peak_bytes)
    rows = [
        [
            "peak memory",
            mebibytes(plain.peak_bytes),
            mebibytes(recomputed.peak_bytes),
            saving,
        ],
        [
            "time per step",
            f"{plain.step_seconds:.3f} s",
            f"{recomputed.step_seconds:.3f} s",
            slower,
        ],
        [
            "time per sample",
            f"{plain.step_seconds / batch * 1e3:.1f} ms",
            f"{recomputed.step_seconds / batch * 1e3:.1f} ms",
            slower,
        ],
        ["loss, last step", f"{plain.losses[-1]:.6f}", f"{recomputed.losses[-1]:.6f}", ""],
    ]
    if largest is not None:
        ratio = f"{largest[1] / largest[0]:.2f}x" if largest[0] else ""
        # A plus says that the search ended there, and not the memory.
        batches = [f"{one}+" if one >= LARGEST_TRIED else str(one) for one in largest]
        rows.append(["largest batch", *batches, ratio])
    show_table(["", "plain", "recompute", "ratio"], rows)
    console = Console(highlight=False)
    if console.is_terminal:
        _bars(console, "peak memory", plain.peak_bytes, recomputed.peak_bytes)
        _bars(console, "time per step", plain.step_seconds, recomputed.step_seconds)
    if not saving.endswith("x less") and config.budget is None:
        print_line()
        print_line("Nothing is saved at this size: try a larger --batch-size or more --layers.")
    print_line()
    compiled = {
        "gradients": comparison.gradient_difference,
        "losses": comparison.loss_difference,
        "variables": comparison.state_difference,
    }
    if comparison.by_operation is None or comparison.error is None:
        _differences(compiled, "")
    else:
        kinds = {"gradients": "gradient", "losses": "loss", "variables": "state"}
        uncompiled = {what: comparison.by_operation[kind] for what, kind in kinds.items()}
        how = ", operation by operation"
        if comparison.compared_batch is not None:
            how += f" with a batch of {comparison.compared_batch}"
        _differences(uncompiled, how)
        words = "differ by rounding" if comparison.rounding else "are NOT equal"
        numbers = ", ".join(f"{what} {difference:.3g}" for what, difference in compiled.items())
        errors = ", ".join(f"{way} {error:.3g}" for way, error in comparison.error.items())
        print_line(f"compiled by XLA, which fuses operations, they {words}:")
        print_line(f"  {numbers}")
        print_line(f"  rounding of gradients against the above: {errors}")
    print_line()
    versions = ", ".join(f"{name} {version}" for name, version in plain.versions.items())
    details = {
        "model": f"{config.model}, {plain.parameters:,} parameters, batch {batch}",
        "measured": f"{plain.measured}, {plain.device}",
        "with": versions,
    }
    if config.policy != "full":
        details["policy"] = config.policy
    if config.budget is not None and recomputed.planned_bytes is not None:
        sizes = (f"{size / 2**20:,.0f} MiB" for size in (recomputed.planned_bytes, config.budget))
        details["plan"] = "a whole step takes {}, of a budget of {}".format(*sizes)
    if room is not None:
        details["largest batch"] = f"in {room / 2**20:,.0f} MiB above the idle model"
    print_facts(details, width=9)


def less_or_more(before: float, after: float) -> str:
    """Return how many times less a size has become, or more, in words.

    >>> less_or_more(200, 100), less_or_more(100, 120), less_or_more(100, 100)
    ('2.00x less', '1.20x more', 'no less')
    """
    before, after = max(before, 1), max(after, 1)
    ratio = max(before, after) / min(before, after)
    if ratio < 1.005:  # which would read 1.00x
        return "no less"
    return f"{ratio:.2f}x {'less' if after < before else 'more'}"


def _differences(differences: dict[str, float], how: str) -> None:
    for what, difference in differences.items():
        equal = "yes" if difference == 0 else "no"
        print_line(f"{what} identical{how}: {equal} (max difference {difference:.3g})")


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
    figure = _figure(comparison)
    with replacing(path) as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:].lower(), dpi=150)


def _figure(comparison: Comparison) -> Figure:
    from matplotlib.figure import Figure

    plain, recomputed = comparison.plain, comparison.recomputed
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    memory, duration = figure.subplots(1, 2)
    names, colors = ["plain", "recompute"], ["#c44e52", "#55a868"]
    peaks = [run.peak_bytes / 2**20 for run in (plain, recomputed)]
    memory.bar_label(
        memory.bar(names, peaks, color=colors), fmt="%.3g" if max(peaks) < 10 else "%.0f"
    )
    memory.set(title="peak memory of a step", ylabel="MiB")
    seconds = [plain.step_seconds, recomputed.step_seconds]
    duration.bar_label(duration.bar(names, seconds, color=colors), fmt="%.3g")
    duration.set(title="time of a step", ylabel="s")
    for axes, bars in ((memory, peaks), (duration, seconds)):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1.15 * max(bars) or 1)  # room for the label of the highest bar
    config = comparison.config
    figure.suptitle(f"{config.model} on {config.backend}, batch {config.batch_size}")
    figure.draw_without_rendering()  # the layout is right once it knows the marks of the axes
    return figure
