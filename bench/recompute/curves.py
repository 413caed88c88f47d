"""Pictures of what was measured, from the JSON of pytest-benchmark.

Usage: ``python -m bench.recompute.curves RESULT.json FOLDER``; needs matplotlib. Draws peak memory
against depth, a picture for each backend and device.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

COLORS = {
    "plain": "#c44e52",
    "recompute_grad": "#55a868",
    "apply": "#4c72b0",
    "apply, sqrt(n)": "#8172b3",
}
LABELS = {
    "plain": "plain",
    "recompute_grad": "each block decorated",
    "apply": "apply, as it chooses",
    "apply, sqrt(n)": "apply, segments of sqrt(n) blocks",
}
Curves = dict[str, list[tuple[int, int]]]  # tool -> (layers, bytes), by layers


def main() -> None:
    """Read, draw, write."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bench.recompute.curves RESULT.json FOLDER")
    record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    found = depth_curves(record)
    if not found:
        sys.exit(f"{sys.argv[1]} has no figures of depth; run bench/recompute/bench_depth.py")
    for (backend, device), curves in found.items():
        path = folder / f"depth-{backend}-{device}.png"
        draw(curves, f"peak of a training step: {backend}, {device}", path)
        print(path)


def depth_curves(record: dict[str, Any]) -> dict[tuple[str, str], Curves]:
    """Return peak against depth of each backend and device, from pytest-benchmark's record."""
    found: dict[tuple[str, str], Curves] = defaultdict(lambda: defaultdict(list))
    for benchmark in record["benchmarks"]:
        if benchmark["name"].startswith("bench_depth["):
            info = benchmark["extra_info"]
            case = info["case"]
            curves = found[case["backend"], case["device"]]
            curves[case["tool"]].append((case["layers"], info["peak_bytes"]))
    return {
        where: {tool: sorted(points) for tool, points in curves.items()}
        for where, curves in found.items()
    }


def draw(curves: Curves, title: str, path: Path) -> None:
    """Draw curves of bytes against layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for tool, points in curves.items():
        layers = [layers for layers, _ in points]
        peaks = [peak / 2**20 for _, peak in points]
        axes.plot(layers, peaks, "o-", color=COLORS[tool], label=LABELS[tool])
    axes.set(title=title, xlabel="transformer blocks", ylabel="MiB above the idle model")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
