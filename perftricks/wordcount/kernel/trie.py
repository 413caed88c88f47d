"""Construction of the double-array trie.

A node's children are at ``base + symbol``. Bases are unique, so a child needs to check its symbol
only, not its parent. Slots and bases are bitmaps, so that 64 bases are tried at once.
"""

from __future__ import annotations

from numba import int64, uint64

from .pointers import inlined, kernel

NONE, ONE, ALL = uint64(0), uint64(1), uint64(0xFFFFFFFFFFFFFFFF)


@inlined
def window(bitmap, position):
    """The 64 bits from a position on."""
    word, shift = position >> 6, uint64(position & 63)
    bits = bitmap[word] >> shift
    if shift != NONE:
        bits |= bitmap[word + 1] << (uint64(64) - shift)
    return bits


@inlined
def set_bit(bitmap, position):
    """Set one bit."""
    bitmap[position >> 6] |= ONE << uint64(position & 63)


@kernel
def find_base(families, family, base, limit):
    """The first unused base from the given one on where the slots of all children are free.

    -1 if there is none.
    """
    first = families.first[family]
    end = first + families.size[family]
    while base + families.symbols[end - 1] + 64 < limit:
        conflicts = window(families.taken, base)
        for j in range(first, end):
            conflicts |= window(families.occupied, base + families.symbols[j])
            if conflicts == ALL:
                break
        if conflicts != ALL:
            while conflicts & ONE != NONE:
                conflicts >>= ONE
                base += 1
            return base
        base += 64
    return int64(-1)


@kernel
def place_families(families):
    """Place the families in the given order, each at the first base where it fits.

    Where they are ordered by size, largest first, each size fills the gaps that larger ones left.
    Within a size the search goes on where the last one ended. Returns how many were placed; fewer
    than there are if the arrays are too small.
    """
    n, limit, head = families.shape[0], families.shape[1], families.shape[2]
    start = head
    previous = int64(0)
    for family in range(n):
        while families.occupied[head >> 6] == ALL:
            head = (head & ~63) + 64
        size = families.size[family]
        if size != previous or start < head:
            start = head
        previous = size
        lowest = families.symbols[families.first[family]]
        base = find_base(families, family, max(int64(1), start - lowest), limit)
        if base < 0:
            return int64(family)
        start = base + lowest
        families.bases[family] = base
        set_bit(families.taken, base)
        for j in range(families.first[family], families.first[family] + size):
            set_bit(families.occupied, base + families.symbols[j])
    return int64(n)
