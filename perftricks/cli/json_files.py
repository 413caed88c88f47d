"""``--json``, the same in every command: a file of its own, or the standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer

from perftricks.files import replacing

STDOUT = "-"

# The option; a module that uses it imports the name, since Typer looks the annotation up there.
JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write all figures as JSON: .json; - for the standard output, in place of what is "
        "shown.",
    ),
]


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
