"""Which claims of the two posts hold: ``python -m bench.claims results.json``.

Reads what ``pytest bench --benchmark-json=results.json`` wrote, prints a summary, and writes the
tables and pictures of docs/claims.md, docs/rivals.md and docs/recompute-figures.md between their
markers. A claim that nothing was measured about is said to be just that.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import plots
from bench.markdown import fill, table
from bench.recompute import figures
from bench.results import Results, normalization, place, read

ROOT = Path(__file__).parent.parent
RECOMPUTE = "[7367](https://kexue.fm/archives/7367)"
PROCESSES = "[7031](https://kexue.fm/archives/7031)"
HOLDS, PARTLY, FAILS, UNMEASURED = "holds", "holds in part", "does not hold", "not measured"
_ROUNDING = 0.05  # a ratio that is within 5% of another is the same, on machines such as these


@dataclass(frozen=True)
class Finding:
    """What was found about a claim.

    Attributes:
        verdict: One of HOLDS, PARTLY, FAILS, UNMEASURED.
        measured: The figures; why there are none, where nothing was measured.
    """

    verdict: str
    measured: str


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is checked.

    Attributes:
        source: The post.
        text: What it claims, in our words.
        check: Finds out.
    """

    source: str
    text: str
    check: Callable[[Results], Finding]


def _unmeasured(why: str) -> Finding:
    return Finding(UNMEASURED, why)


def _verdict(holding: Sequence[bool]) -> str:
    return HOLDS if all(holding) else PARTLY if any(holding) else FAILS


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


# ------------------------------------------------------------------------- recompute


def _batch_of(model: str, claimed: float) -> Callable[[Results], Finding]:
    def check(results: Results) -> Finding:
        found = [
            result
            for result in results.all("bench_largest_batch_of_bert")
            if result.info.get("model") == model
        ]
        if not found:
            return _unmeasured("needs a GPU, and was not run on one")
        largest = [
            f"{one.info['backend']}: {one.info['largest_batch']['plain']} → "
            f"{one.info['largest_batch']['recompute']} ({_times(one.info['ratio'])})"
            for one in found
        ]
        reached = [one.info["ratio"] >= claimed * (1 - _ROUNDING) for one in found]
        return Finding(_verdict(reached), "; ".join(largest))

    return check


def _time_per_sample(results: Results) -> Finding:
    texts, ratios = [], []
    for one in results.all("bench_blocks"):
        ratios.append(one.info["time_ratio"])
        texts.append(
            f"{place(one)}, blocks {normalization(one)}: {_times(ratios[-1])} "
            f"(peak memory {_times(one.info['peak_ratio'])} less)"
        )
    for timed in results.timed_batches():
        ratios.append(timed.time)
        texts.append(f"{timed.where}: {_times(timed.time)}")
    if not ratios:
        return _unmeasured("bench_blocks was not run")
    return Finding(_verdict([r <= 1.25 * (1 + _ROUNDING) for r in ratios]), "; ".join(texts))


def _factor_against_depth(results: Results) -> Finding:
    texts, growing = [], []
    for where, curves in results.depth_curves().items():
        if not {"plain", "recompute_grad"} <= curves.keys():
            continue
        plain, recomputed = curves["plain"].peaks, curves["recompute_grad"].peaks
        depths = sorted(plain.keys() & recomputed.keys())
        factors = [plain[depth] / recomputed[depth] for depth in depths]
        if len(factors) > 1:
            pairs = zip(depths, factors, strict=True)
            texts.append(f"{where}: " + ", ".join(f"{n} blocks {_times(f)}" for n, f in pairs))
            growing.append(factors[-1] > factors[0] * (1 + _ROUNDING))
    if not texts:
        return _unmeasured("bench_depth was not run")
    return Finding(_verdict(growing), "; ".join(texts))


def _every_layer(results: Results) -> Finding:
    texts, better = [], []
    for where, curves in results.depth_curves().items():
        if not {"apply", "recompute_grad"} <= curves.keys():
            continue
        segments, blocks = curves["apply"], curves["recompute_grad"]
        depth = max(segments.peaks.keys() & blocks.peaks.keys(), default=0)
        if depth:
            memory = blocks.peaks[depth] / segments.peaks[depth]
            texts.append(
                f"{where}, {depth} blocks: each block takes {_times(memory)} the memory and "
                f"{_times(blocks.seconds[depth] / segments.seconds[depth])} the time of segments"
            )
            better.append(memory <= 1 + _ROUNDING)
    if not texts:
        return _unmeasured("bench_depth was not run")
    return Finding(_verdict(better), "; ".join(texts))


def _square_root(results: Results) -> Finding:
    texts, close = [], []
    for where, curves in results.depth_curves().items():
        peaks = {tool: curve.peaks for tool, curve in curves.items() if len(curve.peaks) > 1}
        if not {"plain", "apply, sqrt(n)"} <= peaks.keys():
            continue
        power, plainly = _power(peaks["apply, sqrt(n)"]), _power(peaks["plain"])
        texts.append(f"{where}: peak grows as n^{power:.2f} with segments, n^{plainly:.2f} plainly")
        close.append(power <= 0.5 + 3 * _ROUNDING)
    if not texts:
        return _unmeasured("bench_depth was not run")
    return Finding(_verdict(close), "; ".join(texts))


def _power(curve: dict[int, float]) -> float:
    """The power of the depth that a curve grows by, from its first to its last point."""
    first, last = min(curve), max(curve)
    return math.log(max(curve[last], 1) / max(curve[first], 1)) / math.log(last / first)


# ------------------------------------------------------------------------- counting


def _seconds(results: Results, *parts: str) -> dict[str, float]:
    """The corpora -> the time of a way of counting, of ``bench_small``."""
    return {
        result.case.rpartition("-")[0]: result.seconds
        for result in results.all("bench_small")
        if result.case.rpartition("-")[2] in parts
    }


def _compare_small(
    results: Results, slow: str, fast: str, tell: Callable[[float], tuple[bool, str]]
) -> Finding:
    before, after = _seconds(results, slow), _seconds(results, fast)
    corpora = sorted(before.keys() & after.keys())
    if not corpora:
        return _unmeasured("bench_small was not run")
    told = {corpus: tell(before[corpus] / after[corpus]) for corpus in corpora}
    measured = "; ".join(f"{corpus}: {text}" for corpus, (_, text) in told.items())
    return Finding(_verdict([holds for holds, _ in told.values()]), measured)


WORKERS = 2  # of bench_small


def _two_per_process(results: Results) -> Finding:
    def tell(ratio: float) -> tuple[bool, str]:
        each = ratio / WORKERS
        return (
            each > 1 + _ROUNDING,
            f"{_times(ratio)} with {WORKERS} processes, {each:.2f} for each",
        )

    return _compare_small(results, "naive_loop", "perftricks_parallel", tell)


def _batching_alone(results: Results) -> Finding:
    def tell(ratio: float) -> tuple[bool, str]:
        return ratio >= 2.5 * (1 - _ROUNDING), f"{_times(ratio)} as fast"

    whole = _compare_small(results, "naive_loop", "perftricks_batched", tell)
    alone = []
    for result in results.all("bench_counting"):
        if "dict_for_each_batch" in result.case:
            vocabulary = result.case.partition("-")[0]
            loop = results.one("bench_counting", vocabulary, "one_dict")
            if loop is not None:
                speed = _times(loop.seconds / result.seconds)
                alone.append(f"{speed} at {result.info['distinct']:,} distinct tokens")
    if not alone:
        return whole
    return Finding(whole.verdict, f"{whole.measured}; counting alone: {', '.join(alone)}")


def _true_speed_up(results: Results) -> Finding:
    def tell(ratio: float) -> tuple[bool, str]:
        each = ratio / WORKERS
        return 0.7 <= each <= 1 + _ROUNDING, f"{each:.2f} for each of {WORKERS} processes"

    return _compare_small(results, "perftricks_batched", "perftricks_parallel", tell)


def _growing_dict(results: Results) -> Finding:
    found = sorted(results.all("bench_growing_dict"), key=lambda one: one.info["keys"])
    if len(found) < 2:
        return _unmeasured("bench_growing_dict was not run")
    costs = ", ".join(
        f"{one.info['ns_per_token']:.0f} ns at {one.info['keys']:,} keys" for one in found
    )
    grows = found[-1].seconds > found[0].seconds * (1 + _ROUNDING)
    return Finding(_verdict([grows]), costs)


def _counter(results: Results) -> Finding:
    texts, slower = [], []
    for result in results.all("bench_counting"):
        loop = results.one("bench_counting", result.case.partition("-")[0], "one_dict")
        if "one_counter" in result.case and loop is not None:
            ratio = loop.seconds / result.seconds
            texts.append(f"{_times(ratio)} as fast at {result.info['distinct']:,} distinct tokens")
            slower.append(ratio <= 1 + _ROUNDING)
    if not texts:
        return _unmeasured("bench_counting was not run")
    return Finding(_verdict(slower), ", ".join(texts))


CLAIMS = (
    Claim(
        RECOMPUTE,
        "BERT-base trains with three times the batch, 144 in place of 48",
        _batch_of("bert-base", 3),
    ),
    Claim(RECOMPUTE, "BERT-large with four times the batch", _batch_of("bert-large", 4)),
    Claim(RECOMPUTE, "A sample takes a quarter longer", _time_per_sample),
    Claim(RECOMPUTE, "The more layers, the larger the factor", _factor_against_depth),
    Claim(RECOMPUTE, "Recompute every layer: the more, the better", _every_layer),
    Claim(
        RECOMPUTE,
        "Memory for n layers grows with the square root of n "
        "([arXiv 1604.06174](https://arxiv.org/abs/1604.06174))",
        _square_root,
    ),
    Claim(
        PROCESSES,
        "Ten processes and batches: 55 seconds in place of 20 minutes, "
        "so each process is worth two",
        _two_per_process,
    ),
    Claim(
        PROCESSES,
        "Batches alone, in one process: 8 minutes in place of 20",
        _batching_alone,
    ),
    Claim(PROCESSES, "The reason: a dict gets slower as it grows", _growing_dict),
    Claim(PROCESSES, "So a process is really worth 0.8 of one", _true_speed_up),
    Claim(PROCESSES, "A Counter is not faster than a dict", _counter),
)


# ------------------------------------------------------------------------- rivals


def rivals(results: Results) -> list[tuple[str, str, str]]:
    """Return what else there is beside ours: (what, who, figure)."""
    rows = []
    for result in results.all("bench_overhead"):
        cost = result.info["microseconds_per_item"]
        rows.append(("an empty task", result.case, f"{cost:.1f} µs"))
    for result in results.all("bench_small"):
        corpus, _, way = result.case.rpartition("-")
        rows.append((f"word counts, 3 MB, {corpus}", way, f"{result.info['MB_per_s']:.2f} MB/s"))
    for name in ("bench_blocks", "bench_framework", "bench_keras"):
        for result in results.all(name):
            info = result.info
            what = f"a training step, {place(result)}, {info['case']['tool']} / {_other(info)}"
            ratios = f"time {_times(info['time_ratio'])}, peak {_times(1 / info['peak_ratio'])}"
            rows.append((what, info["case"]["tool"], ratios))
    return rows


def _other(info: dict[str, object]) -> str:
    beside = info["beside"]
    assert isinstance(beside, dict)
    return str(beside["tool"])


# ------------------------------------------------------------------------- output


def write(results: Results, folder: Path) -> None:
    """Write the tables and the pictures of the pages in a folder.

    A page of which nothing was measured stays as it is.
    """
    measured = "\n".join(f"- Measured on {line}." for line in results.where())
    findings = [(claim, claim.check(results)) for claim in CLAIMS]
    rows = [(c.source, c.text, f.measured, f"**{f.verdict}**") for c, f in findings]
    claims = table(["post", "claimed", "measured here", "verdict"], rows)
    beside = rivals(results)
    others = table(["what", "who", "figure"], beside) if beside else "Not measured yet."
    drawn = plots.draw(results, folder / "pictures")
    pictures = "".join(f"\n\n![{what}](pictures/{name})" for name, what in drawn)
    pages = {
        "claims": claims + pictures,
        "rivals": others,
        "recompute-figures": figures.render(results),
    }
    for name, content in pages.items():
        if content:
            path = folder / f"{name}.md"
            text = "\n\n".join(filter(None, (measured, content)))
            page = fill(path.read_text(encoding="utf-8"), name, f"\n{text}\n")
            path.write_text(page, encoding="utf-8")


def show(results: Results, console: Console) -> None:
    """Print the claims and the rivals."""
    colours = {HOLDS: "green", PARTLY: "yellow", FAILS: "red", UNMEASURED: "dim"}
    table = Table(title="claims", title_justify="left", show_lines=True)
    for name in ("claimed", "measured here", "verdict"):
        table.add_column(name, overflow="fold")
    for claim in CLAIMS:
        finding = claim.check(results)
        verdict = f"[{colours[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(claim.text.partition(" ([")[0], finding.measured, verdict)
    console.print(table)
    rows = rivals(results)
    if rows:
        beside = Table(title="rivals", title_justify="left")
        for name in ("what", "who", "figure"):
            beside.add_column(name, overflow="fold")
        for row in rows:
            beside.add_row(*row)
        console.print(beside)
    for line in results.where():
        console.print(f"measured on {line}", highlight=False)


def main() -> int:
    """Read, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="what --benchmark-json wrote")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="fill the tables of the pages in this folder"
    )
    arguments = parser.parse_args()
    try:
        results = read(arguments.results)
        show(results, Console())
        if arguments.write is not None:
            write(results, arguments.write)
    except (OSError, ValueError) as error:
        print(f"bench.claims: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
