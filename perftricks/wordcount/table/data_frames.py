"""A table as a frame of pandas or polars."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from perftricks.wordcount.table.rows import COUNT, DOCUMENT_FREQUENCY, NGRAM, TAG, TOKEN

if TYPE_CHECKING:
    from perftricks.wordcount.table.columns import Columns


def pandas_frame(parts: Iterable[Columns], keys: tuple[str, ...], *, documents: bool) -> Any:
    """Return a table as a ``pandas.DataFrame``; its columns are of the same types if it is empty.

    Args:
        parts: The rows.
        keys: What the columns of keys are called.
        documents: Whether there is a column of document frequencies.

    Raises:
        ImportError: If pandas is not installed.
    """
    pandas = _imported("pandas", "to_pandas")
    series = _series(parts, keys, documents)
    for name in keys:
        strings = series[name]
        try:
            kind = object if name == NGRAM else None if strings else str
            series[name] = pandas.Series(strings, dtype=kind)
        except UnicodeEncodeError:  # a lone surrogate, which the strings of Arrow cannot hold
            series[name] = pandas.Series(strings, dtype=object)
    return pandas.DataFrame(series)


def polars_frame(parts: Iterable[Columns], keys: tuple[str, ...], *, documents: bool) -> Any:
    """Return a table as a ``polars.DataFrame``; see :func:`pandas_frame`.

    Raises:
        ImportError: If polars is not installed.
        ValueError: If a token holds a lone surrogate.
    """
    polars = _imported("polars", "to_polars")
    series = _series(parts, keys, documents)
    kinds = {TOKEN: polars.String, TAG: polars.String, NGRAM: polars.List(polars.String)}
    if NGRAM in keys:
        series[NGRAM] = list(map(list, series[NGRAM]))
    known = {name: kinds[name] for name in keys}
    try:
        return polars.DataFrame(series, schema_overrides=known)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the token {error.object!r} holds a lone surrogate, which the strings of polars cannot"
        ) from None


def _series(parts: Iterable[Columns], keys: tuple[str, ...], documents: bool) -> dict[str, Any]:
    """Return the columns: lists of keys, arrays of numbers."""
    import numpy as np

    found: list[Any] = []
    numbers: list[list[Any]] = [[np.zeros(0, np.int64)], [np.zeros(0, np.int64)]]
    for part in parts:
        found += part.keys()
        numbers[0].append(part.count)
        if part.documents is not None:
            numbers[1].append(part.documents)
    series: dict[str, Any] = {keys[0]: found}
    if TAG in keys:
        series = {TOKEN: [key.token for key in found], TAG: [key.tag for key in found]}
    series[COUNT] = np.concatenate(numbers[0])
    if documents:
        series[DOCUMENT_FREQUENCY] = np.concatenate(numbers[1])
    return series


def _imported(name: str, what: str) -> Any:
    """Import a module.

    Raises:
        ImportError: If it is not installed; says what needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{what} needs {name}: pip install {name}") from None
