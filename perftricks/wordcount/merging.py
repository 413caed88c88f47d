"""Tables in files add up to one, which equals the table of one run over all of the text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from perftricks.files import PathLike
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.sources import matching
from perftricks.wordcount.settings import TableFilter
from perftricks.wordcount.table.counts import WordCounts
from perftricks.wordcount.table.limits import default_limit, parse_limit
from perftricks.wordcount.table.rows import table_bytes
from perftricks.wordcount.tagging import parse_tags
from perftricks.wordcount.writing.export import read_table


def merge_tables(
    paths: PathLike | Iterable[PathLike],
    *,
    stop_words: PathLike | Iterable[str] | None = None,
    min_count: int = 1,
    min_length: int = 0,
    words_only: bool = False,
    memory_limit: int | float | str | None = None,
    pos: bool | str | Iterable[str] = False,
) -> WordCounts:
    """Add up tables in files, as :func:`~perftricks.wordcount.write_table` writes them.

    Args:
        paths: The files: ``.tsv``, ``.csv``, ``.json``, ``.parquet``, ``.arrow``, ``.feather``, or
            folders of ``.parquet``, or patterns such as ``tables/*.tsv``; one or several.
        stop_words: Tokens to leave out of the sum: the path of a file with a word on each line,
            the words, or "zh" for the list of Chinese words that ships.
        min_count: Leave out tokens that occur less often in all of them together.
        min_length: Leave out tokens of fewer characters.
        words_only: Leave out tokens without a letter, of which Chinese characters are some:
            punctuation, blanks, numbers.
        memory_limit: What tables may take, in bytes or as a size such as "500MB"; None for half of
            what there is. A sum that outgrows it moves to the disk, in the temporary folder.
        pos: Of tables with part-of-speech tags, the tags to keep, such as ``("n", "v")`` or "n,v";
            "n*" means all that begin with n.

    Returns:
        The sum. ``documents`` is known if every file says it; see
        :func:`~perftricks.wordcount.read_table`.

    Raises:
        OptionError: If nothing is named, a file is named twice, or the tables do not add up: some
            have document frequencies and some have none, they count n-grams of different lengths,
            some have part-of-speech tags and some have none, or one says that rows were left out
            of it by a smallest count.
        CorpusError: If a file is no table; it names the file and the line.
        FileNotFoundError: If a pattern matches nothing.
        OSError: If a file cannot be read.

    >>> from perftricks.wordcount import count_words, write_table
    >>> folder = getfixture("tmp_path")
    >>> write_table(folder / "one.tsv", count_words(["我爱喝茶"]))
    >>> write_table(folder / "two.json", count_words(["茶", "喝茶"]))
    >>> merge_tables([folder / "one.tsv", folder / "two.json"])
    WordCounts({'喝茶': 2, '我': 1, '爱': 1, '茶': 1}, 4 distinct of 5 tokens)
    """
    names = matched(paths)
    if not names:
        raise OptionError("no path given; name tables to add up")
    tags = parse_tags(pos)
    table_filter = TableFilter.make(stop_words, min_count, min_length, words_only, tags)
    limit = default_limit() if memory_limit is None else parse_limit(memory_limit)
    _check_different(names)
    tables: list[WordCounts] = []
    for name in names:
        tables.append(read_table(name))
        rows = sum(map(len, tables))
        documents = any(counts.has_document_frequency for counts in tables)
        if len(tables) > 1 and table_bytes(rows, document_frequency=documents) > limit:
            tables = [_sum(tables, name, limit)]
    return filtered(_sum(tables, names[-1], limit), table_filter)


def matched(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """Return what is named, with what matches in place of patterns.

    Raises:
        FileNotFoundError: If a pattern matches nothing.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    return [path for name in given for path in matching(os.fsdecode(name))]


def filtered(counts: WordCounts, table_filter: TableFilter) -> WordCounts:
    """Return a sum without what is to be left out.

    Raises:
        OptionError: If tags are to be kept, and it has none.
    """
    try:
        return table_filter.apply(counts)
    except ValueError as error:
        raise OptionError(str(error)) from None


def _sum(tables: Sequence[WordCounts], name: PathLike, limit: int) -> WordCounts:
    try:
        return WordCounts.sum_of(tables, limit=limit)
    except ValueError as error:
        raise OptionError(f"the tables up to {os.fspath(name)!r} do not add up: {error}") from None


def _check_different(names: Iterable[PathLike]) -> None:
    seen = set()
    for name in names:
        real = os.path.realpath(name)
        if real in seen:
            raise OptionError(
                f"table {os.fspath(name)!r} is given twice; what it counts would count double"
            )
        seen.add(real)
