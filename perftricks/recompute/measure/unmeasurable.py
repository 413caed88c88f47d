"""What cannot be measured, and says so."""

from __future__ import annotations


class UnmeasurableError(ValueError):
    """A model does what cannot be measured without numbers; the message says what."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
