"""Pictures of what was measured, for docs/claims.md; drawn by matplotlib (extra ``plot``)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results import Result, Results, normalization, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0b62c4", "#b35900", "#1d7a46", "#8250a8", "#c4317b", "#59636e")
_FIT_INSIDE = 4  # entries of a legend; more would cover what is drawn


def _workers(results: Results, axes: Axes) -> bool:
    """Throughput against workers, beside what that many times one worker would be."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for result in results.all("bench_workers"):
        corpus = result.case.rpartition(f"{result.info['method']}-")[0].strip("-")
        name = f"{result.info['method']}, {corpus}"
        lines.setdefault(name, []).append((result.info["workers"], result.info["MB_per_s"]))
    for (name, points), colour in zip(sorted(lines.items()), _COLOURS * 9, strict=False):
        workers, speeds = zip(*sorted(points), strict=True)
        axes.plot(workers, speeds, "o-", color=colour, label=name)
        axes.plot(workers, [n * speeds[0] / workers[0] for n in workers], ":", color=colour)
    axes.set(xlabel="workers", ylabel="MB of text a second", xscale="log", yscale="log")
    numbers = sorted({workers for points in lines.values() for workers, _ in points})
    axes.set_xticks(numbers, [f"{number}" for number in numbers])
    axes.set_xticks([], minor=True)
    axes.set_title("Throughput; dotted: in proportion to the workers")
    return bool(lines)


def _keys(results: Results, axes: Axes) -> bool:
    """Nanoseconds for a token against the size of the dict."""
    points = sorted(
        (result.info["keys"], result.info["ns_per_token"])
        for result in results.all("bench_growing_dict")
    )
    if points:
        keys, costs = zip(*points, strict=True)
        axes.plot(keys, costs, "o-", color=_COLOURS[0], label="one dict, all tokens in it already")
    axes.set(xlabel="keys in the dict", ylabel="ns for a token", xscale="log")
    axes.set_ylim(bottom=0)
    axes.set_title("What a growing dict costs")
    return bool(points)


def _counting(results: Results, axes: Axes) -> bool:
    """Nanoseconds for a token against distinct tokens, a line for each way of counting."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for result in results.all("bench_counting"):
        name = result.case.rpartition("-")[2].replace("_", " ")
        lines.setdefault(name, []).append((result.info["distinct"], result.info["ns_per_token"]))
    for (name, points), colour in zip(sorted(lines.items()), _COLOURS, strict=False):
        axes.plot(*zip(*sorted(points), strict=True), "o-", color=colour, label=name)
    axes.set(xlabel="distinct tokens of a million", ylabel="ns for a token", xscale="log")
    axes.set_ylim(bottom=0)
    axes.set_title("Counting alone")
    return bool(lines)


def _time_and_memory(results: Results, axes: Axes) -> bool:
    """Time of a step against peak memory, both as shares of the plain run's."""
    points = {
        f"{place(one)}, {normalization(one)}": (1 / one.info["peak_ratio"], one.info["time_ratio"])
        for one in results.all("bench_blocks")
    }
    points.update({one.where: (one.memory, one.time) for one in results.timed_batches()})
    for label, (memory, time) in points.items():
        axes.plot(memory, time, "o", label=label)
    axes.plot(1, 1, "*", color="#59636e", markersize=12, label="plain")
    axes.set(xlabel="peak memory, plain = 1", ylabel="time of a step, plain = 1", xlim=(0, 1.1))
    axes.set_title("Time against memory, each block recomputed")
    return bool(points)


def _batches(results: Results, axes: Axes) -> bool:
    """The largest batch of each model, without and with recompute."""
    found = [*results.all("bench_largest_batch_of_bert"), *results.all("bench_largest_batch")]
    for number, result in enumerate(found):
        largest = result.info["largest_batch"]
        colours = (("plain", "#c44e52"), ("recompute", "#55a868"), ("planned", "#4c72b0"))
        ways = [(way, colour) for way, colour in colours if way in largest]
        for offset, (way, colour) in enumerate(ways):
            label = way if number == 0 else ""
            x = number + 0.3 * offset
            axes.bar_label(axes.bar(x, largest[way], 0.28, color=colour, label=label))
    axes.set_xticks([number + 0.15 for number in range(len(found))], map(_model, found))
    axes.set(ylabel="samples in a batch", yscale="log")
    axes.margins(y=0.1)
    axes.set_title("Largest batch that fits")
    return bool(found)


def _model(result: Result) -> str:
    """Name a model and where it was trained, in three short lines."""
    layers = f"{result.info['layers']} blocks" if result.info["layers"] else ""
    backend, device, *_ = result.case.split("-")
    return "\n".join(filter(None, (result.info["model"], layers, f"{backend} {device}")))


_TOOLS = {
    "plain": ("plain", "#c44e52"),
    "recompute_grad": ("each block decorated", "#55a868"),
    "apply": ("apply, as it chooses", "#4c72b0"),
    "apply, sqrt(n)": ("apply, segments of √n blocks", "#8172b3"),
}


def _depth(where: str, results: Results, axes: Axes) -> bool:
    """Peak memory against depth at one place, a line for each tool."""
    for tool, curve in results.depth_curves()[where].items():
        label, colour = _TOOLS[tool]
        depths, peaks = zip(*sorted(curve.peaks.items()), strict=True)
        axes.plot(depths, [peak / 2**20 for peak in peaks], "o-", color=colour, label=label)
    axes.set(xlabel="transformer blocks", ylabel="MiB above the idle model")
    axes.set_ylim(bottom=0)
    axes.set_title(f"Peak of a training step: {where}")
    return True


PICTURES: dict[str, tuple[str, Callable[[Results, Any], bool]]] = {
    "workers": ("Throughput against workers", _workers),
    "growing-dict": ("Cost of a token against the size of a dict", _keys),
    "counting": ("Cost of a token against the vocabulary, three ways of counting", _counting),
    "time-and-memory": ("Time against memory of recompute", _time_and_memory),
    "batches": ("Largest batch with and without recompute", _batches),
}


def _pictures(results: Results) -> dict[str, tuple[str, Callable[[Results, Any], bool]]]:
    """Return all pictures; those of depth are one for each place that was measured."""
    depths = {
        f"depth-{where.replace(' ', '-')}": (
            f"Peak against depth: {where}",
            functools.partial(_depth, where),
        )
        for where in results.depth_curves()
    }
    return {**PICTURES, **depths}


def draw(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Draw what can be drawn of the results.

    Args:
        results: What was measured; a picture without any figures is not drawn.
        folder: Where the pictures go, as SVG.

    Returns:
        File name and description of each picture.
    """
    import matplotlib
    from matplotlib.figure import Figure

    drawn = []
    # The same results give the same file, whenever it is drawn.
    with matplotlib.rc_context({"svg.hashsalt": "perftricks", "svg.fonttype": "none"}):
        for name, (what, paint) in _pictures(results).items():
            figure = Figure(figsize=(6.4, 4), layout="constrained")
            axes = figure.subplots()
            if not paint(results, axes):
                continue
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="#e3e7eb", linewidth=0.8)
            axes.set_axisbelow(True)
            entries = len(axes.get_legend_handles_labels()[1])
            if entries > _FIT_INSIDE:
                figure.legend(frameon=False, loc="outside lower center", ncols=2)
                figure.set_figheight(4 + 0.1 * entries)
            else:
                axes.legend(frameon=False)
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            drawn.append((path.name, what))
    return drawn
