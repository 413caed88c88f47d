"""How files are read: what the user says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Document = Literal["line", "file"]


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        encoding: The encoding of the text.
        errors: What happens to bytes that are not that encoding: "strict", "replace", "ignore".
        document: What a document is in text files: a "line" or the whole "file".
        field: Where the text is in the other formats: a key, a key path with dots, a column's name
            or its number from 1.
        limit: Bytes of memory that a document may need; None for any number.
    """

    encoding: str = "utf-8"
    errors: str = "strict"
    document: Document = "line"
    field: str | None = None
    limit: int | None = None


# Bytes that a character of a document takes with the tokens it becomes, about; so many characters
# a document may have in any case.
_BYTES_OF_A_CHARACTER = 64
_LEAST_CHARACTERS = 1 << 20


def most_characters(limit: int) -> int:
    """Return how many characters a document may have within a memory limit."""
    return max(limit // _BYTES_OF_A_CHARACTER, _LEAST_CHARACTERS)


def needed_bytes(characters: int) -> str:
    """Say how many bytes of memory a document of so many characters needs."""
    return f"about {characters * _BYTES_OF_A_CHARACTER:,} bytes"
