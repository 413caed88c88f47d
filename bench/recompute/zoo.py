"""The zoo: other people's models, trained plainly and recomputed, backend by backend.

Usage::

    python -m bench.recompute.zoo --backend torch --json build/zoo-torch.json [MODEL ...]
    python -m bench.recompute.zoo --write docs/zoo.md build/zoo-*.json

The first trains each model in a process of its own, and appends a line of JSON for each; a model
that the file has is not trained again. The second writes the tables into the page.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.markdown import fill, table

BACKENDS = ("tensorflow", "jax", "torch")
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
MODELS = Path(__file__).parents[2] / "tests/recompute/keras3/zoo.py"
MARKER = "zoo"
Record = dict[str, Any]


def main() -> None:
    """Train, or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL or FILE")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are appended")
    parser.add_argument("--patience", type=float, default=600, help="seconds that a model may take")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables of FILEs")
    options = parser.parse_args()
    if options.write:
        write(options.write, [read(Path(name)) for name in options.names])
    elif options.backend and options.json:
        train(options.backend, options.json, options.names or models(), options.patience)
    else:
        parser.error("give --backend and --json, or --write")


def models() -> list[str]:
    """List the models of the zoo; it is not imported, which would import a framework."""
    for node in ast.parse(MODELS.read_text(encoding="utf-8")).body:
        target = getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "CASES":
            return [ast.literal_eval(key) for key in node.value.keys]
    raise ValueError(f"expected an annotated dict CASES in {MODELS}")


def read(file: Path) -> list[Record]:
    """Return the records of a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def train(backend: str, file: Path, names: list[str], patience: float) -> None:
    """Train the models that the file has not; append a line of JSON for each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {record["model"] for record in read(file)} if file.exists() else set()
    for name in names:
        if name not in done:
            record = {"backend": backend, "date": datetime.date.today().isoformat()}
            record |= trial(backend, name, patience)
            with file.open("a", encoding="utf-8") as output:
                print(json.dumps(record), file=output)
            print(f"{backend}, {name}: {summary(record)}", file=sys.stderr, flush=True)


def trial(backend: str, name: str, patience: float) -> Record:
    """Train a model in a process of its own; return what it found, or how it failed."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",  # threads that wait for a busy core are slower than one
    }
    command = [sys.executable, "-m", "bench.recompute.zoo_trial", name]
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        failure = f"was stopped after {patience:g} s"
        return {"model": name, "plain": {"verdict": "raises", "detail": failure}}
    if ended.returncode:
        failure = f"exit status {ended.returncode}: {ended.stderr[-500:]}"
        return {"model": name, "plain": {"verdict": "raises", "detail": failure}}
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def summary(record: Record) -> str:
    """Return a line about a model."""
    ways = {way: found for way, found in record.items() if isinstance(found, dict)}
    return "; ".join(
        f"{way}: {found.get('verdict', '')} {found.get('detail', '')} {found.get('kept_bytes', '')}"
        for way, found in ways.items()
        if way != "versions"
    )


if __name__ == "__main__":
    main()
