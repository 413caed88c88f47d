"""Large buffers on their way between processes: beside the pickle, in memory that both can map.

::

    array ── pickled with protocol 5 ──▶ pickle, without the data ──────────── pipe ──▶ loads
              └─ its buffer ───────────▶ memfd ── descriptor, over the socket ────────▶ mmap

The data is copied once, into a file in memory that has no name: it is gone when the last process
that has it open is gone, however that ends. The reader maps it for itself alone, so that what it
writes into an array is seen by nobody else.

Before Python 3.13 what is mapped holds a file descriptor as long as it lives. A program may keep
any number of arrays; beyond a part of the descriptors that it may have, they are copied again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import sys
import weakref
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import NamedTuple

SIGN = b"aside"
_LARGE = 1 << 20  # bytes of a buffer that is worth a file
_ALIGNMENT = 64  # of the buffers in the file
_MAX_TRANSFER = 1 << 30
_SHARE = 4  # one in so many of the descriptors that a process may have is for files of this module

# What is mapped and holds a descriptor.
_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


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

    def __init__(self, descriptor: int, places: list[Place]) -> None:
        self.descriptor = descriptor
        self.places = places
        self._whole: memoryview | None = None
        Aside._open += 1

    def close(self) -> None:
        """Close the file; what is mapped stays."""
        if self.descriptor >= 0:
            Aside._open -= 1
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()

    def buffers(self, begin: int, end: int) -> list[memoryview]:
        """Return some of the buffers; the file is not needed afterwards."""
        if self._whole is None:
            last = self.places[-1]
            self._whole = memoryview(_mapping(self.descriptor, last.begin + last.size))
        found = []
        for place in self.places[begin:end]:
            buffer = self._whole[place.begin : place.begin + place.size]
            found.append(buffer.toreadonly() if place.readonly else buffer)
        return found

    def send(self, connection: Connection) -> None:
        """Send the file, and a message before it that begins with ``SIGN``."""
        connection.send_bytes(SIGN + pickle.dumps([tuple(place) for place in self.places]))
        reduction.send_handle(connection, self.descriptor, None)

    @classmethod
    def receive(cls, connection: Connection, message: bytes) -> Aside:
        """Receive the file that follows a message which begins with ``SIGN``."""
        places = [Place(*place) for place in pickle.loads(message[len(SIGN) :])]
        try:
            descriptor = reduction.recv_handle(connection)
        except RuntimeError as error:  # the kernel has sent it, and there was no number for it
            raise RuntimeError(
                "too many open files: there was no file descriptor left for a large array. Close "
                "files, or raise the limit (`ulimit -n`)"
            ) from error
        os.set_inheritable(descriptor, False)
        return cls(descriptor, places)

    @classmethod
    def put(cls, buffers: Sequence[memoryview]) -> Aside | None:
        """Copy buffers into a new file; None if there are too many files, or no memory."""
        if cls._open >= _max_descriptors():
            return None
        try:
            descriptor = os.memfd_create("perftricks", os.MFD_CLOEXEC)
        except OSError:
            return None
        aside = cls(descriptor, [])
        if aside.add(buffers):
            return aside
        aside.close()
        return None

    def add(self, buffers: Sequence[memoryview]) -> bool:
        """Copy more buffers into the file; False if there is no memory."""
        places = []
        end = self.places[-1].begin + self.places[-1].size if self.places else 0
        for buffer in buffers:
            begin = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = begin + buffer.nbytes
            places.append(Place(begin, buffer.nbytes, buffer.readonly))
        try:
            os.ftruncate(self.descriptor, end)
            for buffer, place in zip(buffers, places, strict=True):
                _write(self.descriptor, buffer, place.begin)
        except OSError:
            return False
        self.places += places
        return True


def _max_descriptors() -> int:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit // _SHARE if limit > 0 else sys.maxsize


def _mapping(descriptor: int, size: int) -> mmap.mmap:
    """Return the content of a file as memory of this process alone."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, trackfd=False)
    if len(_mapped) < _max_descriptors():
        with contextlib.suppress(OSError):  # the program itself has that many files open
            mapped = mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE)
            _mapped.add(mapped)
            return mapped
    copied = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with memoryview(copied) as view:
        done = 0
        while done < size:
            done += os.preadv(descriptor, [view[done : done + _MAX_TRANSFER]], done)
    return copied


def _write(descriptor: int, buffer: memoryview, begin: int) -> None:
    done = 0
    while done < buffer.nbytes:
        done += os.pwrite(descriptor, buffer[done : done + _MAX_TRANSFER], begin + done)


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
