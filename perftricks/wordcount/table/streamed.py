"""Keys, values and items of a table that is on the disk: its rows, one after the other."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any


class StreamedKeys(KeysView[Any]):
    """The tokens of a table."""

    _mapping: Any

    def __iter__(self) -> Iterator[Any]:
        return (token for token, _, _ in self._mapping.rows())


class StreamedValues(ValuesView[int]):
    """Its counts."""

    _mapping: Any

    def __iter__(self) -> Iterator[int]:
        return (count for _, count, _ in self._mapping.rows())


class StreamedItems(ItemsView[Any, int]):
    """Its tokens and counts."""

    _mapping: Any

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return ((token, count) for token, count, _ in self._mapping.rows())
