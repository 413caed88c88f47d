"""jieba's segmentation over a buffer of decoded characters.

The buffer is processed as a whole, however many blocks, lines and documents it holds: a character
outside jieba's blocks has symbol 0, which starts no word and resets the score of the path, so
blocks need no code of their own. Each step is one pass over the buffer:

1. :func:`decode`: UTF-8 to codes and symbols;
2. :func:`find_words`: ``Tokenizer.get_DAG``, the first two probes of the trie at every position;
3. :func:`find_best_path`: ``Tokenizer.calc``, from the right;
4. ``emit_*``: the token ids in order, as ``Tokenizer.__cut_DAG``, ``__cut_DAG_NO_HMM`` or
``__cut_all`` yield them.
"""

from __future__ import annotations

from numba import int64

from .layout import (
    B_TO_E,
    B_TO_M,
    BASE_SHIFT,
    CRLF,
    DIGIT,
    DOT,
    E_TO_B,
    E_TO_S,
    EMPTY,
    FIRST_HAN,
    FORCE_SPLIT,
    HAN,
    LETTER,
    M_TO_E,
    M_TO_M,
    MODE_ALL,
    N_SLOTS,
    NEWLINE_BYTE,
    NEWLINE_LF,
    NEWLINE_NONE,
    NEWLINE_UNIVERSAL,
    PERCENT,
    S_TO_B,
    S_TO_S,
    SCORE_MASK,
    SEPARATOR,
    SEPARATOR_BYTE,
    SHORT,
    START_B,
    START_E,
    START_M,
    START_S,
    SUPPLEMENTARY,
    SUPPLEMENTARY_SHIFT,
    UNSEEN,
)
from .oov import intern_late, intern_text
from .pointers import computed, inlined, kernel, prefetch

NEG_INF = float("-inf")
B, M, E, S = 0, 1, 2, 3
# The predecessors that compete, two bits each: B from E or S, M from B or M, E from B or M, S from
# E or S.
PREDECESSORS = (E | S << 2) | (B | M << 2) << 4 | (B | M << 2) << 8 | (E | S << 2) << 12


@inlined
def decode_character(text, position, stop):
    """One UTF-8 character: (code point, next position), or (-1, position) if it is not valid UTF-8.

    Accepts exactly what Python's strict decoder accepts: no overlong forms, no surrogates, nothing
    above U+10FFFF.
    """
    lead = int64(text[position])
    left = stop - position
    if lead < 0x80:
        return lead, position + 1
    if 0xE0 <= lead < 0xF0:
        if left >= 3:
            second, third = int64(text[position + 1]), int64(text[position + 2])
            code = ((lead & 0x0F) << 12) | ((second & 0x3F) << 6) | (third & 0x3F)
            valid = ((second & 0xC0) == 0x80) & ((third & 0xC0) == 0x80)
            if valid and code >= 0x800 and (code & 0xF800) != 0xD800:
                return code, position + 3
    elif 0xC2 <= lead < 0xE0:
        if left >= 2:
            second = int64(text[position + 1])
            if (second & 0xC0) == 0x80:
                return ((lead & 0x1F) << 6) | (second & 0x3F), position + 2
    elif 0xF0 <= lead < 0xF5 and left >= 4:
        second, third = int64(text[position + 1]), int64(text[position + 2])
        fourth = int64(text[position + 3])
        high = ((lead & 0x07) << 18) | ((second & 0x3F) << 12)
        code = high | ((third & 0x3F) << 6) | (fourth & 0x3F)
        valid = ((second & 0xC0) == 0x80) & ((third & 0xC0) == 0x80) & ((fourth & 0xC0) == 0x80)
        if valid and 0x10000 <= code < 0x110000:
            return code, position + 4
    return int64(-1), position


@kernel
def decode_line_end(text, position, stop, newline):
    r"""The code of a ``\r`` or ``\n`` at the position, as the newline option says.

    Also where the text goes on.
    """
    is_return = text[position] == 13
    is_pair = is_return and position + 1 < stop and text[position + 1] == 10
    if newline == NEWLINE_NONE or newline == NEWLINE_BYTE:
        if is_pair:
            return int64(CRLF), position + 2
        return int64(text[position]), position + 1
    if is_pair and newline != NEWLINE_LF:
        return int64(SEPARATOR), position + 2
    if is_return and newline != NEWLINE_UNIVERSAL:
        return int64(13), position + 1
    return int64(SEPARATOR), position + 1


@kernel
def decode(lexicon, buffer, text, position, stop, filled, capacity, newline):
    """Decode characters until the text or the buffer ends: (position, characters in the buffer).

    The position is where an invalid sequence starts if the text is not valid UTF-8, with -1
    characters.
    """
    while position < stop and filled < capacity:
        code, after = decode_character(text, position, stop)
        if code < 0:
            if newline != NEWLINE_BYTE or text[position] != SEPARATOR_BYTE:
                return position, int64(-1)
            code, after = int64(SEPARATOR), position + 1
        if code == 10 or code == 13:
            code, after = decode_line_end(text, position, stop, newline)
        if code < 0x10000:
            buffer.symbol[filled] = lexicon.symbol[code]
        else:
            buffer.symbol[filled] = 0
            if after - position == 4:
                code += SUPPLEMENTARY_SHIFT
        buffer.code[filled] = code
        filled += 1
        position = after
    return position, filled


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
        return slot
    return intern_text(lexicon, table, buffer.code, start, end)


@kernel
def put_words_inside(lexicon, buffer, start, end, k):
    """Append the words of two and three characters inside a token.

    That is what ``Tokenizer.cut_for_search`` does.
    """
    if end - start > 2:
        for i in range(start, end - 1):
            slot = int64(buffer.pair[i])
            if slot != 0 and score_of(lexicon, slot) != NEG_INF:
                buffer.token[k] = slot
                k += 1
    if end - start > 3:
        for i in range(start, end - 2):
            slot = int64(buffer.triple[i])
            if slot != 0 and score_of(lexicon, slot) != NEG_INF:
                buffer.token[k] = slot
                k += 1
    return k


@inlined
def put(lexicon, buffer, start, end, token, search, k):
    """Append a token of the vocabulary."""
    if search:
        k = put_words_inside(lexicon, buffer, start, end, k)
    buffer.token[k] = token
    return k + 1


@inlined
def put_text(lexicon, buffer, table, start, end, search, k):
    """Append a text of two characters or more inside a block, whether in the vocabulary or not."""
    if search:
        k = put_words_inside(lexicon, buffer, start, end, k)
    slot = find_slot(lexicon, buffer, start, end)
    if slot != 0:
        buffer.token[k] = slot
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


@inlined
def put_outside(lexicon, buffer, table, i, k):
    """Append a character outside the blocks (or the end of a document)."""
    code = int64(buffer.code[i])
    if code < SUPPLEMENTARY:
        buffer.token[k] = lexicon.shape[N_SLOTS] + code
    else:
        buffer.token[k] = intern_text(lexicon, table, buffer.code, i, i + 1)
    return k + 1


@kernel
def viterbi(lexicon, buffer, start, end):
    """``finalseg.viterbi``: the most probable states of a run of Han characters.

    They go to ``buffer.tag``.

    jieba takes the maximum of tuples (probability, state letter), so of two equal predecessors the
    letter later in the alphabet wins: S before E before B for the states that compete, M before B.
    """
    model = lexicon.model
    emission = lexicon.emission
    first_han = lexicon.shape[FIRST_HAN]
    row = 4 * (int64(buffer.symbol[start]) - first_han)
    b = model[START_B] + emission[row]
    m = model[START_M] + emission[row + 1]
    e = model[START_E] + emission[row + 2]
    s = model[START_S] + emission[row + 3]
    for i in range(start + 1, end):
        row = 4 * (int64(buffer.symbol[i]) - first_han)
        emit_b, emit_m = emission[row], emission[row + 1]
        emit_e, emit_s = emission[row + 2], emission[row + 3]
        b_e, b_s = e + model[E_TO_B] + emit_b, s + model[S_TO_B] + emit_b
        m_b, m_m = b + model[B_TO_M] + emit_m, m + model[M_TO_M] + emit_m
        e_b, e_m = b + model[B_TO_E] + emit_e, m + model[M_TO_E] + emit_e
        s_e, s_s = e + model[E_TO_S] + emit_s, s + model[S_TO_S] + emit_s
        # One bit per state says which of its two predecessors won.
        buffer.tag[i] = (b_s >= b_e) | (m_m >= m_b) << 1 | (e_m >= e_b) << 2 | (s_s >= s_e) << 3
        b = b_s if b_s > b_e else b_e  # a maximum instruction; of equal values either is right
        m = m_m if m_m > m_b else m_b
        e = e_m if e_m > e_b else e_b
        s = s_s if s_s > s_e else s_e
    state = S if s >= e else E
    for i in range(end - 1, start, -1):
        won = (int64(buffer.tag[i]) >> state) & 1
        buffer.tag[i] = state
        state = (PREDECESSORS >> (4 * state + 2 * won)) & 3
    buffer.tag[start] = state


@kernel
def emit_han(lexicon, buffer, table, start, end, search, k):
    """``finalseg.__cut`` and the forced splits of ``finalseg.cut`` for a run of Han characters."""
    if end - start == 1:
        buffer.token[k] = buffer.symbol[start]
        return k + 1
    viterbi(lexicon, buffer, start, end)
    begin = start
    for i in range(start, end):
        if buffer.tag[i] < E:  # B or M: the word goes on
            continue
        if i == begin:
            buffer.token[k] = buffer.symbol[i]
            k += 1
        else:
            slot = find_slot(lexicon, buffer, begin, i + 1)
            if slot != 0 and lexicon.node[slot] & FORCE_SPLIT:
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
    if end - start > 1:
        slot = find_slot(lexicon, buffer, start, end)
        if slot == 0 or score_of(lexicon, slot) == NEG_INF:
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
            k = put(lexicon, buffer, i, end, int64(buffer.word[i]), search, k)
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
            k = put(lexicon, buffer, i, end, int64(buffer.word[i]), search, k)
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


@kernel
def token_of_codes(lexicon, table, code, n):
    """The token id of any text given by its codes, contiguous or not."""
    if n == 0:
        return lexicon.shape[N_SLOTS] + EMPTY
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
        return slot
    if n == 1 and code[0] < SUPPLEMENTARY:
        return lexicon.shape[N_SLOTS] + code[0]
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
            buffer.token[k + 1] = lexicon.shape[N_SLOTS] + code
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
    slot = int64(buffer.pair[start])
    x = start + 2
    while slot != 0:
        if score_of(lexicon, slot) != NEG_INF:
            buffer.token[k] = slot
            k += 1
        if x >= end:
            break
        slot = child(lexicon, slot, int64(buffer.symbol[x]))
        x += 1
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


@kernel
def is_clean_cut(buffer, i, filled, mode):
    """Whether the text before the i-th character and the text from it on can be segmented apart."""
    if buffer.symbol[i - 1] != 0:
        return False
    if mode != MODE_ALL or buffer.code[i - 1] == SEPARATOR:
        return True
    # cut_all yields the text between two blocks in pieces, with empty ones: cut only where a block
    # starts.
    return i < filled and buffer.symbol[i] != 0


@kernel
def last_clean_cut(buffer, filled, mode):
    """The largest number of characters that can be segmented without the text that follows.

    0 if there is none.
    """
    i = filled
    while i > 0 and not is_clean_cut(buffer, i, filled, mode):
        i -= 1
    return i
