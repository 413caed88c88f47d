"""Large pages for the tables of a dictionary.

A lookup goes anywhere in some ten megabytes. With pages of 4 kB the processor forgets where they
are sooner than what is in them; pages of 2 MB it remembers. Linux gives them to who asks for them,
and joins small ones in place if it can; where it cannot, nothing is lost but speed.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable

import numpy as np

_PAGE = 4096
_NEAR = 1 << 16  # bytes between two arrays of one span
_LEAST = 2 << 20  # bytes of a large page
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # linux/mman.h; the second since Linux 6.1


def _spans(arrays: Iterable[np.ndarray]) -> list[tuple[int, int]]:
    """Where the arrays start and end in memory, neighbours together."""
    spans: list[tuple[int, int]] = []
    for start, size in sorted((a.__array_interface__["data"][0], a.nbytes) for a in arrays):
        if spans and start - spans[-1][1] < _NEAR:
            spans[-1] = spans[-1][0], start + size
        else:
            spans.append((start, start + size))
    return spans


def use_large_pages(arrays: Iterable[np.ndarray]) -> None:
    """Ask for large pages where the arrays are."""
    if not sys.platform.startswith("linux"):
        return
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return
    for start, stop in _spans(arrays):
        if stop - start >= _LEAST:
            start -= start % _PAGE
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), advice)
