"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cores() -> int:
    """Return the number of CPU cores this process may use, at least 1.

    The smallest of the CPU affinity mask and the quota of the control group (both versions), which
    ``os.cpu_count()`` and ``os.process_cpu_count()`` do not look at: a container that is allowed
    two cores of a large machine gives 2.

    >>> available_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_cores(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    if quota is not None:
        cores = min(cores, max(1, math.ceil(quota)))
    return max(1, cores)


def _cgroup_cores(root: Path, membership: Path) -> float | None:
    """Return the cores' worth of time the control group allows, None when it sets no limit."""
    limits = [
        limit
        for folder in cgroup_folders(root, membership, "cpu")
        for limit in (_quota_v2(folder), _quota_v1(folder))
        if limit is not None
    ]
    return min(limits, default=None)


def cgroup_folders(root: Path, membership: Path, controller: str) -> list[Path]:
    """List the control group's folder and its parents, which may each set a limit.

    Args:
        root: Where control groups are mounted.
        membership: The file that names the control groups of the process.
        controller: What is limited: "cpu" or "memory"; a folder of its own in version 1.
    """
    folders = [root, root / controller]
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, name = line.split(":", 2)
        base = root / controllers if controllers else root
        folder = base / name.lstrip("/")
        while folder not in (base, base.parent):
            folders.append(folder)
            folder = folder.parent
    return folders


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
