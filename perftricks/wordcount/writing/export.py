r"""Tables in files: written as a whole or not at all, and read back unchanged.

================= ============================================================================
.tsv              header, then token, tab, count. In tokens, backslash escapes stand for what
                  would break a line or a column: ``\\ \t \n \r``, ``\xHH`` and ``\uHHHH`` for
                  other control characters, line separators and lone surrogates.
.csv              header, then token, comma, count, as in RFC 4180: quotes around tokens that
                  need them.
.json             one object, token -> count; with document frequencies, token -> an object with
                  both.
.parquet          columns ``token``, ``count`` and ``document_frequency``; needs pyarrow, as do
.arrow, .feather  the same columns in Arrow's file format.
================= ============================================================================

Text is UTF-8 with ``\n`` line ends. All have the most frequent token first. A lone surrogate, which
no UTF-8 can hold, is escaped in .tsv and .json, kept as three bytes ("surrogatepass") in .csv, and
refused in the formats of Arrow. A pair of surrogates that a token holds as two characters becomes
the one character it means in .json.

An n-gram is written as its tokens with a space between, each escaped as in .tsv and a space in it
as ``\x20``; the column is called "ngram". In .json a table of n-grams is an array of rows
``[[token, ...], count]``, with the document frequency as third element if there is one; in the
formats of Arrow an n-gram is a list of strings.

Tokens that were counted with their part-of-speech tags have a column "tag" behind "token"; in .json
such a table is an array of objects with the names of the columns.

The formats of Arrow also say how many documents and tokens were counted, and whether rows were left
out; the others hold the rows alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

from perftricks.files import PathLike, replacing
from perftricks.wordcount.errors import CorpusError, OptionError
from perftricks.wordcount.reading.sources import STDIN, Source
from perftricks.wordcount.reading.urls import is_url, parse_storage
from perftricks.wordcount.table.counts import WordCounts, check_counts
from perftricks.wordcount.table.limits import default_limit
from perftricks.wordcount.table.rows import PART_NAME
from perftricks.wordcount.table.sums import gathered
from perftricks.wordcount.writing.arrow_tables import ArrowFile, Parquet
from perftricks.wordcount.writing.delimited import Csv, Tsv
from perftricks.wordcount.writing.formats import Format, Found
from perftricks.wordcount.writing.json_tables import Json

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns

TableFormat = Literal["tsv", "csv", "json", "parquet", "arrow", "feather"]
RowProgress = Callable[[int, int], None]

FORMATS: Mapping[TableFormat, Format] = {
    "tsv": Tsv(),
    "csv": Csv(),
    "json": Json(),
    "parquet": Parquet(),
    "arrow": ArrowFile(),
    "feather": ArrowFile(),
}
_KNOWN = ", ".join(f".{name}" for name in get_args(TableFormat)[:-1]) + " or .feather"


def write_table(
    path: PathLike | IO[bytes],
    counts: WordCounts,
    *,
    format: TableFormat | None = None,
    progress: RowProgress | None = None,
) -> None:
    """Write a table in the format of the file's extension.

    The file appears complete or not at all: what was there before stays until the new table is on
    the disk. Its permissions stay as well.

    Args:
        path: Where to: ``.tsv``, ``.csv``, ``.json``, ``.parquet``, ``.arrow`` or ``.feather``. The
            folder must exist. Or a file that is open for bytes, such as ``sys.stdout.buffer``; what
            has been written when writing fails stays in it.
        counts: The table; its document frequencies are written if it has them.
        format: "tsv", "csv", "json", "parquet", "arrow" or "feather"; None goes by the extension,
            and is "tsv" for an open file.
        progress: Called now and then with the rows that have been written and the rows there are.

    Raises:
        OptionError: If format or extension is another one, the folder does not exist, or ``counts``
            is no WordCounts.
        OSError: If writing fails, for want of space for example.

    >>> write_table("a.xls", WordCounts({}, documents=0))
    Traceback (most recent call last):
    perftricks.wordcount.errors.OptionError: output 'a.xls': unknown extension '.xls'; expected \
.tsv, .csv, .json, .parquet, .arrow or .feather
    """
    check_counts(counts)
    done = 0

    def written(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, len(counts))

    if not isinstance(path, (str, os.PathLike)):
        _format_of("output", "", format or "tsv").write(path, counts, written)
        path.flush()
        return
    check_output(path, format=format)
    target = os.fspath(path)
    with replacing(target) as file:
        _format_of("output", target, format).write(file, counts, written)


def read_table(
    path: PathLike,
    *,
    format: TableFormat | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> WordCounts:
    """Read a table that :func:`write_table` wrote, with its document frequencies if it has them.

    Args:
        path: The file; or a folder of ``.parquet`` files, which are one table together. One that
            workers of a cluster have written, at a path or a URL, is read when rows are asked for.
        format: "tsv", "csv", "json", "parquet", "arrow" or "feather"; None goes by the extension.
        storage_options: Options of the file system of a URL, as fsspec takes them.

    Returns:
        The table, equal to the one that was written. ``.parquet``, ``.arrow`` and ``.feather`` also
        say how many documents and tokens were counted. The others do not: ``tokens`` is the sum of
        the counts then, and asking for ``documents`` is an error.

    Raises:
        OptionError: If format or extension is another one.
        CorpusError: If the file is no such table; it names the line.
    """
    name = os.fspath(path)
    if is_url(name) or (os.path.isdir(name) and any(map(PART_NAME.fullmatch, os.listdir(name)))):
        from perftricks.wordcount.table.parted import PartedTable

        parted = PartedTable.opened(name, parse_storage(storage_options), default_limit())
        facts = parted.facts
        return WordCounts.of(
            parted, documents=facts.documents, tokens=facts.tokens, smallest=facts.smallest
        )
    form = _format_of("table", name, format)
    found = form.read(name)
    rows = 0

    def counted() -> Iterator[Columns]:
        nonlocal rows
        for part in found.parts:
            rows += len(part)
            yield part

    table = gathered(counted(), default_limit(), document_frequency=found.document_frequency)
    if len(table) < rows:
        raise CorpusError(name, f"not a table: {_repeated(form.read(name))!r} is there twice")
    if found.facts is None:
        return WordCounts.of(table, documents=None)
    return WordCounts.of(
        table,
        documents=found.facts.documents,
        tokens=found.facts.tokens,
        smallest=found.facts.smallest,
    )


def _repeated(found: Found) -> Any:
    """Return a key that a table holds more than once."""
    seen = set()
    for part in found.parts:
        for key, _, _ in part.rows():
            if key in seen:
                return key
            seen.add(key)
    return None


def check_output(
    path: PathLike, sources: Sequence[Source] = (), *, format: TableFormat | None = None
) -> None:
    """Check that a table can be written, before the work of making it.

    Args:
        path: Where to.
        sources: The files that are read, none of which may be overwritten.
        format: "tsv", "csv", "json", "parquet", "arrow" or "feather"; None goes by the extension.

    Raises:
        OptionError: If the extension is unknown, the folder does not exist or may not be written,
            or the path is one of the sources or no regular file.
    """
    name = os.fspath(path)
    reason = _format_of("output", name, format).why_not()
    if reason is not None:
        raise OptionError(f"output {name!r} cannot be written: {reason}")
    check_place(path, sources)


def check_apart(files: Iterable[PathLike | None], taken: Iterable[PathLike | None]) -> None:
    """Check that files to write are not each other, nor others that are read.

    Raises:
        OptionError: If one of them would take the place of another.
    """
    found = {os.path.realpath(path): path for path in taken if path is not None}
    for path in files:
        if path is None:
            continue
        target = os.path.realpath(path)
        if target in found:
            raise OptionError(
                f"output {os.fspath(path)!r} would overwrite {os.fspath(found[target])!r}, which "
                "this run reads or writes too; choose another name"
            )
        found[target] = path


def check_place(path: PathLike, sources: Sequence[Source] = ()) -> None:
    """Check that a file can be written, whatever will be in it; see :func:`check_output`."""
    target = os.path.realpath(path)
    name = os.fspath(path)
    folder = os.path.dirname(target)
    if os.path.exists(name) and not os.path.isfile(name):  # a pipe has no real path
        raise OptionError(f"output {name!r} exists and is no regular file; choose another name")
    if not os.path.isdir(folder):
        raise OptionError(f"output {name!r}: folder {folder!r} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"output {name!r}: folder {folder!r} may not be written to")
    for source in sources:
        if source.path != STDIN and os.path.realpath(source.path) == target:
            raise OptionError(f"output {name!r} would overwrite an input; choose another name")


def _format_of(what: str, name: str, format: TableFormat | None = None) -> Format:
    """Return the format that is named, or that of a file's extension."""
    return FORMATS[format_name(what, name, format)]


def format_name(what: str, name: str, format: TableFormat | None = None) -> TableFormat:
    """Return the name of the format that is named, or that of a file's extension.

    Args:
        what: What the file is, for the error.
        name: The file.
        format: The format that was asked for; None goes by the extension.

    Raises:
        OptionError: If it is none of them.
    """
    if format is not None:
        if format not in FORMATS:
            raise OptionError(
                f"the format of a table must be one of {', '.join(FORMATS)}, not {format!r}"
            )
        return format
    if os.path.isdir(name):
        return "parquet"
    extension = os.path.splitext(name)[1].lower()
    for known in FORMATS:
        if extension == f".{known}":
            return known
    problem = f"unknown extension {extension!r}" if extension else "no extension"
    raise OptionError(f"{what} {name!r}: {problem}; expected {_KNOWN}")
