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
from .hmm import E, find_states
from .layout import FIRST_HAN, N_WORDS, NO_TOKEN, SHORT, SUPPLEMENTARY
from .oov import intern_late, intern_text
from .pointers import chosen, computed, inlined, kernel
from .segment import NEG_INF, find_slot, token_of


@inlined
def is_odd(buffer, start, size, mixed):
    """Whether a run is not the HMM's alone: a word, perhaps, or not of Han characters only."""
    word = (size == 2) & (buffer.two[start] > NEG_INF)
    word |= (size == 3) & (buffer.three[start] > NEG_INF)
    word |= (size >= 4) & (buffer.longer[start] != 0)
    return (size >= 2) & (word | (mixed != 0))


@kernel
def walk(lexicon, buffer, table, n):
    """Put the words of the path into ``buffer.token``: (tokens, lone characters, odd runs)."""
    n_words, first_han = lexicon.shape[N_WORDS], lexicon.shape[FIRST_HAN]
    i = int64(0)
    k = int64(0)
    size = int64(0)  # of the run that ends here
    mixed = int64(0)
    lone = int64(0)
    odd = int64(0)
    while i < n:
        end = int64(buffer.end[i])
        symbol, code = int64(buffer.symbol[i]), int64(buffer.code[i])
        single = int64(end - i == 1) & int64(symbol != 0)
        if is_odd(buffer, i - size, size * (1 - single), mixed):
            buffer.odd[odd], buffer.odd_size[odd] = i - size, size
            odd += 1
            lone -= size
        token = chosen(symbol != 0, token_of(lexicon, buffer.word[i]), n_words + code)
        if code >= SUPPLEMENTARY:
            token = intern_text(lexicon, table, buffer.code, i, i + 1)
        buffer.token[k] = token
        buffer.place[i] = k
        size = (size + 1) & computed(-single)
        second, grown = int64(size == 2), int64(size >= 2)
        mixed = (mixed & computed(-grown)) | int64(symbol < first_han)
        buffer.lone[lone] = i - second
        buffer.lone[lone + second] = i
        lone += grown + second
        k += 1
        i = end
    if is_odd(buffer, n - size, size, mixed):
        buffer.odd[odd], buffer.odd_size[odd] = n - size, size
        odd += 1
        lone -= size
    return k, lone, odd


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
        slot = chosen(size == 1, int64(buffer.symbol[i]), int64(buffer.pair[begin]))
        slot = chosen(size >= 3, int64(buffer.triple[begin]), slot)
        slot = chosen(size >= 4, int64(0), slot)
        token = token_of(lexicon, slot)
        place = int64(buffer.place[i])
        buffer.token[place] = token & computed(-over)
        buffer.late[late] = place
        buffer.hit[late] = begin
        buffer.late_key[late] = size
        late += over & int64(token == NO_TOKEN)
    for j in range(late):  # what is noted stands before what is read, or at the same place
        place, start, size = int64(buffer.late[j]), int64(buffer.hit[j]), buffer.late_key[j]
        if size > 3:
            slot = find_slot(lexicon, buffer, start, start + size)
            if slot != 0:
                buffer.token[place] = token_of(lexicon, slot)
                continue
            if size > SHORT:
                end = start + size
                buffer.token[place] = intern_text(lexicon, table, buffer.code, start, end)
                continue
        intern_late(buffer, table, start, start + size, place)


@kernel
def amend(lexicon, buffer, table, odd):
    """Cut the odd runs one by one."""
    for r in range(odd):
        start, size = int64(buffer.odd[r]), int64(buffer.odd_size[r])
        place = int64(buffer.place[start])
        k = emit_run(lexicon, buffer, table, start, start + size, False, place)
        for rest in range(k, place + size):
            buffer.token[rest] = NO_TOKEN


@kernel
def emit_path(lexicon, buffer, table, n):
    """The number of token ids put into ``buffer.token``, NO_TOKEN among them."""
    k, lone, odd = walk(lexicon, buffer, table, n)
    find_states(lexicon, buffer, lone)
    join(lexicon, buffer, table, lone)
    amend(lexicon, buffer, table, odd)
    return k
