import numpy as np

from perftricks.wordcount.kernel.pages import _spans, use_large_pages


def test_spans():
    """Arrays that lie together are one span, in any order; others have spans of their own."""
    memory = np.zeros(1 << 20, np.uint8)
    start = memory.__array_interface__["data"][0]
    parts = [memory[500:1000], memory[900_000:900_100], memory[:500]]
    assert _spans(parts) == [(start, start + 1000), (start + 900_000, start + 900_100)]


def test_contents_stay():
    """Asking for large pages changes no array, a read-only one included."""
    for data in (np.arange(1 << 20), np.frombuffer(bytes(range(256)) * (1 << 15), np.uint8)):
        before = data.copy()
        use_large_pages([data, data[:10], np.empty(0)])
        assert np.array_equal(data, before)
