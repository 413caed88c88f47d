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
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from perftricks.files import replacing

from .layout import DTYPES, Lexicon
from .native import Kernel, compile_kernel, processor

ALIGNMENT = 64
DIGEST_SIZE = 32


@contextlib.contextmanager
def _build_lock(path: Path) -> Iterator[None]:
    """Let one process at a time build a file.

    Where files cannot be locked, several may build it, harmlessly.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path.with_name(path.name + ".lock"), "wb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, whatever becomes of this process


def _write(path: Path, *parts: Any) -> None:
    """Write a file so that others see all of it or nothing; they may not change it."""
    with replacing(path, mode=0o600, sync=False) as file:
        for part in parts:
            file.write(part)


def _key(*parts: bytes | str) -> str:
    """A name for what the parts say; parts cannot run into each other."""
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


KERNEL_SOURCES = ("layout", "pointers", "segment", "oov", "counting", "trie", "native")
TABLE_SOURCES = ("layout", "tables", "trie")


@cache
def _sources(modules: tuple[str, ...]) -> str:
    """The sources of modules of this package: a change to any of them makes what they make anew."""
    folder = Path(__file__).parent
    return _key(*((folder / f"{module}.py").read_bytes() for module in modules))


# ---------------------------------------------------------------------- machine code


def _read_code(path: Path) -> bytes | None:
    """The object code in a file, or None if there is none or it is damaged.

    LLVM does not survive damaged code.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
    return code if hashlib.sha256(code).digest() == digest else None


def _kernel_path(folder: Path) -> Path:
    key = _key(
        _sources(KERNEL_SOURCES),
        metadata.version("numba"),
        metadata.version("llvmlite"),
        processor(),
    )
    return folder / f"kernel-{key}.o"


@cache
def load_kernel(folder: Path) -> Kernel:
    """The kernel, compiled now if the folder does not hold its code yet."""
    path = _kernel_path(folder)
    code = _read_code(path)
    if code is None:
        with _build_lock(path):
            code = _read_code(path)
            if code is None:
                code = compile_kernel()
                _write(path, hashlib.sha256(code).digest(), code)
    return Kernel(code)


# ---------------------------------------------------------------------- tables


def _pack(strings: list[str]) -> bytes:
    """Strings as bytes that no other strings give."""
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    return lengths.tobytes() + "".join(strings).encode("utf-8", "surrogatepass")


def _pack_numbers(numbers: list[Any]) -> bytes:
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


def content_key(tokenizer: Any) -> str:
    """The key of the tables of an initialized tokenizer.

    It goes by content, so that nothing that was changed goes unnoticed.
    """
    from .tables import jieba_of

    jieba = jieba_of(tokenizer)
    finalseg = jieba.finalseg
    frequency = tokenizer.FREQ
    emission = [finalseg.emit_P[state] for state in "BMES"]
    return _key(
        _sources(TABLE_SOURCES),
        jieba.__version__,
        patterns_key(jieba),
        _pack(list(frequency)),
        _pack_numbers(list(frequency.values())),
        repr(tokenizer.total),
        _pack(sorted(finalseg.Force_Split_Words)),
        repr(sorted(finalseg.start_P.items())),
        repr(sorted((state, sorted(row.items())) for state, row in finalseg.trans_P.items())),
        *(_pack(list(row)) for row in emission),
        *(_pack_numbers(list(row.values())) for row in emission),
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
    dictionary = Path(tempfile.gettempdir()) / "jieba.cache"
    try:
        if not dictionary.is_file():
            dictionary = folder / "dict.txt"
        files = [folder / "__init__.py", *sorted((folder / "finalseg").glob("*.py")), dictionary]
        return _key(_sources(TABLE_SOURCES), *(path.read_bytes() for path in files))
    except OSError:
        return None


def _write_lexicon(path: Path, lexicon: Lexicon) -> None:
    """One file: the sizes of the arrays as a line of JSON, then the arrays, each aligned."""
    header = json.dumps([array.size for array in lexicon]).encode() + b"\n"
    parts: list[Any] = [header]
    position = len(header)
    for array in lexicon:
        padding = -position % ALIGNMENT
        parts += [bytes(padding), np.ascontiguousarray(array).data]
        position += padding + array.nbytes
    _write(path, *parts)


def _read_lexicon(path: Path) -> Lexicon | None:
    """The tables in a file, or None if there is none or it is not whole."""
    try:
        content = np.fromfile(path, np.uint8)
        header = content[:1024].tobytes().partition(b"\n")[0]
        position = len(header) + 1
        arrays = []
        for size, dtype in zip(json.loads(header), DTYPES[Lexicon], strict=True):
            position += -position % ALIGNMENT
            nbytes = size * np.dtype(dtype).itemsize
            arrays.append(content[position : position + nbytes].view(dtype))
            position += nbytes
        return Lexicon(*arrays) if position == content.size else None
    except (OSError, ValueError):
        return None


def find_lexicon(folder: Path, dictionary: bytes | None = None) -> tuple[Path | None, Path | None]:
    """The files of the tables of a tokenizer that nobody has touched: (its alias, its tables).

    The tokenizer is jieba's default one, or a new one that has loaded a user dictionary. There is
    no alias if the default one was touched, and no tables if they are not built yet. An alias
    names the tables and says which regular expressions they were made with.
    """
    if dictionary is None and not _is_untouched_default(None):
        return None, None
    key = default_key()
    if key is None:
        return None, None
    alias = folder / f"default-{key if dictionary is None else _key(key, dictionary)}"
    try:
        name, patterns = alias.read_text().split()
    except (OSError, ValueError):
        return alias, None
    # A copy of the modules, which is what loads a user dictionary, has jieba's own expressions.
    jieba = sys.modules.get("jieba") if dictionary is None else None
    if jieba is not None and patterns_key(jieba) != patterns:
        return None, None
    path = folder / f"lexicon-{name}"
    return alias, path if path.exists() else None


def load_lexicon(
    folder: Path,
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
        alias, path = find_lexicon(folder, dictionary)
        lexicon = None if path is None else _read_lexicon(path)
        if lexicon is not None:
            return lexicon

    from .tables import build_lexicon, check_supported, jieba_of

    if tokenizer is None and make is not None:
        tokenizer = make()
    elif tokenizer is None:
        import jieba

        tokenizer = jieba.dt
    check_supported(tokenizer)
    tokenizer.check_initialized()
    key = content_key(tokenizer)
    path = folder / f"lexicon-{key}"
    lexicon = _read_lexicon(path)
    if lexicon is None:
        with _build_lock(path):
            lexicon = _read_lexicon(path)
            if lexicon is None:
                lexicon = build_lexicon(kernel, tokenizer)
                _write_lexicon(path, lexicon)
    # jieba may have written its cache file just now, and it decides what is loaded next time.
    if alias is not None and (after := default_key()) is not None:
        after = after if dictionary is None else _key(after, dictionary)
        content = f"{key} {patterns_key(jieba_of(tokenizer))}"
        _write(folder / f"default-{after}", content.encode())
    return lexicon


def is_compiled(folder: Path) -> bool:
    """Whether the folder holds the machine code already."""
    return _kernel_path(folder).exists()
