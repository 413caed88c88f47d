"""From bytes to characters, and where a text may be cut."""

from __future__ import annotations

from numba import int64

from .layout import (
    CRLF,
    MODE_ALL,
    NEWLINE_BYTE,
    NEWLINE_LF,
    NEWLINE_NONE,
    NEWLINE_UNIVERSAL,
    SEPARATOR,
    SEPARATOR_BYTE,
    SUPPLEMENTARY_SHIFT,
)
from .pointers import inlined, kernel


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


@inlined
def decode_han(lexicon, buffer, text, position, filled, most):
    """Decode characters of three bytes, as Han are, until there is another: (position, filled)."""
    last = filled + most
    while filled < last:
        lead, second = int64(text[position]), int64(text[position + 1])
        third = int64(text[position + 2])
        code = ((lead & 0x0F) << 12) | ((second & 0x3F) << 6) | (third & 0x3F)
        wrong = (lead & 0xF0) ^ 0xE0 | (second & 0xC0) ^ 0x80 | (third & 0xC0) ^ 0x80
        if (wrong != 0) | (code < 0x800) | ((code & 0xF800) == 0xD800):
            break
        buffer.symbol[filled] = lexicon.symbol[code]
        buffer.code[filled] = code
        filled += 1
        position += 3
    return position, filled


@inlined
def decode_ascii(lexicon, buffer, text, position, filled, most):
    """Decode ASCII, control characters apart, until there is another: (position, filled)."""
    last = filled + most
    while filled < last:
        code = int64(text[position])
        if (code < 0x20) | (code >= 0x80):
            break
        buffer.symbol[filled] = lexicon.symbol[code]
        buffer.code[filled] = code
        filled += 1
        position += 1
    return position, filled


@kernel
def decode(lexicon, buffer, text, position, stop, filled, capacity, newline):
    """Decode characters until the text or the buffer ends: (position, characters in the buffer).

    The position is where an invalid sequence starts if the text is not valid UTF-8, with -1
    characters.
    """
    while position < stop and filled < capacity:
        position, filled = decode_han(
            lexicon, buffer, text, position, filled, min(capacity - filled, (stop - position) // 3)
        )
        position, filled = decode_ascii(
            lexicon, buffer, text, position, filled, min(capacity - filled, stop - position)
        )
        if position >= stop or filled >= capacity:
            break
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
