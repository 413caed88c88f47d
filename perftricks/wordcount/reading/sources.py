"""From the paths that a user names to the files that are read."""

from __future__ import annotations

import codecs
import glob
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from perftricks.files import PathLike
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.reading.datasets import data_files
from perftricks.wordcount.reading.urls import FileSystem, Storage, is_url, parse_storage

Format = Literal["text", "jsonl", "csv", "tsv", "tsv-raw", "json", "parquet", "arrow"]
Compression = Literal["", "gz", "bz2", "xz", "zst"]

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
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}

# What holds text and is none: what would be counted are the bytes around it.
_ARCHIVES = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar")
_DOCUMENTS = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".xls", ".xlsx", ".ppt", ".pptx")

_PATTERN = re.compile(r"[*?]|\[.+\]")
_NOT_DATA = "not one of the dataset's files (state.json)"


class Range(NamedTuple):
    """Some of what is numbered from 0.

    Attributes:
        start: The first one.
        stop: The one behind the last; None for the end of the file.
    """

    start: int
    stop: int | None = None


@dataclass(frozen=True)
class Source:
    """One stream of bytes to read.

    Attributes:
        path: The path to open, ``-`` for the standard input.
        format: How documents lie in it.
        compression: How it is compressed, "" if it is not.
        size: Bytes as stored; None where that is not known beforehand (standard input, pipes).
        head: The first bytes, if they were taken from the stream before.
        start: Where reading starts, in bytes.
        stop: Where it stops; None for the end of the file.
        storage: Options of the file system of a URL.
        rows: Which rows of a .parquet are read; None for all. They are whole row groups, but where
            a run goes on in the midst of one.
        batches: Which record batches of an .arrow are read; None for all.
    """

    path: str
    format: Format
    compression: Compression
    size: int | None
    head: bytes = field(default=b"", repr=False)
    start: int = 0
    stop: int | None = None
    storage: Storage = field(default=(), repr=False)  # there may be keys in it
    rows: Range | None = None
    batches: Range | None = None

    @property
    def begins_file(self) -> bool:
        """Whether it begins where its file does."""
        return not (self.start or (self.rows or self.batches or (0,))[0])

    @property
    def name(self) -> str:
        """The name to show."""
        return "<stdin>" if self.path == STDIN else self.path


class NotRead(NamedTuple):
    """A file or folder that is not read.

    Attributes:
        path: Which.
        reason: Why not.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """The files to read, in order.

    Attributes:
        sources: The files.
        passed_over: How many files in folders are not read: hidden, of an unknown extension, no
            regular file, or a file that is read already.
        not_read: These files, hidden folders, and files with nothing in them.
        bad: What could not be read, where that is no error.
        skip_bad: Whether a file that turns out to be bad is no error.
        folders: The folders among what was named.
        storage: Options of the file system of URLs.
    """

    sources: tuple[Source, ...]
    passed_over: int
    not_read: tuple[NotRead, ...] = ()
    bad: tuple[NotRead, ...] = ()
    skip_bad: bool = False
    folders: tuple[str, ...] = ()
    storage: Storage = field(default=(), repr=False)

    @property
    def size(self) -> int | None:
        """Bytes as stored, all files together; None where that is not known beforehand."""
        total = 0
        for source in self.sources:
            if source.size is None:
                return None
            total += source.size
        return total


def find_sources(
    paths: PathLike | Iterable[PathLike],
    *,
    format: Format | None = None,
    skip_bad: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Corpus:
    """Find the files to read.

    A file that is named is read whatever its extension. A folder is searched with everything below
    it, in sorted order, links followed; there, hidden files are passed over and so are extensions
    other than ``.txt .text .md .jsonl .ndjson .csv .tsv`` and none, each also with ``.gz``,
    ``.bz2``, ``.xz`` or ``.zst``, and ``.parquet .arrow .feather``; so are files without extension
    that hold NUL bytes. ``.json`` is read where it is named, or the format is "json". Of a folder
    that ``Dataset.save_to_disk`` of Hugging Face has written, the files of the dataset are read. No
    file is read twice.

    Args:
        paths: Files, folders, URLs of them, patterns such as ``corpus/*.txt`` or
            ``s3://bucket/**/*.jsonl``, ``-`` for the standard input; one path or several.
        format: Read every file in this format; None goes by the extension.
        skip_bad: Go on past what may not be read, and past links that lead nowhere.
        storage_options: Options of the file system of URLs, as fsspec takes them.

    Returns:
        The files and how many were passed over.

    Raises:
        FileNotFoundError: If a path does not exist, or a pattern matches nothing.
        PermissionError: If a file or folder may not be read.
        TypeError: If something else than a path is given.
        OptionError: If nothing is named, a folder holds nothing to read, a path is named twice, or
            a file that is named is an archive or a document of an office program; with a format
            that is read as it is.

    >>> corpus = find_sources("docs/samples")
    >>> [source.path for source in corpus.sources]
    ['docs/samples/tea-and-cities.txt']
    """
    if hasattr(paths, "read"):
        raise TypeError("paths is an open file; name it, or count what it holds by count_words")
    names = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else list(paths)
    for name in names:
        if not isinstance(name, (str, bytes, os.PathLike)):
            raise TypeError(f"a path is of type {type(name).__name__}: {name!r}; expected a str")
    if not names:
        raise OptionError("no path given; name files or folders, or - for the standard input")
    if format is not None and format not in FORMATS:
        raise OptionError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    storage = parse_storage(storage_options)
    if storage and not any(is_url(os.fsdecode(name)) for name in names):
        raise OptionError("storage_options are for URLs, and none is given")
    finder = _Finder(format, skip_bad, storage)
    for name in names:
        for path in matching(os.fsdecode(name), storage):
            finder.add(path)
    return Corpus(
        tuple(finder.sources),
        finder.passed_over,
        tuple(finder.not_read),
        tuple(finder.bad),
        skip_bad,
        tuple(name for name in map(os.fsdecode, names) if os.path.isdir(name)),
        storage,
    )


def matching(path: str, storage: Storage = ()) -> list[str]:
    """Return what a pattern matches, in sorted order; a path that is there is no pattern.

    Raises:
        FileNotFoundError: If it matches nothing.
    """
    if not _PATTERN.search(path) or os.path.lexists(path):
        return [path]
    if is_url(path):
        system = FileSystem(path, storage)
        if "*" not in path or system.information() is not None:
            return [path]
        start = path.index("*")
        found = system.matching()
        if "/." not in path[start:]:  # hidden files have to be asked for, as in a shell
            found = [name for name in found if "/." not in name[path.rindex("/", 0, start) :]]
    else:
        found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise FileNotFoundError(f"{path!r} does not exist, and as a pattern matches nothing")
    return found


class _Finder:
    """Collects sources, each once."""

    def __init__(self, format: Format | None, skip_bad: bool, storage: Storage = ()) -> None:
        self._storage = storage
        self.sources: list[Source] = []
        self.passed_over = 0
        self.not_read: list[NotRead] = []
        self.bad: list[NotRead] = []
        self._format = format
        self._skip_bad = skip_bad
        self._named: dict[str, str] = {}  # real path -> the way it was named
        self._datasets: dict[str, Collection[str] | None] = {}
        self._taken: dict[str, str] = {}  # real paths of files -> the path that led there first

    def add(self, path: str) -> None:
        """Take what the user names."""
        if path == STDIN:
            self._name_once(STDIN, path)
            self.sources.append(Source(path, self._format or "text", "", None))
            return
        if is_url(path):
            self._add_url(path)
            return
        try:
            mode = _mode_of(path)
        except OSError as error:
            forbidden = isinstance(error, PermissionError)
            self._give_up(path, error, forbidden or os.path.lexists(path))
            return
        self._name_once(os.path.realpath(path), path)
        if stat.S_ISDIR(mode):
            self._add_folder(path)
        else:
            self._add_file(path, mode)

    def _give_up(
        self, path: str, error: OSError | OptionError, may_be_skipped: bool = True
    ) -> None:
        """Raise an error, or note the path if bad ones are skipped."""
        if not (self._skip_bad and may_be_skipped):
            raise error
        self.bad.append(NotRead(path, str(error)))

    def _name_once(self, real: str, path: str) -> None:
        if real in self._named:
            first = self._named[real]
            again = "" if first == path else f" (as {first!r} and {path!r})"
            raise OptionError(f"{path!r} is given twice{again}; its words would count double")
        self._named[real] = path

    def _add_url(self, url: str) -> None:
        """Take a file, or the files below a folder, at a URL."""
        system = FileSystem(url, self._storage)
        try:
            found = system.information()
            if found is None:
                raise FileNotFoundError(f"{url!r} does not exist; name a file or a folder")
            files = system.files() if found["type"] == "directory" else None
        except OSError as error:
            self._give_up(url, error, not isinstance(error, FileNotFoundError))
            return
        self._name_once(system.stem, url)
        if files is None:
            if self._is_text(url):
                format, compression = classify(url)
                self._take_url(url, system.stem, format or "text", compression, found["size"])
            return
        before = len(self.sources)
        for path, size in files:
            format, compression = classify(path)
            inside = path[len(system.stem) :].split("/")
            if any(part.startswith(".") for part in inside):
                reason = "hidden"
            elif format is None:
                reason = "unknown extension"
            elif format == "json" and self._format != "json":
                reason = ".json is read where it is named, or with format json"
            elif format == "arrow" and self._is_no_data(path):
                reason = _NOT_DATA
            else:
                self._take_url(path, path, format, compression, size)
                continue
            self.passed_over += 1
            self.not_read.append(NotRead(path, reason))
        if len(self.sources) == before:
            raise OptionError(f"folder {url!r} holds no text to count")

    def _take_url(
        self, url: str, real: str, format: Format, compression: Compression, size: int | None
    ) -> None:
        if real in self._taken:
            return
        self._taken[real] = url
        if size == 0:
            self.not_read.append(NotRead(url, "empty"))
        format = self._format or format
        self.sources.append(Source(url, format, compression, size, storage=self._storage))

    def _add_file(self, path: str, mode: int) -> None:
        """Take a file the user names, which need not be a regular one."""
        if not self._is_text(path):
            return
        format, compression = classify(path)
        if not stat.S_ISREG(mode):
            self.sources.append(Source(path, self._format or format or "text", compression, None))
            return
        if os.path.realpath(path) not in self._taken:  # in a folder that was named before
            self._take(path, format or "text", compression)

    def _is_text(self, path: str) -> bool:
        """Whether a file that is named may be text, by its name; if not, that is an error."""
        reason = None if self._format is not None else _why_no_text(path)
        if reason is not None:
            self._give_up(path, OptionError(f"{path!r} {reason}"))
        return reason is None

    def _take(self, path: str, format: Format, compression: Compression) -> None:
        """Take a regular file that was not taken before."""
        self._taken[os.path.realpath(path)] = path
        try:
            _check_readable(path)
            size = os.path.getsize(path)
        except OSError as error:
            self._give_up(path, error)
            return
        if not size:
            self.not_read.append(NotRead(path, "empty"))
        self.sources.append(Source(path, self._format or format, compression, size))

    def _add_folder(self, folder: str) -> None:
        """Take the files in a folder that look like text."""
        before = len(self._taken) + len(self.bad)
        repeated = 0
        for path in self._walk(folder):
            format, compression = classify(path)
            reason = self._why_not(path, format, compression)
            again = self._taken.get(os.path.realpath(path))
            if reason is None and again is not None:
                reason = f"read already, as {again!r}"
                repeated += 1
            if reason is not None:
                self.passed_over += 1
                self.not_read.append(NotRead(path, reason))
            else:
                assert format is not None
                self._take(path, format, compression)
        if len(self._taken) + len(self.bad) == before and not repeated:
            raise OptionError(
                f"folder {folder!r} holds no text to count"
                + (f" ({self.passed_over} files passed over)" if self.passed_over else "")
                + "; expected .txt, .text, .md, .jsonl, .ndjson, .csv, .tsv or no extension, "
                "also compressed (.gz, .bz2, .xz, .zst), or .parquet, .arrow, .feather"
            )

    def _why_not(self, path: str, format: Format | None, compression: Compression) -> str | None:
        """Say why a file in a folder is passed over; None if it is not."""
        name = os.path.basename(path)
        if name.startswith("."):
            return "hidden"
        extension = os.path.splitext(name.removesuffix(f".{compression}") if compression else name)[
            1
        ]
        if format is None:
            return f"unknown extension {extension}"
        if format == "json" and self._format != "json":
            return f"{extension} is read where it is named, or with format json"
        if format == "arrow" and self._is_no_data(path):
            return _NOT_DATA
        if not os.path.exists(path):
            reason = "a link that leads nowhere"
            if self._skip_bad:
                self.bad.append(NotRead(path, reason))
            return reason
        if not os.path.isfile(path):
            return "no regular file"
        if not extension and not compression and _is_binary(path):
            return "binary: it holds NUL bytes; name it if it is text"
        return None

    def _is_no_data(self, path: str) -> bool:
        """Say whether a file is beside those of a dataset; state.json is read once a folder."""
        folder, name = os.path.split(path)
        if folder not in self._datasets:
            self._datasets[folder] = data_files(folder, self._storage)
        names = self._datasets[folder]
        return names is not None and name not in names

    def _walk(self, folder: str) -> Iterator[str]:
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
                self.not_read.append(NotRead(path, f"a link to {real!r}, which is read already"))
                continue
            visited.add(real)
            try:
                names = os.listdir(path)
            except OSError as error:
                self._give_up(
                    path,
                    PermissionError(f"folder {path!r} cannot be read: {_reason(error)}"),
                )
                continue
            for name in sorted(names, reverse=True):
                inside = os.path.join(path, name)
                if name.startswith(".") and os.path.isdir(inside):
                    self.not_read.append(NotRead(inside, "hidden folder"))
                else:
                    waiting.append(inside)


_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def _is_binary(path: str) -> bool:
    """Whether the beginning of a file holds NUL bytes, but for UTF-16 and UTF-32 with a mark."""
    try:
        with open(path, "rb") as file:
            head = file.read(8192)
    except OSError:
        return False  # which is an error when it is taken
    return b"\0" in head and not head.startswith(_WIDE_MARKS)


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


def _why_no_text(path: str) -> str | None:
    """Say why a file is no text, by its name; None if it may be."""
    name = os.path.basename(path).lower()
    _, compression = classify(path)
    extension = os.path.splitext(name.removesuffix(f".{compression}") if compression else name)[1]
    if extension in _ARCHIVES:
        todo = "unpack it, and name the folder"
    elif extension in _DOCUMENTS:
        todo = "save its text in a text file"
    else:
        return None
    return f"is {extension}, which is no text: {todo} (or say that it is, by the format text)"


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
