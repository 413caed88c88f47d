"""Sizes of memory as people write them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that a size means.

    Args:
        text: A number and, if it is not bytes, a unit: kB, MB, GB, TB are powers of 1000, KiB, MiB,
            GiB, TiB of 1024; the case and the ``B`` do not matter.

    Raises:
        ValueError: If it is no size.

    >>> parse_size("2GiB"), parse_size("1.5 MB"), parse_size("100")
    (2147483648, 1500000, 100)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a size such as 500MB or 2GiB, not {text!r}")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** (" kmgt".index(unit.lower()) if unit else 0))
