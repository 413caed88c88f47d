"""Exact jieba word counts by a compiled kernel.

``load()`` gives the kernel and the tables of a tokenizer; :class:`TextCounter` counts texts with
them; :class:`TokenTable` holds the counts. The kernel covers the whole of jieba's segmentation
(``lcut`` with the HMM and without, ``cut_all``, ``lcut_for_search``) for any dictionary that
jieba's own functions can make; :func:`why_unsupported` tells what it does not cover.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from perftricks.wordcount.storage.cachefolder import open_cache
from perftricks.wordcount.versions import version_of

from .cache import (
    find_lexicon,
    forget_lexicon,
    is_compiled,
    is_lexicon_of,
    load_kernel,
    load_lexicon,
)
from .driver import InvalidUTF8, StretchTooLongError, TextCounter
from .layout import Lexicon
from .native import Kernel
from .tables import KNOWN_VERSIONS, UnsupportedDictionary, check_supported
from .token_table import TokenTable

__all__ = [
    "Engine",
    "InvalidUTF8",
    "Readiness",
    "StretchTooLongError",
    "TextCounter",
    "TokenTable",
    "UnsupportedDictionary",
    "check_tables",
    "load",
    "readiness",
    "why_unsupported",
]


class Engine(NamedTuple):
    """The compiled kernel with the tables of one dictionary."""

    kernel: Kernel
    lexicon: Lexicon


def load(
    tokenizer: Any = None,
    folder: Path | None = None,
    *,
    dictionary: bytes | None = None,
    make: Callable[[], Any] | None = None,
) -> Engine:
    """The kernel and the tables of a tokenizer as it is now (jieba's default one if None).

    A user dictionary is given by its content and a function that makes a tokenizer with it, which
    is called only if its tables are not cached. Kernel and tables are cached in the folder (by
    default the user's cache folder). Raises UnsupportedDictionary, a ValueError, if the kernel does
    not reproduce jieba with this tokenizer.
    """
    with open_cache(folder) as opened:
        kernel = load_kernel(opened)
        lexicon = load_lexicon(opened, kernel, tokenizer, dictionary=dictionary, make=make)
    return Engine(kernel, lexicon)


def check_tables(engine: Engine, tokenizer: Any) -> bool:
    """Whether the tables are those of a tokenizer, made anew for that; it takes some seconds.

    If not, they are removed from the user's cache, with what names them.
    """
    same = is_lexicon_of(engine.kernel, engine.lexicon, tokenizer)
    if not same:
        with open_cache() as folder:
            forget_lexicon(folder, tokenizer)
    return same


class Readiness(NamedTuple):
    """What :func:`load` would find in the cache."""

    kernel: bool
    lexicon: bool


def readiness(dictionary: bytes | None = None) -> Readiness:
    """Whether kernel and tables are in the user's cache, found out in some hundredths of a second.

    The tables of a default tokenizer that was used or changed count as missing: their key is only
    known when all of its words have been looked at.
    """
    with open_cache() as folder:
        return Readiness(is_compiled(folder), find_lexicon(folder, dictionary)[1] is not None)


def why_unsupported(tokenizer: Any = None) -> str | None:
    """Why the kernel cannot stand in for jieba with this tokenizer, or None if it can.

    Cheap; words that no function of jieba would add are noticed by :func:`load` only.
    """
    for module in ("numba", "llvmlite"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    if tokenizer is None and "jieba" not in sys.modules:
        version = version_of("jieba")
        if version in KNOWN_VERSIONS:
            return None  # for lack of anybody who could have changed it
        return f"jieba {version}: the kernel mirrors jieba {', '.join(KNOWN_VERSIONS)}"
    import jieba

    try:
        check_supported(jieba.dt if tokenizer is None else tokenizer)
    except UnsupportedDictionary as error:
        return str(error)
    return None
