"""The kernel's machine code and the tables of a dictionary, built once per user.

Machine code is keyed by the kernel's sources, numba, llvmlite and the processor; tables by
everything they are made of: the words and frequencies, the forced splits, the HMM, jieba's
version, and the sources that lay them out. A warm start imports neither numba nor, for jieba's
unchanged default dictionary, jieba.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import marshal
import sys
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perftricks.files import settled_identity
from perftricks.signals import held_back
from perftricks.wordcount.storage.cachefiles import ALIAS, keep_within_limit
from perftricks.wordcount.storage.cachefolder import CacheFolder
from perftricks.wordcount.storage.sealed import DamagedError
from perftricks.wordcount.versions import version_of

from .arrays import packed, unpacked
from .layout import DTYPES, Lexicon
from .native import Kernel, compile_kernel, processor
from .pages import use_large_pages

# What the files are, with the version of their form.
_CODE = "kernel 1"
_TABLES = f"lexicon 1 {sys.byteorder}"


def _key(*parts: bytes | str) -> str:
    """A name for what the parts say; parts cannot run into each other."""
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


KERNEL_SOURCES = (
    "layout",
    "pointers",
    "decoding",
    "segment",
    "hmm",
    "emission",
    "path",
    "cut_all",
    "oov",
    "counting",
    "trie",
    "native",
)
TABLE_SOURCES = ("layout", "tables", "trie")


@cache
def _sources(modules: tuple[str, ...]) -> str:
    """The sources of modules of this package: a change to any of them makes what they make anew."""
    folder = resources.files(__package__)
    try:
        return _key(*((folder / f"{module}.py").read_bytes() for module in modules))
    except OSError:  # they came without: what was made of them stands for them
        specs = (importlib.util.find_spec(f"{__package__}.{module}") for module in modules)
        return _key(*map(_code_of, specs))


def _code_of(spec: Any) -> bytes:
    # From version 3 on the bytes depend on who else holds the parts.
    return marshal.dumps(spec.loader.get_code(spec.name), 2)


# ---------------------------------------------------------------------- machine code


@cache
def _kernel_name() -> str:
    key = _key(
        _sources(KERNEL_SOURCES),
        version_of("numba"),
        version_of("llvmlite"),
        processor(),
    )
    return f"kernel-{key}.o"


_kernels: dict[Path | None, Kernel] = {}


def load_kernel(folder: CacheFolder) -> Kernel:
    """The kernel, compiled now if the folder does not hold its code yet."""
    if folder.path not in _kernels:
        code = _load_code(folder)
        with held_back():  # llvmlite's objects do not bear an exception while they are made
            _kernels[folder.path] = Kernel(code)
    return _kernels[folder.path]


def _load_code(folder: CacheFolder) -> bytes:
    """The object code; LLVM does not survive damaged code, so it is either whole or made anew."""
    name = _kernel_name()
    code = folder.read(_CODE, name)
    if code is None:
        with folder.building(name):
            code = folder.read(_CODE, name)
            if code is None:
                made = compile_kernel()
                folder.write(_CODE, name, made)
                keep_within_limit(folder)
                return made
    return bytes(code)


# ---------------------------------------------------------------------- tables


def _pack(strings: Sequence[str]) -> bytes:
    """Strings as bytes that no other strings give."""
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    return lengths.tobytes() + "".join(strings).encode("utf-8", "surrogatepass")


def _pack_numbers(numbers: Sequence[Any]) -> bytes:
    """Numbers as bytes that no other numbers give."""
    for kind, dtype in ((int, np.int64), (float, np.float64)):
        if set(map(type, numbers)) == {kind}:
            with contextlib.suppress(OverflowError):
                return kind.__name__.encode() + np.array(numbers, dtype).tobytes()
    return repr(numbers).encode()


def patterns_key(jieba: Any) -> str:
    """A key of jieba's regular expressions, which programs replace now and then."""
    patterns = (
        jieba.re_han_default,
        jieba.re_skip_default,
        jieba.re_eng,
        jieba.finalseg.re_han,
        jieba.finalseg.re_skip,
    )
    return _key(*(pattern.pattern for pattern in patterns))


class _Known(NamedTuple):
    """What dicts held when they were read, and its key."""

    contents: tuple[tuple[Any, ...], ...]
    key: str


_known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def _table_key(owner: Any, *tables: dict[str, Any]) -> str:
    """The key of what is in dicts from words to numbers, which belong to a tokenizer or a module.

    To read half a million entries takes a tenth of a second, which every count would pay. That they
    are what they were is seen ten times faster: tuples compare what they hold by identity first.
    """
    contents = tuple(part for table in tables for part in (tuple(table), tuple(table.values())))
    before = _known.get(owner)
    if before is not None and before.contents == contents:
        return before.key
    words, numbers = contents[::2], contents[1::2]
    key = _key(*map(_pack, words), *map(_pack_numbers, numbers))
    # What cannot change, and is equal only to its like.
    kinds = {kind for part in numbers for kind in set(map(type, part))}
    if kinds in ({int}, {float}) and {kind for part in words for kind in map(type, part)} == {str}:
        _known[owner] = _Known(contents, key)
    return key


def content_key(tokenizer: Any) -> str:
    """The key of the tables of an initialized tokenizer.

    It goes by content, so that nothing that was changed goes unnoticed.
    """
    from .tables import jieba_of

    jieba = jieba_of(tokenizer)
    finalseg = jieba.finalseg
    emission = [finalseg.emit_P[state] for state in "BMES"]
    return _key(
        _sources(TABLE_SOURCES),
        jieba.__version__,
        patterns_key(jieba),
        _table_key(tokenizer, tokenizer.FREQ),
        repr(tokenizer.total),
        _pack(sorted(finalseg.Force_Split_Words)),
        repr(sorted(finalseg.start_P.items())),
        repr(sorted((state, sorted(row.items())) for state, row in finalseg.trans_P.items())),
        _table_key(finalseg, *emission),
        repr(finalseg.MIN_FLOAT),
    )


def _is_untouched_default(tokenizer: Any) -> bool:
    """Whether this is jieba's default tokenizer, not initialized yet and configured by nobody."""
    jieba = sys.modules.get("jieba")
    if jieba is None:
        return tokenizer is None
    finalseg = sys.modules["jieba.finalseg"]
    tokenizer = tokenizer or jieba.dt
    return (
        tokenizer is jieba.dt
        and not tokenizer.initialized
        and tokenizer.dictionary is None
        and tokenizer.tmp_dir is None
        and tokenizer.cache_file is None
        and not tokenizer.FREQ
        and not finalseg.Force_Split_Words
    )


def default_key() -> str | None:
    """A key for what ``jieba.initialize()`` would load, from jieba's files alone.

    None if they are not found.

    jieba prefers its own cache file, whatever its age, to the dictionary it was made from; so does
    this.
    """
    spec = importlib.util.find_spec("jieba")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    dictionary = folder / "dict.txt"
    with contextlib.suppress(OSError):  # no temporary folder can be written to
        kept = Path(tempfile.gettempdir()) / "jieba.cache"
        if kept.is_file():
            dictionary = kept
    files = [folder / "__init__.py", *sorted((folder / "finalseg").glob("*.py")), dictionary]
    try:
        known = tuple(map(settled_identity, files))
        if None in known:
            return _files_key(files)
        key = _default_keys.get(known)
        if key is None:
            key = _files_key(files)
            _default_keys.clear()
            _default_keys[known] = key
        return key
    except OSError:
        return None


_default_keys: dict[tuple[Any, ...], str] = {}  # what is known of jieba's files -> the key


def _files_key(files: Iterable[Path]) -> str:
    return _key(_sources(TABLE_SOURCES), *(path.read_bytes() for path in files))


def _write_lexicon(folder: CacheFolder, name: str, lexicon: Lexicon) -> None:
    folder.write(_TABLES, name, *packed(lexicon._asdict()))
    keep_within_limit(folder)


_lexicons: OrderedDict[Any, Lexicon] = OrderedDict()  # what is known of a file -> its tables
_LEXICONS_KEPT = 2  # fifteen megabytes each


def _read_lexicon(folder: CacheFolder, name: str) -> Lexicon | None:
    """The tables in a file, or None if there is none or it is not what was written."""
    identity = folder.identity(name)
    known = (name, identity)
    kept = _lexicons.get(known)
    if kept is not None:
        with contextlib.suppress(KeyError):  # another thread has just left it out
            _lexicons.move_to_end(known)
        return kept
    content = folder.read(_TABLES, name)
    if content is None:
        return None
    try:
        lexicon = Lexicon(**unpacked(content))
    except (DamagedError, TypeError):
        return None
    if any(a.dtype != d for a, d in zip(lexicon, DTYPES[Lexicon], strict=True)):
        return None
    use_large_pages(lexicon)
    if identity is not None:
        _lexicons[known] = lexicon
        while len(_lexicons) > _LEXICONS_KEPT:
            with contextlib.suppress(KeyError):  # as above
                _lexicons.popitem(last=False)
    return lexicon


def find_lexicon(
    folder: CacheFolder, dictionary: bytes | None = None
) -> tuple[str | None, str | None]:
    """The names of the files of a tokenizer that nobody has touched: (its alias, its tables).

    The tokenizer is jieba's default one, or a new one that has loaded a user dictionary. There is
    no alias if the default one was touched, and no tables if they are not built yet. An alias
    names the tables and says which regular expressions they were made with.
    """
    if dictionary is None and not _is_untouched_default(None):
        return None, None
    key = default_key()
    if key is None:
        return None, None
    alias = f"default-{key if dictionary is None else _key(key, dictionary)}"
    content = folder.read(ALIAS, alias)
    if content is None:
        return alias, None
    name, patterns = bytes(content).decode("ascii").split()
    # A copy of the modules, which is what loads a user dictionary, has jieba's own expressions.
    jieba = sys.modules.get("jieba") if dictionary is None else None
    if jieba is not None and patterns_key(jieba) != patterns:
        return None, None
    name = f"lexicon-{name}"
    return alias, name if folder.holds(name) else None


def load_lexicon(
    folder: CacheFolder,
    kernel: Kernel,
    tokenizer: Any = None,
    *,
    dictionary: bytes | None = None,
    make: Callable[[], Any] | None = None,
) -> Lexicon:
    """The tables of a tokenizer, built now if the folder does not hold them yet.

    The tokenizer is the one given; or the one that ``make`` returns, which is called only if need
    be: a new one that has loaded a user dictionary of this content, or without a dictionary jieba's
    default one.

    Raises tables.UnsupportedDictionary if the kernel does not reproduce jieba with this tokenizer.
    """
    alias = None
    if tokenizer is None:
        alias, name = find_lexicon(folder, dictionary)
        lexicon = None if name is None else _read_lexicon(folder, name)
        if lexicon is not None:
            return lexicon

    from .tables import build_lexicon, check_supported, jieba_of

    if tokenizer is None:
        from perftricks.wordcount.tokenizers import default_tokenizer

        tokenizer = (make or default_tokenizer)()
    check_supported(tokenizer)
    tokenizer.check_initialized()
    key = content_key(tokenizer)
    name = f"lexicon-{key}"
    lexicon = _read_lexicon(folder, name)
    if lexicon is None:
        with folder.building(name):
            lexicon = _read_lexicon(folder, name)
            if lexicon is None:
                lexicon = build_lexicon(kernel, tokenizer)
                use_large_pages(lexicon)
                _write_lexicon(folder, name, lexicon)
    # jieba may have written its cache file just now, and it decides what is loaded next time.
    if alias is not None and (after := default_key()) is not None:
        after = after if dictionary is None else _key(after, dictionary)
        content = f"{key} {patterns_key(jieba_of(tokenizer))}"
        folder.write(ALIAS, f"default-{after}", content.encode())
    return lexicon


def is_lexicon_of(kernel: Kernel, lexicon: Lexicon, tokenizer: Any) -> bool:
    """Whether these are the tables of a tokenizer, which are made anew for that."""
    from .tables import build_lexicon

    made = build_lexicon(kernel, tokenizer)
    return all(map(np.array_equal, lexicon, made))


def forget_lexicon(folder: CacheFolder, tokenizer: Any) -> None:
    """Remove the tables of a tokenizer, if they are there."""
    with contextlib.suppress(OSError):
        folder.remove(f"lexicon-{content_key(tokenizer)}")
    keep_within_limit(folder)  # which removes what names them


def is_compiled(folder: CacheFolder) -> bool:
    """Whether the folder holds the machine code already."""
    return folder.holds(_kernel_name())
