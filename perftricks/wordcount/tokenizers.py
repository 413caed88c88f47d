"""Tokenizers by name, made once a process and never at import.

A :class:`TokenizerSpec` says which tokenizer is meant; it is small and can be pickled. The
tokenizer itself is made from it on first use in each process. Forked workers find the parent's.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import logging
import marshal
import operator
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from perftricks.wordcount.errors import OptionError, TokenizerError
from perftricks.wordcount.excerpt import excerpt_tokenizer
from perftricks.wordcount.sources import PathLike, read_small_file

Cut = Callable[[str], Iterable[str]]
Mode = Literal["default", "all", "search"]

_BUILT_IN: dict[str, Cut] = {"chars": list, "whitespace": str.split}
_MODES = ("default", "all", "search")

# What jieba makes of a line of a dictionary (jieba.re_userdict), which matches any line at all:
# where frequency or tag are not written as it expects, it takes them for a part of the word.
_DICTIONARY_LINE = re.compile(r"^(.+?)( [0-9]+)?( [a-z]+)?$")

_copies = itertools.count(1)


@dataclass(frozen=True)
class TokenizerSpec:
    """Which tokenizer, as something that can be compared, hashed and pickled.

    Attributes:
        tokenizer: "jieba", "chars", "whitespace", "module:function", or a function from a str to
            an iterable of str.
        mode: jieba's: "default", "all" (every word in the text) or "search" (default, then the
            shorter words in the long ones).
        hmm: Whether jieba looks for words that are not in the dictionary.
        dictionary: The content of a user dictionary for jieba, UTF-8.
        name: What the user calls the tokenizer.
    """

    tokenizer: str | Cut = "jieba"
    mode: Mode = "default"
    hmm: bool = True
    dictionary: bytes | None = field(default=None, repr=False)

    @property
    def uses_jieba(self) -> bool:
        """Whether the options of jieba mean anything."""
        return self.tokenizer == "jieba"

    @property
    def name(self) -> str:
        """The tokenizer as it was named; a function by its module and name."""
        if isinstance(self.tokenizer, str):
            return self.tokenizer
        module = getattr(self.tokenizer, "__module__", None) or "?"
        return f"{module}:{getattr(self.tokenizer, '__qualname__', repr(self.tokenizer))}"

    def describe(self) -> str:
        """Name the tokenizer with its version."""
        return f"jieba {_jieba_version()}" if self.uses_jieba else self.name

    def load(self) -> Cut:
        """Return the tokenizer; it is made on first use and kept for the life of the process.

        Raises:
            OptionError: If a module or function cannot be imported.
        """
        if callable(self.tokenizer):
            return functools.partial(_checked, self.tokenizer, self.name)
        return _load(self)

    def load_for(self, texts: Sequence[str]) -> Cut:
        """Return the tokenizer for some short texts and no others, which may be ready sooner.

        Raises:
            OptionError: If a module or function cannot be imported.
        """
        global _excerpt_taken
        if self.uses_jieba and self.dictionary is None and not _excerpt_taken:
            jieba = _import_jieba()
            if not jieba.dt.initialized and jieba.dt.dictionary is None:
                _excerpt_taken = True
                tokenizer = excerpt_tokenizer(jieba, texts)
                if tokenizer is not None:
                    return _cut_with(tokenizer, self)
        return self.load()


# The second time the whole dictionary is loaded: who counts short texts again and again must not
# wait for an excerpt each time.
_excerpt_taken = False


def make_spec(
    tokenizer: str | Cut = "jieba",
    *,
    mode: Mode = "default",
    hmm: bool = True,
    user_dict: PathLike | None = None,
) -> TokenizerSpec:
    """Check the options of a tokenizer and return its spec; nothing is imported yet.

    Args:
        tokenizer: "jieba", "chars", "whitespace", "module:function" or a function.
        mode: For jieba only.
        hmm: For jieba only; mode "all" does not use it.
        user_dict: A dictionary for jieba in UTF-8: on each line ``word``, ``word frequency``,
            ``word tag`` or ``word frequency tag``.

    Raises:
        OptionError: If the tokenizer is unknown, an option of jieba's is given for another one, or
            a line of the dictionary is malformed.
        OSError: If the dictionary cannot be read.

    >>> make_spec("chars").load()("茶 ok")
    ['茶', ' ', 'o', 'k']
    """
    spec = TokenizerSpec(tokenizer, mode, hmm)
    if not callable(tokenizer) and tokenizer not in ("jieba", *_BUILT_IN) and ":" not in tokenizer:
        raise OptionError(
            f"tokenizer must be jieba, chars, whitespace, module:function or a function, "
            f"not {tokenizer!r}"
        )
    if mode not in _MODES:
        raise OptionError(f"mode must be default, all or search, not {mode!r}")
    if not spec.uses_jieba:
        options = {"mode": mode != "default", "hmm": not hmm, "user_dict": user_dict is not None}
        for option in (name for name, given in options.items() if given):
            raise OptionError(f"{option} is an option of jieba's; the tokenizer is {spec.name!r}")
    if user_dict is None:
        return spec
    return TokenizerSpec(tokenizer, mode, hmm, _read_dictionary(os.fspath(user_dict)))


class WorkerSetup:
    """Makes the tokenizer when a worker starts.

    A fork inherits the parent's. To any other process the parent's ``jieba.dt`` is sent, words that
    were added or deleted included: by then nobody can tell them from the installed dictionary's.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec

    def __call__(self) -> None:
        """Make the tokenizer."""
        self.spec.load()

    def __reduce__(self) -> tuple[Callable[..., WorkerSetup], tuple[Any, ...]]:
        shares_state = self.spec.uses_jieba and self.spec.dictionary is None
        return _set_up_elsewhere, (self.spec, _default_state() if shares_state else None)


@functools.lru_cache(maxsize=4)
def _load(spec: TokenizerSpec) -> Cut:
    if spec.uses_jieba:
        return _jieba_cut(spec)
    if spec.name in _BUILT_IN:
        return _BUILT_IN[spec.name]
    return functools.partial(_checked, import_function(spec.name), spec.name)


def import_function(name: str) -> Cut:
    """Import ``module:function``.

    Raises:
        OptionError: If the module cannot be imported or has no such function.
    """
    module_name, _, path = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise OptionError(
            f"tokenizer {name!r}: module {module_name!r} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        function: Cut = operator.attrgetter(path)(module)
    except AttributeError:
        raise OptionError(f"tokenizer {name!r}: module {module_name!r} has no {path!r}") from None
    if not callable(function):
        raise OptionError(
            f"tokenizer {name!r} is no function but of type {type(function).__name__}; expected a "
            "function from str to an iterable of str"
        )
    return function


def _checked(function: Cut, name: str, text: str) -> list[str]:
    """Call a tokenizer that is not ours, and make sure that tokens come back."""
    start = f"a document that starts with {text[:20]!r}"
    try:
        tokens = function(text)
        if isinstance(tokens, (str, bytes)):
            raise TypeError(f"it returned a {type(tokens).__name__}, not an iterable of tokens")
        checked = list(tokens)
        for token in checked:
            if type(token) is not str:
                raise TypeError(f"it returned {token!r} as a token; expected a str")
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name!r} failed on {start}: {type(error).__name__}: {error}"
        ) from error
    return checked


def _jieba_cut(spec: TokenizerSpec) -> Cut:
    own = spec.dictionary
    return _cut_with(default_tokenizer() if own is None else tokenizer_with(own), spec)


def _cut_with(tokenizer: Any, spec: TokenizerSpec) -> Cut:
    cut: Cut
    if spec.mode == "all":
        cut = functools.partial(tokenizer.lcut, cut_all=True)
    elif spec.mode == "search":
        cut = functools.partial(tokenizer.lcut_for_search, HMM=spec.hmm)
    elif spec.hmm:
        cut = tokenizer.lcut
    else:
        cut = functools.partial(tokenizer.lcut, HMM=False)
    return cut


def default_tokenizer() -> Any:
    """Return ``jieba.dt``, ready to be used."""
    tokenizer = _import_jieba().dt
    with _quiet("jieba"), somewhere_to_keep_it(tokenizer):
        tokenizer.check_initialized()
    return tokenizer


@contextlib.contextmanager
def somewhere_to_keep_it(tokenizer: Any) -> Iterator[None]:
    """Let a tokenizer of jieba's load its dictionary also where no folder can be written to.

    It keeps a file in the temporary folder. That this fails it survives, but not that there is no
    such folder, as :mod:`tempfile` has it on a full disk.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        pass
    else:
        yield
        return
    given, tokenizer.tmp_dir = tokenizer.tmp_dir, tokenizer.tmp_dir or os.devnull
    try:
        yield
    finally:
        tokenizer.tmp_dir = given


@functools.lru_cache(maxsize=2)
def tokenizer_with(dictionary: bytes) -> Any:
    """Return a jieba tokenizer that knows the words of a user dictionary, and nobody else does.

    A ``jieba.Tokenizer`` of its own is not enough: a word of frequency 0 also enters
    ``jieba.finalseg.Force_Split_Words``, which all tokenizers of the module share. So the tokenizer
    comes from a copy of the jieba modules.
    """
    name = f"_perftricks_jieba_{next(_copies)}"
    with _quiet(name), warnings.catch_warnings(), _without_pkg_resources():
        warnings.simplefilter("ignore")  # jieba's own, about its source
        try:
            tokenizer = _import_copy("jieba", name).Tokenizer()
            with somewhere_to_keep_it(tokenizer):
                tokenizer.load_userdict(io.BytesIO(dictionary))
        finally:
            for module in [key for key in sys.modules if key.partition(".")[0] == name]:
                del sys.modules[module]  # the tokenizer alone keeps the copy alive
    return tokenizer


def _import_copy(original: str, name: str) -> Any:
    """Import a package a second time, under another name, with state of its own."""
    found = importlib.util.find_spec(original)
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location(
        name, found.origin, submodule_search_locations=found.submodule_search_locations
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for its relative imports
    spec.loader.exec_module(module)
    return module


def _jieba_version() -> str:
    """Return the version without importing jieba for it."""
    module = sys.modules.get("jieba")
    return metadata.version("jieba") if module is None else str(module.__version__)


def is_jieba_ready() -> bool:
    """Whether jieba's default tokenizer has loaded its dictionary."""
    module = sys.modules.get("jieba")
    return module is not None and bool(module.dt.initialized)


def _import_jieba() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's own, about its source
        with _quiet("jieba"), _without_pkg_resources():
            import jieba
    return jieba


@contextlib.contextmanager
def _without_pkg_resources() -> Iterator[None]:
    """Let jieba open the files beside it by itself, as it does where pkg_resources is missing.

    Importing pkg_resources for that takes longer than the rest of jieba.
    """
    name = "pkg_resources"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep what a logger has to say about loading a dictionary off the screen."""
    logger = logging.getLogger(name)
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _default_state() -> tuple[bytes, tuple[str, ...]]:
    """Return what cutting with ``jieba.dt`` depends on."""
    jieba = _import_jieba()
    with _quiet("jieba"):
        jieba.dt.check_initialized()
    words = tuple(sorted(jieba.finalseg.Force_Split_Words))
    return marshal.dumps((jieba.dt.FREQ, jieba.dt.total)), words


def _set_up_elsewhere(
    spec: TokenizerSpec, state: tuple[bytes, tuple[str, ...]] | None
) -> WorkerSetup:
    if state is not None:
        jieba = _import_jieba()
        dictionary, words = state
        jieba.dt.FREQ, jieba.dt.total = marshal.loads(dictionary)
        jieba.dt.initialized = True
        jieba.finalseg.Force_Split_Words.update(words)
    return WorkerSetup(spec)


def _read_dictionary(path: str) -> bytes:
    """Read a user dictionary and check each line; jieba itself takes anything."""
    content = read_small_file(path, "user dictionary")
    for number, line in enumerate(content.split(b"\n"), 1):
        where = f"user dictionary {path!r}, line {number}"
        try:
            text = line.strip().decode("utf-8").lstrip("\ufeff")
        except UnicodeDecodeError as error:
            raise OptionError(f"{where}: not UTF-8 ({error.reason}, byte {error.start})") from None
        problem = _dictionary_problem(text)
        if problem is not None:
            raise OptionError(
                f"{where}: {problem}; expected 'word', 'word frequency', 'word tag' or 'word "
                "frequency tag' with single spaces, a whole number and a tag of letters a-z"
            )
    return content


def _dictionary_problem(line: str) -> str | None:
    match = _DICTIONARY_LINE.match(line) if line else None
    if match is None:
        return None
    word, frequency = match.group(1), match.group(2)
    if any(character.isspace() for character in word):
        return f"jieba would take {word!r} for a word"
    if frequency is not None and len(frequency) > 19:
        return "the frequency is too large"
    return None
