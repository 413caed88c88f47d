"""Run Keras' tests, plainly and recomputed, and say what differs; see ``tests.peers``."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from tests.peers import report

FOLDER = Path("build/peers")
ROOMS = ("layers", "models", "trainers", "saving", "export")
SAMPLE = 8  # files; a minute or two on two cores


def main() -> int:
    """Return 0 if exactly what is listed differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    parser.add_argument("files", nargs="*", help="files of tests below keras/src; default: all")
    parser.add_argument("--sample", action="store_true", help="some files, chosen by the day")
    parser.add_argument("--jobs", default="auto", help="processes (default: as many as cores)")
    parser.add_argument("--again", action="store_true", help="only tell of the last run")
    given = parser.parse_args()
    backend = os.environ.get("KERAS_BACKEND", "")
    if backend not in ("tensorflow", "jax", "torch"):
        parser.error(f"KERAS_BACKEND={backend!r}: expected tensorflow, jax or torch")
    archive = unpacked(version("keras"))
    files = given.files or tests_in(archive)
    if given.sample:
        files = sample(files)
    found = {mode: results(archive, files, backend, mode, given) for mode in ("plain", "recompute")}
    return report.tell(found["plain"], found["recompute"], backend, version("keras"), archive)


def unpacked(number: str) -> Path:
    """Return the folder of Keras' source archive, downloaded and unpacked unless it is there."""
    archive = (FOLDER / f"keras-{number}").resolve()
    if not archive.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        options = ("--quiet", "--no-deps", "--no-binary", "keras", "--dest", str(FOLDER))
        command = (sys.executable, "-m", "pip", "download", *options, f"keras=={number}")
        subprocess.run(command, check=True)
        with tarfile.open(FOLDER / f"keras-{number}.tar.gz") as packed:
            packed.extractall(FOLDER, filter="data")
    return archive


def tests_in(archive: Path) -> list[str]:
    """List the files with tests of layers, models, trainers, saving and export."""
    found = [path for room in ROOMS for path in (archive / "keras/src" / room).rglob("*_test.py")]
    return sorted(str(path.relative_to(archive)) for path in found)


def sample(files: list[str]) -> list[str]:
    """Choose some files by the day; in as many days as it takes, all of them have their turn."""
    mixed = random.Random(0).sample(files, len(files))
    start = datetime.date.today().toordinal() * SAMPLE % len(files)
    return sorted((mixed + mixed)[start : start + SAMPLE])


def results(archive: Path, files, backend: str, mode: str, given) -> dict[str, dict]:
    """Run tests in one way; return how each ended."""
    part = "-part" if given.sample or given.files else ""
    path = (FOLDER / f"{backend}-{mode}{part}.json").resolve()
    if not given.again:
        path.unlink(missing_ok=True)
        here = os.getcwd()
        env = {
            **os.environ,
            "PERFTRICKS_PEERS": mode,
            "PERFTRICKS_PEERS_RESULTS": str(path),
            "PYTHONPATH": os.pathsep.join([str(archive), here]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        env.pop("RECOMPUTE", None)
        options = ("-p", "tests.peers.plugin", "-p", "no:cacheprovider", "-q", "--tb=short")
        spread = ("-n", given.jobs, "--dist", "loadfile", "--timeout", "600", "-W", "ignore")
        command = (sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".")
        log = path.with_suffix(".log")
        print(f"{backend}, {mode}: {len(files)} files of tests ({log})", flush=True)
        with log.open("w", encoding="utf-8") as out:
            subprocess.run(
                [*command, *options, *spread, *files], cwd=archive, env=env, stdout=out, stderr=out
            )
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
