"""What the allocator of glibc, the usual C library of Linux, can be told to do."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any


@functools.lru_cache(maxsize=1)
def library() -> Any:
    """Return the C library if it is glibc, else None."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
    except OSError:  # Python was linked statically
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def give_back() -> None:
    """Give the system the memory that is free, in as far as the allocator can."""
    if library() is not None:
        library().malloc_trim(ctypes.c_size_t(0))
