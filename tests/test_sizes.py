"""Sizes as people write them."""

from __future__ import annotations

import pytest

from perftricks.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("500MB", 5 * 10**8), ("1.5 kB", 1500), ("7", 7)]
)
def test_sizes(text, size):
    """Decimal and binary units are told apart."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["much", "-1GB", "1XB", ""])
def test_bad_sizes(text):
    """What is no size is refused."""
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)
