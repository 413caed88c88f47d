"""How much memory a worker has."""

from __future__ import annotations

import os
import re


def can_be_measured() -> bool:
    """Whether this system tells."""
    return os.path.exists("/proc/self/statm")


def exceeds(pid: int, limit: int) -> bool:
    """Tell whether a process has more than ``limit`` bytes of memory of its own.

    What a fork still shares with its parent is not its own. That takes long to find out, so the
    resident memory, which is no less, is looked at first. A process that is gone has none.
    """
    return _resident(pid) > limit and own_memory(pid) > limit


def own_memory(pid: int) -> int:
    """Return the bytes of memory that are the process's alone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            amounts = re.findall(rb"Private_(?:Clean|Dirty|Hugetlb):\s*(\d+) kB", file.read())
    except OSError:
        return _resident(pid)
    return 1024 * sum(map(int, amounts))


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
