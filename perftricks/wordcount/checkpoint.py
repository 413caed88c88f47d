"""Snapshots of a run in a folder, so that a run that is killed goes on where it was.

The folder holds ``state.json``, which is replaced atomically, and the tables that it names. A
snapshot writes new tables beside the old ones, then ``state.json``, then deletes the old tables:
whenever the run is killed, ``state.json`` names a position and the tables that belong to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perftricks.files import replacing, try_lock
from perftricks.wordcount.documents import ReadOptions
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.runs import Run
from perftricks.wordcount.sources import STDIN, Corpus, PathLike, Source

if TYPE_CHECKING:
    from perftricks.wordcount.compiled import Engine

STATE = "state.json"
SECONDS = 15.0

_VERSION = 1
_HEAD_BYTES = 1 << 16
_OURS = re.compile(r"state\.json|lock|table-\d+-[a-z]+|run-\d+|\..*\.tmp")


@dataclass
class State:
    """Where a run is.

    Attributes:
        source: The number of files that are done.
        offset: Bytes of text, or documents, of the next file that are done.
        text: Bytes of text of the files that are done.
        stored: The same as stored.
        continued: Pieces that ended inside a document.
        odd: What jieba itself counted, as pairs.
        odd_documents: In how many documents.
        documents: Documents by table.
        runs: Names and rows of the parts of the table that outgrew the memory limit.
        runs_total: The sum of the counts in them.
        complete: Whether all is done.
    """

    source: int = 0
    offset: int = 0
    text: int = 0
    stored: int = 0
    continued: int = 0
    odd: list[Any] = field(default_factory=list)
    odd_documents: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    runs: list[tuple[str, int]] = field(default_factory=list)
    runs_total: int = 0
    complete: bool = False


class Checkpoint:
    """A folder of snapshots.

    Args:
        folder: The folder; it is created if it is not there.
        seconds: Take a snapshot this often.
    """

    def __init__(self, folder: PathLike, seconds: float = SECONDS) -> None:
        self.folder = Path(folder)
        self.seconds = seconds
        self._identity: dict[str, Any] = {}
        self._generation = 0
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def opened(self, identity: dict[str, Any]) -> Iterator[State]:
        """Hold the folder while the block runs, and give the state of the run before.

        Args:
            identity: What must be the same for a run to go on.

        Raises:
            OptionError: If the folder is of another run, is in use, or cannot be used.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            lock = open(self.folder / "lock", "ab")  # noqa: SIM115  # closed below
        except OSError as error:
            raise self._error(f"cannot be used: {(error.strerror or str(error)).lower()}") from None
        with lock:
            if try_lock(lock) is False:
                raise self._error("is in use by another run")
            self._identity = identity
            yield self._read()

    def _error(self, problem: str) -> OptionError:
        return OptionError(f"checkpoint {str(self.folder)!r} {problem}")

    def _read(self) -> State:
        path = self.folder / STATE
        if not path.exists():
            foreign = [name for name in os.listdir(self.folder) if not _OURS.fullmatch(name)]
            if foreign:
                raise self._error(
                    f"holds files that are no checkpoint, such as {min(foreign)!r}; name a new or "
                    "an empty folder"
                )
            self._sweep(State())
            return State()
        try:
            content = json.loads(path.read_text(encoding="ascii"))
            version, found = content["version"], content["identity"]
            self._generation = content["generation"]
            state = State(**content["state"]) if version == _VERSION else State()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._error(f"cannot be read: {error}; delete it to start anew") from None
        if version != _VERSION:
            raise self._error("is of another version of perftricks; delete it to start anew")
        for name, value in self._identity.items():
            if found.get(name) != value:
                raise self._error(
                    f"is of another run: {_difference(name, found.get(name), value)}; give what "
                    "it was begun with, or delete it to start anew"
                )
        self._sweep(state)
        return state

    def tables(self, state: State, engine: Engine) -> dict[str, Any]:
        """Return the tables of the snapshot by name.

        Raises:
            OptionError: If one cannot be read.
        """
        from perftricks.wordcount.compiled import TokenTable

        tables = {}
        for name in state.documents:
            try:
                tables[name] = TokenTable.load(self._table(name), *engine)
            except (OSError, ValueError, KeyError) as error:
                problem = f"cannot be read: {error}; delete it to start anew"
                raise self._error(problem) from None
        return tables

    def runs(self, state: State) -> list[Run]:
        """Return the parts of the table that outgrew the memory limit.

        Raises:
            OptionError: If one is missing.
        """
        runs = [Run(self.folder / name, rows) for name, rows in state.runs]
        for run in runs:
            if not run.path.is_file():
                problem = f"cannot be read: {run.path.name!r} is missing; delete it to start anew"
                raise self._error(problem)
        return runs

    def is_due(self) -> bool:
        """Whether it is time for a snapshot."""
        return time.monotonic() - self._saved >= self.seconds

    def save(self, state: State, tables: dict[str, Any]) -> None:
        """Write a snapshot; when this returns it is on the disk."""
        self._generation += 1
        for name, table in tables.items():
            table.save(self._table(name))
        content = {
            "version": _VERSION,
            "identity": self._identity,
            "generation": self._generation,
            "state": state.__dict__,
        }
        with replacing(self.folder / STATE) as file:
            file.write(json.dumps(content).encode("ascii"))
        self._sweep(state)
        self._saved = time.monotonic()

    def _table(self, name: str) -> Path:
        return self.folder / f"table-{self._generation}-{name}"

    def _sweep(self, state: State) -> None:
        """Delete the tables of other generations and what a killed run left half-written."""
        tables = (self._table(name).name for name in state.documents)
        names = {STATE, "lock", *tables, *(name for name, _ in state.runs)}
        for name in os.listdir(self.folder):
            if name not in names and _OURS.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(self.folder / name)


def identity_of(
    corpus: Corpus, options: ReadOptions, settings: dict[str, Any], engine: Engine
) -> dict[str, Any]:
    """Return what must not change between the parts of a run, in a form that JSON keeps.

    Raises:
        OptionError: If the corpus cannot be read again.
    """
    words = hashlib.sha256()
    for array in engine.lexicon:
        words.update(array.tobytes())
    return {
        "inputs": [_identity_of_source(source) for source in corpus.sources],
        "options": {**options.__dict__, **settings},
        "dictionary": words.hexdigest(),
    }


def _identity_of_source(source: Source) -> list[Any]:
    if source.path == STDIN or source.size is None:
        raise OptionError(
            f"a checkpoint needs files that can be read again; {source.name!r} cannot"
        )
    with open(source.path, "rb") as file:
        head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
        status = os.fstat(file.fileno())
    return [
        source.path,
        source.format,
        source.compression,
        status.st_size,
        status.st_mtime_ns,
        head,
    ]


def _difference(name: str, found: Any, value: Any) -> str:
    """Say what is not the same."""
    if name == "inputs" and isinstance(found, list):
        paths = [source[0] for source in found]
        if paths != [source[0] for source in value]:
            return "it has other input files"
        changed = next(new for old, new in zip(found, value, strict=True) if old != new)
        return f"{changed[0]!r} has changed since"
    if name == "options" and isinstance(found, dict):
        changed = [key for key in value if found.get(key) != value[key]]
        return f"it has another {', '.join(changed)}"
    return "jieba's dictionary is another one"
