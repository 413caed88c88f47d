"""Tables of what was measured, from the JSON of pytest-benchmark.

Usage: ``python -m bench.recompute.figures RESULT.json ... docs/recompute-figures.md``. What stands
between the markers of the page is replaced. Later results of the same case win.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.recompute.curves import depth_curves

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Benchmark = dict[str, Any]


def main() -> None:
    """Read results, write the page."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m bench.recompute.figures RESULT.json ... PAGE.md")
    *results, page = map(Path, sys.argv[1:])
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page} must have one line {BEGIN!r} and one {END!r}")
    records = [json.loads(result.read_text(encoding="utf-8")) for result in results]
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{render(records)}\n{END}{after}", encoding="utf-8")


def render(records: list[dict[str, Any]]) -> str:
    """Return the Markdown of pytest-benchmark's records."""
    found: dict[str, Benchmark] = {}
    for record in records:
        found.update({benchmark["fullname"]: benchmark for benchmark in record["benchmarks"]})
    benchmarks = list(found.values())
    sections = [
        _origin(records),
        _section("Each block decorated, beside the plain run", _blocks(benchmarks)),
        _section("Other tools, beside ours", _rivals(benchmarks)),
        _section("Peak against depth", _depth(benchmarks)),
        _section("Largest batch", _largest(benchmarks)),
    ]
    return "\n\n".join(section for section in sections if section)


def _origin(records: list[dict[str, Any]]) -> str:
    dates = sorted({record["datetime"][:10] for record in records})
    machines = sorted({_machine(record["machine_info"]) for record in records})
    return f"Measured on {', '.join(dates)}; {'; '.join(machines)}."


def _machine(info: dict[str, Any]) -> str:
    cpu = info["cpu"]
    name, cores = cpu.get("brand_raw") or info["machine"], cpu.get("count", "?")
    return f"{name}, {cores} cores, Python {info['python_version']}"


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *lines]) if lines else ""


def _blocks(benchmarks: list[Benchmark]) -> list[str]:
    head = (
        "where, model",
        "peak, plain",
        "peak, ours",
        "less",
        "step, plain",
        "step, ours",
        "longer",
        "counted, plain, ours",
    )
    rows = []
    for benchmark in _named(benchmarks, "bench_blocks"):
        ours = benchmark["extra_info"]
        plain = ours["beside"]
        rows.append(
            (
                benchmark["group"],
                _mib(plain["peak_bytes"]),
                _mib(ours["peak_bytes"]),
                f"{ours['peak_ratio']:.1f}x",
                _seconds(plain),
                _seconds(ours),
                f"{ours['time_ratio']:.2f}x",
                ", ".join(_counted(plain) + _counted(ours)),
            )
        )
    return _table(head, rows)


def _rivals(benchmarks: list[Benchmark]) -> list[str]:
    head = ("where, model", "tool", "its peak", "ours", "counted, it, ours")
    head += ("its step", "ours", "our time to its")
    rows = []
    for benchmark in _named(benchmarks, "bench_framework", "bench_keras"):
        rival = benchmark["extra_info"]
        ours = rival["beside"]
        rows.append(
            (
                benchmark["group"],
                rival["case"]["tool"],
                _mib(rival["peak_bytes"]),
                _mib(ours["peak_bytes"]),
                ", ".join(_counted(rival) + _counted(ours)),
                _seconds(rival),
                _seconds(ours),
                f"{1 / rival['time_ratio']:.2f}x",
            )
        )
    return _table(head, rows)


def _depth(benchmarks: list[Benchmark]) -> list[str]:
    lines: list[str] = []
    for (backend, device), curves in depth_curves({"benchmarks": benchmarks}).items():
        depths = sorted({layers for points in curves.values() for layers, _ in points})
        rows = [
            (tool, *[_mib(dict(points)[n]) if n in dict(points) else "" for n in depths])
            for tool, points in curves.items()
        ]
        lines += [*_table((f"{backend}, {device}: blocks", *map(str, depths)), rows), ""]
    return lines[:-1]


def _largest(benchmarks: list[Benchmark]) -> list[str]:
    rows = []
    for benchmark in _named(benchmarks, "bench_largest_batch"):
        info = benchmark["extra_info"]
        model = info["model"] + (f", {info['layers']} blocks" if info["layers"] else "")
        largest = info["largest_batch"]
        ways = (str(largest["plain"]), str(largest["recompute"]), f"{info['ratio']:.1f}x")
        rows.append((benchmark["group"], model, *ways))
    return _table(("where", "model", "plain", "recompute", "larger"), rows)


def _named(benchmarks: list[Benchmark], *names: str) -> list[Benchmark]:
    return [one for one in benchmarks if one["name"].startswith(names)]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _counted(info: dict[str, Any]) -> list[str]:
    return [_mib(info["counted_peak_bytes"])] if "counted_peak_bytes" in info else []


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _seconds(info: dict[str, Any]) -> str:
    return f"{info['median_step_seconds']:.2f} s"


if __name__ == "__main__":
    main()
