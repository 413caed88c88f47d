"""``Tokenizer.cut(HMM=True)``: the words of the best path, and of runs of single characters.

``Tokenizer.__cut_DAG`` gathers words of one character that follow each other and hands each such
run to the HMM. Whether the next word has one character or two, whether a run goes on, whether the
HMM joins two characters: no processor guesses that, and a wrong guess costs as much as looking up
three words. So each step is one loop over the buffer without a branch that depends on the text,
but for rare things:

1. :func:`walk`: the words of the path become tokens; characters of runs are noted as lone;
2. :func:`.hmm.find_states`: the HMM over all lone characters;
3. :func:`join`: lone characters become words. A word's token stands in the place of its last
   character, NO_TOKEN in those of the others;
4. :func:`amend`: runs that are cut otherwise, because they are words or hold letters.
"""

from __future__ import annotations

from numba import int64

from .emission import emit_run
from .hmm import E, S, find_states
from .layout import (
    FIRST_HAN,
    LONGER,
    N_WORDS,
    NO_TOKEN,
    PAIR,
    SHORT,
    SUPPLEMENTARY,
    THREE,
    TRIPLE,
    TWO,
    WORD,
)
from .oov import intern_late, intern_text
from .pointers import computed, kernel, prefetch
from .segment import NEG_INF, chosen, find_token

START, SIZE, FIRST_LONE = range(3)  # what is noted of a run in buffer.run
MIXED_BIT = 30  # of a run's size: not all of its characters are Han
MIXED = 1 << MIXED_BIT


@kernel
def walk(lexicon, buffer, table, n):
    """Put the words of the path into ``buffer.token``: (tokens, lone characters, runs)."""
    n_words, first_han = lexicon.shape[N_WORDS], lexicon.shape[FIRST_HAN]
    i = int64(0)
    k = int64(0)
    size = int64(0)  # of the run that ends here
    mixed = int64(0)  # MIXED if it is not of Han characters alone
    lone = int64(0)
    runs = int64(0)
    while i < n:
        end = int64(buffer.end[i])
        symbol, code = int64(buffer.symbol[i]), int64(buffer.code[i])
        row = 4 * (symbol - first_han)
        prefetch(lexicon.emission, row)
        prefetch(lexicon.emission, row + 3)  # half of the rows lie in two cache lines
        token = chosen(symbol != 0, int64(buffer.found[4 * i + WORD]), n_words + code)
        if code >= SUPPLEMENTARY:
            token = intern_text(lexicon, table, buffer.code, i, i + 1)
        buffer.token[k] = token
        buffer.place[i] = k
        size = (size + 1) & computed(-(int64(end - i == 1) & int64(symbol != 0)))
        second, grown = int64(size == 2), int64(size >= 2)
        mixed = (mixed & computed(-grown)) | (int64(symbol < first_han) << MIXED_BIT)
        buffer.lone[lone] = i - second
        buffer.lone[lone + second] = i
        lone += grown + second
        runs += second
        run = 3 * (runs - grown)  # what is noted of no run, the next one is written over
        buffer.run[run + START] = i + 1 - size
        buffer.run[run + SIZE] = size | mixed
        buffer.run[run + FIRST_LONE] = lone - size
        k += 1
        i = end
    return k, lone, runs


@kernel
def set_odd_apart(lexicon, buffer, runs):
    """Take from the HMM the runs that it does not decide alone: their number.

    These are words, perhaps, or hold letters. For the time being their characters stand alone.
    """
    odd = int64(0)
    for r in range(runs):
        start, size = int64(buffer.run[3 * r + START]), int64(buffer.run[3 * r + SIZE])
        score, found = buffer.score, buffer.found
        word = (size == 2) & (score[4 * start + TWO] > NEG_INF)
        word |= (size == 3) & (score[4 * start + THREE] > NEG_INF)
        word |= (size >= 4) & (found[4 * start + LONGER] != 0)
        if word | (size > MIXED):
            size &= MIXED - 1
            first = int64(buffer.run[3 * r + FIRST_LONE])
            for h in range(first, first + size):
                buffer.tag[h] = S
            buffer.run[3 * odd + START] = start
            buffer.run[3 * odd + SIZE] = size
            odd += 1
    return odd


@kernel
def join(lexicon, buffer, table, lone):
    """Make words of the lone characters, by their states."""
    begin = int64(0)
    over = int64(1)  # whether the word before is over
    late = int64(0)
    for h in range(lone):
        i = int64(buffer.lone[h])
        begin = chosen(over != 0, i, begin)
        over = int64(buffer.tag[h] >= E)
        size = i - begin + 1
        token = chosen(size == 2, int64(buffer.found[4 * begin + PAIR]), int64(buffer.symbol[i]))
        token = chosen(size == 3, int64(buffer.found[4 * begin + TRIPLE]), token)
        token = chosen(size >= 4, int64(NO_TOKEN), token)
        place = int64(buffer.place[i])
        buffer.token[place] = token & computed(-over)
        buffer.late[late] = place
        buffer.hit[late] = begin
        buffer.late_key[late] = size
        late += over & int64(token == NO_TOKEN)
    for j in range(late):  # what is noted stands before what is read, or at the same place
        place, start, size = int64(buffer.late[j]), int64(buffer.hit[j]), buffer.late_key[j]
        if size > 3:
            end = start + size
            token = find_token(lexicon, buffer, start, end)
            if token == NO_TOKEN and size > SHORT:
                token = intern_text(lexicon, table, buffer.code, start, end)
            if token != NO_TOKEN:
                buffer.token[place] = token
                continue
        intern_late(buffer, table, start, start + size, place)


@kernel
def amend(lexicon, buffer, table, odd):
    """Cut the odd runs one by one."""
    for r in range(odd):
        start, size = int64(buffer.run[3 * r + START]), int64(buffer.run[3 * r + SIZE])
        place = int64(buffer.place[start])
        k = emit_run(lexicon, buffer, table, start, start + size, False, place)
        for rest in range(k, place + size):
            buffer.token[rest] = NO_TOKEN


@kernel
def emit_path(lexicon, buffer, table, n):
    """The number of token ids put into ``buffer.token``, NO_TOKEN among them."""
    k, lone, runs = walk(lexicon, buffer, table, n)
    find_states(lexicon, buffer, lone)
    odd = set_odd_apart(lexicon, buffer, runs)
    join(lexicon, buffer, table, lone)
    amend(lexicon, buffer, table, odd)
    return k
