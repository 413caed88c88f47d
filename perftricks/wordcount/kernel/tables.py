"""jieba's dictionary and HMM as arrays.

Everything is read from a :class:`jieba.Tokenizer` as it is *now*, after user dictionaries,
``add_word``, ``del_word`` and ``suggest_freq``, and from :mod:`jieba.finalseg`. Character classes
are not written down here: every code point is put through jieba's own regular expressions.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from math import log
from types import SimpleNamespace
from typing import Any

import numpy as np

from .layout import (
    BASE_SHIFT,
    DIGIT,
    DOT,
    HAN,
    LETTER,
    MAX_SLOTS,
    MODEL_SIZE,
    NO_SYMBOL,
    OTHER,
    OUTSIDE,
    PERCENT,
    SCORE_BITS,
    SCORE_MASK,
    STARTS,
    TRANSITIONS,
    WORD_MASK,
    WORD_SHIFT,
    Families,
    Lexicon,
)
from .native import Kernel

KNOWN_VERSIONS = ("0.42", "0.42.1")
STATES = "BMES"
PREVIOUS = {"B": "ES", "M": "MB", "S": "SE", "E": "BM"}
HOT_FAMILIES = 10_000
# The transitions in the order of layout.E_TO_B and following.
PAIRS = ("EB", "SB", "BM", "MM", "BE", "ME", "ES", "SS")


class UnsupportedDictionary(ValueError):
    """The kernel cannot reproduce jieba with this tokenizer; the message says why."""


def jieba_of(tokenizer: Any) -> Any:
    """The jieba that a tokenizer comes from: the module, or the copy of it that made it."""
    return SimpleNamespace(**type(tokenizer).initialize.__globals__)


def check_supported(tokenizer: Any) -> None:
    """Raise UnsupportedDictionary if the kernel does not reproduce jieba with this tokenizer.

    Looks at the version of jieba, at the regular expressions whose structure the kernel mirrors,
    and at the kind of the tokenizer; :func:`build_lexicon` looks at the words.
    """
    try:
        jieba = jieba_of(tokenizer)
        finalseg = jieba.finalseg
    except AttributeError:
        raise UnsupportedDictionary(
            f"{type(tokenizer).__name__} is no tokenizer of jieba's"
        ) from None
    if jieba.__version__ not in KNOWN_VERSIONS:
        raise UnsupportedDictionary(
            f"jieba {jieba.__version__}: the kernel mirrors jieba {', '.join(KNOWN_VERSIONS)}"
        )
    if type(tokenizer) is not jieba.Tokenizer:
        raise UnsupportedDictionary(f"{type(tokenizer).__name__} is not jieba's own Tokenizer")
    expected = (
        (jieba.re_han_default, r"\(\[[^\]^]*(?:\\\][^\]]*)*\]\+\)"),
        (jieba.re_skip_default, re.escape("(\r\n|\\s)")),
        (jieba.re_eng, re.escape("[a-zA-Z0-9]")),
        (finalseg.re_han, r"\(\[[^\]^]*\]\+\)"),
        (finalseg.re_skip, re.escape(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")),
    )
    for pattern, known in expected:
        if not isinstance(pattern, re.Pattern) or not re.fullmatch(known, pattern.pattern):
            raise UnsupportedDictionary(
                f"an unknown regular expression in jieba: {getattr(pattern, 'pattern', pattern)!r}"
            )
        if pattern.flags != re.UNICODE:
            raise UnsupportedDictionary(
                f"a regular expression in jieba with flags of its own: {pattern!r}"
            )
    if finalseg.PrevStatus != PREVIOUS:
        raise UnsupportedDictionary("jieba.finalseg.PrevStatus is not jieba's own")
    if type(tokenizer.FREQ) is not dict:
        raise UnsupportedDictionary(
            f"the words of jieba are in a {type(tokenizer.FREQ).__name__}, not in a dict"
        )


@cache
def every_character() -> str:
    """All code points, surrogates included, in order."""
    return np.arange(sys.maxunicode + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


@cache
def characters_matching(pattern: re.Pattern[str]) -> np.ndarray:
    """The code points that the pattern matches, ascending.

    None may lie beyond the basic plane.
    """
    runs = "".join(pattern.findall(every_character())).encode("utf-32-le", "surrogatepass")
    found = np.frombuffer(runs, "<u4").astype(np.int64)
    if found.size and found[-1] > 0xFFFF:
        raise UnsupportedDictionary(
            "jieba's blocks hold characters beyond the basic multilingual plane"
        )
    return found


def character_kinds(jieba: Any) -> np.ndarray:
    """The kind of every code unit, from jieba's regular expressions."""
    finalseg = jieba.finalseg
    kinds = np.full(0x10000, OUTSIDE, np.uint8)
    kinds[characters_matching(jieba.re_han_default)] = OTHER
    inside = kinds != OUTSIDE
    for c in np.flatnonzero(inside[:128]).tolist():
        if jieba.re_eng.match(chr(c)):
            kinds[c] = DIGIT if chr(c).isdigit() else LETTER
    for character, kind in ((".", DOT), ("%", PERCENT)):
        if inside[ord(character)]:
            kinds[ord(character)] = kind
    han = characters_matching(finalseg.re_han)
    if not inside[han].all():
        raise UnsupportedDictionary("finalseg knows Han characters that jieba's blocks do not hold")
    kinds[han] = HAN
    return kinds


def whitespace() -> np.ndarray:
    r"""Which code units are ``\s`` to jieba."""
    space = np.zeros(0x10000, np.uint8)
    space[characters_matching(re.compile(r"\s"))] = 1
    return space


def words_inside_blocks(
    words: list[str], kinds: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The words that can occur in a block, their lengths, and their characters one after the other.

    jieba looks words up inside blocks only, so a word with a space or a comma never matches.
    """
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    codes = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), "<u4")
    inside = codes < 0x10000
    inside[inside] = kinds[codes[inside]] != OUTSIDE
    owner = np.repeat(np.arange(len(words)), lengths)
    outside = np.bincount(owner[~inside], minlength=len(words)) > 0
    kept = ~outside & (lengths > 0)
    chosen = [words[i] for i in np.flatnonzero(kept).tolist()]
    return chosen, lengths[kept], codes[kept[owner]].astype(np.int64)


def assign_symbols(kinds: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Number the characters of blocks from 1, those that are not Han first, frequent ones first.

    Frequent characters then share cache lines in every table that is indexed by symbol.
    Returns (symbol of each code unit, code unit of each symbol, the first Han symbol).
    """
    others = np.flatnonzero((kinds != OUTSIDE) & (kinds != HAN))
    han = np.flatnonzero(kinds == HAN)
    han = han[np.argsort(-weight[han], kind="stable")]
    character = np.concatenate(([0], others, han))
    if character.size >= NO_SYMBOL:
        raise UnsupportedDictionary("jieba's blocks hold too many different characters")
    symbol = np.zeros(0x10000, np.uint16)
    symbol[character[1:]] = np.arange(1, character.size)
    return symbol, character, 1 + others.size


def hmm_arrays(
    finalseg: Any, character: np.ndarray, first_han: int, unseen: float
) -> tuple[np.ndarray, np.ndarray]:
    """(emission by Han symbol and state, model) from :mod:`jieba.finalseg`."""
    floor = finalseg.MIN_FLOAT
    emission = np.empty((character.size - first_han, 4), np.float64)
    han = [chr(c) for c in character[first_han:].tolist()]
    for column, state in enumerate(STATES):
        probability = finalseg.emit_P[state]
        emission[:, column] = [probability.get(c, floor) for c in han]
    model = np.empty(MODEL_SIZE, np.float64)
    model[0] = unseen
    starts = [finalseg.start_P[pair[1]] for pair in PAIRS]
    starts[1::2] = [float("-inf")] * len(STATES)
    model[STARTS:TRANSITIONS] = starts
    model[TRANSITIONS:] = [finalseg.trans_P[pair[0]].get(pair[1], floor) for pair in PAIRS]
    return emission.reshape(-1), model


def scores(frequencies: list[Any], total: Any) -> tuple[np.ndarray, np.ndarray]:
    """(the distinct scores, the index of each word's score).

    -inf for frequency 0, jieba's own float otherwise.
    """
    try:
        distinct = sorted(set(frequencies))
        log_total = log(total)
        values = {f: log(f) - log_total if f else float("-inf") for f in distinct}
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedDictionary(f"a frequency without a logarithm: {error}") from None
    # Frequent indices first: many words share the lowest frequencies.
    index = {f: i + 1 for i, f in enumerate(f for f in distinct if f)}
    index[0] = 0
    if len(index) > 1 << SCORE_BITS:
        raise UnsupportedDictionary("too many different frequencies")
    if any(value > 0 for value in values.values()) or log_total < 0:
        raise UnsupportedDictionary("a word is more frequent than all words together")
    table = np.array([float("-inf")] + [values[f] for f in distinct if f], np.float64)
    return table, np.fromiter(map(index.__getitem__, frequencies), np.int64, len(frequencies))


def parents(words: list[str]) -> np.ndarray:
    """For each word the index of the word without its last character, -1 for a single character."""
    index = {word: i for i, word in enumerate(words)}
    try:
        return np.array([index[word[:-1]] if len(word) > 1 else -1 for word in words], np.int64)
    except KeyError as error:
        raise UnsupportedDictionary(
            f"the dictionary lacks {error.args[0]!r}, a prefix of one of its words: words must be"
            " added by jieba's own functions"
        ) from None


def build_lexicon(kernel: Kernel, tokenizer: Any) -> Lexicon:
    """The arrays of a tokenizer's dictionary and of the HMM; takes a few seconds.

    Raises UnsupportedDictionary if the kernel would not reproduce jieba with it.
    """
    check_supported(tokenizer)
    tokenizer.check_initialized()
    jieba = jieba_of(tokenizer)
    frequency = dict(tokenizer.FREQ)
    kinds = character_kinds(jieba)

    split = [w for w in jieba.finalseg.Force_Split_Words if len(w) > 1]
    words = list(frequency)
    for word in split:  # a node for each forced split; a node of frequency 0 changes nothing else
        for end in range(1, len(word) + 1):
            if word[:end] not in frequency:
                frequency[word[:end]] = 0
                words.append(word[:end])
    words, lengths, codes = words_inside_blocks(words, kinds)
    score, score_index = scores([frequency[w] for w in words], tokenizer.total)
    ends = np.cumsum(lengths)
    use = np.array([float(min(frequency[w], 10**9)) for w in words])
    symbol, character, first_han = assign_symbols(
        kinds, np.bincount(codes, np.repeat(use, lengths), minlength=0x10000)
    )
    n_symbols = character.size - 1

    parent = parents(words)
    last = symbol[codes[ends - 1]].astype(np.int64)
    weight = weight_below(parent, lengths, use)
    slot_of_word, base_of_word, n_slots = place_words(kernel, parent, last, weight, n_symbols)
    if n_slots + n_symbols >= MAX_SLOTS:
        raise UnsupportedDictionary("the dictionary is too large")

    # Padding: base + symbol must stay inside the array whatever the symbol.
    check = np.full(n_slots + n_symbols + 2, NO_SYMBOL, np.uint16)
    check[slot_of_word] = np.where(parent < 0, NO_SYMBOL, last)
    number, n_words = number_words(parent, last, use, n_symbols)
    if n_words > WORD_MASK:
        raise UnsupportedDictionary("the dictionary is too large")
    node = np.zeros(check.size, np.int64)
    node[: n_symbols + 1] = np.arange(n_symbols + 1) << WORD_SHIFT
    node[slot_of_word] = base_of_word << BASE_SHIFT | number << WORD_SHIFT | score_index
    single = score[node[: n_symbols + 1] & SCORE_MASK]
    single[0] = float("inf")
    # Where a character is no word and starts none, jieba takes it with log(1).
    childless = node[: n_symbols + 1] >> BASE_SHIFT == 0
    unseen = log(1) - log(tokenizer.total)
    single[childless & (single == float("-inf"))] = unseen
    splits = np.zeros(n_words if split else 1, np.uint8)
    numbers = dict(zip(words, number.tolist(), strict=True)) if split else {}
    for word in split:
        if word in numbers:
            splits[numbers[word]] = 1

    text_start, text = word_texts(number, lengths, codes, character, n_words)
    emission, model = hmm_arrays(jieba.finalseg, character, first_han, unseen)
    is_word = np.array([bool(frequency[w]) for w in words], np.int64)
    depth = words_on_path(parent, lengths, is_word)
    return Lexicon(
        symbol=symbol,
        kind=kinds[character],
        space=whitespace(),
        check=check,
        node=node,
        score=score,
        single=single,
        emission=emission,
        model=model,
        shape=np.array([n_words, first_han, depth, len(split)], np.int64),
        text=text,
        text_start=text_start,
        split=splits,
    )


def place_words(
    kernel: Kernel, parent: np.ndarray, last: np.ndarray, weight: np.ndarray, n_symbols: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(slot of each word, base of each word, number of slots).

    Single characters sit at their symbol.

    The families that the words of most weight belong to are placed first, by weight, so that what
    is used often lies together; the others by size.
    """
    n = parent.size
    longer = np.flatnonzero(parent >= 0)
    longer = longer[np.lexsort((last[longer], parent[longer]))]
    n_children = np.bincount(parent[longer], minlength=n)
    first_child = np.concatenate(([0], np.cumsum(n_children)))[:n]
    order = np.flatnonzero(n_children)
    hot = np.zeros(n, np.bool_)
    hot[order[np.argsort(-weight[order], kind="stable")[:HOT_FAMILIES]]] = True
    order = order[np.lexsort((np.where(hot, -weight, -n_children)[order], ~hot[order]))]
    bases, n_slots = place_families(
        kernel, first_child[order], n_children[order], last[longer], n_symbols + 1
    )
    base = np.zeros(n, np.int64)
    base[order] = bases
    slot = last.copy()
    slot[longer] = base[parent[longer]] + last[longer]
    return slot, base, max(n_slots, n_symbols + 1)


def place_families(
    kernel: Kernel, first: np.ndarray, size: np.ndarray, symbols: np.ndarray, lowest: int
) -> tuple[np.ndarray, int]:
    """Bases of the families of a trie and the number of slots used; see :mod:`.trie`."""
    limit = lowest + 2 * int(size.sum()) + int(symbols.max(initial=0)) + 1024
    while True:
        occupied = np.zeros(limit // 64 + 1, np.uint64)
        occupied[: lowest // 64] = ~np.uint64(0)
        occupied[lowest // 64] = (1 << lowest % 64) - 1
        families = Families(
            first=first,
            size=size,
            symbols=symbols,
            occupied=occupied,
            taken=np.zeros_like(occupied),
            bases=np.zeros(first.size, np.int64),
            shape=np.array([first.size, limit, lowest], np.int64),
        )
        if kernel.call("place", families) == first.size:
            last = families.bases + symbols[first + size - 1]
            return families.bases, int(last.max(initial=lowest - 1)) + 1
        limit *= 2


def number_words(
    parent: np.ndarray, last: np.ndarray, use: np.ndarray, n_symbols: int
) -> tuple[np.ndarray, int]:
    """(number of each word, how many numbers there are): frequent words have small ones.

    Single characters have their symbols, which go by frequency too.
    """
    number = last.copy()
    longer = np.flatnonzero(parent >= 0)
    longer = longer[np.argsort(-use[longer], kind="stable")]
    number[longer] = np.arange(n_symbols + 1, n_symbols + 1 + longer.size)
    return number, n_symbols + 1 + int(longer.size)


def word_texts(
    number: np.ndarray, lengths: np.ndarray, codes: np.ndarray, character: np.ndarray, n_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """(text_start, text): each word as UTF-16, by its number, single characters included."""
    size = np.zeros(n_words, np.int64)
    size[1 : character.size] = 1
    size[number] = lengths
    start = np.concatenate(([0], np.cumsum(size)))
    text = np.zeros(int(start[-1]), np.uint16)
    text[start[1 : character.size]] = character[1:]
    offset = np.arange(codes.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    text[np.repeat(start[number], lengths) + offset] = codes
    return start.astype(np.int32), text


def weight_below(parent: np.ndarray, lengths: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each prefix the weight of the longer words that start with it."""
    total: np.ndarray = weight.copy()
    for length in range(int(lengths.max(initial=1)), 1, -1):
        these = np.flatnonzero(lengths == length)
        np.add.at(total, parent[these], total[these])
    total -= weight
    return total


def words_on_path(parent: np.ndarray, lengths: np.ndarray, is_word: np.ndarray) -> int:
    """The largest number of words that start at one position of a text."""
    total = is_word.copy()
    for length in range(2, int(lengths.max(initial=1)) + 1):
        these = np.flatnonzero(lengths == length)
        total[these] += total[parent[these]]
    return int(total.max(initial=1))
