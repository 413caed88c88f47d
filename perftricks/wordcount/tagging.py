"""Part-of-speech tags: tokens as ``jieba.posseg`` cuts and tags them.

``jieba.posseg`` has a hidden Markov model of its own, so that it cuts otherwise than ``jieba.cut``
does where words are not in the dictionary. It cuts a text into stretches of Chinese characters,
letters and digits, and what is between these, and each stretch by itself. So a stretch that comes
again has the same tokens; and the model, which takes most of the time, has to look only at states
that can follow each other.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import math
import re
import sys
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from perftricks.wordcount import jieba_state
from perftricks.wordcount.dictionaries import split_line
from perftricks.wordcount.errors import OptionError, TokenizerError
from perftricks.wordcount.table.rows import Tagged

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
    if not isinstance(pos, Iterable):
        raise OptionError(f"pos must be True, False or tags such as 'n,v', not {pos!r}")
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


def tags_digest(tokenizer: Any) -> str:
    """Return a digest of all that decides which tag a token has: the words' tags, and the model.

    Args:
        tokenizer: As :func:`posseg_tokenizer` returns it.
    """
    posseg = import_posseg()
    tokenizer.makesure_userdict_loaded()
    digest = hashlib.sha256()
    tables = (dict(vars(posseg)[name]) for name in _TABLES)
    for table in (tokenizer.word_tag_tab, *tables):
        digest.update(repr(sorted(table.items())).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


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
    return Remembering(tokenizer, hmm=hmm)


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


class Remembering:
    """Cuts and tags as a ``POSTokenizer`` does, each stretch of text once.

    Args:
        tokenizer: A ``POSTokenizer``, of whose functions none was replaced.
        hmm: Whether to look for words that are not in the dictionary.
    """

    def __init__(self, tokenizer: Any, *, hmm: bool) -> None:
        posseg = import_posseg()
        kind: Any = type("POSTokenizer", (_Runs, type(tokenizer)), {})
        self._tokenizer = kind.__new__(kind)
        vars(self._tokenizer).update(vars(tokenizer))
        self._tokenizer.prepare(posseg)
        self._hmm = hmm
        self._split = posseg.re_han_internal.split
        self._stretch = functools.lru_cache(_STRETCHES)(self._cut)

    def __call__(self, text: str) -> list[Tagged]:
        """Return the tokens of a text."""
        tokens: list[Tagged] = []
        for stretch in self._split(text):
            if stretch:
                tokens += self._stretch(stretch)
        return tokens

    def of_run(self, run: str) -> list[Tagged]:
        """Return the tokens of a run of single characters that is no word."""
        return [Tagged(pair.word, pair.flag) for pair in self._tokenizer.cut_run(run)]

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
        self.cut_run = super_._POSTokenizer__cut_detail
        self._detail = functools.lru_cache(_RUNS)(lambda run: tuple(self.cut_run(run)))

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

_CHARACTERS = 1 << 13  # of which the model keeps what it knows
_MANY = 100  # states, of which arrays find the best step sooner than a loop
_NEVER = -math.inf


class _Model:
    """The hidden Markov model of ``jieba.posseg``, without steps that cannot be.

    The best path is the one that ``jieba.posseg.viterbi`` finds: sums are made in its order, and of
    equal ones the one with the greater state is taken. Of 256 x 256 steps from one state to another
    5,218 can be; jieba looks at all of them. States are numbers here, in their order.
    """

    def __init__(self, posseg: Any) -> None:
        self._posseg = posseg
        self._least: float = sys.modules["jieba.posseg.viterbi"].MIN_FLOAT
        self._states: list[_State] = sorted(posseg.trans_P)
        self._number = {state: number for number, state in enumerate(self._states)}
        self._start = [posseg.start_P[state] for state in self._states]
        # Of each state those that it may follow, the greater ones first, and the logarithms.
        self._before: list[list[tuple[int, float]]] = [[] for _ in self._states]
        for number in range(len(self._states) - 1, -1, -1):
            for state, probability in posseg.trans_P[self._states[number]].items():
                self._before[self._number[state]].append((number, probability))
        self._of = functools.lru_cache(_CHARACTERS)(self._look_up)

    @classmethod
    def of(cls, posseg: Any) -> _Model | None:
        """Return the model; None if there are numbers in it that do not add up."""
        numbers = [*posseg.start_P.values()]
        for table in (posseg.trans_P, posseg.emit_P):
            numbers += (number for row in table.values() for number in row.values())
        return cls(posseg) if all(map(math.isfinite, numbers)) else None

    def _look_up(self, character: str) -> tuple[Sequence[int], Sequence[float]]:
        """Return the states that a character may have, and the logarithms of its emission."""
        known = self._posseg.char_state_tab_P.get(character, self._states)
        states = [self._number[state] for state in known]
        emit = self._posseg.emit_P
        emission = [emit[self._states[n]].get(character, self._least) for n in states]
        return array("h", states), array("d", emission)

    def route(self, run: str) -> list[_State] | None:
        """Return the states of characters; None if only jieba knows."""
        states, emission = self._of(run[0])
        value = [_NEVER] * len(self._states)
        for state, emitted in zip(states, emission, strict=True):
            value[state] = self._start[state] + emitted
        sources: list[Sequence[int]] = []
        for character in run[1:]:
            states, emission = self._of(character)
            found = self._step(value, states, emission)
            if found is None:  # none of them can follow: jieba takes any that can
                emit = self._posseg.emit_P
                states = range(len(self._states))
                emission = [emit[state].get(character, self._least) for state in self._states]
                found = self._step(value, states, emission)
                if found is None:
                    return None
            value, source = found
            sources.append(source)
        best = max(value)
        state = len(value) - 1 - value[::-1].index(best)
        numbers = [state]
        for source in reversed(sources):
            state = source[state]
            numbers.append(state)
        return [self._states[number] for number in reversed(numbers)]

    def _step(
        self, value: list[float], states: Sequence[int], emission: Sequence[float]
    ) -> tuple[list[float], Sequence[int]] | None:
        """Return the best sums with one more character, and where they come from."""
        if len(states) > _MANY and len(states) == len(value):
            return self._arrays.step(value, states, emission)
        found = [_NEVER] * len(value)
        source = [0] * len(value)
        some = False
        for state, emitted in zip(states, emission, strict=True):
            best = _NEVER
            for one, probability in self._before[state]:
                number = value[one] + probability + emitted
                if number > best:
                    best = number
                    source[state] = one
            if best > _NEVER:
                found[state] = best
                some = True
        return (found, source) if some else None

    @functools.cached_property
    def _arrays(self) -> _Steps:
        return _Steps(self._before)


class _Steps:
    """The steps to all states at once.

    Args:
        before: Of each state those that it may follow, the greater ones first, and the logarithms.
    """

    def __init__(self, before: Sequence[Sequence[tuple[int, float]]]) -> None:
        import numpy as np

        self._to = np.flatnonzero([len(steps) for steps in before])
        sizes = [len(steps) for steps in before if steps]
        self._one = np.array([one for steps in before for one, _ in steps])
        self._probability = np.array([number for steps in before for _, number in steps])
        self._begin = np.cumsum([0, *sizes[:-1]])
        self._group = np.repeat(np.arange(self._to.size), sizes)
        self._states = len(before)

    def step(
        self, value: list[float], states: Sequence[int], emission: Sequence[float]
    ) -> tuple[list[float], Sequence[int]] | None:
        """See :meth:`_Model._step`."""
        import numpy as np

        emitted = np.empty(self._states)
        emitted[np.asarray(states)] = emission
        sums = np.array(value)[self._one] + self._probability
        sums += emitted[self._to][self._group]
        best = np.maximum.reduceat(sums, self._begin)
        if best.max() == _NEVER:
            return None
        places = np.where(sums == best[self._group], np.arange(sums.size), sums.size)
        first = np.minimum.reduceat(places, self._begin)
        found = np.full(self._states, _NEVER)
        found[self._to] = best
        source = np.zeros(self._states, np.int64)
        source[self._to] = self._one[first]
        return found.tolist(), source.tolist()
