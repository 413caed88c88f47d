"""The zoo: other people's models, trained plainly and recomputed, backend by backend.

Usage::

    python -m bench.recompute.zoo --backend torch --json build/zoo-torch.json [MODEL ...]
    python -m bench.recompute.zoo_budget > build/zoo-budget.json
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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.markdown import fill, table

BACKENDS = ("tensorflow", "jax", "torch")
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
MODELS = Path(__file__).parents[2] / "tests/recompute/keras3/zoo.py"
MARKER = "zoo"
OURS = ("apply", "apply to blocks", "decorated blocks")
TOOLS = ("keras.remat", "keras.RematScope")
Record = dict[str, Any]


def main() -> None:
    """Train, or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL or FILE")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are appended")
    parser.add_argument("--patience", type=float, default=600, help="seconds that a model may take")
    parser.add_argument("--way", action="append", default=[], help="one way only; may be repeated")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables of FILEs")
    options = parser.parse_args()
    if options.write:
        write(options.write, [record for name in options.names for record in read(Path(name))])
    elif options.backend and options.json:
        train(
            options.backend, options.json, options.names or models(), options.way, options.patience
        )
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


def train(backend: str, file: Path, names: list[str], ways: list[str], patience: float) -> None:
    """Train the models that the file has not; append a line of JSON for each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {record["model"] for record in read(file)} if file.exists() else set()
    for name in names:
        if name not in done:
            found = trial(backend, name, ways, patience)
            if found is None:
                print(f"{backend}, {name}: stopped after {patience:g} s", file=sys.stderr)
                continue
            record = {"backend": backend, "date": datetime.date.today().isoformat(), **found}
            with file.open("a", encoding="utf-8") as output:
                print(json.dumps(record), file=output)
            print(f"{backend}, {name}: {summary(record)}", file=sys.stderr, flush=True)


def trial(backend: str, name: str, ways: list[str], patience: float) -> Record | None:
    """Train a model in a process of its own; return what it found, or how it failed.

    Returns:
        A record; None if it took too long, so that it is tried again the next time.
    """
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",  # threads that wait for a busy core are slower than one
    }
    command = [sys.executable, "-m", "bench.recompute.zoo_trial", name]
    command += [f"--way={way}" for way in ways]
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return None
    if ended.returncode:
        failure = f"exit status {ended.returncode}: {ended.stderr[-500:]}"
        return {"model": name, "plain": {"verdict": "raises", "detail": failure}}
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def summary(record: Record) -> str:
    """Return a line about a model."""
    found = {way: record[way] for way in ("plain", *OURS, *TOOLS) if way in record}
    return "; ".join(
        f"{way}: {entry.get('verdict', 'trained')} {entry.get('detail', '')}".rstrip()
        for way, entry in found.items()
    )


def write(page: Path, records: list[Record]) -> None:
    """Write the tables into a page, between its markers."""
    text = page.read_text(encoding="utf-8")
    page.write_text(fill(text, MARKER, render(records)), encoding="utf-8")


def render(records: list[Record]) -> str:
    """Return the tables: by model and backend, what each way came to; errors below them.

    Args:
        records: In any order; several about one model and backend complete each other.
    """
    zoo: dict[tuple[str, str], Record] = {}
    for record in records:
        if "model" in record:
            zoo.setdefault((record["model"], record["backend"]), {}).update(record)
    notes: dict[str, int] = {}
    lines = [_head(zoo)]
    for title, ways in (("Ours", OURS), ("Other tools", TOOLS)):
        trained = {key: r for key, r in zoo.items() if any(way in r for way in ways)}
        unable = (
            {key: r for key, r in zoo.items() if "verdict" in r["plain"]} if ways == OURS else {}
        )
        rows = _rows({**trained, **unable}, ways, notes)
        lines += ["", f"## {title}", "", table(("model", "way", *NAMES.values()), rows)]
    lines += ["", "Errors:", ""] if notes else []
    lines += [f"{number}. `{error}`" for error, number in notes.items()]
    for record in records:
        if "budgets" in record:
            lines += ["", _budgets(record)]
    return "\n".join(lines)


def _head(zoo: dict[tuple[str, str], Record]) -> str:
    """Say when, on what and with what, and count what came out."""
    dates = sorted(record["date"] for record in zoo.values())
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    lines = [
        f"Trained on {days}; 2 cores, no GPU. `apply` and blocks, of all that was trained:",
        "",
    ]
    for backend, name in NAMES.items():
        some = [record for (_, which), record in zoo.items() if which == backend]
        versions = {k: v for record in some for k, v in record.get("versions", {}).items()}
        found = [_words(record[way]) for record in some for way in OURS if way in record]
        counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(found).most_common())
        text = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(f"- {name}{f' ({text})' * bool(text)}: {counts or 'not trained yet'}.")
    return "\n".join(lines)


def _budgets(record: Record) -> str:
    """Return a table of torch's memory budget, from a record of ``zoo_budget``."""
    rows = []
    for budget, found in record["budgets"].items():
        wrong = (
            f"**wrong**: {found['different']} of {found['gradients']}, by {found['largest']:.0%}"
        )
        loss = "the same" if found["same_loss"] else "another one"
        rows.append((budget, loss, wrong if found["different"] else "exact"))
    header = ("`activation_memory_budget`", "loss", "gradients, against budget 1")
    head = f"A model of torch's own layers with dropout, compiled by torch {record['torch']}:"
    return f"{head}\n\n{table(header, rows)}"


def _rows(
    zoo: dict[tuple[str, str], Record], ways: Sequence[str], notes: dict[str, int]
) -> list[tuple[str, ...]]:
    order = {name: number for number, name in enumerate(models())}
    names = sorted({name for name, _ in zoo}, key=lambda name: order.get(name, len(order)))
    rows = []
    for name in names:
        records = [zoo.get((name, backend)) for backend in BACKENDS]
        for number, way in enumerate(ways):
            if number == 0 or any(record and way in record for record in records):
                cells = [_cell(record, way, notes) for record in records]
                rows.append((name, way, *cells))
    return rows


def _cell(record: Record | None, way: str, notes: dict[str, int]) -> str:
    """Return the verdict on a way, and the bytes that are kept plainly and so."""
    if record is None or (way not in record and "verdict" not in record["plain"]):
        return "not trained"
    plain = record["plain"]
    found = plain if "verdict" in plain else record[way]
    if found["verdict"] == "raises":
        who = "plainly raises" if found is plain else "raises"
        return f"{who} ({notes.setdefault(_shortened(found['detail']), len(notes) + 1)})"
    text = _words(found)
    if text.startswith("wrong"):
        text = f"**{text}**"
    if found["detail"]:
        different = found["different"]
        text += f" ({len(different)} of {found['gradients']} gradients; {found['detail']})"
    if way in TOOLS:  # some run the whole model again at once: little is kept, and nothing saved
        return text
    return f"{text}, {_size(plain['kept_bytes'])} → {_size(found['kept_bytes'])}"


def _words(found: Record) -> str:
    return str(found["verdict"]).replace("exact but for rounding", "last bits")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _shortened(text: str, length: int = 150) -> str:
    text = text.replace("`", "'").replace("\n", " ")
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " ..."


if __name__ == "__main__":
    main()
