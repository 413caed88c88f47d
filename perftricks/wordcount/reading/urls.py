"""Files at URLs, by fsspec: ``s3://``, ``gs://``, ``hdfs://``, ``https://``, ``memory://``, ...

fsspec has the protocols; each needs a package of its own, which its error names.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from perftricks.wordcount.errors import OptionError

Storage = tuple[tuple[str, Any], ...]  # options of a file system, such as ("anon", True)

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BLOCK_BYTES = 8 << 20  # that are fetched at a time


def is_url(path: str) -> bool:
    """Tell whether a path is a URL.

    >>> is_url("s3://bucket/a.txt"), is_url("a.txt")
    (True, False)
    """
    return _URL.match(path) is not None


def parse_storage(given: Mapping[str, Any] | None) -> Storage:
    """Return options of a file system in a form that can be hashed where its values can."""
    return tuple(sorted((given or {}).items()))


class FileSystem:
    """The file system of a URL.

    Args:
        url: The URL.
        storage: Options for it.

    Raises:
        OptionError: If fsspec, or what the protocol needs, is not installed.
    """

    def __init__(self, url: str, storage: Storage = ()) -> None:
        try:
            import fsspec
        except ImportError:
            raise OptionError(
                f"{url!r} is a URL, which needs fsspec: pip install 'perftricks[dask]'"
            ) from None
        try:
            self._system, self._path = fsspec.core.url_to_fs(url, **dict(storage))
        except (ImportError, ValueError, TypeError) as error:
            raise OptionError(f"{url!r} cannot be used: {error}") from None
        self._url = url

    def information(self) -> dict[str, Any] | None:
        """Return what is known of a file or a folder; None if there is none.

        Raises:
            OSError: If it cannot be asked for.
        """
        self._system.invalidate_cache()
        with _as_os_error(self._url):
            try:
                found: dict[str, Any] = self._system.info(self._path)
            except FileNotFoundError:
                return None
            return found

    def files(self) -> list[tuple[str, int]]:
        """Return the URLs of all files below a folder in sorted order, and their sizes."""
        with _as_os_error(self._url):
            found = self._system.find(self._path, detail=True)
        return sorted(
            (self._system.unstrip_protocol(path), int(info.get("size") or 0))
            for path, info in found.items()
        )

    def matching(self) -> list[str]:
        """Return the URLs of the files and folders that the path matches as a pattern, in order.

        Raises:
            OSError: If they cannot be asked for.
        """
        with _as_os_error(self._url):
            found = self._system.glob(self._path)
        return sorted(map(self._system.unstrip_protocol, found))

    @property
    def stem(self) -> str:
        """The URL in the form that those of :meth:`files` have."""
        return str(self._system.unstrip_protocol(self._path)).rstrip("/")

    def version(self) -> str:
        """Return something that changes when the file does."""
        with _as_os_error(self._url):
            return str(self._system.ukey(self._path))

    def open(self) -> IO[bytes]:
        """Open the file for reading.

        Raises:
            OSError: If that fails.
        """
        with _as_os_error(self._url):
            file: IO[bytes] = self._system.open(self._path, "rb", block_size=_BLOCK_BYTES)
            return file

    def write(self, data: Any) -> None:
        """Write a file: it is there complete, or not at all.

        Raises:
            OSError: If that fails.
        """
        temporary = f"{self._path}.{os.urandom(6).hex()}.tmp"
        with _as_os_error(self._url):
            if "file" in _protocols(self._system):
                self._system.makedirs(os.path.dirname(self._path), exist_ok=True)
                self._system.pipe_file(temporary, bytes(data))
                os.replace(temporary, self._path)
            else:  # an object appears when all of it has been sent
                self._system.pipe_file(self._path, bytes(data))


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextlib.contextmanager
def _as_os_error(url: str) -> Iterator[None]:
    """Make an OSError of what the clients of object stores raise, in one line."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise OSError(f"{url!r} cannot be used: {what}") from error
