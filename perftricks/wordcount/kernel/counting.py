"""What is done with the token ids of a buffer, and the functions the kernel exports.

An exported function takes one pointer: a table of the addresses of all arrays it works on. The
order of the arrays is the order of the fields in :mod:`.layout`.
"""

from __future__ import annotations

from numba import int64

from .cut_all import emit_all
from .decoding import decode, decode_character, last_clean_cut
from .emission import emit_hmm, emit_no_hmm
from .layout import (
    CAPACITY,
    DOC_FREQ,
    DOCUMENT,
    DONE,
    ENTRY_CAPACITY,
    FILLED,
    GROW_BUFFER,
    GROW_NGRAMS,
    GROW_TABLE,
    INVALID_UTF8,
    MODE,
    MODE_ALL,
    MODE_HMM,
    N_ENTRIES,
    N_SPLIT,
    N_WORDS,
    NEWLINE,
    NEWLINE_BYTE,
    NEWLINE_NONE,
    NGRAM,
    NO_TOKEN,
    POSITION,
    SEARCH,
    SEPARATOR,
    SEPARATOR_BYTE,
    SLOT_BITS,
    STOP,
    TOKENS_FROM,
    TOKENS_TO,
    WINDOW_FILLED,
    Buffer,
    Families,
    Job,
    Lexicon,
    NgramTable,
    Table,
)
from .oov import FNV_PRIME, first_slot, has_room, rehash, resolve_late
from .oov import merge_entries as merge_oov_entries
from .path import emit_path
from .pointers import FLOAT64, INT8, INT32, INT64, UINT8, UINT16, UINT64, kernel, pointer
from .segment import find_best_path, find_words
from .trie import place_families

# Where the arrays of one structure end and those of the next begin in the table of addresses.
AFTER_LEXICON = len(Lexicon._fields)
AFTER_BUFFER = AFTER_LEXICON + len(Buffer._fields)
AFTER_TABLE = AFTER_BUFFER + len(Table._fields)
AFTER_NGRAMS = AFTER_TABLE + len(NgramTable._fields)
# The same where a call is given one table, or two that are merged.
AFTER_ONE_TABLE, AFTER_TWO_TABLES = len(Table._fields), 2 * len(Table._fields)
AFTER_ONE_NGRAMS, AFTER_TWO_NGRAMS = len(NgramTable._fields), 2 * len(NgramTable._fields)
NEAR = 1 << 16  # bytes within which a line feed is worth waiting for


@kernel
def count_tokens(table, token, start, end):
    """Count every token of the buffer; the separators of documents are counted along."""
    for i in range(start, end):
        table.count[token[i]] += 1
    table.count[NO_TOKEN] = 0


@kernel
def count_documents(lexicon, job, table, token, start, end):
    """Count for every token the documents that contain it."""
    separator = lexicon.shape[N_WORDS] + SEPARATOR
    document = job.state[DOCUMENT]
    for i in range(start, end):
        this = token[i]
        if this == separator:
            document += 1
        elif this != NO_TOKEN and table.last_document[this] != document:
            table.last_document[this] = document
            table.doc_freq[this] += 1
    job.state[DOCUMENT] = document


@kernel
def key_of_gram(gram, start, n):
    """The hash of n token ids."""
    key = int64(n)
    for i in range(n):
        key = (key ^ int64(gram[start + i])) * FNV_PRIME
        key ^= (key >> 29) & 0x7FFFFFFFF
    return key


@kernel
def same_gram(gram, start, other, other_start, n):
    """Whether two sequences of n token ids are equal."""
    for i in range(n):
        if gram[start + i] != other[other_start + i]:
            return False
    return True


@kernel
def intern_gram(ngrams, gram, start, n):
    """The entry of an n-gram; a new one if it is new."""
    key = key_of_gram(gram, start, n)
    bits = ngrams.size[SLOT_BITS]
    mask = (int64(1) << bits) - 1
    slot = first_slot(key, bits)
    while ngrams.slot[2 * slot + 1] != 0:
        if ngrams.slot[2 * slot] == key:
            entry = ngrams.slot[2 * slot + 1] - 1
            if same_gram(ngrams.gram, n * entry, gram, start, n):
                return entry
        slot = (slot + 1) & mask
    entry = ngrams.size[N_ENTRIES]
    ngrams.slot[2 * slot] = key
    ngrams.slot[2 * slot + 1] = entry + 1
    for i in range(n):
        ngrams.gram[n * entry + i] = gram[start + i]
    ngrams.size[N_ENTRIES] = entry + 1
    return entry


@kernel
def rehash_grams(ngrams, n):
    """Fill the (empty) slots from the entries, after the arrays have grown."""
    bits = ngrams.size[SLOT_BITS]
    mask = (int64(1) << bits) - 1
    for entry in range(ngrams.size[N_ENTRIES]):
        key = key_of_gram(ngrams.gram, n * entry, n)
        slot = first_slot(key, bits)
        while ngrams.slot[2 * slot + 1] != 0:
            slot = (slot + 1) & mask
        ngrams.slot[2 * slot] = key
        ngrams.slot[2 * slot + 1] = entry + 1


@kernel
def merge_grams(ngrams, other, token_map, n, with_documents):
    """Add the counts of another table, whose token ids are translated first.

    The caller has made room for all of them.
    """
    for entry in range(other.size[N_ENTRIES]):
        for i in range(n):
            ngrams.window[i] = token_map[other.gram[n * entry + i]]
        mine = intern_gram(ngrams, ngrams.window, 0, n)
        ngrams.count[mine] += other.count[entry]
        if with_documents:
            ngrams.doc_freq[mine] += other.doc_freq[entry]


@kernel
def ngrams_have_room(ngrams, more):
    """Whether so many new n-grams fit."""
    return ngrams.size[N_ENTRIES] + more <= ngrams.size[ENTRY_CAPACITY]


@kernel
def count_ngrams(lexicon, job, ngrams, token, start, end):
    """Count the n-grams of consecutive tokens of a document."""
    separator = lexicon.shape[N_WORDS] + SEPARATOR
    n = job.state[NGRAM]
    with_documents = job.state[DOC_FREQ] != 0
    filled = job.state[WINDOW_FILLED]
    document = job.state[DOCUMENT]
    for i in range(start, end):
        if token[i] == separator:
            filled = int64(0)
            document += 1
            continue
        if token[i] == NO_TOKEN:
            continue
        if filled == n:
            for j in range(n - 1):
                ngrams.window[j] = ngrams.window[j + 1]
            filled -= 1
        ngrams.window[filled] = token[i]
        filled += 1
        if filled == n:
            entry = intern_gram(ngrams, ngrams.window, 0, n)
            ngrams.count[entry] += 1
            if with_documents and ngrams.last_document[entry] != document:
                ngrams.last_document[entry] = document
                ngrams.doc_freq[entry] += 1
    job.state[WINDOW_FILLED] = filled


@kernel
def segment(lexicon, buffer, table, job, n):
    """The token ids of the first n characters of the buffer: their number."""
    mode, search = job.state[MODE], job.state[SEARCH] != 0
    find_words(lexicon, buffer, n)
    if mode == MODE_ALL:
        return emit_all(lexicon, buffer, table, n)
    find_best_path(lexicon, buffer, n)
    if mode == MODE_HMM and not search and lexicon.shape[N_SPLIT] == 0:
        k = emit_path(lexicon, buffer, table, n)
    elif mode == MODE_HMM:
        k = emit_hmm(lexicon, buffer, table, n, search)
    else:
        k = emit_no_hmm(lexicon, buffer, table, n, search)
    resolve_late(lexicon, buffer, table)
    return k


@kernel
def consume(lexicon, buffer, table, ngrams, job):
    """Count the pending tokens; False if the table of n-grams has to grow first."""
    start, end = job.state[TOKENS_FROM], job.state[TOKENS_TO]
    if job.state[NGRAM] > 1:
        if not ngrams_have_room(ngrams, end - start):
            return False
        count_ngrams(lexicon, job, ngrams, buffer.token, start, end)
    count_tokens(table, buffer.token, start, end)
    if job.state[DOC_FREQ] != 0:
        count_documents(lexicon, job, table, buffer.token, start, end)
    job.state[TOKENS_FROM] = 0
    job.state[TOKENS_TO] = 0
    return True


@kernel
def drop_segmented(buffer, n, filled):
    """Move the characters that are not segmented yet to the front of the buffer."""
    for i in range(filled - n):
        buffer.code[i] = buffer.code[n + i]
        buffer.symbol[i] = buffer.symbol[n + i]
    return filled - n


@kernel
def count_text(lexicon, buffer, table, ngrams, job):
    """Count the tokens of the text from POSITION to STOP, or until the caller has to act.

    What the caller has to do is one of the results in ``layout``.

    The text must start and stop where it can be cut cleanly: see ``find_cut``.
    """
    state = job.state
    while True:
        if not consume(lexicon, buffer, table, ngrams, job):
            return GROW_NGRAMS
        filled, stop = state[FILLED], state[STOP]
        position = state[POSITION]
        if position >= stop and filled == 0:
            return DONE
        position, filled = decode(
            lexicon, buffer, job.text, position, stop, filled, state[CAPACITY], state[NEWLINE]
        )
        state[POSITION] = position
        if filled < 0:
            return INVALID_UTF8
        state[FILLED] = filled
        ready = filled
        if position < stop:
            ready = last_clean_cut(buffer, filled, state[MODE])
            if ready == 0:
                return GROW_BUFFER
        if not has_room(table, ready):
            return GROW_TABLE
        symbol = buffer.symbol[ready]
        state[TOKENS_TO] = segment(lexicon, buffer, table, job, ready)
        buffer.symbol[ready] = symbol  # where find_words put an end mark
        state[FILLED] = drop_segmented(buffer, ready, filled)


@kernel
def find_end(text, position, stop, end):
    """The position of the first byte that ends a document, or stop."""
    while position < stop and text[position] != end:
        position += 1
    return position


@kernel
def find_block(lexicon, text, position, stop, newline):
    """The first position from here on where a block starts behind a character outside blocks.

    The end if none does, or if the text up to there is not valid UTF-8. The end of a document
    will do as well, where a byte of its own marks it.
    """
    outside = False
    while position < stop and (text[position] & 0xC0) == 0x80:
        position += 1  # the position is in the middle of a character
    while position < stop:
        code, after = decode_character(text, position, stop)
        if code < 0:
            at_end = newline == NEWLINE_BYTE and text[position] == SEPARATOR_BYTE
            return position + 1 if at_end else stop
        inside = code < 0x10000 and lexicon.symbol[code] != 0
        if inside and outside:
            return position
        outside = not inside
        position = after
    return stop


@kernel
def find_cut_after(lexicon, job):
    """The first position from POSITION on where the text may be cut; STOP if there is none.

    Blocks are segmented independently of each other, so a text may be cut where one starts behind
    a character outside blocks, in every mode. Line feeds are preferred because they are cheap to
    find, and taken alone if documents must not be divided (DOC_FREQ is set).
    """
    state = job.state
    position, stop = state[POSITION], state[STOP]
    whole = state[DOC_FREQ] != 0
    if state[NEWLINE] != NEWLINE_NONE:
        limit = stop if whole else min(stop, position + NEAR)
        end = SEPARATOR_BYTE if state[NEWLINE] == NEWLINE_BYTE else 10
        found = find_end(job.text, position, limit, end)
        if found < limit:
            return found + 1
    if whole:
        return stop
    return find_block(lexicon, job.text, position, stop, state[NEWLINE])


@kernel
def write_text(text, text_start, index, n, out):
    """Write the chosen strings, each followed by a line feed: the number of units written."""
    k = int64(0)
    for i in range(n):
        for j in range(text_start[index[i]], text_start[index[i] + 1]):
            out[k] = text[j]
            k += 1
        out[k] = 10
        k += 1
    return k


@kernel
def lexicon_at(address):
    """The Lexicon whose arrays are at the first addresses of a table."""
    return Lexicon(
        pointer(address[0], UINT16),
        pointer(address[1], UINT8),
        pointer(address[2], UINT8),
        pointer(address[3], UINT16),
        pointer(address[4], INT64),
        pointer(address[5], FLOAT64),
        pointer(address[6], FLOAT64),
        pointer(address[7], FLOAT64),
        pointer(address[8], FLOAT64),
        pointer(address[9], INT64),
        pointer(address[10], UINT16),
        pointer(address[11], INT32),
        pointer(address[12], UINT8),
    )


@kernel
def buffer_at(address, i):
    """The Buffer whose arrays are at the addresses from i on."""
    return Buffer(
        pointer(address[i], INT32),
        pointer(address[i + 1], UINT16),
        pointer(address[i + 2], INT32),
        pointer(address[i + 3], FLOAT64),
        pointer(address[i + 4], INT32),
        pointer(address[i + 5], INT32),
        pointer(address[i + 6], INT32),
        pointer(address[i + 7], INT32),
        pointer(address[i + 8], INT8),
        pointer(address[i + 9], INT32),
        pointer(address[i + 10], INT32),
        pointer(address[i + 11], INT32),
        pointer(address[i + 12], INT32),
        pointer(address[i + 13], INT64),
    )


@kernel
def table_at(address, i):
    """The Table whose arrays are at the addresses from i on."""
    return Table(
        pointer(address[i], INT64),
        pointer(address[i + 1], INT64),
        pointer(address[i + 2], UINT16),
        pointer(address[i + 3], INT64),
        pointer(address[i + 4], INT64),
        pointer(address[i + 5], INT64),
        pointer(address[i + 6], INT64),
    )


@kernel
def job_at(address, i):
    """The Job whose arrays are at the addresses from i on."""
    return Job(pointer(address[i], UINT8), pointer(address[i + 1], INT64))


@kernel
def ngrams_at(address, i):
    """The NgramTable whose arrays are at the addresses from i on."""
    return NgramTable(
        pointer(address[i], INT64),
        pointer(address[i + 1], INT64),
        pointer(address[i + 2], INT32),
        pointer(address[i + 3], INT64),
        pointer(address[i + 4], INT32),
        pointer(address[i + 5], INT64),
        pointer(address[i + 6], INT64),
    )


def count(address):
    """Exported: (Lexicon, Buffer, Table, NgramTable, Job) -> what the caller has to do next."""
    return count_text(
        lexicon_at(address),
        buffer_at(address, AFTER_LEXICON),
        table_at(address, AFTER_BUFFER),
        ngrams_at(address, AFTER_TABLE),
        job_at(address, AFTER_NGRAMS),
    )


def find_cut(address):
    """Exported: (Lexicon, Job) -> where the text may be cut."""
    return find_cut_after(lexicon_at(address), job_at(address, AFTER_LEXICON))


def rehash_table(address):
    """Exported: (Table,) -> 0."""
    rehash(table_at(address, 0))
    return 0


def rehash_ngrams(address):
    """Exported: (NgramTable, int64[1] n) -> 0."""
    rehash_grams(ngrams_at(address, 0), pointer(address[AFTER_ONE_NGRAMS], INT64)[0])
    return 0


def merge_entries(address):
    """Exported: (Table, the other Table, int64 map of its entries) -> 0."""
    entry_map = pointer(address[AFTER_TWO_TABLES], INT64)
    merge_oov_entries(table_at(address, 0), table_at(address, AFTER_ONE_TABLE), entry_map)
    return 0


def merge_ngrams(address):
    """Exported: (NgramTable, the other, int32 map of its token ids, int64[2] options) -> 0.

    The options are n and whether there are document frequencies.
    """
    options = pointer(address[AFTER_TWO_NGRAMS + 1], INT64)
    merge_grams(
        ngrams_at(address, 0),
        ngrams_at(address, AFTER_ONE_NGRAMS),
        pointer(address[AFTER_TWO_NGRAMS], INT32),
        options[0],
        options[1] != 0,
    )
    return 0


def write_words(address):
    """Exported: (units, starts, int64 indices, int64[1] size, uint16 out) -> units written."""
    return write_text(
        pointer(address[0], UINT16),
        pointer(address[1], INT32),
        pointer(address[2], INT64),
        pointer(address[3], INT64)[0],
        pointer(address[4], UINT16),
    )


def write_entries(address):
    """Exported: like write_words, with int64 starts."""
    return write_text(
        pointer(address[0], UINT16),
        pointer(address[1], INT64),
        pointer(address[2], INT64),
        pointer(address[3], INT64)[0],
        pointer(address[4], UINT16),
    )


def place(address):
    """Exported: (Families,) -> how many families were placed."""
    return place_families(
        Families(
            pointer(address[0], INT64),
            pointer(address[1], INT64),
            pointer(address[2], INT64),
            pointer(address[3], UINT64),
            pointer(address[4], UINT64),
            pointer(address[5], INT64),
            pointer(address[6], INT64),
        )
    )
