"""What pytest-benchmark wrote, to be asked for by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Result:
    """A benchmark that was run.

    Attributes:
        name: The name of its function.
        group: The group it was put into; its name, if into none.
        case: What its brackets say, such as "generated-naive_loop"; empty without.
        seconds: The median of its rounds.
        info: What it noted beside that.
    """

    name: str
    group: str
    case: str
    seconds: float
    info: dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All that was measured in some runs.

    Attributes:
        results: The benchmarks; where one was run twice on a machine, the later.
        machines: Machine, in words -> the day of the latest run there, as 2026-11-22.
    """

    results: tuple[Result, ...]
    machines: dict[str, str]

    def where(self) -> list[str]:
        """Return a line for each machine: when, and what it is."""
        return [f"{day}: {machine}" for machine, day in self.machines.items()]

    def all(self, *names: str) -> Iterator[Result]:
        """Return every case of some benchmarks."""
        return (result for result in self.results if result.name in names)

    def one(self, name: str, *parts: str) -> Result | None:
        """Return the first case whose brackets have all of the parts, None without one."""
        for result in self.all(name):
            if set(parts) <= set(result.case.split("-")):
                return result
        return None

    def depth_curves(self) -> dict[str, dict[str, Curve]]:
        """Return what was measured against the depth of a model, of each tool at each place."""
        curves: dict[str, dict[str, Curve]] = {}
        for result in self.all("bench_depth"):
            case = result.info["case"]
            curve = curves.setdefault(place(result), {}).setdefault(case["tool"], Curve({}, {}))
            curve.peaks[case["layers"]] = result.info["peak_bytes"]
            curve.seconds[case["layers"]] = result.info["median_step_seconds"]
        return {where: dict(found) for where, found in sorted(curves.items())}

    def timed_batches(self) -> Iterator[TimedBatch]:
        """Return what was measured of each BERT with a batch that fits both ways.

        A run that ended before it timed one is left out.
        """
        for result in self.all("bench_largest_batch_of_bert"):
            info = result.info
            if "sample_seconds" in info:
                plain_seconds, seconds, *_ = info["sample_seconds"].values()
                plain_peak, peak = info["peak_bytes"].values()
                where = f"{info['backend']} gpu, {info['model']}, batch {info['timed_batch']}"
                yield TimedBatch(where, seconds / plain_seconds, peak / plain_peak)


class TimedBatch(NamedTuple):
    """A model trained both ways with the same batch.

    Attributes:
        where: Backend, device, model and batch.
        time: Time of a recomputed sample, as a share of the plain one's.
        memory: Peak memory likewise.
    """

    where: str
    time: float
    memory: float


class Curve(NamedTuple):
    """What was measured against depth.

    Attributes:
        peaks: Blocks of the model -> bytes of memory.
        seconds: Blocks of the model -> time of a step.
    """

    peaks: dict[int, float]
    seconds: dict[int, float]


def place(result: Result) -> str:
    """Return where something was trained: the backend and the device."""
    case = result.info["case"]
    return f"{case['backend']} {case['device']}"


def normalization(result: Result) -> str:
    """Return when the blocks of a transformer normalize."""
    return "normalize " + ("first" if result.info["case"].get("norm_first") else "last")


def read(paths: list[Path]) -> Results:
    """Read files that ``pytest --benchmark-json`` wrote.

    Raises:
        ValueError: If a file is no such file.
    """
    found: dict[tuple[str, str], Result] = {}
    machines: dict[str, str] = {}
    for path in paths:
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            machine, day = _machine(run["machine_info"]), run["datetime"][:10]
            for benchmark in run["benchmarks"]:
                found[machine, benchmark["name"]] = _result(benchmark)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not what --benchmark-json writes: {error!r}") from None
        machines[machine] = max(day, machines.get(machine, ""))
    return Results(tuple(found.values()), machines)


def _result(benchmark: dict[str, Any]) -> Result:
    name, _, case = benchmark["name"].partition("[")
    seconds = benchmark["stats"]["median"]
    group = benchmark.get("group") or name
    return Result(name, group, case.removesuffix("]"), seconds, benchmark["extra_info"])


def _machine(about: dict[str, Any]) -> str:
    processor = about["cpu"]
    brand = processor.get("brand_raw") or about["machine"]
    gpus = "".join(f", {name}" for name in about.get("gpus", ()))
    return f"{brand}, {processor.get('count', 'unknown')} cores, {about['system']}{gpus}"
