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

from .layout import BASE_SHIFT, SCORE_MASK, UNSEEN, WORD_MASK, WORD_SHIFT
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
def token_of(lexicon, slot):
    """The token id of the word or prefix that a slot stands for."""
    return (lexicon.node[slot] >> WORD_SHIFT) & WORD_MASK


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
    for i in range(n):
        buffer.two[i] = NEG_INF
        buffer.three[i] = NEG_INF
        buffer.triple[i] = 0
        buffer.longer[i] = 0
    buffer.symbol[n] = 0
    following = int64(buffer.symbol[0])
    for i in range(n):
        symbol, following = following, int64(buffer.symbol[i + 1])
        slot = (lexicon.node[symbol] >> BASE_SHIFT) + following
        prefetch(lexicon.check, slot)
        buffer.pair[i] = slot
        buffer.one[i] = lexicon.single[symbol]
    pairs = int64(0)
    for i in range(n):
        slot = int64(buffer.pair[i])
        slot = slot_if(slot, int64(lexicon.check[slot]), int64(buffer.symbol[i + 1]))
        prefetch(lexicon.node, slot)
        buffer.pair[i] = slot
        buffer.hit[pairs] = i
        pairs += int64(slot != 0)
    for j in range(pairs):
        i = int64(buffer.hit[j])
        node = lexicon.node[buffer.pair[i]]
        slot = (node >> BASE_SHIFT) + int64(buffer.symbol[i + 2])
        prefetch(lexicon.check, slot)
        buffer.triple[i] = slot
        buffer.two[i] = lexicon.score[node & SCORE_MASK]
    triples = int64(0)
    for j in range(pairs):
        i = int64(buffer.hit[j])
        slot = int64(buffer.triple[i])
        slot = slot_if(slot, int64(lexicon.check[slot]), int64(buffer.symbol[i + 2]))
        prefetch(lexicon.node, slot)
        buffer.triple[i] = slot
        buffer.hit[triples] = i
        triples += int64(slot != 0)
    for j in range(triples):
        i = int64(buffer.hit[j])
        following = int64(buffer.symbol[i + 3])
        node = lexicon.node[buffer.triple[i]]
        buffer.three[i] = lexicon.score[node & SCORE_MASK]
        slot = (node >> BASE_SHIFT) + following
        buffer.longer[i] = slot_if(slot, int64(lexicon.check[slot]), following)


@inlined
def find_longer_words(lexicon, buffer, i, best, end, word):
    """``Tokenizer.get_DAG`` and ``calc`` for the words of more than three characters."""
    slot = int64(buffer.longer[i])
    x = i + 4
    while slot != 0:
        node = lexicon.node[slot]
        score = lexicon.score[node & SCORE_MASK] + buffer.best[x]
        if score >= best:
            best, end, word = score, x, slot
        symbol = int64(buffer.symbol[x])
        slot = (node >> BASE_SHIFT) + symbol
        slot = slot_if(slot, int64(lexicon.check[slot]), symbol)
        x += 1
    return best, end, word


@kernel
def find_best_path(lexicon, buffer, n):
    """``Tokenizer.calc``: the most probable first word at every position.

    jieba takes the maximum of tuples (score, end), so the longer word wins a tie; sums are formed
    in its order:
    (log(frequency) - log(total)) + score of the rest. The score of the rest is 0 where a block
    ends: a character outside blocks scores +inf and no sum of logarithms is positive, so the
    minimum with 0 does it without a branch.
    """
    after1 = after2 = after3 = 0.0  # best[i + 1], best[i + 2], best[i + 3]
    buffer.best[n] = 0.0
    for i in range(n - 1, -1, -1):
        one = buffer.one[i] + after1
        two = buffer.two[i] + after2
        three = buffer.three[i] + after3
        symbol = int64(buffer.symbol[i])
        # The value is chosen by ">" (one maximum instruction), the word by ">=": of equal values
        # either is right.
        best = three if three > two else two
        end = i + 3 if three >= two else i + 2
        word = int64(buffer.triple[i]) if three >= two else int64(buffer.pair[i])
        end = end if best >= one else i + 1
        word = word if best >= one else symbol
        best = best if best > one else one
        if buffer.longer[i] != 0:
            best, end, word = find_longer_words(lexicon, buffer, i, best, end, word)
        if best == NEG_INF:  # no word starts here: jieba takes the character with log(1)
            best = lexicon.model[UNSEEN] + after1
            end, word = i + 1, symbol
        best = best if best < 0.0 else 0.0
        buffer.best[i] = best
        buffer.end[i] = end
        buffer.word[i] = word
        after1, after2, after3 = best, after1, after2


@inlined
def find_slot(lexicon, buffer, start, end):
    """The slot of the text from start to end (two characters or more, inside a block), or 0."""
    if end - start == 2:
        return int64(buffer.pair[start])
    slot = int64(buffer.triple[start])
    for i in range(start + 3, end):
        if slot == 0:
            break
        slot = child(lexicon, slot, int64(buffer.symbol[i]))
    return slot


@kernel
def token_of_text(lexicon, buffer, table, start, end):
    """The token id of any contiguous text inside a block."""
    if end - start == 1:
        return int64(buffer.symbol[start])
    slot = find_slot(lexicon, buffer, start, end)
    if slot != 0:
        return token_of(lexicon, slot)
    return intern_text(lexicon, table, buffer.code, start, end)
