"""Snapshots of a run in a folder, so that a run that is killed goes on where it was.

The folder holds ``state.json``, which is replaced atomically, and the tables that it names. A
snapshot writes new tables beside the old ones, then ``state.json``, then deletes the old tables:
whenever the run is killed, ``state.json`` names a position and the tables that belong to it.

All that is read back is what was written, or refused: ``state.json`` holds a digest of itself and
of each file that it names. Names in it are names of files in the folder and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perftricks.files import PathLike, open_plainly, replacing, try_lock
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.sources import STDIN, Corpus, Source
from perftricks.wordcount.reading.urls import FileSystem, is_url
from perftricks.wordcount.storage.sealed import DamagedError
from perftricks.wordcount.table.runs import Run, check_run

if TYPE_CHECKING:
    from perftricks.wordcount.kernel import Engine

STATE = "state.json"
SECONDS = 15.0

_VERSION = 2
_HEAD_BYTES = 1 << 16
_START_ANEW = "delete the folder to start anew"

_TABLE = re.compile("byte|crlf|lf|none|universal")
_RUN = re.compile(r"run-[0-9]{1,18}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(r"state\.json|lock|table-\d+-[a-z]+|run-\d+|\.perftricks-[0-9a-f]+\.tmp")
_SIGN = b"perftricks checkpoint\n"  # in the lock of a folder that is one


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
        tables: Digests of the tables.
        runs: Names, rows and digests of the parts of the table that outgrew the memory limit.
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
    tables: dict[str, str] = field(default_factory=dict)
    runs: list[tuple[str, int, str]] = field(default_factory=list)
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
            lock = open_plainly(self.folder / "lock", writing=True, create=0o666)
        except OSError as error:
            raise self._error(f"cannot be used: {(error.strerror or str(error)).lower()}") from None
        with lock:
            if try_lock(lock) is False:
                raise self._error("is in use by another run")
            self._identity = identity
            signed = lock.read(len(_SIGN)) == _SIGN
            state = self._read(signed)
            if not signed:
                lock.seek(0)
                lock.write(_SIGN)
            yield state

    def _error(self, problem: str) -> OptionError:
        return OptionError(f"checkpoint {str(self.folder)!r} {problem}")

    def _read(self, signed: bool) -> State:
        """Return the state of the run before; ``signed`` if one has worked in the folder."""
        path = self.folder / STATE
        if not os.path.lexists(path):
            ours = _OURS if signed else re.compile("lock")
            foreign = [name for name in os.listdir(self.folder) if not ours.fullmatch(name)]
            if foreign:
                raise self._error(
                    f"holds files that are no checkpoint, such as {min(foreign)!r}; name a new or "
                    "an empty folder"
                )
            self._sweep(State())
            return State()
        content = self._content(path)
        try:
            found = content["identity"]
            self._generation = _natural(content["generation"])
            state = _state_of(content["state"])
            if not isinstance(found, dict):
                raise DamagedError("its identity is none")
        except (KeyError, DamagedError) as error:
            raise self._unreadable(path, f"it is damaged: {error}") from None
        for name, value in self._identity.items():
            if found.get(name) != value:
                raise self._error(
                    f"is of another run: {_difference(name, found.get(name), value)}; give what "
                    f"it was begun with, or {_START_ANEW}"
                )
        self._sweep(state)
        return state

    def _content(self, path: Path) -> dict[str, Any]:
        """Return what is in ``state.json``, which must be what was written."""
        try:
            self._check_owner(path)
            with open_plainly(path) as file:
                content = json.loads(file.read().decode("ascii"))
        except OSError as error:
            raise self._unreadable(path, (error.strerror or str(error)).lower()) from None
        except (ValueError, RecursionError) as error:
            raise self._unreadable(path, f"it is damaged: {error}") from None
        version = content.get("version") if isinstance(content, dict) else None
        if isinstance(version, int) and version != _VERSION:
            raise self._error(f"is of another version of perftricks; {_START_ANEW}")
        if version is None or content.pop("digest", None) != _digest(content):
            raise self._unreadable(path, "it is damaged or was edited: its digest is another one")
        assert isinstance(content, dict)
        return content

    def _check_owner(self, path: Path) -> None:
        """Raise OSError if a file is of somebody who is neither the user nor the folder's owner."""
        if not hasattr(os, "geteuid"):
            return
        owners = (os.geteuid(), 0, os.stat(self.folder).st_uid)
        status = os.lstat(path)
        if status.st_uid not in owners or stat.S_ISLNK(status.st_mode):
            raise PermissionError(f"it is a link, or belongs to another user ({status.st_uid})")

    def _unreadable(self, path: Path, problem: str) -> OptionError:
        return self._error(f"cannot be read: {path.name!r}: {problem}; {_START_ANEW}")

    def tables(self, state: State, engine: Engine) -> dict[str, Any]:
        """Return the tables of the snapshot by name.

        Raises:
            OptionError: If one cannot be read or is not what was written.
        """
        from perftricks.wordcount.kernel import TokenTable

        tables = {}
        for name in state.documents:
            path = self._table(name)
            try:
                self._check_owner(path)
                tables[name] = TokenTable.load(path, *engine, digest=state.tables[name])
            except OSError as error:
                problem = (error.strerror or str(error)).lower()
                raise self._unreadable(path, problem) from None
            except (DamagedError, KeyError) as error:
                raise self._unreadable(path, str(error)) from None
        return tables

    def runs(self, state: State) -> list[Run]:
        """Return the parts of the table that outgrew the memory limit.

        Raises:
            OptionError: If one cannot be read or is not what was written.
        """
        runs = [Run(self.folder / name, rows, digest) for name, rows, digest in state.runs]
        for run in runs:
            try:
                self._check_owner(run.path)
                check_run(run)
            except OSError as error:
                problem = (error.strerror or str(error)).lower()
                raise self._unreadable(run.path, problem) from None
        return runs

    def is_due(self) -> bool:
        """Whether it is time for a snapshot."""
        return time.monotonic() - self._saved >= self.seconds

    def save(self, state: State, tables: dict[str, Any]) -> None:
        """Write a snapshot; when this returns it is on the disk."""
        self._generation += 1
        state.tables = {name: table.save(self._table(name)) for name, table in tables.items()}
        content = {
            "version": _VERSION,
            "identity": self._identity,
            "generation": self._generation,
            "state": state.__dict__,
        }
        content["digest"] = _digest(content)
        with replacing(self.folder / STATE, follow=False) as file:
            file.write(json.dumps(content).encode("ascii"))
        self._sweep(state)
        self._saved = time.monotonic()

    def _table(self, name: str) -> Path:
        return self.folder / f"table-{self._generation}-{name}"

    def _sweep(self, state: State) -> None:
        """Delete the tables of other generations and what a killed run left half-written."""
        tables = (self._table(name).name for name in state.documents)
        names = {STATE, "lock", *tables, *(name for name, _, _ in state.runs)}
        for name in os.listdir(self.folder):
            if name not in names and _OURS.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(self.folder / name)


def _digest(content: dict[str, Any]) -> str:
    """Return a digest of what JSON keeps."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _state_of(value: Any) -> State:
    """Return a state as JSON has it.

    Raises:
        DamagedError: If it is none.
    """
    if not isinstance(value, dict) or value.keys() != {field.name for field in fields(State)}:
        raise DamagedError("its state is none")
    for name in ("source", "offset", "text", "stored", "continued", "odd_documents", "runs_total"):
        _natural(value[name])
    documents, tables, runs, odd = (value[name] for name in ("documents", "tables", "runs", "odd"))
    if not (
        isinstance(value["complete"], bool)
        and isinstance(documents, dict)
        and isinstance(tables, dict)
        and tables.keys() == documents.keys()
        and all(map(_TABLE.fullmatch, documents))
        and all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in tables.values())
        and isinstance(runs, list)
        and isinstance(odd, list)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in odd)
    ):
        raise DamagedError("its state is none")
    for number in (*documents.values(), *(count for _, count in odd)):
        _natural(number)
    return State(**{**value, "runs": list(map(_run_of, runs))})


def _run_of(value: Any) -> tuple[str, int, str]:
    name, rows, digest = value if isinstance(value, list) and len(value) == 3 else (None, 0, None)
    if (
        isinstance(name, str)
        and isinstance(digest, str)
        and _RUN.fullmatch(name)
        and _DIGEST.fullmatch(digest)
    ):
        return name, _natural(rows), digest
    raise DamagedError("it names a file that is none of the checkpoint's")


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DamagedError(f"a number is {value!r}")
    return value


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
        "options": {**replace(options, limit=None).__dict__, **settings},
        "dictionary": words.hexdigest(),
    }


def _identity_of_source(source: Source) -> list[Any]:
    if source.path == STDIN or source.size is None:
        raise OptionError(
            f"a checkpoint needs files that can be read again; {source.name!r} cannot"
        )
    if is_url(source.path):
        system = FileSystem(source.path, source.storage)
        with system.open() as remote:
            head = hashlib.sha256(remote.read(_HEAD_BYTES)).hexdigest()
        version = system.version()
        return [source.path, source.format, source.compression, source.size, version, head]
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
        changed = [key for key in {**value, **found} if found.get(key) != value.get(key)]
        return f"it has another {', '.join(changed)}"
    return "jieba's dictionary is another one"
