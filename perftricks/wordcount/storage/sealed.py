r"""Files that are read back, and how it is known that they are what was written.

::

    "perftricks lexicon 1           \n"   what it is, and the version of its form: 32 bytes
    sha256 of the line above, the file's name and what follows: 32 bytes
    what was written

A file in which a bit has changed, that was cut off, that stands under another's name or is of
another version is as good as none. A digest keeps accidents away and not an enemy: that the file is
the user's own is checked where it is opened. Nothing here executes what it reads, as pickle and
marshal do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

HEADER_BYTES = 64
_LINE_BYTES = 32


class DamagedError(ValueError):
    """A file that is not what was written."""


def seal(kind: str, name: str, parts: Iterable[Any]) -> bytes:
    """Return what stands in front of the content of a file.

    Args:
        kind: What the file is, with the version of its form, such as "lexicon 1".
        name: What the file is called.
        parts: The content, in parts that are bytes-like.
    """
    line = _line(kind)
    return line + _digest(line, name, parts)


def unsealed(kind: str, name: str, data: bytes) -> memoryview:
    """Return the content of a file.

    Args:
        kind: What the file must be.
        name: What it is called.
        data: All of it.

    Raises:
        DamagedError: If it is not what was written.

    >>> data = seal("note 1", "a", [b"tea"]) + b"tea"
    >>> bytes(unsealed("note 1", "a", data))
    b'tea'
    >>> unsealed("note 1", "b", data)
    Traceback (most recent call last):
    ...
    perftricks.wordcount.storage.sealed.DamagedError: it is damaged: its digest is another one
    """
    line = _line(kind)
    if not data.startswith(line):
        raise DamagedError(f"it is no {kind.partition(' ')[0]} of this version, or damaged")
    content = memoryview(data)[HEADER_BYTES:]
    if data[_LINE_BYTES:HEADER_BYTES] != _digest(line, name, [content]):
        raise DamagedError("it is damaged: its digest is another one")
    return content


def digest_of(data: bytes) -> str:
    """Return the digest in a sealed file, which stands for all of it."""
    return data[_LINE_BYTES:HEADER_BYTES].hex()


def _line(kind: str) -> bytes:
    line = f"perftricks {kind}".ljust(_LINE_BYTES - 1) + "\n"
    assert len(line) == _LINE_BYTES
    return line.encode("ascii")


def _digest(line: bytes, name: str, parts: Iterable[Any]) -> bytes:
    digest = hashlib.sha256(line)
    named = name.encode("utf-8", "surrogateescape")
    digest.update(len(named).to_bytes(8, "little"))
    digest.update(named)
    for part in parts:
        digest.update(part)
    return digest.digest()
