"""parallel_count equals the plain loop."""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from perftricks.parallel import WorkerCrashedError, parallel_count

TEXTS = [
    " ".join(random.Random(i).choices(["tea", "rain", "code", f"rare{i}"], k=i % 9))
    for i in range(500)
]


def plain_count(texts):
    counter = Counter()
    for text in texts:
        counter.update(text.split())
    return counter


@pytest.mark.parametrize("batch_size", [1, 7, 1000, "auto"])
def test_equals_the_plain_loop(runner, batch_size):
    """Whatever the batch, the table is that of the loop."""
    assert runner.count(str.split, TEXTS, batch_size=batch_size) == plain_count(TEXTS)


def test_returns_a_counter(runner):
    """An empty input gives an empty Counter."""
    assert runner.count(str.split, []) == Counter()
    assert isinstance(runner.count(str.split, []), Counter)


def test_keys_may_come_from_a_generator(runner):
    """The function may yield keys; a failure half-way counts none of that item's keys."""

    def keys(x):
        yield "before"
        if x == 2:
            raise ValueError("half-way")
        yield x

    expected = Counter({"before": 3, 0: 1, 1: 1, 3: 1})
    assert runner.count(keys, range(4), on_error="skip") == expected
    with pytest.raises(ValueError, match="half-way"):
        runner.count(keys, range(4))


def test_none_has_no_keys(runner):
    """A function that returns nothing for some items counts nothing, as in the plain loop."""
    found = runner.count(lambda x: str(x) if x % 2 else None, range(5))
    assert found == Counter({"1": 1, "3": 1})


def test_mappings_tell_how_often_a_key_came(runner):
    """A function may return a Counter, as for Counter.update."""
    assert runner.count(lambda text: Counter(text), ["aab", "ab"]) == {"a": 3, "b": 2}


@pytest.mark.parametrize("retries", [0, 1])
def test_keys_before_one_that_cannot_be_hashed_are_not_counted(runner, retries):
    """An item that fails counts nothing, though the failure comes late."""
    got = runner.count(
        lambda x: ["a", "b", *([[x]] if x == 1 else [])],
        range(3),
        on_error="skip",
        retries=retries,
    )
    assert got == {"a": 2, "b": 2}


def test_a_worker_that_dies_counts_nothing_twice(processes, executions):
    """A batch that is run again after a crash is counted once."""

    def keys(text):
        if text and executions.note("start") == 100:
            os._exit(1)
        return text.split()

    assert processes.count(keys, TEXTS, batch_size=50) == plain_count(TEXTS)


def test_an_item_that_kills(processes):
    """A killing item is named; with "skip" all others are counted."""

    def keys(x):
        return os._exit(1) if x == 70 else [x % 3]

    with pytest.raises(WorkerCrashedError) as caught:
        processes.count(keys, range(100), batch_size=25)
    assert caught.value.index == 70
    skipped = processes.count(keys, range(100), batch_size=25, on_error="skip")
    assert skipped == Counter(x % 3 for x in range(100) if x != 70)


def test_timeouts_count_the_rest(own_processes):
    """An item over its time is left out of the count."""
    skipped = own_processes.count(
        lambda x: time.sleep(1000) if x == 5 else [x], range(8), timeout=4, on_error="skip"
    )
    assert skipped == Counter(x for x in range(8) if x != 5)


def test_large_strings_are_not_heaped_up():
    """The window holds few long documents, though the batch size would allow thousands."""
    read = 0

    def source():
        nonlocal read
        for _ in range(40):
            read += 1
            yield "x" * 600_000

    seen = []
    parallel_count(
        lambda text: [len(text)], source(), 2, progress=lambda done: seen.append(read - done)
    )
    assert max(seen) <= 8


def test_long_batches_are_shared(executions):
    """One batch of slow items is spread over the workers, and each item is run once."""

    def slow(x):
        executions.note(x)
        time.sleep(0.1)
        return [os.getpid()]

    workers = parallel_count(slow, range(20), 2, 1000)
    assert len(workers) == 2
    assert executions.total() == 20


def test_keys_that_cannot_be_hashed(runner):
    """Such a key is its item's error."""
    with pytest.raises(TypeError, match="unhashable"):
        runner.count(lambda x: [[x]], [1])


def test_on_error_return_makes_no_sense():
    """There is no place in a table for an exception."""
    with pytest.raises(ValueError, match="'raise', 'skip', not 'return'"):
        parallel_count(str.split, [], 2, on_error="return")


def test_into_a_counter_of_the_callers():
    """Counts are added to the counter that is given, by its update, batch by batch."""

    class Watched(Counter):
        updates = 0

        def update(self, *given, **more):
            self.updates += 1
            super().update(*given, **more)

    total = Watched(a=1)
    assert parallel_count(str.split, ["a b", "a"] * 10, 2, batch_size=4, into=total) is total
    assert total == {"a": 21, "b": 10}
    assert total.updates > 4
