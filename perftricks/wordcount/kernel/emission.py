"""Tokens of the best path, one word after the other.

``emit_*`` put the token ids in order, as ``Tokenizer.__cut_DAG`` and ``__cut_DAG_NO_HMM`` yield
them. The default way, which is :mod:`.path`, comes here for the runs that need a closer look.
"""

from __future__ import annotations

from numba import int64

from .hmm import E, find_states
from .layout import (
    DIGIT,
    DOT,
    HAN,
    LETTER,
    N_SPLIT,
    N_WORDS,
    NO_TOKEN,
    PAIR,
    PERCENT,
    SHORT,
    SUPPLEMENTARY,
    THREE,
    TRIPLE,
    TWO,
    WORD,
)
from .oov import intern_late, intern_text
from .pointers import inlined, kernel
from .segment import NEG_INF, find_token, is_word


@kernel
def put_words_inside(lexicon, buffer, start, end, k):
    """Append the words of two and three characters inside a token.

    That is what ``Tokenizer.cut_for_search`` does.
    """
    if end - start > 2:
        for i in range(start, end - 1):
            if buffer.score[4 * i + TWO] != NEG_INF:
                buffer.token[k] = buffer.found[4 * i + PAIR]
                k += 1
    if end - start > 3:
        for i in range(start, end - 2):
            if buffer.score[4 * i + THREE] != NEG_INF:
                buffer.token[k] = buffer.found[4 * i + TRIPLE]
                k += 1
    return k


@inlined
def put(lexicon, buffer, start, end, token, search, k):
    """Append a token of the vocabulary."""
    if search:
        k = put_words_inside(lexicon, buffer, start, end, k)
    buffer.token[k] = token
    return k + 1


@kernel
def put_text(lexicon, buffer, table, start, end, search, k):
    """Append a text of two characters or more inside a block, whether in the vocabulary or not."""
    if search:
        k = put_words_inside(lexicon, buffer, start, end, k)
    token = find_token(lexicon, buffer, start, end)
    if token != NO_TOKEN:
        buffer.token[k] = token
    elif end - start <= SHORT:
        intern_late(buffer, table, start, end, k)
    else:
        buffer.token[k] = intern_text(lexicon, table, buffer.code, start, end)
    return k + 1


@inlined
def put_characters(buffer, start, end, k):
    """Append the characters from start to end one by one."""
    for i in range(start, end):
        buffer.token[k] = buffer.symbol[i]
        k += 1
    return k


@kernel
def put_outside(lexicon, buffer, table, i, k):
    """Append a character outside the blocks (or the end of a document)."""
    code = int64(buffer.code[i])
    if code < SUPPLEMENTARY:
        buffer.token[k] = lexicon.shape[N_WORDS] + code
    else:
        buffer.token[k] = intern_text(lexicon, table, buffer.code, i, i + 1)
    return k + 1


@kernel
def emit_han(lexicon, buffer, table, start, end, search, k):
    """``finalseg.__cut`` and the forced splits of ``finalseg.cut`` for a run of Han characters."""
    if end - start == 1:
        buffer.token[k] = buffer.symbol[start]
        return k + 1
    for i in range(start, end):
        buffer.lone[i - start] = i
    find_states(lexicon, buffer, end - start)
    begin = start
    for i in range(start, end):
        if buffer.tag[i - start] < E:  # B or M: the word goes on
            continue
        if i == begin:
            buffer.token[k] = buffer.symbol[i]
            k += 1
        else:
            token = find_token(lexicon, buffer, begin, i + 1)
            if lexicon.shape[N_SPLIT] != 0 and token != NO_TOKEN and lexicon.split[token] != 0:
                k = put_characters(buffer, begin, i + 1, k)
            else:
                k = put_text(lexicon, buffer, table, begin, i + 1, search, k)
        begin = i + 1
    return k


@inlined
def is_alphanumeric(kind):
    """``[a-zA-Z0-9]``, jieba's ``re_eng``."""
    return kind == LETTER or kind == DIGIT


@kernel
def end_of_alphanumeric(lexicon, buffer, start, end):
    r"""Where a match of finalseg's ``[a-zA-Z0-9]+(?:\.\d+)?%?`` at start ends."""
    i = start
    while i < end and is_alphanumeric(lexicon.kind[buffer.symbol[i]]):
        i += 1
    if (
        i + 1 < end
        and lexicon.kind[buffer.symbol[i]] == DOT
        and lexicon.kind[buffer.symbol[i + 1]] == DIGIT
    ):
        i += 2
        while i < end and lexicon.kind[buffer.symbol[i]] == DIGIT:
            i += 1
    if i < end and lexicon.kind[buffer.symbol[i]] == PERCENT:
        i += 1
    return i


@kernel
def emit_recognized(lexicon, buffer, table, start, end, search, k):
    """``finalseg.cut``: Han parts by the HMM, the others by its regular expression."""
    i = start
    while i < end:
        part = i
        kind = lexicon.kind[buffer.symbol[i]]
        if kind == HAN:
            while i < end and lexicon.kind[buffer.symbol[i]] == HAN:
                i += 1
            k = emit_han(lexicon, buffer, table, part, i, search, k)
            continue
        if is_alphanumeric(kind):
            i = end_of_alphanumeric(lexicon, buffer, part, end)
        else:
            while (
                i < end
                and lexicon.kind[buffer.symbol[i]] != HAN
                and not is_alphanumeric(lexicon.kind[buffer.symbol[i]])
            ):
                i += 1
        if i - part == 1:
            k = put_characters(buffer, part, i, k)
        else:
            k = put_text(lexicon, buffer, table, part, i, search, k)
    return k


@kernel
def emit_run(lexicon, buffer, table, start, end, search, k):
    """A run of words of one character in ``Tokenizer.__cut_DAG``.

    It goes to the HMM, unless it is a word itself.
    """
    if end - start > 1 and not is_word(lexicon, buffer, start, end):
        return emit_recognized(lexicon, buffer, table, start, end, search, k)
    return put_characters(buffer, start, end, k)


@kernel
def emit_hmm(lexicon, buffer, table, n, search):
    """``Tokenizer.cut(HMM=True)``: the number of tokens put into ``buffer.token``."""
    k = int64(0)
    i = int64(0)
    while i < n:
        end = int64(buffer.end[i])
        if end - i > 1:
            k = put(lexicon, buffer, i, end, int64(buffer.found[4 * i + WORD]), search, k)
            i = end
        elif buffer.symbol[i] == 0:
            k = put_outside(lexicon, buffer, table, i, k)
            i = end
        else:
            while end < n and buffer.end[end] - end == 1 and buffer.symbol[end] != 0:
                end += 1
            k = emit_run(lexicon, buffer, table, i, end, search, k)
            i = end
    return k


@kernel
def emit_no_hmm(lexicon, buffer, table, n, search):
    """``Tokenizer.cut(HMM=False)``: letters and digits that stand alone are joined."""
    k = int64(0)
    i = int64(0)
    while i < n:
        end = int64(buffer.end[i])
        if end - i > 1:
            k = put(lexicon, buffer, i, end, int64(buffer.found[4 * i + WORD]), search, k)
        elif buffer.symbol[i] == 0:
            k = put_outside(lexicon, buffer, table, i, k)
        elif is_alphanumeric(lexicon.kind[buffer.symbol[i]]):
            while (
                end < n
                and buffer.end[end] - end == 1
                and is_alphanumeric(lexicon.kind[buffer.symbol[end]])
            ):
                end += 1
            if end - i == 1:
                k = put_characters(buffer, i, end, k)
            else:
                k = put_text(lexicon, buffer, table, i, end, search, k)
        else:
            buffer.token[k] = buffer.symbol[i]
            k += 1
        i = end
    return k
