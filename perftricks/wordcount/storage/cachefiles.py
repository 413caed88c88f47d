"""What is in the cache of the compiled kernel, how it is emptied, and how it stays small.

Other processes may be using it meanwhile. They read whole files into memory, find a file that is
gone as if it had never been made, and put files in place whole; so a file may be removed at any
moment, but not the folder, into which somebody may be about to write. What is being built is left
to whoever builds it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perftricks.files import UNFINISHED
from perftricks.sizes import parse_size
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.storage.cachefolder import CacheFolder, Entry, inspect_candidates

LIMIT_ENVIRONMENT = "PERFTRICKS_CACHE_LIMIT"
_USUAL_LIMIT = 256_000_000  # bytes: seventeen dictionaries

_KERNELS_KEPT = 2  # of two versions, say, that are in use

_KEY = "[0-9a-f]{32}"
# What files are that name the tables of a dictionary, as ``sealed`` has it.
ALIAS = "alias 1"

# In this order they are removed: what names others first.
_KINDS = {
    "aliases": re.compile(f"default-{_KEY}"),
    "tables": re.compile(f"lexicon-{_KEY}"),
    "kernels": re.compile(rf"kernel-{_KEY}\.o"),
    "locks": re.compile(rf"(lexicon-{_KEY}|kernel-{_KEY}\.o)\.lock"),
    # A process that is killed while it writes leaves its unfinished file.
    "leftovers": UNFINISHED,
}


@dataclass
class CacheReport:
    """What is in the cache, or what was removed from it.

    Attributes:
        folder: The folder; None if no folder could be used.
        limit: The bytes that it may hold.
        files: Kind -> the number of files; see the module.
        sizes: Kind -> their bytes.
        in_use: Names of files that were left because they are being built.
        failed: Names of files that could not be removed -> why.
        strangers: Names of what else is in the folder, which is left alone.
        passed_over: Folders that come first -> why they are not used.
    """

    folder: Path | None
    limit: int
    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    in_use: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def total_files(self) -> int:
        """The number of files of all kinds."""
        return sum(self.files.values())

    @property
    def total_bytes(self) -> int:
        """The bytes of files of all kinds."""
        return sum(self.sizes.values())

    def add(self, kind: str, size: int) -> None:
        """Count a file."""
        self.files[kind] += 1
        self.sizes[kind] += size

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in what JSON has."""
        return {
            "folder": None if self.folder is None else str(self.folder),
            "limit": self.limit,
            "files": self.files,
            "bytes": self.sizes,
            "total_files": self.total_files,
            "total_bytes": self.total_bytes,
            "in_use": self.in_use,
            "failed": self.failed,
            "strangers": self.strangers,
            "passed_over": self.passed_over,
        }


def cache_limit() -> int:
    """Return the bytes that the cache may hold: $PERFTRICKS_CACHE_LIMIT, or 256 MB.

    Raises:
        OptionError: If the variable is no size.
    """
    given = os.environ.get(LIMIT_ENVIRONMENT)
    if not given:
        return _USUAL_LIMIT
    try:
        return parse_size(given)
    except ValueError:
        raise OptionError(
            f"{LIMIT_ENVIRONMENT} is {given!r}; expected a size such as 100MB or 1GiB, or 0 to "
            "keep nothing"
        ) from None


def inspect_cache() -> CacheReport:
    """Return what is in the cache; nothing is made or changed.

    Raises:
        OptionError: If the limit that the environment gives is no size.
    """
    folder, passed_over = inspect_candidates()
    with folder:
        report = CacheReport(folder.path, cache_limit(), passed_over=passed_over)
        for entry, kind in _contents(folder):
            if kind is None:
                report.strangers.append(entry.name)
            else:
                report.add(kind, entry.size)
    return report


def clear_cache() -> CacheReport:
    """Remove from the cache what can be built again, and return what was removed.

    Only files that the kernel's cache writes are touched. One that cannot be removed does not keep
    the others; the report has it.

    Raises:
        OptionError: If the limit that the environment gives is no size.
    """
    folder, passed_over = inspect_candidates()
    with folder:
        report = CacheReport(folder.path, cache_limit(), passed_over=passed_over)
        contents = list(_contents(folder))
        report.strangers = [entry.name for entry, kind in contents if kind is None]
        order = list(_KINDS)
        ours = [(entry, kind) for entry, kind in contents if kind is not None]
        for entry, kind in sorted(ours, key=lambda pair: (order.index(pair[1]), pair[0].name)):
            try:
                if _remove_unless_built(folder, entry.name, kind):
                    report.add(kind, entry.size)
                else:
                    report.in_use.append(entry.name)
            except FileNotFoundError:
                continue  # someone else removed it, or finished writing it
            except OSError as error:
                report.failed[entry.name] = (error.strerror or str(error)).lower()
    return report


def keep_within_limit(folder: CacheFolder) -> None:
    """Remove what was not used for longest while the cache holds more than its limit.

    The kernels used last go last: they are small, and compiling one takes longest.

    Raises:
        OptionError: If the limit that the environment gives is no size.
    """
    limit = cache_limit()
    ours = [(entry, kind) for entry, kind in _contents(folder) if kind is not None]
    there = {entry.name for entry, _ in ours}
    total = sum(entry.size for entry, _ in ours)
    by_use = sorted(ours, key=lambda pair: pair[0].used)
    kernels = [entry for entry, kind in by_use if kind == "kernels"][-_KERNELS_KEPT:]
    for entry, kind in sorted(by_use, key=lambda pair: pair[0] in kernels):
        if total > limit and kind in ("kernels", "tables"):
            with contextlib.suppress(OSError):
                folder.remove(entry.name)
                there.discard(entry.name)
                total -= entry.size
    for entry, kind in ours:
        if _names_nothing(folder, entry.name, kind, there):
            with contextlib.suppress(OSError):
                _remove_unless_built(folder, entry.name, kind)


def _names_nothing(folder: CacheFolder, name: str, kind: str, there: set[str]) -> bool:
    """Whether a file is the lock or the alias of one that is not there."""
    if kind == "locks":
        return name.removesuffix(".lock") not in there
    if kind == "aliases":
        content = folder.read(ALIAS, name)
        return content is None or tables_of(content) not in there
    return False


def tables_of(alias: memoryview) -> str:
    """Return the name of the tables that an alias names."""
    return "lexicon-" + bytes(alias).decode("ascii").partition(" ")[0]


def _contents(folder: CacheFolder) -> Iterator[tuple[Entry, str | None]]:
    """List what is in the folder, each with its kind; None for what is not ours."""
    for entry in folder.entries():
        kinds = (kind for kind, pattern in _KINDS.items() if pattern.fullmatch(entry.name))
        yield entry, next(kinds, None) if entry.is_file else None


def _remove_unless_built(folder: CacheFolder, name: str, kind: str) -> bool:
    """Remove a file unless somebody is building it, and say whether that was done.

    Raises:
        OSError: If it cannot be removed.
    """
    lock = name if kind in ("locks", "leftovers") else f"{name}.lock"
    with folder.unlocked(lock) as free:
        if free:
            folder.remove(name)
        return free
