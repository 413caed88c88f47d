"""Tables of what recompute saves and costs, for docs/recompute-figures.md."""

from __future__ import annotations

from typing import Any

from bench.markdown import table
from bench.results import Results

Row = tuple[str, ...]


def render(results: Results) -> str:
    """Return the Markdown of all that was measured about recompute; nothing if nothing was."""
    sections = [
        _versions(results),
        _section("Each block decorated, beside the plain run", _BLOCKS, _blocks(results)),
        _section("Other tools, beside ours", _RIVALS, _rivals(results)),
        _section("Keras 2, beside other tools", _KERAS2, _keras2(results)),
        _depth(results),
        _section("Largest batch", _LARGEST, _largest(results)),
    ]
    return "\n\n".join(filter(None, sections))


def _versions(results: Results) -> str:
    """Return the versions of all frameworks that were measured."""
    found = {
        f"{name} {version}"
        for result in results.results
        for name, version in result.info.get("versions", {}).items()
    }
    return ", ".join(sorted(found)) + "." if found else ""


def _section(title: str, header: Row, rows: list[Row]) -> str:
    return f"## {title}\n\n{table(header, rows)}" if rows else ""


_BLOCKS = (
    "where, model",
    "peak, plain",
    "peak, ours",
    "less",
    "step, plain",
    "step, ours",
    "longer",
    "counted, plain, ours",
)


def _blocks(results: Results) -> list[Row]:
    rows = []
    for result in results.all("bench_blocks", "bench_blocks_with_xla_as_it_is"):
        ours, plain = result.info, result.info["beside"]
        row = (
            result.group,
            _mib(plain["peak_bytes"]),
            _mib(ours["peak_bytes"]),
            f"{ours['peak_ratio']:.1f}x",
            _seconds(plain),
            _seconds(ours),
            f"{ours['time_ratio']:.2f}x",
            _counted(plain, ours),
        )
        rows.append(row)
    return rows


_RIVALS = (
    "where, model",
    "tool",
    "its peak",
    "ours",
    "counted, it, ours",
    "its step",
    "ours",
    "our time to its",
)


def _rivals(results: Results) -> list[Row]:
    rows = []
    for result in results.all("bench_framework", "bench_keras"):
        rival, ours = result.info, result.info["beside"]
        row = (
            result.group,
            rival["case"]["tool"],
            _mib(rival["peak_bytes"]),
            _mib(ours["peak_bytes"]),
            _counted(rival, ours),
            _seconds(rival),
            _seconds(ours),
            f"{1 / rival['time_ratio']:.2f}x",
        )
        rows.append(row)
    return rows


_KERAS2 = ("where, model", "tool", "allocated", "of plain", "resident", "step", "of plain")


def _keras2(results: Results) -> list[Row]:
    rows = []
    for result in results.all("bench_keras2"):
        info = result.info
        if "error" in info:
            rows.append((result.group, info["tool"], info["error"], *[""] * 4))
            continue
        counted = info["allocated_bytes"] is not None
        row = (
            result.group,
            info["tool"],
            _mib(info["allocated_bytes"]) if counted else "no sessions",
            f"{info['allocated_ratio']:.2f}x" if counted else "",
            _mib(info["resident_bytes"]),
            f"{result.seconds:.2f} s",
            f"{info['time_ratio']:.2f}x",
        )
        rows.append(row)
    return rows


def _depth(results: Results) -> str:
    tables = []
    for where, curves in results.depth_curves().items():
        depths = sorted({depth for curve in curves.values() for depth in curve.peaks})
        rows = [
            (tool, *[_mib(curve.peaks[n]) if n in curve.peaks else "" for n in depths])
            for tool, curve in curves.items()
        ]
        tables.append(table((f"{where}: blocks", *map(str, depths)), rows))
    return "\n\n".join(["## Peak against depth", *tables]) if tables else ""


_LARGEST = (
    "where",
    "model",
    "plain",
    "recompute",
    "larger",
    "planned",
    "a sample, plain",
    "recompute, same batch",
    "recompute, its largest",
    "planned, its largest",
)


def _largest(results: Results) -> list[Row]:
    rows = []
    for result in results.all("bench_largest_batch", "bench_largest_batch_of_bert"):
        info = result.info
        model = info["model"] + (f", {info['layers']} blocks" if info["layers"] else "")
        largest = info["largest_batch"]
        planned = str(largest.get("planned", ""))
        ways = (str(largest["plain"]), str(largest["recompute"]), f"{info['ratio']:.1f}x", planned)
        times = info.get("sample_seconds")
        samples = [f"{seconds * 1e3:.1f} ms" for seconds in (times or {}).values()]
        samples += [""] * (4 - len(samples))
        if times:
            samples[0] += f" (batch {info['timed_batch']})"
        rows.append((result.group, model, *ways, *samples))
    return rows


def _counted(*infos: dict[str, Any]) -> str:
    """Return what the framework has counted of two runs, where it counts."""
    counts = [_mib(info["counted_peak_bytes"]) for info in infos if "counted_peak_bytes" in info]
    return ", ".join(counts)


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _seconds(info: dict[str, Any]) -> str:
    return f"{info['median_step_seconds']:.2f} s"
