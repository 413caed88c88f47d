"""Files that appear whole or not at all, and files that one process holds at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import IO

# What a new file gets less the umask; tempfile's 0o600 would lock out the colleagues.
_USUAL = 0o666


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], *, mode: int | None = None, sync: bool = True
) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of ``path`` when the block ends without an exception.

    Until then what was there stays as it was, and after a crash there is the old file or the new
    one. A link stays a link.

    Args:
        path: The file. Its folder must exist.
        mode: The permissions; None for those of the file that is replaced, or the usual ones.
        sync: Whether the new file is on the disk when this returns.

    Yields:
        The file to write to, in binary.

    Raises:
        OSError: If it cannot be written; nothing is left of it then.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".perftricks-{secrets.token_hex(8)}.tmp")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    descriptor = os.open(temporary, flags, _USUAL if mode is None else mode)
    try:
        with open(descriptor, "wb", buffering=1 << 20) as file:
            if mode is None:
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if sync:
        sync_folder(folder)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Put the names in a folder on the disk, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def try_lock(file: IO[bytes]) -> bool | None:
    """Take the lock of an open file, which ends when the file is closed or the process dies.

    Returns:
        Whether it could be taken; False if somebody else holds it, None where files cannot be
        locked.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
