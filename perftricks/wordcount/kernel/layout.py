r"""The memory layout shared by the Python side and the compiled kernel.

Every structure here is a named tuple of flat arrays. On the Python side the fields are numpy
arrays; inside the kernel the same tuple holds raw pointers (see :mod:`.pointers`). This module
imports neither numba nor jieba, so that a warm start pays for neither.

Token ids
    ``NO_TOKEN``                nothing: the place of a character that belongs to a word behind it
    ``1 .. n_words - 1``        a word of the dictionary or a prefix of one: single characters by
                                their symbols, then the others by frequency
    ``n_words + code``          a character outside jieba's blocks, by UTF-16 code unit
    ``n_words + SEPARATOR``     the end of a document: counted as a document, never as a token
    ``n_words + CRLF``          the token ``"\r\n"``
    ``n_words + EMPTY``         the token ``""`` (jieba's ``cut_all`` yields it)
    ``n_words + FIRST_OOV ..``  tokens outside the vocabulary, in order of first appearance
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Codes of a decoded character: its code point in the basic multilingual plane, a special code, or
# a code point beyond the plane moved up so that it cannot be mistaken for a special code.
SEPARATOR = 0x10000
CRLF = 0x10001
EMPTY = 0x10002
FIRST_OOV = 0x10003
SUPPLEMENTARY = 0x10010  # code of U+10000
SUPPLEMENTARY_SHIFT = SUPPLEMENTARY - 0x10000

# A trie node is one integer: base | word (24 bits) | score index (16 bits). The symbol that leads
# to it is kept apart, two bytes each: most probes fail, and these within the second-level cache.
# Words are numbered by frequency, and so are the counts: those of frequent words lie together.
SCORE_BITS = 16
SCORE_MASK = (1 << SCORE_BITS) - 1
WORD_BITS = 24
WORD_SHIFT = SCORE_BITS
WORD_MASK = (1 << WORD_BITS) - 1
BASE_SHIFT = WORD_SHIFT + WORD_BITS
MAX_SLOTS = 1 << (63 - BASE_SHIFT)
NO_TOKEN = 0  # no word has this number: it is passed over
NO_SYMBOL = 0xFFFF  # the check of an empty slot and of a first character: matches no symbol

# Kinds of characters, by what jieba's regular expressions tell apart.
OUTSIDE, HAN, LETTER, DIGIT, DOT, PERCENT, OTHER = range(7)

# Indices into Buffer.found and Buffer.score, four of each for a character: the words of two and of
# three characters that start there (of which PAIR and TRIPLE hold slots while they are sought), the
# slot of the four characters, and the first word of the best path; their scores.
PAIR, TRIPLE, LONGER, WORD = range(4)
ONE, TWO, THREE, BEST = range(4)

# Indices into Lexicon.model: the score of a character that starts no word, then the HMM.
UNSEEN = 0
# Twice the same eight logarithms: for the first character of a run, with the probability that it
# begins in the state and nothing (-inf) for the other predecessor, and for the characters behind.
STARTS, TRANSITIONS = 1, 9
E_TO_B, S_TO_B, B_TO_M, M_TO_M, B_TO_E, M_TO_E, E_TO_S, S_TO_S = range(8)
MODEL_SIZE = 17

# Indices into Lexicon.shape.
N_WORDS, FIRST_HAN, MAX_DEPTH, N_SPLIT = 0, 1, 2, 3

# Modes of segmentation.
MODE_HMM, MODE_NO_HMM, MODE_ALL = 0, 1, 2

# Treatment of line ends.
NEWLINE_LF, NEWLINE_CRLF, NEWLINE_UNIVERSAL, NEWLINE_NONE, NEWLINE_BYTE = range(5)
SEPARATOR_BYTE = 0xFF  # ends a document with NEWLINE_BYTE; no UTF-8 has it

# Indices into Job.state: what a call of the kernel is told and where it stopped.
(
    POSITION,
    STOP,
    CAPACITY,
    FILLED,
    MODE,
    SEARCH,
    NEWLINE,
    TOKENS_FROM,
    TOKENS_TO,
    DOC_FREQ,
    DOCUMENT,
    NGRAM,
    WINDOW_FILLED,
) = range(13)
STATE_SIZE = 16

# What a call of the kernel returns.
DONE, GROW_BUFFER, GROW_TABLE, GROW_NGRAMS, INVALID_UTF8 = range(5)

# Indices into Table.size.
N_ENTRIES, N_UNITS, ENTRY_CAPACITY, UNIT_CAPACITY, SLOT_BITS, N_LATE = range(6)
SIZE_FIELDS = 8

SHORT = 4  # out-of-vocabulary tokens of up to so many UTF-16 units are their own keys


class Lexicon(NamedTuple):
    """jieba's dictionary and HMM as arrays: read only, shared by all threads."""

    symbol: Any  # uint16[65536]: code unit -> symbol, 0 outside blocks
    kind: Any  # uint8[n_symbols + 1]: kind of a symbol
    space: Any  # uint8[65536]: whether the code unit is whitespace to jieba
    check: Any  # uint16[n_slots + padding]: the symbol that leads to a slot, NO_SYMBOL if none does
    node: Any  # int64[n_slots + padding]: the double-array trie
    score: Any  # float64[n_scores]: log(frequency) - log(total), and -inf for mere prefixes
    single: Any  # float64[n_symbols + 1]: the scores of single characters, +inf outside blocks
    emission: Any  # float64[4 * n_han]: HMM emission by (symbol - first_han, state B M E S)
    model: Any  # float64[MODEL_SIZE]
    shape: Any  # int64[4]
    text: Any  # uint16[...]: the words as UTF-16, one after the other
    text_start: Any  # int32[n_words + 1]: where a word starts in text
    split: Any  # uint8[n_words]: whether the HMM must not make this word; one element if all may


class Families(NamedTuple):
    """The children of each parent of the trie, to be placed in the double array."""

    first: Any  # int64[n]: where the family starts in symbols
    size: Any  # int64[n]: how many children it has, at least one
    symbols: Any  # int64: ascending within a family
    occupied: Any  # uint64[limit / 64 + 1]: a bitmap of slots
    taken: Any  # uint64[limit / 64 + 1]: a bitmap of bases already given away
    bases: Any  # int64[n]: the result
    shape: Any  # int64[3]: n, limit, the lowest slot


class Buffer(NamedTuple):
    """The characters being segmented and what is known about each: one per thread."""

    code: Any  # int32[capacity + padding]
    symbol: Any  # uint16[capacity + padding]
    found: Any  # int32[4 *]: words that start here, see PAIR
    score: Any  # float64[4 *]: their scores, see ONE
    hit: Any  # int32: positions where something was found
    end: Any  # int32: where the first word of the best path from here ends
    place: Any  # int32: where the token of the word that starts here stands
    lone: Any  # int32: positions of the characters that the HMM looks at
    tag: Any  # int8: their states, and scratch space of the backtracking
    run: Any  # int32[3 * half as many]: runs of single characters: start, size, place in lone
    token: Any  # int32: the token ids of the buffer, in order
    joined: Any  # int32: codes of a token that is not contiguous text (cut_all)
    late: Any  # int32: where the tokens whose ids are still to be looked up stand in token
    late_key: Any  # int64: their keys


class Table(NamedTuple):
    """Counts of every token, and the tokens outside the vocabulary: one per thread."""

    count: Any  # int64[n_words + FIRST_OOV + entry capacity], by token id
    slot: Any  # int64[2 << slot_bits]: (key, entry + 1 with a flag for long keys)
    unit: Any  # uint16: the out-of-vocabulary tokens as UTF-16
    start: Any  # int64[entry capacity + 1]: where each starts
    size: Any  # int64[SIZE_FIELDS]
    doc_freq: Any  # int64, like count; one element when not asked for
    last_document: Any  # int64, like count: the document that was last counted in doc_freq


class NgramTable(NamedTuple):
    """Counts of n-grams of token ids: one per thread."""

    count: Any  # int64[entry capacity]
    slot: Any  # int64[2 << slot_bits]
    gram: Any  # int32[n * entry capacity]: the token ids
    size: Any  # int64[SIZE_FIELDS]
    window: Any  # int32[n]: the last token ids of the document
    doc_freq: Any  # int64, like count; one element when not asked for
    last_document: Any  # int64, like count


class Job(NamedTuple):
    """The text being counted and how far the count has come."""

    text: Any  # uint8
    state: Any  # int64[STATE_SIZE]


DTYPES: dict[type, tuple[str, ...]] = {
    Lexicon: (
        "uint16", "uint8", "uint8", "uint16", "int64", "float64", "float64", "float64", "float64",
        "int64", "uint16", "int32", "uint8",
    ),
    Buffer: (
        "int32", "uint16", "int32", "float64", "int32", "int32", "int32", "int32", "int8", "int32",
        "int32", "int32", "int32", "int64",
    ),
    Table: ("int64", "int64", "uint16", "int64", "int64", "int64", "int64"),
    NgramTable: ("int64", "int64", "int32", "int64", "int32", "int64", "int64"),
    Job: ("uint8", "int64"),
}  # fmt: skip
