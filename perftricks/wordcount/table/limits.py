"""How much memory tables may take."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from perftricks.parallel.cores import cgroup_folders
from perftricks.sizes import parse_size
from perftricks.wordcount.errors import OptionError

# Of the memory there is, the part that tables may take where no limit is given. The rest is for
# the program, the text that is being read, and whoever else is there.
_SHARE = 0.5

_UNKNOWN = 4 << 30


def parse_limit(limit: int | float | str) -> int:
    """Return a memory limit in bytes.

    Args:
        limit: A number of bytes, or a size as :func:`perftricks.sizes.parse_size` takes it.

    Raises:
        OptionError: If it is none, or less than a byte.

    >>> parse_limit("2GiB"), parse_limit("1.5 MB"), parse_limit(10**6)
    (2147483648, 1500000, 1000000)
    """
    size = 0.0
    if isinstance(limit, str):
        with contextlib.suppress(ValueError):
            size = parse_size(limit)
    elif not isinstance(limit, bool) and isinstance(limit, (int, float)):
        size = limit
    if not 1 <= size < 2**63:
        raise OptionError(
            f"a memory limit is a number of bytes or a size such as 500MB or 2GiB, not {limit!r}"
        )
    return int(size)


def default_limit() -> int:
    """Return the limit in bytes where none is given: half of the memory there is."""
    return int(_SHARE * available_memory())


def available_memory() -> int:
    """Return the bytes of memory this process may use.

    The smallest of the machine's memory and the limits of the control group (both versions) and of
    its parents. Where nothing of that can be found out, 4 GiB are assumed.
    """
    return _available(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), _physical_memory())


def _available(root: Path, membership: Path, physical: int | None) -> int:
    limits = [physical or _UNKNOWN]
    for folder in cgroup_folders(root, membership, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                content = (folder / name).read_text().strip()
            except OSError:
                continue
            if content.isdigit():  # version 2 has "max", version 1 a huge number for no limit
                limits.append(int(content))
    return min(limits)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
