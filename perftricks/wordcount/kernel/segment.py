"""jieba's segmentation over a buffer of decoded characters.

The buffer is processed as a whole, however many blocks, lines and documents it holds: a character
outside jieba's blocks has symbol 0, which starts no word and resets the score of the path, so
blocks need no code of their own. Each step is one pass over the buffer:

1. :func:`.decoding.decode`: UTF-8 to codes and symbols;
2. :func:`find_words`: ``Tokenizer.get_DAG``, the first probes of the trie at every position;
3. :func:`find_best_path`: ``Tokenizer.calc``, from the right;
4. the token ids in order: :mod:`.path`, :mod:`.emission` or :mod:`.cut_all`.
"""

from __future__ import annotations

from numba import int64

from .layout import (
    BASE_SHIFT,
    BEST,
    LONGER,
    NO_TOKEN,
    ONE,
    PAIR,
    SCORE_MASK,
    THREE,
    TRIPLE,
    TWO,
    UNSEEN,
    WORD,
    WORD_MASK,
    WORD_SHIFT,
)
from .oov import intern_text
from .pointers import computed, inlined, kernel, prefetch

NEG_INF = float("-inf")


@inlined
def child(lexicon, parent, symbol):
    """The slot of the parent's word extended by a symbol, or 0: no such prefix."""
    slot = (lexicon.node[parent] >> BASE_SHIFT) + symbol
    return slot if lexicon.check[slot] == symbol else int64(0)


@inlined
def score_of(lexicon, slot):
    """log(frequency) - log(total) of a word; -inf for a mere prefix of words."""
    return lexicon.score[lexicon.node[slot] & SCORE_MASK]


@inlined
def word_of(node):
    """The token id of the word or prefix that a node stands for."""
    return (node >> WORD_SHIFT) & WORD_MASK


@inlined
def chosen(condition, yes, no):
    """One of two integers, without a branch."""
    return no ^ ((yes ^ no) & computed(-int64(condition)))


@inlined
def slot_if(slot, found, wanted):
    """The slot if the two symbols are equal, else 0, without a branch: every third one fails."""
    return slot & computed(((found ^ wanted) - 1) >> 63)


@kernel
def find_words(lexicon, buffer, n):
    """``Tokenizer.get_DAG`` for words of up to three characters, at every position.

    And whether longer ones may start there. Free of branches that depend on the text, and one
    level of the trie after the other, so that the cache misses of many positions overlap. Each
    level goes on where the one before found something: a third of the positions or fewer. Slot 0
    stands for "not in the trie": no children and the score -inf.
    """
    score, found = buffer.score, buffer.found
    buffer.symbol[n] = 0
    following = int64(buffer.symbol[0])
    for i in range(n):
        symbol, following = following, int64(buffer.symbol[i + 1])
        slot = (lexicon.node[symbol] >> BASE_SHIFT) + following
        prefetch(lexicon.check, slot)
        found[4 * i + PAIR] = slot
        found[4 * i + TRIPLE] = 0
        found[4 * i + LONGER] = 0
        score[4 * i + ONE] = lexicon.single[symbol]
        score[4 * i + TWO] = NEG_INF
        score[4 * i + THREE] = NEG_INF
    pairs = int64(0)
    for i in range(n):
        slot = int64(found[4 * i + PAIR])
        slot = slot_if(slot, int64(lexicon.check[slot]), int64(buffer.symbol[i + 1]))
        prefetch(lexicon.node, slot)
        found[4 * i + PAIR] = slot
        buffer.hit[pairs] = i
        pairs += int64(slot != 0)
    for j in range(pairs):
        i = int64(buffer.hit[j])
        node = lexicon.node[found[4 * i + PAIR]]
        slot = (node >> BASE_SHIFT) + int64(buffer.symbol[i + 2])
        prefetch(lexicon.check, slot)
        found[4 * i + PAIR] = word_of(node)
        found[4 * i + TRIPLE] = slot
        score[4 * i + TWO] = lexicon.score[node & SCORE_MASK]
    triples = int64(0)
    for j in range(pairs):
        i = int64(buffer.hit[j])
        slot = int64(found[4 * i + TRIPLE])
        slot = slot_if(slot, int64(lexicon.check[slot]), int64(buffer.symbol[i + 2]))
        prefetch(lexicon.node, slot)
        found[4 * i + TRIPLE] = slot
        buffer.hit[triples] = i
        triples += int64(slot != 0)
    for j in range(triples):
        i = int64(buffer.hit[j])
        following = int64(buffer.symbol[i + 3])
        node = lexicon.node[found[4 * i + TRIPLE]]
        slot = (node >> BASE_SHIFT) + following
        found[4 * i + TRIPLE] = word_of(node)
        found[4 * i + LONGER] = slot_if(slot, int64(lexicon.check[slot]), following)
        score[4 * i + THREE] = lexicon.score[node & SCORE_MASK]


@inlined
def find_longer_words(lexicon, buffer, i, best, end, word):
    """``Tokenizer.get_DAG`` and ``calc`` for the words of more than three characters."""
    slot = int64(buffer.found[4 * i + LONGER])
    x = i + 4
    while slot != 0:
        node = lexicon.node[slot]
        score = lexicon.score[node & SCORE_MASK] + buffer.score[4 * x + BEST]
        if score >= best:
            best, end, word = score, x, word_of(node)
        symbol = int64(buffer.symbol[x])
        slot = (node >> BASE_SHIFT) + symbol
        slot = slot_if(slot, int64(lexicon.check[slot]), symbol)
        x += 1
    return best, end, word


@kernel
def find_best_path(lexicon, buffer, n):
    """``Tokenizer.calc``: the most probable first word at every position.

    jieba takes the maximum of tuples (score, end), so the longer word wins a tie; sums are formed
    in its order: (log(frequency) - log(total)) + score of the rest. The score of the rest is 0
    where a block ends: a character outside blocks scores +inf and no sum of logarithms is positive,
    so the minimum with 0 does it without a branch.
    """
    score, found = buffer.score, buffer.found
    after1 = after2 = after3 = 0.0  # the best scores from i + 1, i + 2, i + 3 on
    score[4 * n + BEST] = 0.0
    for i in range(n - 1, -1, -1):
        one = score[4 * i + ONE] + after1
        two = score[4 * i + TWO] + after2
        three = score[4 * i + THREE] + after3
        symbol = int64(buffer.symbol[i])
        # The value is chosen by ">" (one maximum instruction), the word by ">=": of equal values
        # either is right.
        best = three if three > two else two
        end = i + 3 if three >= two else i + 2
        word = int64(found[4 * i + TRIPLE]) if three >= two else int64(found[4 * i + PAIR])
        end = end if best >= one else i + 1
        word = word if best >= one else symbol
        best = best if best > one else one
        if found[4 * i + LONGER] != 0:
            best, end, word = find_longer_words(lexicon, buffer, i, best, end, word)
        if best == NEG_INF:  # no word starts here: jieba takes the character with log(1)
            best = lexicon.model[UNSEEN] + after1
            end, word = i + 1, symbol
        best = best if best < 0.0 else 0.0
        score[4 * i + BEST] = best
        buffer.end[i] = end
        found[4 * i + WORD] = word
        after1, after2, after3 = best, after1, after2


@kernel
def find_longer(lexicon, buffer, start, end):
    """The slot of the text from start to end (four characters or more, inside a block), or 0."""
    slot = int64(buffer.found[4 * start + LONGER])
    for i in range(start + 4, end):
        if slot == 0:
            break
        slot = child(lexicon, slot, int64(buffer.symbol[i]))
    return slot


@kernel
def find_token(lexicon, buffer, start, end):
    """The token id of a word or prefix of two characters or more inside a block, or NO_TOKEN."""
    if end - start == 2:
        return int64(buffer.found[4 * start + PAIR])
    if end - start == 3:
        return int64(buffer.found[4 * start + TRIPLE])
    return word_of(lexicon.node[find_longer(lexicon, buffer, start, end)])


@kernel
def is_word(lexicon, buffer, start, end):
    """Whether a text of two characters or more inside a block is a word."""
    if end - start == 2:
        return buffer.score[4 * start + TWO] != NEG_INF
    if end - start == 3:
        return buffer.score[4 * start + THREE] != NEG_INF
    return score_of(lexicon, find_longer(lexicon, buffer, start, end)) != NEG_INF


@kernel
def token_of_text(lexicon, buffer, table, start, end):
    """The token id of any contiguous text inside a block."""
    if end - start == 1:
        return int64(buffer.symbol[start])
    token = find_token(lexicon, buffer, start, end)
    if token != NO_TOKEN:
        return token
    return intern_text(lexicon, table, buffer.code, start, end)
