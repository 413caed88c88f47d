"""Files of frames: pieces of bytes, each with a digest of itself and of all that is before it.

::

    what the file is: a line of 32 bytes
    size of a frame (8 bytes), digest (32 bytes), the frame; and so on

They are written and read one at a time, and what has been read is what was written. Whether frames
are missing at the end is seen by whoever knows the last digest, or what the last frame must be.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from perftricks.files import open_plainly

_SIZE = struct.Struct("<Q")
_DIGEST_BYTES = 32
_HEAD_BYTES = _SIZE.size + _DIGEST_BYTES


class FrameWriter:
    """Writes frames.

    Args:
        file: The file, at its start.
        line: What it is.
        salt: Bytes that belong to all digests.
    """

    def __init__(self, file: IO[bytes], line: bytes, salt: bytes = b"") -> None:
        self._file = file
        self._digest = hashlib.sha256(line + salt).digest()
        file.write(line)

    def write(self, data: bytes) -> None:
        """Write a frame."""
        self._digest = _next_digest(self._digest, data)
        self._file.write(_SIZE.pack(len(data)))
        self._file.write(self._digest)
        self._file.write(data)

    @property
    def digest(self) -> str:
        """The last digest."""
        return self._digest.hex()


def read_frames(
    path: Path, line: bytes, salt: bytes = b"", *, last: str | None = None, smallest: int = 0
) -> Iterator[bytes]:
    """Yield the frames of a file.

    Args:
        path: The file.
        line: What it must be.
        salt: Bytes that belong to all digests.
        last: The last digest; None if the frames themselves say which is the last.
        smallest: Bytes that a frame has at least.

    Raises:
        OSError: If the file cannot be read, or is not what was written; also where a frame is read.
    """
    digest = hashlib.sha256(line + salt).digest()
    with open_plainly(path) as raw, open(raw.fileno(), "rb", closefd=False) as file:
        left = os.fstat(file.fileno()).st_size - len(line)
        if file.read(len(line)) != line:
            raise damaged(path)
        while left:
            head = file.read(_HEAD_BYTES)
            left -= len(head)
            size = _SIZE.unpack_from(head)[0] if len(head) == _HEAD_BYTES else -1
            if not smallest <= size <= left:
                raise damaged(path)
            data = file.read(size)
            left -= size
            digest = _next_digest(digest, data)
            if digest != head[_SIZE.size :]:
                raise damaged(path)
            yield data
    if last is not None and digest.hex() != last:
        raise damaged(path)


def damaged(path: Path) -> OSError:
    """Return what to raise for a file that is not what was written."""
    return OSError(f"{str(path)!r} is damaged: it is not what was written")


def _next_digest(digest: bytes, data: bytes) -> bytes:
    found = hashlib.sha256(digest)
    found.update(data)
    return found.digest()
