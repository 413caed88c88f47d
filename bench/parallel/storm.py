"""A storm of faults on ``parallel_apply``: nothing hangs, is lost, doubled, wrong, or left behind.

Usage::

    python -m bench.parallel.storm --rounds 10000 --json build/storm.jsonl [--seed 1]
    python -m bench.parallel.storm --write docs/faults.md build/storm.jsonl

Each round is a run in a process of its own. What it does is drawn from the seed and the round's
number alone: executor and start method, how many items, in which batches, in order or not, and
which items have which faults. The plain loop says what must come. A line of JSON is appended for
each round; rounds that the file has are not run again, so a storm that was stopped goes on.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import datetime
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.markdown import fill, table
from bench.parallel.round import FAULTS, Plan
from bench.parallel.supervision import Traces, heed_interrupts, python, supervise

MARKER = "storm"
QUIET = 30.0  # seconds without any use of a processor, after which a round is said to hang
COUNTS = ("hung", "lost", "doubled", "wrong", "left")
Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Let it blow, or write the table; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are appended")
    parser.add_argument("--rounds", type=int, default=10_000, help="how many; default 10,000")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at a time; default 1")
    parser.add_argument("--seed", type=int, help="default: that of FILE, else a new one")
    parser.add_argument(
        "--only", type=int, metavar="ROUND", help="run one round again, and show it"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table of FILEs")
    options = parser.parse_args(arguments)
    heed_interrupts()
    if options.write:
        records = [record for file in options.files for record in read(file)]
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(fill(page, MARKER, render(records)), encoding="utf-8")
        return 0
    if options.json is None:
        parser.error("give --json, or --write")
    records = read(options.json) if options.json.exists() else []
    seed = options.seed
    if seed is None:
        seed = records[0]["seed"] if records else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", file=sys.stderr)
    if options.only is not None:
        print(json.dumps(run(seed, options.only), indent=2))
        return 0
    done = {record["round"] for record in records if record["seed"] == seed}
    rounds = [number for number in range(options.rounds) if number not in done]
    blow(options.json, seed, rounds, options.jobs)
    records = [record for record in read(options.json) if record["seed"] == seed]
    print(render(records))
    return any(record[count] for record in records for count in COUNTS)


def read(file: Path) -> list[Record]:
    """Return the records of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def blow(file: Path, seed: int, rounds: Sequence[int], jobs: int) -> None:
    """Run rounds; append a line of JSON for each, and say what went wrong."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        file.open("a", encoding="utf-8", buffering=1) as output,
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
    ):
        coming = [pool.submit(run, seed, number) for number in rounds]
        try:
            for future in concurrent.futures.as_completed(coming):
                record = future.result()
                print(json.dumps(record), file=output)
                if any(record[count] for count in COUNTS):
                    print(f"round {record['round']}: {json.dumps(record)}", file=sys.stderr)
        except BaseException:  # Ctrl-C
            pool.shutdown(cancel_futures=True)
            raise


def run(seed: int, number: int) -> Record:
    """Run one round in a process of its own, and look at what it says and leaves."""
    plan = Plan.drawn(seed, number)
    record: Record = {
        "seed": seed,
        "round": number,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "plan": plan.to_dict(),
        "detail": "",
        **dict.fromkeys(COUNTS, 0),
    }
    with tempfile.TemporaryDirectory() as folder:
        report, temporary = Path(folder, "report"), Path(folder, "tmp")
        temporary.mkdir()
        traces = Traces(temporary)
        ending = supervise(
            python("bench.parallel.round", json.dumps(plan.to_dict()), str(report)),
            QUIET,
            env={**traces.environment, "STORM_FOLDER": folder},
            meddle=plan.meddle(Path(folder)),
        )
        found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
        left = [*(["processes"] * bool(ending.left)), *traces.left()]
        if plan.way == "forkserver" and plan.ends_the_program:
            # multiprocessing's own folder, which it removes at a program's end, if there is one.
            left = [name for name in left if not name.startswith("temporary file pymp-")]
    if ending.status is None:
        record["hung"] = 1
    elif found is not None:
        record.update(found)
        left += found.pop("left_inside", [])
    elif not plan.ends_the_program:
        record["lost"] = 1
        record["detail"] = f"status {ending.status}: {ending.errors[-300:]}"
    if left:
        record["left"] = 1
        record["detail"] += f" left: {', '.join(left)}"
    record.pop("left_inside", None)
    return record


def render(records: list[Record]) -> str:
    """Return the table: for each fault in how many rounds it was, and what went wrong in them."""
    tried: collections.Counter[str] = collections.Counter()
    gone: collections.Counter[tuple[str, str]] = collections.Counter()
    for record in records:
        plan = record["plan"]
        for name in {*plan["faults"].values(), plan["ending"], plan["way"]}:
            tried[name] += 1
            gone.update((name, count) for count in COUNTS if record[count])
    names = [name for name in (*FAULTS, *Plan.ENDINGS, *Plan.ways()) if tried[name]]
    lines = [
        (name, f"{tried[name]:,}", *(f"{gone[name, count]:,}" for count in COUNTS))
        for name in names
    ]
    totals = (f"{sum(bool(record[count]) for record in records):,}" for count in COUNTS)
    lines.append(("all rounds", f"{len(records):,}", *totals))
    days = sorted({record["date"] for record in records})
    seeds = sorted({record["seed"] for record in records})
    head = (
        f"Blown on {' to '.join(dict.fromkeys((days[0], days[-1])))}, seed "
        f"{', '.join(map(str, seeds))}: Python "
        f"{', '.join(sorted({record['python'] for record in records}))}, {platform.system()}, "
        f"{os.cpu_count()} cores. A round has several faults, and counts in each of their rows."
    )
    return f"{head}\n\n{table(('in the round', 'tried', *COUNTS), lines)}"


if __name__ == "__main__":
    sys.exit(main())
