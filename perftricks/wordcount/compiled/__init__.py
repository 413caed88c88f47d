"""Exact jieba word counts by a compiled kernel.

``load()`` gives the kernel and the tables of a tokenizer; :class:`TextCounter` counts texts with
them;
:class:`TokenTable` holds the counts. The kernel covers the whole of jieba's segmentation (``lcut``
with the HMM and without, ``cut_all``, ``lcut_for_search``) for any dictionary that jieba's own
functions can make;
:func:`why_unsupported` tells what it does not cover.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from .cache import cache_folder, load_kernel, load_lexicon
from .driver import InvalidUTF8, TextCounter
from .layout import Lexicon
from .native import Kernel
from .token_table import TokenTable

__all__ = [
    "Engine",
    "InvalidUTF8",
    "TextCounter",
    "TokenTable",
    "load",
    "why_unsupported",
]


class Engine(NamedTuple):
    """The compiled kernel with the tables of one dictionary."""

    kernel: Kernel
    lexicon: Lexicon


def load(tokenizer: Any = None, folder: Path | None = None) -> Engine:
    """The kernel and the tables of a tokenizer as it is now (jieba's default one if None).

    Both are cached in the folder (by default the user's cache folder). Raises
    UnsupportedDictionary, a ValueError, if the kernel does not reproduce jieba with this tokenizer.
    """
    folder = folder or cache_folder()
    kernel = load_kernel(folder)
    return Engine(kernel, load_lexicon(folder, kernel, tokenizer))


def why_unsupported(tokenizer: Any = None) -> str | None:
    """Why the kernel cannot stand in for jieba with this tokenizer, or None if it can.

    Cheap; words that no function of jieba would add are noticed by :func:`load` only.
    """
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    import jieba

    from .tables import UnsupportedDictionary, check_supported

    try:
        check_supported(tokenizer or jieba.dt)
    except UnsupportedDictionary as error:
        return str(error)
    return None
