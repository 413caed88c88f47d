"""Completion of commands, options and their values, asked as a shell asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perftricks.cli import COMMANDS
from tests.cli.conftest import command, environment

BASH = """
source <(_PERFTRICKS_COMPLETE=source_bash perftricks)
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_perftricks_completion perftricks
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words):
    """Return what bash offers for the last of the words of a line."""
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", *words],
        capture_output=True,
        text=True,
        env=environment(PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}"),
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["perftricks", ""], list(COMMANDS)),
        (["perftricks", "wo"], ["wordcount"]),
        (["perftricks", "wordcount", "--meth"], ["--method"]),
        (["perftricks", "wordcount", "x.txt", "--method", "c"], ["compiled"]),
        (["perftricks", "recompute-demo", "--backend", "t"], ["tensorflow", "torch"]),
        (["perftricks", "cache", ""], ["show", "clear"]),
    ],
)
def test_bash(words, offered):
    """Bash offers commands, options and values."""
    assert complete(*words) == offered


def test_files_are_left_to_the_shell():
    """Where a file is due nothing is offered, so that bash offers files."""
    assert complete("perftricks", "wordcount", "doc") == []
    script = command(variables={"_PERFTRICKS_COMPLETE": "source_bash"})
    assert "complete -o default -F _perftricks_completion perftricks" in script.stdout


def test_unknown_command_does_not_break_the_line():
    """A line that is wrong already gets no traceback into it."""
    complete("perftricks", "wordcuont", "--")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell):
    """Each shell's script is one that the shell can read."""
    script = command(variables={"_PERFTRICKS_COMPLETE": f"source_{shell}"})
    assert script.returncode == 0
    assert "_PERFTRICKS_COMPLETE=complete_" in script.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.stdout, text=True, check=True)
