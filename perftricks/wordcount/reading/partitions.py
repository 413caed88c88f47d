"""A corpus in partitions: ranges of its files, to be read anywhere and in any order.

Each document is in one of them. A range is one of bytes, of rows of a .parquet, or of record
batches of an .arrow. No text is read to divide a file: where its lines begin is looked for when a
partition is read, and of a .parquet or .arrow the end says where its parts are.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator
from dataclasses import replace

from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.arrow_documents import ARROW_FORMATS, find_groups
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.sources import Corpus, Range, Source
from perftricks.wordcount.reading.streams import AUTO

PARTITION_BYTES = 64 << 20

# Encodings in which the byte of a line end is nothing else, and every line begins afresh.
_LINES = frozenset(
    codecs.lookup(name).name
    for name in ("utf-8", "ascii", "latin-1", "gb18030", "gbk", "gb2312", "big5", "big5hkscs")
)


def divided(corpus: Corpus, options: ReadOptions, size: int = PARTITION_BYTES) -> Iterator[Source]:
    """Yield the partitions of a corpus, in order.

    Text and .jsonl are divided where they are not compressed, the encoding is one whose line ends
    can be told anywhere (UTF-8, GB18030 and its like, Big5), and a document is a line; .parquet
    between its row groups, .arrow and .feather between their record batches, for which the end of
    such a file is read if it is larger than a partition. Other files are a partition each: of a
    compressed one nobody knows where a line begins, a .csv may have line ends in quotes, a stream
    of Arrow does not say where its record batches are, and encoding "auto" is that of the whole
    file. So is each file where bad ones are skipped, of which nothing is counted.

    Args:
        corpus: The files.
        options: How they are read.
        size: Bytes of a partition, about.

    Raises:
        OptionError: If the size is less than a byte, or a file cannot be opened again.

    >>> corpus = Corpus((Source("a.txt", "text", "", 250),), 0)
    >>> [(part.start, part.stop) for part in divided(corpus, ReadOptions(), 100)]
    [(0, 100), (100, 200), (200, 250)]
    """
    if size < 1:
        raise OptionError(f"a partition has at least a byte, not {size}")
    for source in corpus.sources:
        if source.size is None:
            raise OptionError(f"{source.name!r} is no file, which can be read once and only here")
        if corpus.skip_bad:
            yield source
        elif _has_lines(source, options):
            for start in range(0, source.size, size):
                stop = min(start + size, source.size)
                yield replace(source, size=stop - start, start=start, stop=stop)
        elif source.format in ARROW_FORMATS and source.size > size:
            yield from _by_groups(source, source.size, size)
        else:
            yield source


def in_words(source: Source) -> str:
    """Say what a partition is.

    >>> in_words(Source("a.txt", "text", "", 100, start=2000, stop=2100))
    'bytes 2,000 to 2,100 of a.txt'
    >>> in_words(Source("a.parquet", "parquet", "", 100, rows=Range(200, 300)))
    'rows 201 to 300 of a.parquet'
    """
    if source.rows is not None:
        what, (start, stop) = "rows", source.rows
    elif source.batches is not None:
        what, (start, stop) = "record batches", source.batches
    elif source.start or source.stop is not None:
        what, start, stop = "bytes", source.start, source.stop
    else:
        return source.name
    first = start if what == "bytes" else start + 1
    return f"{what} {first:,} to {'the end' if stop is None else f'{stop:,}'} of {source.name}"


def _by_groups(source: Source, stored: int, size: int) -> Iterator[Source]:
    """Divide a file between its groups, each of which is where the middle of its bytes lies."""
    groups = find_groups(source)
    if len(groups) < 2:
        yield source
        return
    length = list(itertools.accumulate((group.length for group in groups), initial=0))
    bytes_before = list(itertools.accumulate((group.stored for group in groups), initial=0))
    # In proportion, so that the partitions have all bytes of the file.
    place = [stored * before // bytes_before[-1] for before in bytes_before]

    def number(group: int) -> int:
        return (place[group] + place[group + 1]) // 2 // size

    for _, some in itertools.groupby(range(len(groups)), number):
        first, *others = some
        end = (others[-1] if others else first) + 1
        part = replace(source, size=place[end] - place[first])
        kept = Range(length[first], length[end])
        is_parquet = source.format == "parquet"
        yield replace(part, rows=kept) if is_parquet else replace(part, batches=kept)


def _has_lines(source: Source, options: ReadOptions) -> bool:
    return (
        source.format in ("text", "jsonl")
        and not source.compression
        and options.document == "line"
        and options.encoding != AUTO
        and codecs.lookup(options.encoding).name in _LINES
    )
