"""Named arrays as the content of a file: their names, types and sizes, then the arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from perftricks.wordcount.storage.sealed import DamagedError

_ALIGNMENT = 64


def packed(arrays: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """Yield a line of JSON, then the arrays, each aligned; all of it bytes-like."""
    header = json.dumps([[name, a.dtype.str, a.size] for name, a in arrays.items()]).encode()
    header += b"\n"
    yield header
    position = len(header)
    for array in arrays.values():
        padding = -position % _ALIGNMENT
        yield bytes(padding)
        yield np.ascontiguousarray(array).data.cast("B") if array.size else b""
        position += padding + array.nbytes


def unpacked(content: memoryview) -> dict[str, np.ndarray]:
    """Return the arrays, which share the content's memory.

    Raises:
        DamagedError: If that is not what :func:`packed` gave.
    """
    try:
        end = bytes(content[: 1 << 16]).index(b"\n") + 1
        position = end
        arrays = {}
        for name, dtype, size in json.loads(bytes(content[:end])):
            position += -position % _ALIGNMENT
            arrays[name] = (
                np.frombuffer(content, dtype, size, position) if size else np.empty(0, dtype)
            )
            position += arrays[name].nbytes
    except (ValueError, TypeError) as error:
        raise DamagedError(f"it is damaged: {error}") from None
    if position != len(content):
        raise DamagedError("it is damaged: its arrays have another size")
    return arrays
