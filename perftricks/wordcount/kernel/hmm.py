"""``finalseg.viterbi`` over all runs of a buffer at once.

Runs are short and of every length, so a loop for each would be left by a wrong guess each time.
Here the characters of all runs stand in one list, and the model begins anew where a run does.
"""

from __future__ import annotations

from numba import int64

from .layout import (
    B_TO_E,
    B_TO_M,
    E_TO_B,
    E_TO_S,
    FIRST_HAN,
    M_TO_E,
    M_TO_M,
    S_TO_B,
    S_TO_S,
    STARTS,
    TRANSITIONS,
)
from .pointers import computed, kernel, masked
from .segment import chosen

B, M, E, S = 0, 1, 2, 3
# The predecessors that compete, two bits each: B from E or S, M from B or M, E from B or M, S from
# E or S.
PREDECESSORS = (E | S << 2) | (B | M << 2) << 4 | (B | M << 2) << 8 | (E | S << 2) << 12
LAST_BIT = 4  # of a tag: whether S wins over E if the run ends here


@kernel
def find_states(lexicon, buffer, lone):
    """The most probable states of the first characters in ``buffer.lone``; to ``buffer.tag``.

    These are positions of characters inside blocks; those that follow each other are a run. The
    states of a run that is not of Han characters alone mean nothing.
    jieba takes the maximum of tuples (probability, state letter), so of two equal predecessors the
    letter later in the alphabet wins: S before E before B for the states that compete, M before B.
    """
    model = lexicon.model
    emission = lexicon.emission
    first_han = lexicon.shape[FIRST_HAN]
    b = m = e = s = 0.0
    before = int64(-2)
    for h in range(lone):
        i = int64(buffer.lone[h])
        row = 4 * max(int64(buffer.symbol[i]) - first_han, int64(0))
        goes_on = computed(-int64(i == before + 1))
        before = i
        # Where a run starts, 0 + the logarithm of the start, and -inf for the other predecessor.
        now = STARTS + (goes_on & (TRANSITIONS - STARTS))
        b, e = masked(b, goes_on), masked(e, goes_on)
        emit_b, emit_m = emission[row], emission[row + 1]
        emit_e, emit_s = emission[row + 2], emission[row + 3]
        b_e, b_s = e + model[now + E_TO_B] + emit_b, s + model[now + S_TO_B] + emit_b
        m_b, m_m = b + model[now + B_TO_M] + emit_m, m + model[now + M_TO_M] + emit_m
        e_b, e_m = b + model[now + B_TO_E] + emit_e, m + model[now + M_TO_E] + emit_e
        s_e, s_s = e + model[now + E_TO_S] + emit_s, s + model[now + S_TO_S] + emit_s
        b = b_s if b_s > b_e else b_e  # a maximum instruction; of equal values either is right
        m = m_m if m_m > m_b else m_b
        e = e_m if e_m > e_b else e_b
        s = s_s if s_s > s_e else s_e
        # One bit per state says which of its two predecessors won.
        won = int64(b_s >= b_e) | int64(m_m >= m_b) << 1
        won |= int64(e_m >= e_b) << 2 | int64(s_s >= s_e) << 3
        buffer.tag[h] = won | int64(s >= e) << LAST_BIT
    after = int64(-2)
    state = int64(S)
    for h in range(lone - 1, -1, -1):
        i = int64(buffer.lone[h])
        won = int64(buffer.tag[h])
        last = E + ((won >> LAST_BIT) & 1)
        state = chosen(i + 1 == after, state, last)
        after = i
        buffer.tag[h] = state
        state = (PREDECESSORS >> (4 * state + 2 * ((won >> state) & 1))) & 3
