"""Which version of a package there is, found out without importing it where that can be."""

from __future__ import annotations

import importlib
from importlib import metadata


def version_of(name: str) -> str:
    """Return the version of a package.

    It is imported for that where its metadata are missing, as in a frozen application.

    Raises:
        ImportError: If there is no such package.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return str(importlib.import_module(name).__version__)
