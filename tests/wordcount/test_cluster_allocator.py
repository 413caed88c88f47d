"""While tasks run, a worker's allocator keeps the memory of arrays; afterwards it gives it back."""

from __future__ import annotations

import threading

import pytest

from perftricks.wordcount.cluster import allocator


class Libc:
    """Notes what it is told."""

    def __init__(self):
        self.told = []
        self.gave_back = threading.Event()

    def mallopt(self, parameter, value):
        """Note what is set."""
        self.told.append((parameter, value))

    def malloc_trim(self, pad):
        """Note that memory is given back."""
        self.gave_back.set()


@pytest.fixture
def libc(monkeypatch):
    """Stand in for glibc, in a worker as dask starts them."""
    libc = Libc()
    monkeypatch.setattr("perftricks.glibc.library", lambda: libc)
    monkeypatch.setattr(allocator, "_IDLE_SECONDS", 0.05)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    return libc


def test_memory_is_kept_while_tasks_run(libc):
    """The first task adapts the allocator; what was set is set again when none has run for long."""

    @allocator.adapted
    def outer(x):
        assert dict(libc.told) == {-1: 64 << 20, -3: 32 << 20}
        inner()
        assert not libc.gave_back.wait(0.2)
        return x + 1

    @allocator.adapted
    def inner():
        pass

    assert outer(1) == 2
    assert libc.gave_back.wait(10)
    assert dict(libc.told) == {-1: 65536, -3: 128 << 10}


def test_a_task_that_fails(libc):
    """An error goes on, and memory is given back all the same."""
    with pytest.raises(ZeroDivisionError):
        allocator.adapted(lambda: 1 / 0)()
    assert libc.gave_back.wait(10)


@pytest.mark.parametrize(
    ("trim", "mmap"), [(None, None), ("65536", "1000000"), ("soon", None), ("-1", None)]
)
def test_what_the_user_has_chosen_stays(libc, monkeypatch, trim, mmap):
    """Where nothing, or more than dask sets, was set, the allocator is left as it is."""
    for name, value in zip(allocator._VARIABLES, (trim, mmap), strict=True):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert allocator.adapted(lambda: 3)() == 3
    assert libc.told == []
