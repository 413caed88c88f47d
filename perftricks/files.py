"""Files that appear whole or not at all, and files that one process holds at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from typing import IO, Union

PathLike = Union[str, "os.PathLike[str]"]

# What a new file gets less the umask; tempfile's 0o600 would lock out the colleagues.
_USUAL = 0o666

# What a file is called until it is whole. It is locked meanwhile, so that one that nobody holds
# was left by a process that was killed.
UNFINISHED = re.compile(r"\.perftricks-[0-9a-f]{16}\.tmp")

# Neither follow a link nor wait for who writes to a pipe.
_PLAINLY = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str],
    *,
    mode: int | None = None,
    sync: bool = True,
    follow: bool = True,
    folder: int | None = None,
) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of ``path`` when the block ends without an exception.

    Until then what was there stays as it was, and after a crash there is the old file or the new
    one. What processes that were killed have left unfinished in the folder is deleted.

    Args:
        path: The file. Its folder must exist.
        mode: The permissions; None for those of the file that is replaced, or the usual ones.
        sync: Whether the new file is on the disk when this returns.
        follow: Whether a link stays a link, and what it names is replaced; else the link is.
        folder: A descriptor of the folder that ``path`` is a name in, where the system has such;
            a link is not followed then.

    Yields:
        The file to write to, in binary.

    Raises:
        OSError: If it cannot be written; nothing is left of it then.
    """
    target = os.path.realpath(path) if follow and folder is None else os.fspath(path)
    above = os.path.dirname(target)
    remove_unfinished(above, folder)
    temporary = ""
    descriptor = -1
    try:
        while True:
            # The name is known before the file is there: a signal may come in between.
            temporary = os.path.join(above, f".perftricks-{secrets.token_hex(8)}.tmp")
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _PLAINLY
            descriptor = os.open(temporary, flags, _USUAL if mode is None else mode, dir_fd=folder)
            if _try_lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # another process took it for unfinished in between
            descriptor = -1
        with open(descriptor, "wb", buffering=1 << 20) as file:
            descriptor = -1
            if mode is None:
                with contextlib.suppress(FileNotFoundError):
                    former = stat.S_IMODE(os.stat(target, dir_fd=folder).st_mode)
                    os.chmod(temporary, former, dir_fd=folder)
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            # While it is locked, where that is allowed: else someone may take it for unfinished.
            if os.name == "posix":
                os.replace(temporary, target, src_dir_fd=folder, dst_dir_fd=folder)
        if os.name != "posix":
            os.replace(temporary, target)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = os.fspath(path)  # a full disk does not say of which file
        raise
    if sync:
        sync_folder(above or os.curdir, folder)


def remove_unfinished(above: str | os.PathLike[str], folder: int | None = None) -> None:
    """Delete what processes that were killed have left unfinished, as far as that is possible.

    Args:
        above: The folder, "" for the current one.
        folder: A descriptor of it, in place of its path.
    """
    try:
        names = os.listdir((above or os.curdir) if folder is None else folder)
    except OSError:
        return
    for name in filter(UNFINISHED.fullmatch, names):
        remove_if_free(os.path.join(above, name) if folder is None else name, folder)


def remove_if_free(path: str, folder: int | None = None) -> bool:
    """Delete a file unless somebody holds its lock, and say whether that was done."""
    try:
        with open_plainly(path, folder=folder, writing=True) as file:
            free = try_lock(file)
            if free:
                os.unlink(path, dir_fd=folder)
            return bool(free)
    except OSError:
        return False


def open_plainly(
    path: str | os.PathLike[str],
    *,
    folder: int | None = None,
    writing: bool = False,
    create: int | None = None,
) -> IO[bytes]:
    """Open a file that must be a regular one; no link is followed, and no pipe waited for.

    Args:
        path: The file.
        folder: A descriptor of the folder that ``path`` is a name in.
        writing: Whether to write to it too; what is in it stays.
        create: The permissions it gets if it is not there and shall be made.

    Raises:
        OSError: If that is not possible.
    """
    flags = (os.O_RDWR if writing else os.O_RDONLY) | _PLAINLY
    if create is not None:
        flags |= os.O_CREAT
    try:
        descriptor = os.open(path, flags, create or 0, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link", os.fspath(path)) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        return open(descriptor, "r+b" if writing else "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


_SETTLED_SECONDS = 2.0  # a file system's clock may tick this slowly


def settled_identity(
    path: str | os.PathLike[str], *, folder: int | None = None
) -> tuple[int, ...] | None:
    """Return what tells one content of a file from another, as far as the system knows it.

    Where it is the same later, so is the content.

    Args:
        path: The file; a link counts as itself.
        folder: A descriptor of the folder that ``path`` is a name in.

    Returns:
        Device, inode, size, and when content and status changed; None if that was a moment ago, so
        that another change could bear the same time, or if the file cannot be looked at.
    """
    try:
        status = os.stat(path, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    age = time.time() - max(status.st_mtime, status.st_ctime)
    if not (stat.S_ISREG(status.st_mode) and age > _SETTLED_SECONDS):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def sync_folder(path: str | os.PathLike[str], folder: int | None = None) -> None:
    """Put the names in a folder on the disk, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY) if folder is None else os.dup(folder)
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
    return _try_lock(file.fileno())


def _try_lock(descriptor: int) -> bool | None:
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
