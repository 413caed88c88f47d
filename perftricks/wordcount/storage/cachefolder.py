"""Where the compiled kernel and its tables are kept; imports nothing that takes time.

The folder is opened once, without following a link to it, and everything else is relative to what
was opened: whoever may rename folders on the way to it cannot put another one in its place. It and
each file in it must belong to the user, or to root, and nobody else may write to them, because
machine code is loaded from there. Nothing here stops a run: what cannot be read is built, and what
cannot be written is built again the next time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perftricks.files import open_plainly, replacing, settled_identity, try_lock
from perftricks.wordcount.storage.sealed import DamagedError, seal, unsealed

ENVIRONMENT = "PERFTRICKS_CACHE"

# How long another process that builds the same is waited for, and from when on that is said.
LONGEST_WAIT = 120.0  # seconds
_SAY_AFTER = 1.0
_LOOK_EVERY = 0.05

_USED_AGAIN = 3600  # seconds after which it is noted once more that a file was used
_HAS_FOLDERS = os.open in os.supports_dir_fd and os.listdir in os.supports_fd
_KERNEL = re.compile(r"kernel-[0-9a-f]{32}\.o")

# What was built while there is no folder, by name: the newest few.
_memory: dict[str, bytes] = {}
_MOST_IN_MEMORY = 4

_log = logging.getLogger("perftricks.wordcount")


class Entry(NamedTuple):
    """Something in the folder.

    Attributes:
        name: What it is called.
        is_file: Whether it is a regular file.
        size: Its bytes.
        used: When it was last used, as ``time.time()``.
    """

    name: str
    is_file: bool
    size: int
    used: float


class CacheFolder:
    """An open folder; or, if there is none that can be used, the memory of this process.

    Args:
        path: The folder; None for memory.
        descriptor: The open folder; None for memory, and where the system cannot open folders.
    """

    def __init__(self, path: Path | None, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor = descriptor

    def __enter__(self) -> CacheFolder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self, kind: str, name: str) -> memoryview | None:
        """Return the content of a file; None if there is none that can be trusted.

        Args:
            kind: What it must be; see :mod:`perftricks.wordcount.storage.sealed`.
            name: What it is called.
        """
        try:
            if self.path is None:
                data = _memory[name]
            else:
                with self._open(name) as file:
                    _check_owner(os.fstat(file.fileno()))
                    data = file.read()
                    self._note_use(file)
            return unsealed(kind, name, data)
        except (OSError, DamagedError, KeyError):
            return None

    def write(self, kind: str, name: str, *parts: Any) -> bool:
        """Write a file so that others see all of it or nothing, and say whether that was possible.

        Args:
            kind: What it is.
            name: What it is called.
            parts: Its content, bytes-like.
        """
        parts = (seal(kind, name, parts), *parts)
        if self.path is None:
            _memory.pop(name, None)
            while len(_memory) >= _MOST_IN_MEMORY:
                del _memory[next(iter(_memory))]
            _memory[name] = b"".join(parts)
            return True
        try:
            with replacing(self._at(name), mode=0o600, sync=False, folder=self._descriptor) as file:
                for part in parts:
                    file.write(part)
        except OSError:  # a full disk, a folder that is gone, a quota
            return False
        return True

    def holds(self, name: str) -> bool:
        """Whether there is such a file, whatever is in it."""
        return name in _memory if self.path is None else self.entry(name) is not None

    def holds_kernel(self) -> bool:
        """Whether there is machine code, be it old or for another processor."""
        names = _memory if self.path is None else self._names()
        return any(map(_KERNEL.fullmatch, names))

    def identity(self, name: str) -> tuple[int, ...] | None:
        """Return what tells one content of a file from another; None if nothing does."""
        if self.path is None:
            return None
        return settled_identity(self._at(name), folder=self._descriptor)

    def entry(self, name: str) -> Entry | None:
        """Return what is known of a file; None if it is not there."""
        if self.path is None:
            return None
        try:
            status = os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return None
        return Entry(name, stat.S_ISREG(status.st_mode), status.st_size, status.st_mtime)

    def entries(self) -> list[Entry]:
        """Return what is in the folder, in the order of names."""
        found = map(self.entry, self._names())
        return [entry for entry in found if entry is not None]

    def remove(self, name: str) -> None:
        """Delete a file.

        Raises:
            OSError: If that is not possible.
        """
        os.unlink(self._at(name), dir_fd=self._descriptor)

    @contextlib.contextmanager
    def building(self, name: str) -> Iterator[None]:
        """Let one process at a time build a file.

        Another that builds it is waited for, and that is said (the logger "perftricks.wordcount"),
        but not for ever: it may be stopped. Where files cannot be locked, several may build it,
        harmlessly.
        """
        lock = None
        with contextlib.suppress(OSError):
            if self.path is not None:
                lock = self._open(f"{name}.lock", writing=True, create=0o600)
        try:
            if lock is not None:
                self._wait_for(lock, name)
            yield
        finally:
            if lock is not None:
                lock.close()  # which releases the lock

    def _wait_for(self, lock: Any, name: str) -> None:
        began = time.monotonic()
        said = False
        while try_lock(lock) is False:
            waited = time.monotonic() - began
            if waited > LONGEST_WAIT:
                _log.warning(
                    "%r in the cache is still being built by another process after %.0f seconds: "
                    "built here, without the cache",
                    name,
                    waited,
                )
                return
            if not said and waited > _SAY_AFTER:
                said = True
                _log.warning(
                    "waiting for another process that builds %r in the cache, %.0f seconds at most",
                    name,
                    LONGEST_WAIT,
                )
            time.sleep(_LOOK_EVERY)

    @contextlib.contextmanager
    def unlocked(self, name: str) -> Iterator[bool]:
        """Say whether nobody holds a lock file, and keep others from taking it meanwhile."""
        try:
            file = self._open(name, writing=True)
        except OSError:
            yield True
            return
        with file:
            yield try_lock(file) is not False

    def is_writable(self) -> bool:
        """Whether files can be made, as far as that can be seen without making one."""
        return self.path is not None and os.access(
            self._at(os.curdir), os.W_OK | os.X_OK, dir_fd=self._descriptor
        )

    def _open(self, name: str, *, writing: bool = False, create: int | None = None) -> Any:
        return open_plainly(self._at(name), folder=self._descriptor, writing=writing, create=create)

    def _at(self, name: str) -> str:
        """Return a name as the system's functions take it, with the descriptor or without."""
        assert self.path is not None
        return name if self._descriptor is not None else os.path.join(self.path, name)

    def _names(self) -> list[str]:
        if self.path is None:
            return []
        try:
            where = self.path if self._descriptor is None else self._descriptor
            return sorted(os.listdir(where))
        except OSError:
            return []

    def _note_use(self, file: Any) -> None:
        """Note now and then that a file is used: what was not for longest is removed first."""
        if time.time() - os.fstat(file.fileno()).st_mtime > _USED_AGAIN and os.utime in (
            os.supports_fd
        ):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())


def _check_owner(status: os.stat_result) -> None:
    """Raise OSError if somebody else, but for root, owns a file or folder or may write to it."""
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"it belongs to another user ({status.st_uid})")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise PermissionError("others may write to it")


def _opened(path: Path) -> CacheFolder:
    """Open a folder.

    Raises:
        OSError: If it cannot be used; the message says why.
    """
    if not _HAS_FOLDERS:
        _check_owner(os.stat(path))
        return CacheFolder(path)
    if path.is_symlink():
        raise NotADirectoryError("it is a link")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        _check_owner(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return CacheFolder(path, descriptor)


def _user_cache() -> Path:
    """Where this platform keeps a user's caches."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "perftricks"


def _candidates() -> list[Path]:
    """$PERFTRICKS_CACHE, the user's cache folder, a folder among the temporary ones."""
    candidates = []
    if os.environ.get(ENVIRONMENT):
        candidates.append(Path(os.environ[ENVIRONMENT]))
    with contextlib.suppress(RuntimeError):  # no home
        candidates.append(_user_cache())
    user = os.geteuid() if hasattr(os, "geteuid") else os.environ.get("USERNAME", "user")
    with contextlib.suppress(OSError):  # no temporary folder can be written to
        candidates.append(Path(tempfile.gettempdir()) / f"perftricks-{user}")
    return candidates


def open_cache(path: Path | None = None) -> CacheFolder:
    """Open the folder of the cache, made if need be.

    Args:
        path: The folder; None for the first of the candidates that can be used. One that cannot be
            written to is used if it holds machine code, or if there is no better one.

    Returns:
        The folder, to be closed (``with``); the memory of this process if there is none.
    """
    return _open_first([path] if path is not None else _candidates(), make=True)[0]


def inspect_candidates() -> tuple[CacheFolder, dict[str, str]]:
    """Open the folder of the cache without making it.

    Returns:
        The folder as :func:`open_cache` gives it, or would: it may not be there yet. And the
        folders that come before it -> why they are not used.
    """
    return _open_first(_candidates(), make=False)


def _open_first(candidates: list[Path], *, make: bool) -> tuple[CacheFolder, dict[str, str]]:
    passed_over: dict[str, str] = {}
    spare: CacheFolder | None = None
    for path in candidates:
        try:
            if make:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif _can_be_made(path):
                folder = CacheFolder(path)
                break
            folder = _opened(path)
        except OSError as error:
            passed_over[str(path)] = (error.strerror or str(error)).lower()
            continue
        if folder.is_writable() or folder.holds_kernel():
            break
        passed_over[str(path)] = "it cannot be written to"
        if spare is None:
            spare = folder
        else:
            folder.__exit__()
    else:
        folder = spare or CacheFolder(None)
        passed_over.pop(str(folder.path), None)
        return folder, passed_over
    if spare is not None:
        spare.__exit__()
    return folder, passed_over


def _can_be_made(path: Path) -> bool:
    """Whether the folder is not there, but could be."""
    if os.path.lexists(path):
        return False
    above = next(parent for parent in path.absolute().parents if parent.exists())
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def cache_folder() -> Path | None:
    """Return the folder of the cache, made if need be; None if nothing would last."""
    with open_cache() as folder:
        return folder.path
