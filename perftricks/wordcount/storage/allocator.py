"""The C library's allocator: memory that is free, and still the process' own, goes back."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any


@functools.cache
def glibc() -> Any:
    """Return the C library if it is glibc, which can be told what to do; else None."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def give_back() -> None:
    """Give the system the memory that is free, in as far as the allocator can."""
    if glibc() is not None:
        glibc().malloc_trim(ctypes.c_size_t(0))
