"""Where the compiled kernel and its tables are kept; imports nothing that takes time."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path

ENVIRONMENT = "PERFTRICKS_CACHE"


def _user_cache() -> Path:
    """Where this platform keeps a user's caches."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "perftricks"


def _is_private_folder(path: Path) -> bool:
    """Whether we can write to the folder and nobody else can: machine code is loaded from it."""
    try:
        status = path.stat()
        if hasattr(os, "getuid") and (
            status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022
        ):
            return False
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def _make_private_folder(path: Path) -> bool:
    """Make the folder if it is not there, and say whether it can be used."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return _is_private_folder(path)


def _can_be_made(path: Path) -> bool:
    """Whether the folder is not there, but could be."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    return not path.exists() and above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def _candidates() -> list[Path]:
    """$PERFTRICKS_CACHE, the user's cache folder, a folder among the temporary ones."""
    candidates = []
    if os.environ.get(ENVIRONMENT):
        candidates.append(Path(os.environ[ENVIRONMENT]))
    with contextlib.suppress(RuntimeError):  # no home
        candidates.append(_user_cache())
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    candidates.append(Path(tempfile.gettempdir()) / f"perftricks-{user}")
    return candidates


def cache_folder() -> Path:
    """The folder of the cache, made if need be; the first of the candidates that can be used.

    If nothing can be written at all, a folder that lasts as long as the process.
    """
    for folder in _candidates():
        if _make_private_folder(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="perftricks-"))


def planned_cache_folder() -> Path | None:
    """The folder that :func:`cache_folder` gives, without making it; None if none would last."""
    for folder in _candidates():
        if _is_private_folder(folder) or _can_be_made(folder):
            return folder
    return None
