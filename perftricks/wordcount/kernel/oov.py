"""The hash table of tokens outside the vocabulary, inside the kernel.

A token is a string of UTF-16 units. Up to four units (without U+0000) are packed into the key
itself, so most lookups touch one cache line and compare one integer; longer tokens are hashed and
compared unit by unit. Entries are numbered in order of first appearance and never move, so an
entry's number is a token id.

The caller makes sure before each buffer that the tokens of a whole buffer fit: nothing here grows.
"""

from __future__ import annotations

from numba import int64

from .layout import (
    ENTRY_CAPACITY,
    FIRST_OOV,
    N_ENTRIES,
    N_LATE,
    N_UNITS,
    N_WORDS,
    SHORT,
    SLOT_BITS,
    SUPPLEMENTARY,
    SUPPLEMENTARY_SHIFT,
    UNIT_CAPACITY,
)
from .pointers import inlined, kernel, prefetch

GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed integer
FNV_PRIME = 1099511628211
AHEAD = 12  # entries between a prefetch and its use
LONG = 1 << 40  # flag of a slot whose key is a hash rather than the token itself


@inlined
def key_of_units(unit, start, n):
    """(key, flag): the packed token and 0, or its hash and LONG."""
    if n <= SHORT:
        key = int64(0)
        has_null = False
        for i in range(n):
            value = int64(unit[start + i])
            has_null |= value == 0
            key |= value << (16 * i)
        if not has_null:
            return key, int64(0)
    key = int64(n)
    for i in range(n):
        key = (key ^ int64(unit[start + i])) * FNV_PRIME
        key ^= (key >> 29) & 0x7FFFFFFFF
    return key, int64(LONG)


@inlined
def first_slot(key, bits):
    """Where the search for a key starts."""
    mixed = (key ^ ((key >> 32) & 0xFFFFFFFF)) * GOLDEN
    return (mixed >> (64 - bits)) & ((int64(1) << bits) - 1)


@inlined
def next_slot(slot, tried, mask):
    """Where the search goes on after so many slots: through a cache line, then to the next one."""
    slot = (slot & ~3) | ((slot + 1) & 3)
    return (slot + 4) & mask if tried & 3 == 0 else slot


@inlined
def prefetch_slot(table, key):
    """Fetch the cache line where the search for a key will start."""
    prefetch(table.slot, 2 * first_slot(key, table.size[SLOT_BITS]))


@kernel
def same_units(unit, a, b, n):
    """Whether two strings of n units are equal."""
    for i in range(n):
        if unit[a + i] != unit[b + i]:
            return False
    return True


@inlined
def add_entry(table, slot, key, flag, n):
    """Number a new entry, whose n units have been written behind the last one."""
    entry = table.size[N_ENTRIES]
    end = table.size[N_UNITS] + n
    table.slot[2 * slot] = key
    table.slot[2 * slot + 1] = (entry + 1) | flag
    table.start[entry + 1] = end
    table.size[N_ENTRIES] = entry + 1
    table.size[N_UNITS] = end
    return entry


@inlined
def intern_short(table, key):
    """The entry of the token that is packed into a key; a new one if it is new."""
    bits = table.size[SLOT_BITS]
    mask = (int64(1) << bits) - 1
    slot = first_slot(key, bits)
    tried = int64(0)
    while True:
        tagged = table.slot[2 * slot + 1]
        if tagged == 0:
            break
        if table.slot[2 * slot] == key and tagged < LONG:
            return tagged - 1
        tried += 1
        slot = next_slot(slot, tried, mask)
    tail = table.size[N_UNITS]
    n = int64(0)
    rest = key
    while rest != 0:
        table.unit[tail + n] = rest & 0xFFFF
        rest = (rest >> 16) & 0xFFFFFFFFFFFF
        n += 1
    return add_entry(table, slot, key, int64(0), n)


@kernel
def intern_tail(table, n):
    """The entry of the n units that were written behind the last entry; a new one if new."""
    tail = table.size[N_UNITS]
    key, flag = key_of_units(table.unit, tail, n)
    if flag == 0:
        return intern_short(table, key)
    bits = table.size[SLOT_BITS]
    mask = (int64(1) << bits) - 1
    slot = first_slot(key, bits)
    tried = int64(0)
    while True:
        tagged = table.slot[2 * slot + 1]
        if tagged == 0:
            return add_entry(table, slot, key, flag, n)
        if table.slot[2 * slot] == key and tagged >= LONG:
            entry = (tagged & ~LONG) - 1
            start = table.start[entry]
            if table.start[entry + 1] - start == n and same_units(table.unit, start, tail, n):
                return entry
        tried += 1
        slot = next_slot(slot, tried, mask)


@kernel
def intern_text(lexicon, table, code, start, end):
    """The token id of a text (given by codes) that is not in the vocabulary."""
    tail = table.size[N_UNITS]
    n = int64(0)
    for i in range(start, end):
        value = int64(code[i])
        if value < SUPPLEMENTARY:
            table.unit[tail + n] = value
            n += 1
        else:
            offset = value - SUPPLEMENTARY_SHIFT - 0x10000
            table.unit[tail + n] = 0xD800 + (offset >> 10)
            table.unit[tail + n + 1] = 0xDC00 + (offset & 0x3FF)
            n += 2
    return lexicon.shape[N_WORDS] + FIRST_OOV + intern_tail(table, n)


@inlined
def intern_late(buffer, table, start, end, k):
    """Note that the k-th token is the text from start to end, at most SHORT characters of a block.

    By the time it is looked up (:func:`resolve_late`), the cache line of its slot has arrived.
    """
    key = int64(0)
    for i in range(end - 1, start - 1, -1):
        key = (key << 16) | int64(buffer.code[i])
    prefetch_slot(table, key)
    late = table.size[N_LATE]
    buffer.late[late] = k
    buffer.late_key[late] = key
    table.size[N_LATE] = late + 1


@kernel
def resolve_late(lexicon, buffer, table):
    """Look up the tokens that :func:`intern_late` noted."""
    first = lexicon.shape[N_WORDS] + FIRST_OOV
    for late in range(table.size[N_LATE]):
        buffer.token[buffer.late[late]] = first + intern_short(table, buffer.late_key[late])
    table.size[N_LATE] = 0


@kernel
def has_room(table, characters):
    """Whether the table takes all tokens of so many characters, whatever they are."""
    entries = table.size[N_ENTRIES] + characters
    return (
        entries <= table.size[ENTRY_CAPACITY]
        and table.size[N_UNITS] + 2 * characters <= table.size[UNIT_CAPACITY]
    )


@kernel
def rehash(table):
    """Fill the (empty) slots from the entries, after the arrays have grown."""
    bits = table.size[SLOT_BITS]
    mask = (int64(1) << bits) - 1
    entries = table.size[N_ENTRIES]
    for entry in range(entries):
        prefetch_entry(table, table, entry + AHEAD)
        start = table.start[entry]
        key, flag = key_of_units(table.unit, start, table.start[entry + 1] - start)
        slot = first_slot(key, bits)
        tried = int64(0)
        while table.slot[2 * slot + 1] != 0:
            tried += 1
            slot = next_slot(slot, tried, mask)
        table.slot[2 * slot] = key
        table.slot[2 * slot + 1] = (entry + 1) | flag


@inlined
def prefetch_entry(table, other, entry):
    """Fetch the slot in one table of an entry of another, if there is such an entry."""
    if entry < other.size[N_ENTRIES]:
        start = other.start[entry]
        key, _ = key_of_units(other.unit, start, other.start[entry + 1] - start)
        prefetch_slot(table, key)


@kernel
def merge_entries(table, other, entry_map):
    """Intern the entries of another table; entry_map[i] is the number of its entry i in this one.

    The caller has made room for all of them.
    """
    for entry in range(other.size[N_ENTRIES]):
        prefetch_entry(table, other, entry + AHEAD)
        start = other.start[entry]
        n = other.start[entry + 1] - start
        tail = table.size[N_UNITS]
        for i in range(n):
            table.unit[tail + i] = other.unit[start + i]
        entry_map[entry] = intern_tail(table, n)
