"""What is in the cache of the compiled kernel, and how it is emptied.

Other processes may be using it meanwhile. They read whole files into memory, find a file that is
gone as if it had never been made, and put files in place whole; so a file may be removed at any
moment, but not the folder, into which somebody may be about to write. What is being built is left
to whoever builds it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perftricks.files import try_lock
from perftricks.wordcount.cachefolder import planned_cache_folder

_KEY = "[0-9a-f]{32}"
# In this order they are removed: what names others first.
_KINDS = {
    "aliases": re.compile(f"default-{_KEY}"),
    "tables": re.compile(f"lexicon-{_KEY}"),
    "kernels": re.compile(rf"kernel-{_KEY}\.o"),
    "locks": re.compile(rf"(lexicon-{_KEY}|kernel-{_KEY}\.o)\.lock"),
    # A process that is killed while it writes leaves its unfinished file.
    "leftovers": re.compile(
        rf"\.(default-{_KEY}|lexicon-{_KEY}|kernel-{_KEY}\.o)\.\w+|\.perftricks-[0-9a-f]{{16}}\.tmp"
    ),
}
_BEING_WRITTEN = 3600  # seconds in which an unfinished file may still be written


@dataclass
class CacheReport:
    """What is in the cache, or what was removed from it.

    Attributes:
        folder: The folder; None if no folder could be used.
        files: Kind -> the number of files; see the module.
        sizes: Kind -> their bytes.
        in_use: Names of files that were left because they are being built.
        failed: Names of files that could not be removed -> why.
        strangers: Names of what else is in the folder, which is left alone.
    """

    folder: Path | None
    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    in_use: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)

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
            "files": self.files,
            "bytes": self.sizes,
            "total_files": self.total_files,
            "total_bytes": self.total_bytes,
            "in_use": self.in_use,
            "failed": self.failed,
            "strangers": self.strangers,
        }


def inspect_cache() -> CacheReport:
    """Return what is in the cache; nothing is made or changed."""
    report = CacheReport(planned_cache_folder())
    for path, kind in _contents(report.folder):
        if kind is None:
            report.strangers.append(path.name)
            continue
        with contextlib.suppress(FileNotFoundError):
            report.add(kind, path.stat().st_size)
    return report


def clear_cache() -> CacheReport:
    """Remove from the cache what can be built again, and return what was removed.

    Only files that the kernel's cache writes are touched. One that cannot be removed does not keep
    the others; the report has it.
    """
    report = CacheReport(planned_cache_folder())
    contents = list(_contents(report.folder))
    report.strangers = [path.name for path, kind in contents if kind is None]
    order = list(_KINDS)
    ours = [(path, kind) for path, kind in contents if kind is not None]
    for path, kind in sorted(ours, key=lambda pair: (order.index(pair[1]), pair[0])):
        try:
            size = path.stat().st_size
            with _not_being_built(path, kind) as free:
                if not free:
                    report.in_use.append(path.name)
                    continue
                path.unlink()
        except FileNotFoundError:
            continue  # someone else removed it, or finished writing it
        except OSError as error:
            report.failed[path.name] = (error.strerror or str(error)).lower()
        else:
            report.add(kind, size)
    return report


def _contents(folder: Path | None) -> Iterator[tuple[Path, str | None]]:
    """List what is in the folder, each with its kind; None for what is not ours."""
    if folder is None or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        kinds = (kind for kind, pattern in _KINDS.items() if pattern.fullmatch(path.name))
        yield path, next(kinds, None) if path.is_file() else None


@contextlib.contextmanager
def _not_being_built(path: Path, kind: str) -> Iterator[bool]:
    """Say whether nobody is building the file, and keep others from beginning meanwhile."""
    if kind == "leftovers":
        yield time.time() - path.stat().st_mtime > _BEING_WRITTEN
        return
    lock = path if kind == "locks" else path.with_name(path.name + ".lock")
    try:
        file = open(lock, "rb")  # noqa: SIM115  # closed below, which releases the lock
    except FileNotFoundError:
        yield True
        return
    with file:
        yield try_lock(file) is not False
