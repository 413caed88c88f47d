"""What a command says when things go wrong: one line on stderr, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

import typer

from perftricks.signals import Terminated

BAD_DATA = 1
WRONG_USAGE = 2
INTERRUPTED = 130

# What can be done about what the system refuses.
_NEXT_STEPS = {
    errno.ENOSPC: "make room, or write elsewhere",
    errno.EDQUOT: "make room, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs, or allow more open files",
    errno.ENOENT: "check the path",
}


def complain(command: str, message: str) -> None:
    """Write one line to stderr, whatever is in the message.

    Args:
        command: The name of the command, such as "perftricks wordcount".
        message: What came, what was expected, what to do.
    """
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    with contextlib.suppress(OSError):
        print(f"{command}: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def reported(
    command: str,
    *,
    usage: tuple[type[BaseException], ...] = (),
    data: tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """Turn what is raised in the block into a line on stderr and an exit status.

    Args:
        command: The name of the command.
        usage: Exceptions that mean wrong usage, status 2. They are looked at first.
        data: Exceptions that mean bad data or a failing system, status 1.

    Raises:
        typer.Exit: With the status.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        complain(command, "interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except Terminated as error:
        complain(command, str(error))
        raise typer.Exit(error.status) from None
    except BrokenPipeError:
        forget_stdout()  # whoever read the output has seen enough, which is no failure
    except usage as error:
        complain(command, _text(error))
        raise typer.Exit(WRONG_USAGE) from None
    except data as error:
        complain(command, _text(error))
        raise typer.Exit(BAD_DATA) from None


def _text(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory {error}".rstrip() + "; use fewer workers, or a larger machine"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename!r}: " if error.filename else ""
        step = _NEXT_STEPS.get(error.errno or 0)
        return where + error.strerror.lower() + (f"; {step}" if step else "")
    return str(error) or type(error).__name__


def forget_stdout() -> None:
    """Let the interpreter's last flush of stdout go nowhere, instead of failing once more."""
    redirected = sys.stdout is sys.stderr  # while the table itself goes to stdout
    stdout = sys.__stdout__ if redirected and sys.__stdout__ is not None else sys.stdout
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)
