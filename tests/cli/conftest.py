"""Running the command: in this process where that is enough, else as the user does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perftricks.cli import main
from perftricks.wordcount.tokenizers import default_tokenizer

ROOT = Path(__file__).parent.parent.parent
LINES = ["喝茶，喝茶。", "我们在北京喝茶。", "", "tea\ttime"]


class Result:
    """What a run of the command gave."""

    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err

    @property
    def json(self):
        """What was printed, as an object."""
        return json.loads(self.out)

    def __repr__(self):
        return f"status {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@pytest.fixture
def run(capsys, monkeypatch):
    """Run ``perftricks wordcount`` in this process, where jieba is ready.

    The choice of a method goes by that.
    """
    default_tokenizer()

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        monkeypatch.setattr(sys, "path", list(sys.path))
        status = main(["wordcount", *map(str, arguments)])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def call(capsys):
    """Run ``perftricks`` in this process."""

    def call(*arguments):
        return Result(main(list(map(str, arguments))), *capsys.readouterr())

    return call


@pytest.fixture
def corpus(tmp_path):
    """A file of four documents."""
    path = tmp_path / "corpus.txt"
    path.write_text("".join(line + "\n" for line in LINES), encoding="utf-8")
    return path


def command(*arguments, variables=(), **options):
    """Run ``python -m perftricks`` in a process of its own, with more variables if need be."""
    return subprocess.run(
        [sys.executable, "-m", "perftricks", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**dict(variables)),
        **options,
    )


def environment(**more):
    """Return the environment with this copy of the package, and nothing that colours output."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}
