"""From the paths that a user names to the files that are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from perftricks.wordcount.errors import OptionError

Format = Literal["text", "jsonl", "csv", "tsv", "tsv-raw"]
Compression = Literal["", "gz", "bz2", "xz", "zst"]
PathLike = str | os.PathLike[str]

FORMATS: tuple[Format, ...] = get_args(Format)
STDIN = "-"

_COMPRESSIONS: tuple[Compression, ...] = ("gz", "bz2", "xz", "zst")
_EXTENSIONS: dict[str, Format] = {
    "": "text",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}


@dataclass(frozen=True)
class Source:
    """One stream of bytes to read.

    Attributes:
        path: The path to open, ``-`` for the standard input.
        format: How documents lie in it.
        compression: How it is compressed, "" if it is not.
        size: Bytes as stored; None where that is not known beforehand (standard input, pipes).
        head: The first bytes, if they were taken from the stream before.
    """

    path: str
    format: Format
    compression: Compression
    size: int | None
    head: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """The name to show."""
        return "<stdin>" if self.path == STDIN else self.path


@dataclass(frozen=True)
class Corpus:
    """The files to read, in order.

    Attributes:
        sources: The files.
        passed_over: How many files in folders are not read: hidden, of an unknown extension, no
            regular file, or a file that is read already.
    """

    sources: tuple[Source, ...]
    passed_over: int

    @property
    def size(self) -> int | None:
        """Bytes as stored, all files together; None where that is not known beforehand."""
        total = 0
        for source in self.sources:
            if source.size is None:
                return None
            total += source.size
        return total


def find_sources(paths: PathLike | Iterable[PathLike], *, format: Format | None = None) -> Corpus:
    """Find the files to read.

    A file that is named is read whatever its extension. A folder is searched with everything below
    it, in sorted order, links followed; there, hidden files are passed over and so are extensions
    other than ``.txt .text .md .jsonl .ndjson .csv .tsv`` and none, each also with ``.gz``,
    ``.bz2``, ``.xz`` or ``.zst``. No file is read twice.

    Args:
        paths: Files, folders, ``-`` for the standard input; one path or several.
        format: Read every file in this format; None goes by the extension.

    Returns:
        The files and how many were passed over.

    Raises:
        FileNotFoundError: If a path does not exist.
        PermissionError: If a file or folder may not be read.
        OptionError: If nothing is named, a folder holds nothing to read, or a path is named twice.

    >>> corpus = find_sources("docs/samples")
    >>> [source.path for source in corpus.sources]
    ['docs/samples/tea-and-cities.txt']
    """
    names = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not names:
        raise OptionError("no path given; name files or folders, or - for the standard input")
    if format is not None and format not in FORMATS:
        raise OptionError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    finder = _Finder(format)
    for name in names:
        finder.add(os.fspath(name))
    return Corpus(tuple(finder.sources), finder.passed_over)


class _Finder:
    """Collects sources, each once."""

    def __init__(self, format: Format | None) -> None:
        self.sources: list[Source] = []
        self.passed_over = 0
        self._format = format
        self._named: dict[str, str] = {}  # real path -> the way it was named
        self._taken: set[str] = set()  # real paths of files

    def add(self, path: str) -> None:
        """Take what the user names."""
        if path == STDIN:
            self._name_once(STDIN, path)
            self.sources.append(Source(path, self._format or "text", "", None))
            return
        mode = _mode_of(path)
        self._name_once(os.path.realpath(path), path)
        if stat.S_ISDIR(mode):
            self._add_folder(path)
        else:
            self._add_file(path, mode)

    def _name_once(self, real: str, path: str) -> None:
        if real in self._named:
            first = self._named[real]
            again = "" if first == path else f" (as {first!r} and {path!r})"
            raise OptionError(f"{path!r} is given twice{again}; its words would count double")
        self._named[real] = path

    def _add_file(self, path: str, mode: int) -> None:
        """Take a file the user names, which need not be a regular one."""
        size = None
        if stat.S_ISREG(mode):
            real = os.path.realpath(path)
            if real in self._taken:  # a folder that was named before holds it
                return
            self._taken.add(real)
            _check_readable(path)
            size = os.path.getsize(path)
        format, compression = classify(path)
        self.sources.append(Source(path, self._format or format or "text", compression, size))

    def _add_folder(self, folder: str) -> None:
        """Take the files in a folder that look like text."""
        before = len(self._taken)
        repeated = 0
        for path in _walk(folder):
            real = os.path.realpath(path)
            format, compression = classify(path)
            if os.path.basename(path).startswith(".") or format is None or not os.path.isfile(path):
                self.passed_over += 1
            elif real in self._taken:
                repeated += 1
            else:
                self._taken.add(real)
                _check_readable(path)
                size = os.path.getsize(path)
                self.sources.append(Source(path, self._format or format, compression, size))
        self.passed_over += repeated
        if len(self._taken) == before and not repeated:
            raise OptionError(
                f"folder {folder!r} holds no text to count"
                + (f" ({self.passed_over} files passed over)" if self.passed_over else "")
                + "; expected .txt, .text, .md, .jsonl, .ndjson, .csv, .tsv or no extension, "
                "also compressed (.gz, .bz2, .xz, .zst)"
            )


def read_small_file(path: PathLike, what: str) -> bytes:
    """Read a whole file, such as a dictionary.

    Args:
        path: The file.
        what: What it is to the user, for the error.

    Raises:
        FileNotFoundError: If it does not exist.
        PermissionError: If it cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {name!r} does not exist") from None
    except OSError as error:
        raise PermissionError(f"{what} {name!r} cannot be read: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def classify(path: str) -> tuple[Format | None, Compression]:
    """Tell format and compression from a file's name; the format is None if it is not known.

    >>> classify("reviews.jsonl.gz")
    ('jsonl', 'gz')
    >>> classify("photo.png")
    (None, '')
    """
    stem, extension = os.path.splitext(os.path.basename(path))
    compression: Compression = ""
    for known in _COMPRESSIONS:
        if extension.lower() == f".{known}":
            compression = known
            extension = os.path.splitext(stem)[1]
    return _EXTENSIONS.get(extension.lower()), compression


def _mode_of(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except PermissionError:
        raise PermissionError(f"{path!r} may not be looked at: permission denied") from None
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise FileNotFoundError(f"{path!r} does not exist; name a file or a folder") from None


def _check_readable(path: str) -> None:
    """Open the file once now, so that a forbidden one is found before hours of counting."""
    try:
        open(path, "rb").close()
    except OSError as error:
        raise PermissionError(f"{path!r} cannot be read: {_reason(error)}") from None


def _walk(folder: str) -> Iterator[str]:
    """Yield the files below a folder in sorted order; linked folders too, but none twice."""
    visited: set[str] = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if not os.path.isdir(path):
            yield path
            continue
        real = os.path.realpath(path)
        if real in visited:
            continue
        visited.add(real)
        try:
            names = os.listdir(path)
        except OSError as error:
            raise PermissionError(f"folder {path!r} cannot be read: {_reason(error)}") from None
        inside = (
            os.path.join(path, name)
            for name in sorted(names, reverse=True)
            if not (name.startswith(".") and os.path.isdir(os.path.join(path, name)))
        )
        waiting.extend(inside)
