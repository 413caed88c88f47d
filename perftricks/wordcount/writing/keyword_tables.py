"""Keywords in files: a table with the columns of counts, and ``tfidf`` behind them.

.tsv and .csv have a header; .json is an array of objects; .parquet, .arrow and .feather need
pyarrow. Tokens are written as :mod:`.export` says. Weights have as many digits as it takes to read
the same number back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any

from perftricks.files import PathLike, replacing
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.table.rows import COUNT, DOCUMENT_FREQUENCY, TAG, TOKEN, Tagged
from perftricks.wordcount.tfidf import Keyword
from perftricks.wordcount.writing.delimited import quoted
from perftricks.wordcount.writing.escapes import escape
from perftricks.wordcount.writing.export import TableFormat, check_output, format_name

TFIDF = "tfidf"


def write_keywords(
    path: PathLike | IO[bytes], words: Sequence[Keyword], *, format: TableFormat | None = None
) -> None:
    """Write keywords in the format of the file's extension; see ``write_table``.

    Args:
        path: Where to, or a file that is open for bytes.
        words: The keywords, as :func:`perftricks.wordcount.keywords` returns them.
        format: "tsv", "csv", "json", "parquet", "arrow" or "feather"; None goes by the extension,
            and is "tsv" for an open file.

    Raises:
        OptionError: If format or extension is another one, the folder does not exist, or a token is
            one that Arrow's strings cannot hold.
        OSError: If writing fails.
    """
    if not isinstance(path, (str, os.PathLike)):
        _write(path, words, format or "tsv")
        path.flush()
        return
    check_output(path, format=format)
    with replacing(os.fspath(path)) as file:
        _write(file, words, format_name("output", os.fspath(path), format))


def records(words: Sequence[Keyword]) -> Iterator[dict[str, Any]]:
    """Yield the rows: column -> value."""
    for word in words:
        key = word.key
        row: dict[str, Any] = {TOKEN: key}
        if isinstance(key, Tagged):
            row = {TOKEN: key.token, TAG: key.tag}
        row[COUNT] = word.count
        if word.document_frequency is not None:
            row[DOCUMENT_FREQUENCY] = word.document_frequency
        yield {**row, TFIDF: word.weight}


def _write(file: IO[bytes], words: Sequence[Keyword], format: TableFormat) -> None:
    rows = list(records(words))
    columns = list(rows[0]) if rows else [TOKEN, COUNT, TFIDF]
    if format in ("tsv", "csv"):
        separator, text = ("\t", escape) if format == "tsv" else (",", quoted)
        lines = [separator.join(columns)]
        for row in rows:
            cells = (text(v) if isinstance(v, str) else repr(v) for v in row.values())
            lines.append(separator.join(cells))
        file.write("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    elif format == "json":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        body = "[" + ",".join("\n" + line for line in lines) + "\n]\n"
        file.write(body.encode("utf-8", "backslashreplace"))
    else:
        _write_arrow(file, rows, columns, format)


def _write_arrow(
    file: IO[bytes], rows: list[dict[str, Any]], columns: list[str], format: TableFormat
) -> None:
    from perftricks.wordcount.table.arrow import parquet_writer, pyarrow

    pa = pyarrow("a table of Arrow")
    kinds = {TOKEN: pa.string(), TAG: pa.string(), TFIDF: pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in columns])
    try:
        table = pa.Table.from_pylist(rows, schema)
    except UnicodeEncodeError:
        raise OptionError(
            "a keyword holds a lone surrogate, which Arrow's strings cannot: write .tsv, .csv or "
            ".json"
        ) from None
    writer = parquet_writer if format == "parquet" else pa.ipc.new_file
    with writer(file, schema) as out:
        out.write_table(table)
