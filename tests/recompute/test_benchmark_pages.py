"""What benchmarks write for readers: the table of layers, curves and tables of figures."""

from __future__ import annotations

import json

import pytest

from bench.recompute import curves, figures, layer_table

ERROR = "ValueError: no `keywords` here, " + "and on it goes " * 20


def record(name, *verdicts):
    cells = [{"verdict": verdict, "detail": detail} for verdict, detail in verdicts]
    return {"layer": name, **dict(zip(layer_table.TOOLS, cells))}


RECORDS = [
    {"versions": {"keras": "3.15", "jax": "0.10"}},
    record("Dense", ("exact", ""), ("raises", ERROR), ("exact", "")),
    record("Dropout", ("exact", ""), ("raises", ERROR), ("wrong gradients", "gradients 1e+00")),
]


def test_table():
    """A row a layer, wrong ones in bold, each error once, and a summary of all backends."""
    page = layer_table.render({"jax": RECORDS}, "2026-01-02", "a machine")
    lines = page.splitlines()
    assert lines[0] == "Trained on 2026-01-02; a machine."
    assert "| JAX | 2 exact | 2 raises | 1 exact, 1 wrong gradients |" in lines
    assert "| torch | not measured: not installed" in page
    assert "| Dense | exact | raises (1) | exact |" in lines
    assert "| Dropout | exact | raises (1) | **wrong gradients** |" in lines
    notes = [line for line in lines if line.startswith("1. ")]
    assert len(notes) == 1
    assert notes[0].startswith("1. `ValueError: no 'keywords' here, and on")
    assert notes[0].endswith(" ...`")


def test_results_of_several_runs(tmp_path):
    """A file to which a resumed run has added its versions again is read as one."""
    file = tmp_path / "jax.jsonl"
    records = [RECORDS[0], RECORDS[1], RECORDS[0], RECORDS[2]]
    file.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    assert layer_table.read(file) == RECORDS


def test_page_without_markers(tmp_path, monkeypatch):
    """A page that has no place for the table is refused before anything is trained."""
    page = tmp_path / "page.md"
    page.write_text("nothing\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["layer_table", str(page)])
    with pytest.raises(SystemExit, match="must have one line"):
        layer_table.main()


def test_curves():
    """Peaks of a backend and a device become curves, by depth; other figures are left out."""

    def figure(name, tool, layers, peak):
        case = {"backend": "jax", "device": "cpu", "tool": tool, "layers": layers}
        return {"name": name, "extra_info": {"case": case, "peak_bytes": peak}}

    benchmarks = [
        figure("bench_depth[a]", "plain", 24, 400),
        figure("bench_depth[b]", "plain", 6, 100),
        figure("bench_depth[c]", "apply", 6, 50),
        figure("bench_blocks[d]", "plain", 12, 7),
    ]
    assert curves.depth_curves({"benchmarks": benchmarks}) == {
        ("jax", "cpu"): {"plain": [(6, 100), (24, 400)], "apply": [(6, 50)]}
    }


def run(peak, seconds, **more):
    return {"peak_bytes": peak * 2**20, "median_step_seconds": seconds, **more}


def test_figures():
    """Each kind of benchmark has its table; a later result of the same case wins."""
    case = {"backend": "jax", "device": "cpu", "tool": "plain", "layers": 6}
    blocks = run(100, 2.5, beside=run(500, 2.0), peak_ratio=5.0, time_ratio=1.25)
    counted = {
        **blocks,
        "counted_peak_bytes": 2**20,
        "beside": run(500, 2.0, counted_peak_bytes=2**22),
    }
    rival = run(90, 4.0, case={**case, "tool": "jax.checkpoint"}, beside=run(80, 2.0))
    largest = {"model": "bert-base", "layers": None, "ratio": 3.0}
    infos = {
        "bench_blocks[jax]": counted,
        "bench_framework[jax]": {**rival, "time_ratio": 2.0},
        "bench_depth[jax]": {"case": case, "peak_bytes": 2**30},
        "bench_largest_batch_of_bert[x]": {
            **largest,
            "largest_batch": {"plain": 48, "recompute": 144},
        },
    }
    record = {
        "datetime": "2026-01-02T03:04:05",
        "machine_info": {"cpu": {"brand_raw": "A CPU", "count": 2}, "python_version": "3.11.7"},
        "benchmarks": [
            {"name": name, "fullname": name, "group": "a model", "extra_info": info}
            for name, info in infos.items()
        ],
    }
    stale = {"name": "bench_blocks[jax]", "fullname": "bench_blocks[jax]", "group": "stale"}
    older = {**record, "benchmarks": [{**stale, "extra_info": blocks}]}
    lines = figures.render([older, record]).splitlines()
    assert lines[0] == "Measured on 2026-01-02; A CPU, 2 cores, Python 3.11.7."
    row = "| a model | 500 MiB | 100 MiB | 5.0x | 2.00 s | 2.50 s | 1.25x | 4 MiB, 1 MiB |"
    assert row in lines
    assert "| a model | jax.checkpoint | 90 MiB | 80 MiB |  | 4.00 s | 2.00 s | 0.50x |" in lines
    assert "| plain | 1,024 MiB |" in lines
    assert "| a model | bert-base | 48 | 144 | 3.0x |" in lines
    assert not any("stale" in line for line in lines)
