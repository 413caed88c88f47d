"""The table of layers by backend and tool: trains them all and writes it into a page.

Usage: ``python -m bench.recompute.layer_table docs/layers.md [--results FOLDER] [--resume]``. A
process for each backend that is installed; what stands between the markers of the page is replaced.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bench.markdown import fill, table
from bench.recompute.trainer import BACKENDS, missing

MARKER = "layer table"
TOOLS = ("perftricks", "RematScope", "keras.remat")
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
Record = dict[str, Any]


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="the page to write into")
    parser.add_argument("--results", type=Path, default=Path("build/layers"), metavar="FOLDER")
    parser.add_argument("--resume", action="store_true", help="keep what FOLDER has")
    options = parser.parse_args()
    page = options.page.read_text(encoding="utf-8")
    try:
        fill(page, MARKER, "")
    except ValueError as error:
        sys.exit(f"{options.page}: {error}")
    options.results.mkdir(parents=True, exist_ok=True)
    results = {}
    for backend in BACKENDS:
        if missing(backend) is None:
            file = options.results / f"{backend}.jsonl"
            train(backend, file, options.resume)
            results[backend] = read(file)
    tables = render(results, datetime.date.today().isoformat(), _machine())
    options.page.write_text(fill(page, MARKER, tables), encoding="utf-8")


def train(backend: str, file: Path, resume: bool) -> None:
    """Train the layers on a backend; ``file`` gets a line of JSON for each.

    Raises:
        subprocess.CalledProcessError: If the process fails; a layer that raises is no failure.
    """
    done = [record["layer"] for record in read(file)[1:]] if resume and file.exists() else []
    print(f"{backend}: training; {len(done)} layers are kept", file=sys.stderr)
    command = [sys.executable, "-m", "bench.recompute.layer_trial"]
    command += [f"--without={name}" for name in done]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    with file.open("a" if done else "w", encoding="utf-8") as output:
        subprocess.run(command, env=environment, stdout=output, check=True)


def read(file: Path) -> list[Record]:
    """Return the records of a backend: the versions first, then the layers."""
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        next(record for record in records if "versions" in record),
        *[record for record in records if "layer" in record],
    ]


def render(results: dict[str, list[Record]], date: str, machine: str) -> str:
    """Return the Markdown of all backends: a summary, then a table for each.

    Args:
        results: Backend -> its records, as ``read`` returns them.
        date: When they were trained.
        machine: On what.
    """
    rows = []
    for backend in BACKENDS:
        if backend in results:
            counts = [_count(results[backend][1:], tool) for tool in TOOLS]
        else:
            counts = ["not measured: not installed"] * len(TOOLS)
        rows.append((NAMES[backend], *counts))
    lines = [f"Trained on {date}; {machine}.", "", table(("of all layers", *TOOLS), rows)]
    for backend, (head, *records) in results.items():
        versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
        lines += ["", f"## {NAMES[backend]}", "", f"{versions}.", ""]
        lines += _table(records)
    return "\n".join(lines)


def _count(records: list[Record], tool: str) -> str:
    counts = Counter(record[tool]["verdict"] for record in records)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def _table(records: list[Record]) -> list[str]:
    """Return a table, and below it each error that was raised, once."""
    notes: dict[str, int] = {}
    rows = []
    for record in records:
        cells = []
        for tool in TOOLS:
            verdict, detail = record[tool]["verdict"], record[tool]["detail"]
            if verdict == "raises":
                verdict += f" ({notes.setdefault(_shortened(detail), len(notes) + 1)})"
            elif verdict.startswith("wrong"):
                verdict = f"**{verdict}**"
            cells.append(verdict)
        rows.append((record["layer"], *cells))
    lines = [table(("layer", *TOOLS), rows)] + [""] * bool(notes)
    lines += [f"{number}. `{error}`" for error, number in notes.items()]
    return lines


def _shortened(text: str, length: int = 150) -> str:
    text = text.replace("`", "'")
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " ..."


def _machine() -> str:
    return (
        f"{platform.machine()} {platform.system()}, on the CPU, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
