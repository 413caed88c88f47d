"""Large buffers on their way between processes: beside the pickle, in memory that both can map.

::

    array ── pickled with protocol 5 ──▶ pickle, without the data ──────────── pipe ──▶ loads
              └─ its buffer ───────────▶ memfd ── descriptor, over the socket ────────▶ mmap

The data is copied once, into a file in memory that has no name: it is gone when the last process
that has it open is gone, however that ends. The reader maps it for itself alone, so that what it
writes into an array is seen by nobody else.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

SIGN = b"aside"
_LARGE = 1 << 20  # bytes of a buffer that is worth a file
_ALIGNMENT = 64  # of the buffers in the file
_MAX_WRITE = 1 << 30
_MAX_OPEN = 200  # files at a time; beyond that, large buffers are pickled like small ones


def is_possible() -> bool:
    """Whether this system has such files."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


class Place(NamedTuple):
    """Where a buffer is in the file."""

    begin: int
    size: int
    readonly: bool


class Aside:
    """Buffers that were put aside; their file is closed with this object."""

    _open = 0

    def __init__(self, descriptor: int, places: tuple[Place, ...]) -> None:
        self.descriptor = descriptor
        self.places = places
        Aside._open += 1

    def close(self) -> None:
        """Close the file; what is mapped stays."""
        if self.descriptor >= 0:
            Aside._open -= 1
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()

    def load(self, pickled: bytes) -> Any:
        """Unpickle what refers to these buffers; the file is not needed afterwards."""
        size = max(place.begin + place.size for place in self.places)
        whole = memoryview(mmap.mmap(self.descriptor, size, flags=mmap.MAP_PRIVATE))
        buffers = []
        for place in self.places:
            buffer = whole[place.begin : place.begin + place.size]
            buffers.append(buffer.toreadonly() if place.readonly else buffer)
        return pickle.loads(pickled, buffers=buffers)

    def send(self, connection: Connection) -> None:
        """Send the file, and a message before it that begins with ``SIGN``."""
        connection.send_bytes(SIGN + pickle.dumps([tuple(place) for place in self.places]))
        reduction.send_handle(connection, self.descriptor, None)

    @classmethod
    def receive(cls, connection: Connection, message: bytes) -> Aside:
        """Receive the file that follows a message which begins with ``SIGN``."""
        places = tuple(Place(*place) for place in pickle.loads(message[len(SIGN) :]))
        descriptor = reduction.recv_handle(connection)
        os.set_inheritable(descriptor, False)
        return cls(descriptor, places)

    @classmethod
    def put(cls, buffers: Sequence[memoryview]) -> Aside | None:
        """Copy buffers into a file; None if there are none, or too many files, or no memory."""
        if not buffers or cls._open >= _MAX_OPEN:
            return None
        places = []
        end = 0
        for buffer in buffers:
            begin = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = begin + buffer.nbytes
            places.append(Place(begin, buffer.nbytes, buffer.readonly))
        try:
            descriptor = os.memfd_create("perftricks", os.MFD_CLOEXEC)
        except OSError:
            return None
        aside = cls(descriptor, tuple(places))
        try:
            os.ftruncate(descriptor, end)
            for buffer, place in zip(buffers, places, strict=True):
                _write(descriptor, buffer, place.begin)
        except OSError:
            aside.close()
            return None
        return aside


def _write(descriptor: int, buffer: memoryview, begin: int) -> None:
    done = 0
    while done < buffer.nbytes:
        done += os.pwrite(descriptor, buffer[done : done + _MAX_WRITE], begin + done)


class Collector:
    """Receives the buffers of a pickler, and keeps those that are large."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer; True if it shall be in the pickle."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < _LARGE:
            return True
        self.buffers.append(raw)
        return False
