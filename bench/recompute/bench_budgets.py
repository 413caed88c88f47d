"""Plans from the least memory to plenty: forecast, bytes of a real step, and its time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from perftricks.recompute.measure.process import environment


@pytest.mark.parametrize("model", ["transformer", "resnet50"])
def bench_budgets(benchmark, model, place, full, tmp_path):
    """Each budget is kept; what the time is."""
    if place.device != "cpu":
        pytest.skip("not measured: bytes are counted on the CPU")
    benchmark.group = f"budgets, {model}: {place.backend}, cpu"
    report = tmp_path / "sweep.json"
    points = ("--points", "15" if full else "4", "--rounds", "5" if full else "2")
    command = (sys.executable, "-m", "bench.recompute.budgets", model, *points, "--json", report)
    env = environment(place.backend, place.device)
    benchmark.pedantic(subprocess.run, (command,), {"check": True, "env": env}, rounds=1)
    benchmark.extra_info.update(sweep=json.loads(report.read_text(encoding="utf-8")))


bench_budgets.quick_backends = ("torch",)
