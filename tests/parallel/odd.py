"""Classes that answer no question, in a module that imports little."""

from __future__ import annotations

import abc
import gzip
import io

_left = []


class _Unequal(type):
    def __eq__(cls, other):
        raise RuntimeError("not to be compared")

    __hash__ = None


class Unequal(metaclass=_Unequal):
    """Its class can be neither compared nor hashed."""

    def __init__(self, number=0):
        self.number = number


class _Refusing(abc.ABCMeta):
    def __hash__(cls):
        raise SystemExit("no hash")


class RefusingFile(io.RawIOBase, metaclass=_Refusing):
    """A file whose class does not work."""


class SilentFile(io.StringIO):
    """A file that has no attributes."""

    def __getattribute__(self, name):
        raise SystemExit(name)


class Liar:
    """It does not say what it is."""

    @property
    def __class__(self):
        raise SystemExit("no class")


KINDS = {kind.__name__: kind for kind in (Unequal, RefusingFile, SilentFile, Liar)}


def leave_open(path, name):
    """Leave an object of an odd class, and a file that is not closed."""
    odd = KINDS[name]()
    file = gzip.open(path, "wt")  # noqa: SIM115
    file.write("all of it")
    _left.extend((odd, file))
    return name
