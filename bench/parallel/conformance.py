"""What becomes of each fault in each executor: ours, and those that others use.

Usage::

    python -m bench.parallel.conformance --json build/conformance.jsonl [--fault F] [--executor E]
    python -m bench.parallel.conformance --write docs/faults.md build/conformance.jsonl

The first tries each fault on each executor in a process of its own, and appends a line of JSON for
each; what the file has is not tried again. The second writes the table into the page.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.markdown import fill, table
from bench.parallel.adapters import ADAPTERS, Adapter
from bench.parallel.faults import FAULTS, LOST, NOTHING, OK, Fault
from bench.parallel.supervision import heed_interrupts, python, signal_members, supervise

MARKER = "conformance"
HUNG, DIES = "hung", "ends the program"
QUIET = 20.0  # seconds without any use of a processor, after which a program is said to hang
_READY_SECONDS = 120.0
Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Try, or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are appended")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="may be repeated")
    parser.add_argument("--executor", action="append", choices=ADAPTERS, help="may be repeated")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table of FILEs")
    options = parser.parse_args(arguments)
    heed_interrupts()
    if options.write:
        write(options.write, [record for file in options.files for record in read(file)])
    elif options.json:
        try_all(options.json, options.fault or [*FAULTS], options.executor or [*ADAPTERS])
    else:
        parser.error("give --json, or --write")


def read(file: Path) -> list[Record]:
    """Return the records of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def try_all(file: Path, faults: Sequence[str], adapters: Sequence[str]) -> None:
    """Try faults on executors; append a line of JSON for each that the file has not."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["fault"], r["executor"]) for r in read(file)} if file.exists() else set()
    for fault in faults:
        for adapter in adapters:
            if (fault, adapter) in done:
                continue
            record = trial(FAULTS[fault], ADAPTERS[adapter])
            with file.open("a", encoding="utf-8") as output:
                print(json.dumps(record), file=output)
            detail = f" ({record['detail']})" if record["detail"] else ""
            print(f"{fault} | {adapter}: {record['verdict']}{detail}", file=sys.stderr, flush=True)


def trial(fault: Fault, adapter: Adapter, quiet: float = QUIET) -> Record:
    """Try a fault on an executor, in a process of its own."""
    words = ["", ""]
    left = 0
    if fault.fatal and adapter.in_threads:
        words = [DIES, ""]
    else:
        with tempfile.TemporaryDirectory() as folder:
            report, ready = Path(folder, "report"), Path(folder, "ready")

            def meddle(program: int) -> None:
                if fault.sends is not None:
                    _wait_for(ready)
                    signal_members(program, fault.sends, group=fault.whole_group)

            ending = supervise(
                python("bench.parallel.faults", fault.name, adapter.name, str(report)),
                quiet,
                env={
                    "TRIAL_ADAPTER": adapter.name,
                    "TRIAL_ONCE": str(Path(folder, "once")),
                    "TRIAL_READY": str(ready),
                },
                meddle=meddle,
            )
            left = ending.left
            if ending.status is None:
                words = [HUNG, ""]
            elif report.exists():
                words = report.read_text(encoding="utf-8").split("\n", 1)
            elif fault.sends is not None:
                words = [OK, ""]
            else:
                words = [LOST, f"the program ended with status {ending.status}"]
    package = adapter.package
    return {
        "fault": fault.name,
        "executor": adapter.name,
        "verdict": words[0],
        "detail": words[1],
        "left": left,
        "date": datetime.date.today().isoformat(),
        "version": importlib.metadata.version(package) if package else platform.python_version(),
        "python": platform.python_version(),
    }


def _wait_for(ready: Path) -> None:
    """Wait until a program says that it is ready, and for its workers to have begun."""
    deadline = time.monotonic() + _READY_SECONDS
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)


def write(page: Path, records: list[Record]) -> None:
    """Write the table into a page, between its markers."""
    text = page.read_text(encoding="utf-8")
    page.write_text(fill(text, MARKER, render(records)), encoding="utf-8")


def render(records: list[Record]) -> str:
    """Return the table: a row for each fault, a column for each executor.

    Args:
        records: In any order; of several about one fault and executor the last counts.
    """
    found = {(record["fault"], record["executor"]): record for record in records}
    executors = [name for name in ADAPTERS if any(key[1] == name for key in found)]
    rows = [
        (fault, *(_cell(found.get((fault, name))) for name in executors))
        for fault in FAULTS
        if any(key[0] == fault for key in found)
    ]
    days = sorted({record["date"] for record in records})
    versions = {
        name: next(r["version"] for r in reversed(records) if r["executor"] == name)
        for name in executors
        if ADAPTERS[name].package
    }
    pythons = sorted({record["python"] for record in records})
    tools = ", ".join(
        dict.fromkeys(f"{ADAPTERS[name].package} {version}" for name, version in versions.items())
    )
    head = (
        f"Tried on {' to '.join(dict.fromkeys((days[0], days[-1])))}: Python "
        f"{', '.join(pythons)}, {tools}; {platform.system()}, {os.cpu_count()} cores."
    )
    return f"{head}\n\n{table(('what happens', *executors), rows)}"


def _cell(record: Record | None) -> str:
    if record is None:
        return "not tried"
    word = record["verdict"]
    text = word if word in (OK, DIES, NOTHING) else f"**{word}**"
    if record["left"]:
        text += f", **{record['left']} left**"
    return f"{text}: {record['detail']}" if record["detail"] else text


if __name__ == "__main__":
    main()
