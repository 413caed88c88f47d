"""The machine, whatever of it this process may use."""

from __future__ import annotations

import os


def machine_cores() -> int:
    """Return the number of cores of the machine, whoever may use them."""
    return os.cpu_count() or 1
