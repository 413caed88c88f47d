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
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if hasattr(os, "getuid") and (
            status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022
        ):
            return False
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def cache_folder() -> Path:
    """The folder of the cache: $PERFTRICKS_CACHE, the user's cache folder, or a temporary one.

    If nothing can be written at all, a folder that lasts as long as the process.
    """
    candidates = []
    if os.environ.get(ENVIRONMENT):
        candidates.append(Path(os.environ[ENVIRONMENT]))
    with contextlib.suppress(RuntimeError):  # no home
        candidates.append(_user_cache())
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    candidates.append(Path(tempfile.gettempdir()) / f"perftricks-{user}")
    for folder in candidates:
        if _is_private_folder(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="perftricks-"))
