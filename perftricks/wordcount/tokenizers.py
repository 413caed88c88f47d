"""Tokenizers by name, made once a process and never at import.

A :class:`TokenizerSpec` says which tokenizer is meant; it is small and can be pickled. The
tokenizer itself is made from it on first use in each process. Forked workers find the parent's.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import operator
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from perftricks.files import PathLike
from perftricks.wordcount import jieba_state, tagging
from perftricks.wordcount.dictionaries import (
    UserDictionary,
    read_main_dictionary,
    read_user_dictionary,
    split_line,
)
from perftricks.wordcount.errors import OptionError, TokenizerError
from perftricks.wordcount.excerpt import excerpt_tokenizer
from perftricks.wordcount.versions import version_of

Cut = Callable[[str], Iterable[str]]
Mode = Literal["default", "all", "search"]

_BUILT_IN: dict[str, Cut] = {"chars": list, "whitespace": str.split}
_MODES = ("default", "all", "search")


@dataclass(frozen=True)
class TokenizerSpec:
    """Which tokenizer, as something that can be compared, hashed and pickled.

    Attributes:
        tokenizer: "jieba", "chars", "whitespace", "module:function", or a function from a str to
            an iterable of str.
        mode: jieba's: "default", "all" (every word in the text) or "search" (default, then the
            shorter words in the long ones).
        hmm: Whether jieba looks for words that are not in the dictionary.
        dictionary: The lines of a user dictionary for jieba, UTF-8.
        main: The content of a dictionary in place of jieba's own.
        pos: Whether tokens are those of jieba.posseg, with their tags.
        name: What the user calls the tokenizer.
    """

    tokenizer: str | Cut = "jieba"
    mode: Mode = "default"
    hmm: bool = True
    dictionary: bytes | None = field(default=None, repr=False)
    main: bytes | None = field(default=None, repr=False)
    pos: bool = False

    @property
    def has_dictionaries(self) -> bool:
        """Whether jieba is used with a dictionary that was given."""
        return self.dictionary is not None or self.main is not None

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

    def why_it_stays(self) -> str | None:
        """Say why a worker that is no fork cannot have this tokenizer; None if it can."""
        stays = jieba_state.why_it_stays() if self.uses_jieba else None
        return stays or (tagging.why_it_stays() if self.pos else None)

    @property
    def is_own(self) -> bool:
        """Whether it is a function that this package knows nothing about."""
        return not self.uses_jieba and not (
            isinstance(self.tokenizer, str) and self.tokenizer in _BUILT_IN
        )

    def load(self, *, plain: bool = True) -> Cut:
        """Return the tokenizer: jieba as it is at this moment.

        Args:
            plain: Call jieba.posseg for every text; otherwise it may remember what it has cut.

        Raises:
            OptionError: If a module or function cannot be imported, or a dictionary not be used.
        """
        if callable(self.tokenizer):
            return functools.partial(_checked, self.tokenizer, self.name)
        if not self.uses_jieba:
            return _load(self.tokenizer)
        if self.pos:
            # Of tokens with their tags, which are keys as tokens are.
            return cast("Cut", tagging.tagger(self.posseg_tokenizer(), hmm=self.hmm, plain=plain))
        if self.has_dictionaries:
            tokenizer = tokenizer_with(self)
            return _cut_with(tokenizer.lcut, tokenizer.lcut_for_search, self)
        jieba = jieba_state.import_jieba()
        name = "lcut_for_search" if self.mode == "search" else "lcut"
        jieba_state.ready(jieba_state.tokenizer_behind(name))
        cut = _cut_with(jieba.lcut, jieba.lcut_for_search, self)
        if jieba_state.replaced_functions():
            return functools.partial(_checked, cut, "jieba")
        return cut

    def posseg_tokenizer(self) -> Any:
        """Return the tokenizer of jieba.posseg, with the dictionaries that were given.

        Raises:
            OptionError: If a dictionary cannot be used.
        """
        own = tokenizer_with(self) if self.has_dictionaries else None
        return tagging.posseg_tokenizer(own, main=self.main, dictionary=self.dictionary)

    def load_for(self, texts: Sequence[str]) -> Cut:
        """Return the tokenizer for some short texts and no others, which may be ready sooner.

        Raises:
            OptionError: If a module or function cannot be imported.
        """
        global _excerpt_taken
        if self.pos:
            return self.load(plain=False)
        if self.uses_jieba and not self.has_dictionaries and not _excerpt_taken:
            jieba = jieba_state.import_jieba()
            if jieba_state.is_untouched():
                _excerpt_taken = True
                tokenizer = excerpt_tokenizer(jieba, texts)
                if tokenizer is not None and not _is_cache_of_another(tokenizer.total):
                    return _cut_with(tokenizer.lcut, tokenizer.lcut_for_search, self)
        return self.load()


# The second time the whole dictionary is loaded: who counts short texts again and again must not
# wait for an excerpt each time.
_excerpt_taken = False


def make_spec(
    tokenizer: str | Cut = "jieba",
    *,
    mode: Mode = "default",
    hmm: bool = True,
    user_dict: UserDictionary | None = None,
    dictionary: PathLike | None = None,
    pos: bool = False,
) -> TokenizerSpec:
    """Check the options of a tokenizer and return its spec; nothing is imported yet.

    What in a dictionary is surely not meant is a ``UserWarning``.

    Args:
        tokenizer: "jieba", "chars", "whitespace", "module:function" or a function.
        mode: For jieba only.
        hmm: For jieba only; mode "all" does not use it.
        user_dict: A dictionary for jieba beside its own, as ``jieba.load_userdict`` takes it: the
            path of a file, an open file, or lines; on each line ``word``, ``word frequency``,
            ``word tag`` or ``word frequency tag``.
        dictionary: The path of a dictionary in place of jieba's own, as ``jieba.set_dictionary``
            takes it.
        pos: Whether to take the tokens of jieba.posseg, with their tags.

    Raises:
        OptionError: If the tokenizer is unknown, an option of jieba's is given for another one, or
            jieba cannot read a dictionary.
        OSError: If a dictionary cannot be read.

    >>> make_spec("chars").load()("茶 ok")
    ['茶', ' ', 'o', 'k']
    """
    spec = TokenizerSpec(tokenizer, mode, hmm)
    named = isinstance(tokenizer, str) and (tokenizer in ("jieba", *_BUILT_IN) or ":" in tokenizer)
    if not named and not callable(tokenizer):
        hint = "; give its method lcut" if hasattr(tokenizer, "lcut") else ""
        raise OptionError(
            f"tokenizer must be jieba, chars, whitespace, module:function or a function, "
            f"not {tokenizer!r}{hint}"
        )
    if mode not in _MODES:
        raise OptionError(f"mode must be default, all or search, not {mode!r}")
    if not spec.uses_jieba:
        options = {
            "mode": mode != "default",
            "hmm": not hmm,
            "user_dict": user_dict is not None,
            "dictionary": dictionary is not None,
            "pos": pos,
        }
        for option in (name for name, given in options.items() if given):
            raise OptionError(f"{option} is an option of jieba's; the tokenizer is {spec.name!r}")
        jieba_state.let_tokenizers_travel(tokenizer)
        return spec
    if pos and mode != "default":
        raise OptionError(f"pos: jieba.posseg has no mode {mode!r}; leave mode or pos out")
    words = content = None
    doubts: list[str] = []
    if user_dict is not None or dictionary is not None:
        jieba_state.check_functions()
    if user_dict is not None:
        words, doubts = read_user_dictionary(user_dict)
    if dictionary is not None:
        content, more = read_main_dictionary(dictionary)
        doubts += more
    for doubt in doubts:
        warnings.warn(doubt, UserWarning, stacklevel=3)
    return TokenizerSpec(tokenizer, mode, hmm, words, content, pos)


class WorkerSetup:
    """Makes the tokenizer when a worker starts.

    A fork inherits the parent's. To any other process jieba is sent as it is in the parent, words
    that were added or deleted included: by then nobody can tell them from the dictionary's. That is
    so for a function that uses jieba as well.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec

    def __call__(self) -> None:
        """Make the tokenizer."""
        self.spec.load()

    def __reduce__(self) -> tuple[Callable[..., WorkerSetup], tuple[Any, ...]]:
        state = None
        if self.spec.uses_jieba:
            pos = self.spec.pos
            if pos or not self.spec.has_dictionaries or not jieba_state.is_untouched():
                state = jieba_state.dump_state(posseg=pos)
        elif self.spec.tokenizer not in _BUILT_IN and not jieba_state.is_untouched():
            state = jieba_state.dump_state(posseg=True)
        return _set_up_elsewhere, (self.spec, state)


def _set_up_elsewhere(spec: TokenizerSpec, state: bytes | None) -> WorkerSetup:
    if state is not None:
        jieba_state.restore_state(state)
    return WorkerSetup(spec)


@functools.lru_cache(maxsize=4)
def _load(name: str) -> Cut:
    return _BUILT_IN.get(name) or functools.partial(_checked, import_function(name), name)


def import_function(name: str) -> Cut:
    """Import ``module:function``.

    Raises:
        OptionError: If the module cannot be imported or has no such function.
    """
    module_name, _, path = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
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
            if not isinstance(token, str):
                raise TypeError(f"it returned {token!r} as a token; expected a str")
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name!r} failed on {start}: {type(error).__name__}: {error}"
        ) from error
    return checked


def _cut_with(lcut: Any, lcut_for_search: Any, spec: TokenizerSpec) -> Cut:
    cut: Cut = lcut
    if spec.mode == "all":
        cut = functools.partial(lcut, cut_all=True)
    elif spec.mode == "search":
        cut = functools.partial(lcut_for_search, HMM=spec.hmm)
    elif not spec.hmm:
        cut = functools.partial(lcut, HMM=False)
    return cut


def default_tokenizer() -> Any:
    """Return the tokenizer of ``jieba.lcut``, ready to be used; None if there is none behind it."""
    return jieba_state.ready(jieba_state.tokenizer_behind())


def tokenizer_with(spec: TokenizerSpec) -> Any:
    """Return a jieba tokenizer that knows the dictionaries of a spec, and nobody else does.

    What the program has added to jieba and replaced in it holds there too.

    Raises:
        OptionError: If functions of jieba were replaced, or jieba cannot compute with the
            frequencies.
    """
    if jieba_state.is_untouched():
        return _kept_tokenizer(spec.main, spec.dictionary, "")
    digest = jieba_state.state_digest()
    if digest is None:
        return _new_tokenizer(spec.main, spec.dictionary)
    return _kept_tokenizer(spec.main, spec.dictionary, digest)


@functools.lru_cache(maxsize=2)
def _kept_tokenizer(main: bytes | None, dictionary: bytes | None, state: str) -> Any:
    return _new_tokenizer(main, dictionary)


def _new_tokenizer(main: bytes | None, dictionary: bytes | None) -> Any:
    jieba = jieba_state.copy_of_jieba(words=main is None)
    tokenizer = jieba.dt
    if main is not None:
        tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(io.BytesIO(main))
        tokenizer.initialized = True
    with jieba_state.quiet(jieba.__name__), jieba_state.somewhere_to_keep_it(tokenizer):
        tokenizer.check_initialized()
    if not dictionary:
        return tokenizer
    for line in dictionary.decode("utf-8", "surrogatepass").split("\n"):
        try:
            tokenizer.add_word(*split_line(line, "user dictionary"))
        except ArithmeticError as error:
            raise OptionError(f"user dictionary: jieba fails at {line[:50]!r}: {error}") from None
    return tokenizer


def _is_cache_of_another(expected: int) -> bool:
    """Whether jieba's file in the temporary folder is not of a dictionary with this total.

    jieba takes it all the same, and all jiebas share the name.
    """
    try:
        file = open(os.path.join(tempfile.gettempdir(), "jieba.cache"), "rb")  # noqa: SIM115
    except OSError:
        return False
    with file, contextlib.suppress(OSError):
        file.seek(-6, os.SEEK_END)
        end, kind, *total = file.read()
        # marshal writes the end of the words, and the total of their frequencies.
        return (end, kind & 0x7F, int.from_bytes(total, "little")) != (ord("0"), ord("i"), expected)
    return True


def _jieba_version() -> str:
    """Return the version without importing jieba for it."""
    module = sys.modules.get("jieba")
    return _installed_jieba() if module is None else str(module.__version__)


@functools.cache
def _installed_jieba() -> str:
    return version_of("jieba")


def is_jieba_ready() -> bool:
    """Whether jieba's default tokenizer has loaded its dictionary."""
    tokenizer = getattr(sys.modules.get("jieba"), "dt", None)  # another module may stand there
    return bool(getattr(tokenizer, "initialized", False))
