"""``Tokenizer.cut(cut_all=True)``: every word that a block holds."""

from __future__ import annotations

from numba import int64

from .emission import is_alphanumeric, put_outside
from .layout import CRLF, EMPTY, N_WORDS, SEPARATOR, SUPPLEMENTARY
from .oov import intern_text
from .pointers import kernel
from .segment import NEG_INF, child, score_of, token_of_text, word_of


@kernel
def token_of_codes(lexicon, table, code, n):
    """The token id of any text given by its codes, contiguous or not."""
    if n == 0:
        return lexicon.shape[N_WORDS] + EMPTY
    slot = int64(0)
    for i in range(n):
        symbol = int64(0)
        if code[i] < 0x10000:
            symbol = int64(lexicon.symbol[code[i]])
        if symbol == 0:
            slot = int64(0)
        elif i == 0:
            slot = symbol
        else:
            slot = child(lexicon, slot, symbol)
        if slot == 0:
            break
    if slot != 0:
        return word_of(lexicon.node[slot])
    if n == 1 and code[0] < SUPPLEMENTARY:
        return lexicon.shape[N_WORDS] + code[0]
    return intern_text(lexicon, table, code, 0, n)


@kernel
def emit_all_outside(lexicon, buffer, table, start, n, k):
    r"""The text between two blocks with ``cut_all``: ``re_skip.split``, its empty strings included.

    Returns (where the next block or document starts, number of tokens).
    """
    i = start
    length = int64(0)
    while i < n and buffer.symbol[i] == 0:
        code = int64(buffer.code[i])
        if code == SEPARATOR:
            break
        if code == CRLF or (code < 0x10000 and lexicon.space[code]):
            buffer.token[k] = token_of_codes(lexicon, table, buffer.joined, length)
            buffer.token[k + 1] = lexicon.shape[N_WORDS] + code
            k += 2
            length = int64(0)
        else:
            buffer.joined[length] = code
            length += 1
        i += 1
    buffer.token[k] = token_of_codes(lexicon, table, buffer.joined, length)
    return i, k + 1


@kernel
def longest_or_only_word(lexicon, buffer, start, end):
    """``Tokenizer.get_DAG`` at one position: (number of words, end of the last one)."""
    words = int64(0)
    last = start + 1
    slot = int64(buffer.symbol[start])
    x = start
    while slot != 0:
        x += 1
        if score_of(lexicon, slot) != NEG_INF:
            words += 1
            last = x
        if x >= end:
            break
        slot = child(lexicon, slot, int64(buffer.symbol[x]))
    if words == 0:
        return int64(1), start + 1
    return words, last


@kernel
def put_longer_words(lexicon, buffer, start, end, k):
    """Append every word of two characters or more that starts here."""
    slot = int64(buffer.symbol[start])
    for x in range(start + 1, end):
        slot = child(lexicon, slot, int64(buffer.symbol[x]))
        if slot == 0:
            break
        if score_of(lexicon, slot) != NEG_INF:
            buffer.token[k] = word_of(lexicon.node[slot])
            k += 1
    return k


@kernel
def emit_all_block(lexicon, buffer, table, start, end, k):
    """``Tokenizer.__cut_all`` for one block.

    Its ``eng_buf`` need not be contiguous text.
    """
    covered = start  # one past jieba's old_j
    joining = False
    length = int64(0)
    for i in range(start, end):
        alphanumeric = is_alphanumeric(lexicon.kind[buffer.symbol[i]])
        if joining and not alphanumeric:
            joining = False
            buffer.token[k] = token_of_codes(lexicon, table, buffer.joined, length)
            k += 1
        words, last = longest_or_only_word(lexicon, buffer, i, end)
        if words == 1 and i >= covered:
            if alphanumeric:
                if not joining:
                    joining = True
                    length = int64(0)
                for j in range(i, last):
                    buffer.joined[length] = buffer.code[j]
                    length += 1
            if not joining:
                buffer.token[k] = token_of_text(lexicon, buffer, table, i, last)
                k += 1
            covered = last
        elif words > 1 or last > i + 1:
            k = put_longer_words(lexicon, buffer, i, end, k)
            covered = last
    if joining:
        buffer.token[k] = token_of_codes(lexicon, table, buffer.joined, length)
        k += 1
    return k


@kernel
def emit_all(lexicon, buffer, table, n):
    """``Tokenizer.cut(cut_all=True)``: the number of tokens put into ``buffer.token``."""
    k = int64(0)
    i = int64(0)
    while i < n:
        if buffer.code[i] == SEPARATOR:
            k = put_outside(lexicon, buffer, table, i, k)
            i += 1
        elif buffer.symbol[i] == 0:
            i, k = emit_all_outside(lexicon, buffer, table, i, n, k)
        else:
            end = i
            while end < n and buffer.symbol[end] != 0:
                end += 1
            k = emit_all_block(lexicon, buffer, table, i, end, k)
            i = end
    return k
