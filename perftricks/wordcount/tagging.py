"""Part-of-speech tags: tokens as ``jieba.posseg`` cuts and tags them.

``jieba.posseg`` has a hidden Markov model of its own, so that it cuts otherwise than ``jieba.cut``
does where words are not in the dictionary. It cuts a text into stretches of Chinese characters,
letters and digits, and what is between these, and each stretch by itself. So a stretch that comes
again has the same tokens; and the model, which takes most of the time, has to look only at states
that can follow each other.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from perftricks.wordcount import jieba_state
from perftricks.wordcount.dictionaries import split_line
from perftricks.wordcount.errors import OptionError, TokenizerError
from perftricks.wordcount.table.table import Tagged

Tagger = Callable[[str], list[Tagged]]

_NAME = "jieba.posseg"
_FUNCTIONS = {
    "lcut": _NAME,
    "cut": _NAME,
    "viterbi": "jieba.posseg.viterbi",
    "strdecode": "jieba._compat",
}
_METHODS = (
    "makesure_userdict_loaded",
    "_POSTokenizer__cut",
    "_POSTokenizer__cut_detail",
    "_POSTokenizer__cut_DAG",
    "_POSTokenizer__cut_DAG_NO_HMM",
    "_POSTokenizer__cut_internal",
    "cut",
    "lcut",
)
_TABLES = {
    "char_state_tab_P": "char_state_tab",
    "start_P": "prob_start",
    "trans_P": "prob_trans",
    "emit_P": "prob_emit",
}
_PATTERNS = (
    "re_han_detail",
    "re_skip_detail",
    "re_han_internal",
    "re_skip_internal",
    "re_eng",
    "re_num",
    "re_eng1",
)

# How many stretches and runs of single characters are remembered.
_STRETCHES = 1 << 14
_RUNS = 1 << 15

_TAG = re.compile(r"[^\s,*]+\*?|\*")


def parse_tags(pos: bool | str | Iterable[str] | None) -> frozenset[str] | None:
    """Return the tags that a user asks for: empty for all of them, None for no tags.

    Raises:
        OptionError: If one of them cannot be a tag.

    >>> sorted(parse_tags("n,v*")), parse_tags("all"), parse_tags(False)
    (['n', 'v*'], frozenset(), None)
    """
    if pos is None or pos is False:
        return None
    if pos is True:
        return frozenset()
    tags = pos.split(",") if isinstance(pos, str) else list(pos)
    if tags == ["all"]:
        return frozenset()
    if not tags:
        raise OptionError("pos names no tag; name tags such as n and v, or True for all of them")
    for tag in tags:
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            raise OptionError(
                f"pos: {tag!r} is no tag; expected tags such as n, v (with commas between), n* "
                "for all that begin with n, or all"
            )
    return frozenset() if "*" in tags else frozenset(tags)


def check_tags(tags: frozenset[str], known: Iterable[str]) -> None:
    """Check that tags are among those that tokens may have.

    Raises:
        OptionError: If one is not; it names those that there are.
    """
    names = set(known)
    for tag in sorted(tags):
        family = tag.removesuffix("*")
        if tag not in names and not (
            tag.endswith("*") and any(name.startswith(family) for name in names)
        ):
            raise OptionError(
                f"pos: no token has the tag {tag!r}; the tags are {', '.join(sorted(names))}"
            )


def import_posseg() -> Any:
    """Import ``jieba.posseg`` without what it has to say about its source."""
    jieba_state.import_jieba()
    if _NAME not in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(_NAME)
    return sys.modules[_NAME]


def replaced_functions() -> list[str]:
    """Name what ``jieba.posseg.lcut`` runs that is not jieba's own; patterns and words are data."""
    posseg = sys.modules.get(_NAME)
    if posseg is None:
        return []
    space = vars(posseg)
    names = [
        f"{_NAME}.{name}"
        for name, home in _FUNCTIONS.items()
        if not jieba_state.is_own(space.get(name), name, home)
    ]
    names += [
        f"{_NAME}.{name}"
        for name, module in _TABLES.items()
        if space.get(name) is not getattr(sys.modules.get(f"{_NAME}.{module}"), "P", None)
    ]
    names += [
        f"{_NAME}.{name}" for name in _PATTERNS if not isinstance(space.get(name), re.Pattern)
    ]
    tagger = posseg.dt
    for name in _METHODS:
        qualified = f"POSTokenizer.{name.removeprefix('_POSTokenizer')}"
        own = name not in vars(tagger) and type(tagger).__mro__[1:] == (object,)
        if not own or not jieba_state.is_own(vars(type(tagger)).get(name), qualified, _NAME):
            names.append(f"{_NAME}.dt.{name}")
    if getattr(space.get("pair"), "__module__", None) != _NAME:
        names.append(f"{_NAME}.pair")
    return names


def why_it_stays() -> str | None:
    """Say why a fresh worker cannot have ``jieba.posseg`` as it is here; None if it can."""
    names = replaced_functions()
    if not names:
        return None
    return f"this program has replaced {', '.join(names)}, which a fresh process does not have"


def posseg_tokenizer(
    tokenizer: Any = None, *, main: bytes | None = None, dictionary: bytes | None = None
) -> Any:
    """Return a ``jieba.posseg.POSTokenizer``: the one of this process, or one with dictionaries.

    Args:
        tokenizer: A ``jieba.Tokenizer`` with the dictionaries; None for that of this process.
        main: The content of a dictionary in place of jieba's own.
        dictionary: The lines of a user dictionary.

    Raises:
        OptionError: If functions of jieba.posseg were replaced and dictionaries are given, or a
            line of the main dictionary has no tag.
    """
    posseg = import_posseg()
    if tokenizer is None:
        jieba_state.ready(posseg.dt.tokenizer)
        return posseg.dt
    names = replaced_functions()
    if names:
        raise OptionError(
            f"this program has replaced {', '.join(names)}, so that a dictionary cannot be used "
            "for one count only; load it into jieba (jieba.load_userdict, jieba.set_dictionary)"
        )
    found = posseg.POSTokenizer.__new__(posseg.POSTokenizer)
    found.tokenizer = tokenizer
    if main is None:
        pending = posseg.dt.tokenizer.user_word_tag_tab
        found.word_tag_tab = {**posseg.dt.word_tag_tab, **pending}
    else:
        try:
            found.load_word_tag(io.BytesIO(main))
        except ValueError as error:
            problem = str(error).rpartition(" at ")[2].lower()
            raise OptionError(
                f"dictionary: {problem!r} has no tag; with pos every line must be 'word frequency "
                "tag'"
            ) from None
    for line in (dictionary or b"").decode("utf-8", "surrogatepass").split("\n"):
        if line:
            word, _, tag = split_line(line, "user dictionary")
            if tag:
                found.word_tag_tab[word] = tag
    tokenizer.user_word_tag_tab = {}
    return found


def known_tags(tokenizer: Any) -> set[str] | None:
    """Return the tags that tokens may have; None if a program has put its own functions there."""
    if replaced_functions():
        return None
    posseg = import_posseg()
    tokenizer.makesure_userdict_loaded()
    model = {tag for _, tag in posseg.emit_P}
    return {*tokenizer.word_tag_tab.values(), *model, "x", "m", "eng"}


def tagger(tokenizer: Any, *, hmm: bool, plain: bool) -> Tagger:
    """Return a function that cuts and tags a text as a ``POSTokenizer`` does.

    Args:
        tokenizer: As :func:`posseg_tokenizer` returns it.
        hmm: Whether to look for words that are not in the dictionary.
        plain: Call jieba for every text. Otherwise stretches of text are remembered, so that words
            must not be added to jieba any more.
    """
    posseg = import_posseg()
    if replaced_functions():
        options = {} if hmm else {"HMM": False}
        return functools.partial(_checked, functools.partial(posseg.lcut, **options))
    if plain:
        return lambda text: [Tagged(pair.word, pair.flag) for pair in tokenizer.lcut(text, HMM=hmm)]
    return _Remembering(posseg, tokenizer, hmm)


def _checked(lcut: Callable[[str], Any], text: str) -> list[Tagged]:
    try:
        pairs = [Tagged(word, flag) for word, flag in lcut(text)]
        for pair in pairs:
            if not (isinstance(pair.token, str) and isinstance(pair.tag, str)):
                raise TypeError(f"it returned {tuple(pair)!r}; expected a word and a flag")
    except Exception as error:
        raise TokenizerError(
            f"jieba.posseg, of which this program has replaced functions, failed on a document "
            f"that starts with {text[:20]!r}: {type(error).__name__}: {error}"
        ) from error
    return pairs


class _Remembering:
    """Cuts and tags as a ``POSTokenizer`` does, each stretch of text once."""

    def __init__(self, posseg: Any, tokenizer: Any, hmm: bool) -> None:
        kind: Any = type("POSTokenizer", (_Runs, type(tokenizer)), {})
        self._tokenizer = kind.__new__(kind)
        vars(self._tokenizer).update(vars(tokenizer))
        self._tokenizer.prepare(posseg)
        self._hmm = hmm
        self._split = posseg.re_han_internal.split
        self._stretch = functools.lru_cache(_STRETCHES)(self._cut)

    def __call__(self, text: str) -> list[Tagged]:
        tokens: list[Tagged] = []
        for stretch in self._split(text):
            if stretch:
                tokens += self._stretch(stretch)
        return tokens

    def _cut(self, stretch: str) -> tuple[Tagged, ...]:
        pairs = self._tokenizer.lcut(stretch, HMM=self._hmm)
        return tuple(Tagged(pair.word, pair.flag) for pair in pairs)


class _Runs:
    """Takes the place of two methods of ``POSTokenizer``: those for what is in no dictionary."""

    def prepare(self, posseg: Any) -> None:
        """Look at the model."""
        super_: Any = super()
        self._model = _Model.of(posseg)
        self._pair = posseg.pair
        self._by_jieba = super_._POSTokenizer__cut
        detail = super_._POSTokenizer__cut_detail
        self._detail = functools.lru_cache(_RUNS)(lambda run: tuple(detail(run)))

    def _POSTokenizer__cut_detail(self, run: str) -> tuple[Any, ...]:  # noqa: N802
        return self._detail(run)

    def _POSTokenizer__cut(self, run: str) -> list[Any]:  # noqa: N802
        route = None if self._model is None else self._model.route(run)
        if route is None:
            return list(self._by_jieba(run))
        pairs = []
        begin = done = 0
        for place, (position, tag) in enumerate(route):
            if position == "B":
                begin = place
            elif position == "E":
                pairs.append(self._pair(run[begin : place + 1], tag))
                done = place + 1
            elif position == "S":
                pairs.append(self._pair(run[place], tag))
                done = place + 1
        if done < len(run):
            pairs.append(self._pair(run[done:], route[done][1]))
        return pairs


_State = tuple[str, str]  # where a character is in a word (B, M, E, S), and the word's tag


class _Model:
    """The hidden Markov model of ``jieba.posseg``, without steps that cannot be.

    The best path is the one that ``jieba.posseg.viterbi`` finds: sums are made in its order, and of
    equal ones the one with the greater state is taken. Of 256 x 256 steps from one state to another
    5,218 can be; jieba looks at all of them.
    """

    def __init__(self, posseg: Any) -> None:
        self._states = posseg.char_state_tab_P
        self._start = posseg.start_P
        self._emit = posseg.emit_P
        self._all = tuple(posseg.trans_P)
        self._least = sys.modules["jieba.posseg.viterbi"].MIN_FLOAT
        self._before: dict[_State, list[tuple[_State, float]]] = {}
        for one in sorted(posseg.trans_P, reverse=True):
            for state, probability in posseg.trans_P[one].items():
                self._before.setdefault(state, []).append((one, probability))

    @classmethod
    def of(cls, posseg: Any) -> _Model | None:
        """Return the model; None if there are numbers in it that do not add up."""
        numbers = [*posseg.start_P.values()]
        for table in (posseg.trans_P, posseg.emit_P):
            numbers += (number for row in table.values() for number in row.values())
        return cls(posseg) if all(map(math.isfinite, numbers)) else None

    def route(self, run: str) -> list[_State] | None:
        """Return the states of characters; None if only jieba knows."""
        emit, least, before = self._emit, self._least, self._before
        first = run[0]
        value = {
            state: self._start[state] + emit[state].get(first, least)
            for state in self._states.get(first, self._all)
        }
        sources: list[dict[_State, _State]] = []
        for character in run[1:]:
            found, source = self._step(value, character, self._states.get(character, self._all))
            if not found:
                found, source = self._step(value, character, before)
                if not found:
                    return None
            sources.append(source)
            value = found
        state = max((number, state) for state, number in value.items())[1]
        route = [state]
        for source in reversed(sources):
            state = source[state]
            route.append(state)
        route.reverse()
        return route

    def _step(
        self, value: dict[_State, float], character: str, states: Iterable[_State]
    ) -> tuple[dict[_State, float], dict[_State, _State]]:
        found: dict[_State, float] = {}
        source: dict[_State, _State] = {}
        for state in states:
            emitted = self._emit[state].get(character, self._least)
            best = -math.inf
            for one, probability in self._before.get(state, ()):
                if one in value:
                    number = value[one] + probability + emitted
                    if number > best:
                        best = number
                        source[state] = one
            if best > -math.inf:
                found[state] = best
        return found, source
