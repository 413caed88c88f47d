"""What can be wrong with a request, a corpus or a tokenizer."""

from __future__ import annotations


class OptionError(ValueError):
    """An option that cannot be used, or options that contradict each other.

    Raised before anything is counted. Paths that do not exist or may not be read raise the built-in
    ``FileNotFoundError`` and ``PermissionError`` instead.
    """


class CorpusError(Exception):
    """Data found bad on the way: not the encoding, broken compression, a line that is not JSON.

    Args:
        path: The file as it was named, ``<stdin>`` for the standard input.
        problem: What is wrong with it and what can be done.
        line: The number of the line, from 1, where the format has lines.
        offset: The position of the first bad byte, from 0, where it is known.

    Attributes:
        reason: The message without the file.

    >>> print(CorpusError("a.jsonl", "not JSON", line=3))
    a.jsonl, line 3: not JSON
    """

    def __init__(
        self, path: str, problem: str, *, line: int | None = None, offset: int | None = None
    ) -> None:
        self.path = path
        self.problem = problem
        self.line = line
        self.offset = offset
        where = []
        if line is not None:
            where.append(f"line {line}")
        if offset is not None:
            where.append(f"byte {offset}")
        self.reason = ": ".join([", ".join(where), problem] if where else [problem])
        super().__init__(f"{', '.join([path, *where])}: {problem}")


def too_long(what: str, need: str, limit: int, most: float | None = None) -> str:
    """Say that memory does not allow what a text needs.

    Args:
        what: What is too long, such as "a document of more than 9 characters".
        need: What it needs, such as "about 900 bytes".
        limit: The memory limit in bytes.
        most: How much of it a thread may take; None for all.
    """
    allowed = f"the memory limit of {limit:,} bytes allows"
    if most is not None and most < limit:
        allowed = f"the {most:,.0f} that a thread may take of the memory limit of {limit:,} bytes"
    return (
        f"{what} needs {need}, more than {allowed}; raise the "
        "limit (--memory-limit), or look whether this is text, with line ends where they should be"
    )


class TokenizerError(Exception):
    """A tokenizer of the caller's failed on a document, or returned something else than tokens."""


class SpillError(OSError):
    """A table that has outgrown the memory limit could not be kept on the disk."""


class TableTooLargeError(MemoryError):
    """A table is on the disk, and what was asked for needs more memory than the limit allows."""
