"""A corpus in partitions: ranges of bytes of its files, to be read anywhere and in any order.

Each document is in one of them. Nothing is read to divide a file: where its lines begin is looked
for when a partition is read.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace

from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.sources import Corpus, Source
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
    can be told anywhere (UTF-8, GB18030 and its like, Big5), and a document is a line. Other files
    are a partition each: of a compressed one nobody knows where a line begins, a .csv may have
    line ends in quotes, and encoding "auto" is that of the whole file.

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
        if not corpus.skip_bad and _has_lines(source, options):
            for start in range(0, source.size, size):
                stop = min(start + size, source.size)
                yield replace(source, size=stop - start, start=start, stop=stop)
        else:
            yield source


def _has_lines(source: Source, options: ReadOptions) -> bool:
    return (
        source.format in ("text", "jsonl")
        and not source.compression
        and options.document == "line"
        and options.encoding != AUTO
        and codecs.lookup(options.encoding).name in _LINES
    )
