"""The claims page is filled with what was measured, and with nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import claims, plots
from bench.markdown import fill
from bench.recompute import figures
from bench.results import read

PAGES = ("claims", "rivals", "recompute-figures")
ROOT = Path(__file__).parent.parent
MACHINE = {"cpu": {"brand_raw": "A processor", "count": 2}, "machine": "x86_64", "system": "Linux"}


@pytest.fixture
def results(tmp_path):
    """Write what pytest-benchmark would, and read it."""

    def results(*benchmarks, machine=MACHINE, name="results.json"):
        path = tmp_path / name
        written = [
            {"name": name, "group": "a group", "stats": {"median": seconds}, "extra_info": info}
            for name, seconds, info in benchmarks
        ]
        run = {"machine_info": machine, "datetime": "2026-11-22T01:02:03", "benchmarks": written}
        path.write_text(json.dumps(run))
        return read([path])

    return results


def finding(results, beginning):
    """Return what was found about the claim that begins so."""
    (claim,) = [claim for claim in claims.CLAIMS if claim.text.startswith(beginning)]
    return claim.check(results)


def small(*seconds):
    """Return runs of bench_small with these times: naive, batched, parallel."""
    ways = ("naive_loop", "perftricks_batched", "perftricks_parallel")
    return [
        (f"bench_small[generated-{way}]", time, {"MB_per_s": 3 / time})
        for way, time in zip(ways, seconds, strict=True)
    ]


def depth(tool, layers, peak, seconds=1.0):
    """Return a run of bench_depth."""
    case = {"backend": "tensorflow", "device": "cpu", "tool": tool, "layers": layers}
    info = {"case": case, "peak_bytes": peak, "median_step_seconds": seconds}
    return (f"bench_depth[tensorflow-cpu-{layers}-{tool}]", seconds, info)


def test_nothing_measured(results):
    """Without results no claim holds and none fails."""
    empty = results()
    for claim in claims.CLAIMS:
        found = claim.check(empty)
        assert found.verdict == claims.UNMEASURED
        assert found.measured


@pytest.mark.parametrize(
    ("seconds", "two", "batching", "true"),
    [
        ((20, 8, 1), claims.HOLDS, claims.HOLDS, claims.FAILS),
        ((20, 8, 5), claims.HOLDS, claims.HOLDS, claims.HOLDS),
        ((20, 19, 12), claims.FAILS, claims.FAILS, claims.HOLDS),
    ],
)
def test_counting(results, seconds, two, batching, true):
    """The verdicts follow from the times of the naive, the batched and the parallel run."""
    found = results(*small(*seconds))
    assert finding(found, "Ten processes").verdict == two
    assert finding(found, "Batches alone").verdict == batching
    assert finding(found, "So a process").verdict == true
    assert (
        f"{seconds[0] / seconds[2]:.2f}x with 2 processes"
        in finding(found, "Ten processes").measured
    )


def test_several_corpora_hold_in_part(results):
    """A claim that holds on one corpus and not on another holds in part."""
    others = [(name.replace("generated", "poems"), *rest) for name, *rest in small(20, 21, 9)]
    found = finding(results(*small(20, 8, 5), *others), "Batches alone")
    assert found.verdict == claims.PARTLY
    assert found.measured == "generated: 2.50x as fast; poems: 0.95x as fast"


def test_recompute(results):
    """The curves over depth decide about layers, factors and the square root."""
    found = results(
        depth("plain", 6, 600),
        depth("plain", 24, 2400),
        depth("recompute_grad", 6, 200, 1.2),
        depth("recompute_grad", 24, 400, 1.3),
        depth("apply", 6, 250, 1.2),
        depth("apply", 24, 500, 1.3),
        depth("apply, sqrt(n)", 6, 250, 1.2),
        depth("apply, sqrt(n)", 24, 500, 1.3),
    )
    assert finding(found, "The more layers").verdict == claims.HOLDS
    assert "6 blocks 3.00x, 24 blocks 6.00x" in finding(found, "The more layers").measured
    assert finding(found, "Recompute every layer").verdict == claims.HOLDS
    assert finding(found, "Memory for n layers").verdict == claims.HOLDS
    assert "n^0.50 with segments, n^1.00 plainly" in finding(found, "Memory for n").measured


def run(peak, seconds, **more):
    """Return what is noted of a run."""
    return {"peak_bytes": peak * 2**20, "median_step_seconds": seconds, **more}


RATIOS = {"peak_ratio": 5.0, "time_ratio": 1.25}


def test_figures(results):
    """Each kind of benchmark of recompute has its table."""
    case = {"backend": "jax", "device": "cpu", "tool": "recompute_grad", "norm_first": False}
    beside = run(500, 2.0, tool="plain", counted_peak_bytes=2**22)
    blocks = run(100, 2.5, case=case, counted_peak_bytes=2**20, beside=beside, **RATIOS)
    rival = run(
        90,
        4.0,
        case={**case, "tool": "jax.checkpoint"},
        beside=run(80, 2.0, tool="recompute_grad"),
        **{**RATIOS, "time_ratio": 2.0},
    )
    largest = {
        "model": "bert-base",
        "layers": None,
        "largest_batch": {"plain": 48, "recompute": 144, "planned": 150},
        "ratio": 3.0,
        "sample_seconds": {"plain": 0.04, "at its batch": 0.05, "at its own": 0.048, "plan": 0.047},
        "timed_batch": 45,
    }
    keras2 = {"tool": "plain", "allocated_bytes": None, "resident_bytes": 2**30, "time_ratio": 1.0}
    found = results(
        ("bench_blocks[jax]", 2.5, {**blocks, "versions": {"keras": "3.15", "jax": "0.10"}}),
        ("bench_framework[jax]", 4.0, rival),
        ("bench_keras2[a-plain]", 0.5, keras2),
        ("bench_keras2[a-other]", 0.0, {"tool": "other", "error": "raises: no | such thing"}),
        depth("plain", 6, 2**30),
        depth("apply", 24, 2**29),
        ("bench_largest_batch_of_bert[x]", 1.0, largest),
    )
    page = figures.render(found)
    assert page.startswith("jax 0.10, keras 3.15.\n\n## Each block decorated")
    for row in (
        "| a group | 500 MiB | 100 MiB | 5.0x | 2.00 s | 2.50 s | 1.25x | 4 MiB, 1 MiB |",
        "| a group | jax.checkpoint | 90 MiB | 80 MiB |  | 4.00 s | 2.00 s | 0.50x |",
        "| a group | plain | no sessions |  | 1,024 MiB | 0.50 s | 1.00x |",
        "| a group | other | raises: no \\| such thing |  |  |  |  |",
        "| tensorflow cpu: blocks | 6 | 24 |",
        "| plain | 1,024 MiB |  |",
        "| a group | bert-base | 48 | 144 | 3.0x | 150 "
        "| 40.0 ms (batch 45) | 50.0 ms | 48.0 ms | 47.0 ms |",
    ):
        assert row in page.splitlines()
    assert figures.render(results()) == ""


@pytest.mark.parametrize(("ratio", "verdict"), [(3.1, claims.HOLDS), (2.0, claims.FAILS)])
def test_batches(results, ratio, verdict):
    """The largest batch decides, on the model that the claim is about."""
    info = {
        "model": "bert-base",
        "layers": None,
        "backend": "torch",
        "largest_batch": {"plain": 10, "recompute": round(10 * ratio)},
        "ratio": ratio,
        "sample_seconds": {"plain": 0.04, "at its batch": 0.05, "at its own": 0.048},
        "timed_batch": 9,
        "peak_bytes": {"plain": 80, "same batch": 10},
    }
    found = results(("bench_largest_batch_of_bert[torch-gpu-bert-base]", 1.0, info))
    assert finding(found, "BERT-base").verdict == verdict
    in_time = finding(found, "A sample takes")
    assert in_time == claims.Finding(claims.HOLDS, "torch gpu, bert-base, batch 9: 1.25x")
    info.pop("sample_seconds")
    found = results(("bench_largest_batch_of_bert[torch-gpu-bert-base]", 1.0, info))
    assert finding(found, "A sample takes").verdict == claims.UNMEASURED
    assert finding(found, "BERT-large").verdict == claims.UNMEASURED


def test_pictures_of_bert(results, tmp_path):
    """What was measured is drawn and named; what was not leaves no picture."""
    bert = {
        "model": "bert-base",
        "layers": None,
        "backend": "torch",
        "largest_batch": {"plain": 10, "recompute": 30},
        "peak_bytes": {"plain": 80, "same batch": 10},
        "sample_seconds": {"plain": 0.04, "same batch": 0.05, "its own": 0.048},
        "timed_batch": 9,
    }
    untimed = {**bert, "model": "bert-large"}
    del untimed["sample_seconds"]
    found = results(
        ("bench_largest_batch_of_bert[torch-gpu-bert-base]", 1.0, bert),
        ("bench_largest_batch_of_bert[torch-gpu-bert-large]", 1.0, untimed),
        depth("plain", 6, 600),
    )
    drawn = [name for name, _ in plots.draw(found, tmp_path)]
    assert drawn == ["time-and-memory.svg", "batches.svg", "depth-tensorflow-cpu.svg"]
    batches, times = ((tmp_path / name).read_text() for name in ("batches.svg", drawn[0]))
    for text in (">bert-base<", ">bert-large<", ">torch gpu<", ">10<", ">30<"):
        assert text in batches
    assert ">torch gpu, bert-base, batch 9<" in times
    assert "bert-large" not in times


def test_dict_and_counter(results):
    """Counting alone decides about Counter; lookups about the growing dict."""
    counted = [
        (f"bench_counting[{size}-{run}]", time, {"distinct": size // 2, "ns_per_token": time})
        for size in (10_000, 100_000)
        for run, time in (("one_dict", 1.0), ("one_counter", 0.5), ("dict_for_each_batch", 2.0))
    ]
    lookups = [
        (f"bench_growing_dict[{keys}]", time, {"keys": keys, "ns_per_token": time})
        for keys, time in ((1000, 30.0), (600_000, 90.0))
    ]
    found = results(*counted, *lookups, *small(20, 8, 5))
    assert finding(found, "A Counter").verdict == claims.FAILS
    assert "2.00x as fast at 5,000 distinct tokens" in finding(found, "A Counter").measured
    assert finding(found, "The reason").verdict == claims.HOLDS
    assert "0.50x at 50,000 distinct tokens" in finding(found, "Batches alone").measured


def test_page(tmp_path, results):
    """Only what is between the markers changes, and filling twice is filling once."""
    (tmp_path / "pictures").mkdir()
    for name in PAGES:
        (tmp_path / f"{name}.md").write_text((ROOT / "docs" / f"{name}.md").read_text())
    case = {"backend": "jax", "device": "cpu", "tool": "recompute_grad", "norm_first": False}
    blocks = run(100, 2.5, case=case, beside=run(500, 2.0, tool="plain"), **RATIOS)
    found = results(*small(20, 8, 5), ("bench_blocks[jax]", 2.5, blocks))
    claims.write(found, tmp_path)
    assert "| 500 MiB | 100 MiB | 5.0x |" in (tmp_path / "recompute-figures.md").read_text()
    page = (tmp_path / "claims.md").read_text()
    assert page.startswith("# The claims, checked\n")
    assert "- Measured on 2026-11-22: A processor, 2 cores, Linux.\n\n| post |" in page
    assert "## Measure it yourself" in page
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert len(rows) == len(claims.CLAIMS)
    assert all(row.count(" | ") == 3 for row in rows)
    assert (
        "| word counts, 3 MB, generated | naive_loop | 0.15 MB/s |"
        in (tmp_path / "rivals.md").read_text()
    )
    claims.write(found, tmp_path)
    assert (tmp_path / "claims.md").read_text() == page


def test_pictures(tmp_path, results):
    """A picture is drawn where there are figures for it, and shown on the page."""
    (tmp_path / "pictures").mkdir()
    for name in PAGES:
        (tmp_path / f"{name}.md").write_text((ROOT / "docs" / f"{name}.md").read_text())
    lookups = [
        (f"bench_growing_dict[{keys}]", 1.0, {"keys": keys, "ns_per_token": 1.0}) for keys in (1, 9)
    ]
    claims.write(results(*lookups), tmp_path)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["growing-dict.svg"]
    assert "(pictures/growing-dict.svg)" in (tmp_path / "claims.md").read_text()


def test_page_without_markers():
    """A page that has lost its markers is not overwritten."""
    with pytest.raises(ValueError, match="expected the lines '<!-- claims: begin -->'"):
        fill("# Claims\n", "claims", "| table |")


def test_two_machines(tmp_path, results):
    """Results of several machines are told apart."""
    results(*small(20, 8, 5))
    results(machine={**MACHINE, "system": "Darwin"}, name="other.json")
    both = read([tmp_path / "results.json", tmp_path / "other.json"])
    assert [line.rpartition(" ")[2] for line in both.where()] == ["Linux", "Darwin"]


def test_command(tmp_path, results):
    """The script prints claims, figures, rivals and machine; a wrong file is one line."""
    results(*small(20, 8, 5))
    command = [sys.executable, "-m", "bench.claims"]
    done = subprocess.run(
        [*command, tmp_path / "results.json"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "does not hold" in done.stdout or "holds" in done.stdout
    assert "naive_loop" in done.stdout
    assert "measured on 2026-11-22: A processor, 2 cores, Linux" in done.stdout
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    done = subprocess.run([*command, wrong], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is not what --benchmark-json writes" in done.stderr


def test_only_benchmarks_are_collected():
    """What they stand on may import what is not installed where they are measured."""
    options = ("--collect-only", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", str(ROOT / "bench"), *options]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    files = set(re.findall(r"\bbench/(?:\w+/)*(\w+\.py)(?:::| |$)", shown, re.MULTILINE))
    assert files
    assert all(name.startswith("bench_") for name in files), files
