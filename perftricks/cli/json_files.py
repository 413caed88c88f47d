"""``--json``, the same in every command: the standard output, or a file of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from perftricks.files import replacing

STDOUT = "-"

# The option; a module that uses it imports the name, since Typer looks the annotation up there.
JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[=FILE]",
        help="Print all figures as JSON in place of what is shown, or write them to a file: "
        "--json=FILE.json.",
    ),
]


def with_json_values(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments in which each ``--json`` has a value.

    Alone, or before ``-``, it means the standard output. A name that ends in ``.json`` may follow
    after a space; ``wordcount`` may be meant to count such a file, so there it must be a new one.

    Raises:
        typer.BadParameter: If that file is there already.

    >>> with_json_values(["wordcount", "--json", "corpus", "-n", "3"])
    ['wordcount', '--json=-', 'corpus', '-n', '3']
    >>> with_json_values(["info", "--json", "here.json"])
    ['info', '--json=here.json']
    """
    found: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*found, argument, *rest]
        if argument == "--json":
            value = STDOUT
            if rest and (rest[0] == STDOUT or rest[0].lower().endswith(".json")):
                value = rest.pop(0)
                if found[:1] == ["wordcount"] and value != STDOUT and os.path.lexists(value):
                    raise typer.BadParameter(
                        f"--json {value!r}: this file is there: to write it, say --json={value}; "
                        "to count it, name it before --json"
                    )
            argument = f"--json={value}"
        found.append(argument)
    return found


class JsonFile(NamedTuple):
    """Where figures go as JSON; ``path`` is None if nobody wants them."""

    path: str | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is anything to write."""
        return self.path is not None

    @property
    def to_stdout(self) -> bool:
        """Whether the figures stand in place of what a command shows."""
        return self.path in (STDOUT, "/dev/stdout")

    def check(self) -> None:
        """Check that it can be written, before the work.

        Raises:
            ValueError: If not.

        >>> JsonFile("corpus.txt").check()
        Traceback (most recent call last):
        ValueError: --json 'corpus.txt': expected a file that ends in .json, or - for the standard \
output
        """
        if self.path is None or self.to_stdout:
            return
        if not self.path.lower().endswith(".json"):
            raise ValueError(
                f"--json {self.path!r}: expected a file that ends in .json, or - for the standard "
                "output"
            )
        check_path(self.path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the figures, characters as they are; a file appears complete or not at all.

        On the standard output, what its encoding lacks is escaped.
        """
        text = json.dumps(record, indent=2, ensure_ascii=False)
        if self.path is not None and not self.to_stdout:
            with replacing(self.path) as file:
                file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        elif self.path is not None:
            try:
                text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
            except UnicodeEncodeError:
                text = json.dumps(record, indent=2)
            print(text)


def check_path(path: str) -> None:
    """Refuse what cannot be written, before minutes are spent on what would be in it.

    Raises:
        ValueError: If it cannot.
    """
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"folder {folder!r} of {path!r} does not exist; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"folder {folder!r} of {path!r} may not be written to")
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder; name a file in it")
