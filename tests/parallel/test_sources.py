"""How the iterable is read: results never wait for it, and items are what they were."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import operator
import queue
import sqlite3
import threading
import time

import numpy
import pytest

from perftricks.parallel.source import is_bound

from . import odd
from .functions import plus_one


@pytest.mark.parametrize("batch_size", ["auto", 3])
@pytest.mark.parametrize("unordered", [True, False])
def test_a_producer_that_waits_for_results(runner, batch_size, unordered):
    """The next item may depend on the result before, as in a crawler."""
    todo = queue.Queue()
    todo.put(0)

    def frontier():
        while (item := todo.get(timeout=60)) is not None:
            yield item

    found = []
    for _, result in runner.stream(
        plus_one, frontier(), batch_size=batch_size, unordered=unordered
    ):
        found.append(result)
        todo.put(result if result < 5 else None)
    assert found == [1, 2, 3, 4, 5]


def test_results_come_while_the_iterable_waits(runner):
    """A result is delivered before the next item is there."""
    gate = threading.Event()

    def slow():
        yield 1
        assert gate.wait(60)
        yield 2

    stream = runner.stream(plus_one, slow())
    assert next(stream) == (0, 2)
    gate.set()
    assert list(stream) == [(1, 3)]


@pytest.fixture
def table(tmp_path):
    """A database with the numbers from 0 to 19."""
    with sqlite3.connect(tmp_path / "table.db") as connection:
        connection.execute("create table numbers (n integer)")
        connection.executemany("insert into numbers values (?)", [(n,) for n in range(20)])
        connection.commit()
        yield connection
    connection.close()


def _rows_of(connection):
    for (n,) in connection.execute("select n from numbers"):
        yield n


def _ask(connection):
    return connection.execute("select n from numbers")


class Rows:
    """An iterable of somebody's own over a cursor."""

    def __init__(self, connection):
        self.cursor = _ask(connection)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.cursor)[0]


BOUND = {
    "cursor": lambda table: _ask(table),
    "generator expression": lambda table: (row[0] for row in _ask(table)),
    "generator": _rows_of,
    "map": lambda table: map(operator.itemgetter(0), _ask(table)),
    "zip": lambda table: (n for (n,), _ in zip(_ask(table), itertools.count(), strict=False)),
    "chain": lambda table: itertools.chain([(0,)], _ask(table)),
    "object": Rows,
}


@pytest.mark.parametrize("kind", BOUND)
def test_iterables_that_are_bound_to_their_thread(runner, table, kind):
    """What refers to a cursor of sqlite3 is read in the calling thread."""
    got = runner.apply(lambda row: row, BOUND[kind](table), unordered=False)
    numbers = [row[0] if isinstance(row, tuple) else row for row in got]
    assert numbers == ([0] if kind == "chain" else []) + list(range(20))


connection_of_the_module = None


def _rows_of_the_module():
    for (n,) in _ask_the_module():
        yield n


def _ask_the_module():
    return connection_of_the_module.execute("select n from numbers")


def test_a_connection_that_is_found_by_its_global_name(runner, table, monkeypatch):
    """Functions that a generator calls are looked into."""
    monkeypatch.setitem(globals(), "connection_of_the_module", table)
    assert sorted(runner.apply(plus_one, _rows_of_the_module())) == list(range(1, 21))


def test_a_lock_that_the_caller_holds(runner):
    """A generator that takes a lock which its caller holds is read by the caller."""
    lock = threading.RLock()

    def locked():
        for x in range(5):
            with lock:
                yield x

    with lock:
        assert sorted(runner.apply(plus_one, locked())) == [1, 2, 3, 4, 5]


def test_an_error_about_threads_says_what_to_do(table):
    """Where something bound to a thread was not found, the error has the remedy."""
    from perftricks.parallel import parallel_apply

    hidden = {1: [table]}
    deep = hidden
    for _ in range(20):
        deep = {1: deep}

    def rows():
        inner = deep
        while 1 in inner and isinstance(inner[1], dict):
            inner = inner[1]
        yield from _ask(inner[1][0])

    with pytest.raises(sqlite3.ProgrammingError, match='read_in="caller"'):
        parallel_apply(len, rows(), 2, 4, dummy=True)
    assert parallel_apply(len, rows(), 2, 4, dummy=True, read_in="caller") == [1] * 20


@pytest.mark.parametrize(
    ("read_in", "make", "here"),
    [
        ("auto", lambda note: (note() for _ in range(3)), False),
        ("thread", lambda note: (note() for _ in range(3)), False),
        ("caller", lambda note: (note() for _ in range(3)), True),
    ],
)
def test_where_an_iterable_is_read(processes, read_in, make, here):
    """read_in= says in which thread; by itself a generator is read in one of its own."""
    threads = []

    def note():
        threads.append(threading.current_thread())
        return 1

    processes.apply(plus_one, make(note), read_in=read_in)
    assert {thread is threading.current_thread() for thread in threads} == {here}


def test_containers_are_read_in_the_calling_thread(runner, monkeypatch):
    """Nothing is started to read what cannot wait."""
    monkeypatch.setattr("perftricks.parallel.source.ThreadSource", None)
    texts = ["a", "bb", "ccc"]
    pairs = zip(texts, texts, strict=True)
    for items in (texts, tuple(texts), dict.fromkeys(texts), enumerate(texts), pairs):
        assert sorted(runner.apply(len, items)) in ([1, 2, 3], [2, 2, 2])
    assert runner.apply(plus_one, numpy.arange(3), unordered=False) == [1, 2, 3]
    assert runner.apply(plus_one, range(3), unordered=False) == [1, 2, 3]


def test_regular_files_are_read_in_the_calling_thread(runner, tmp_path, monkeypatch):
    """A file on a disk is soon read; the lines of a pipe may be long in coming."""
    monkeypatch.setattr("perftricks.parallel.source.ThreadSource", None)
    path = tmp_path / "lines"
    path.write_text("a\nbb\n")
    with open(path) as lines:
        assert runner.apply(len, lines, unordered=False) == [2, 3]


def test_a_bad_choice_is_refused(runner):
    """read_in= takes three words."""
    with pytest.raises(ValueError, match="read_in must be one of 'auto', 'thread', 'caller'"):
        runner.stream(plus_one, [], read_in="here")


def test_context_variables_of_the_caller(runner):
    """The iterable sees the context variables of the caller, in whichever thread."""
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")
    got = runner.apply(lambda x: x, (variable.get() for _ in range(3)))
    assert got == ["the caller's"] * 3


def test_a_generator_that_is_abandoned_is_closed_where_it_was_read(processes):
    """Its clean-up runs in the thread that ran the rest of it."""
    places = []

    def source():
        try:
            for x in itertools.count():
                places.append(threading.current_thread())
                yield x
        finally:
            places.append(threading.current_thread())

    stream = processes.stream(plus_one, source())
    next(stream)
    stream.close()
    assert len(set(places)) == 1
    assert places[0] is not threading.current_thread()


def test_an_iterable_that_never_answers_holds_up_nobody(runner):
    """A run whose iterable waits for ever can be left."""
    if runner.name == "serial":
        return  # it reads in the calling thread, which waits
    gate = threading.Event()

    def source():
        yield 1
        gate.wait(100)

    try:
        stream = runner.stream(plus_one, source())
        assert next(stream) == (0, 2)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 60  # no measurement: it would wait for 100 seconds
    finally:
        gate.set()


def test_an_iterable_that_raises_something_that_is_no_error(processes):
    """It reaches the caller all the same."""

    def source():
        yield 1
        raise SystemExit("enough")

    with pytest.raises(SystemExit, match="enough"):
        processes.apply(plus_one, source())


def _dicts(n):
    row = {}
    for i in range(n):
        row["id"] = i
        yield row


def _nested(n):
    row = {"inner": {}}
    for i in range(n):
        row["inner"]["id"] = i
        yield row


def _lists(n):
    row = [0]
    for i in range(n):
        row[0] = i
        yield row


def _arrays(n):
    row = numpy.zeros(3)
    for i in range(n):
        row[0] = i
        yield row


def _large_arrays(n):
    row = numpy.zeros(40_000)
    for i in range(n):
        row[0] = i
        yield row


class Record:
    """An object of a class of the caller's."""

    def __init__(self):
        self.id = 0


def _objects(n):
    row = Record()
    for i in range(n):
        row.id = i
        yield row


def _bytearrays(n):
    row = bytearray(2)
    for i in range(n):
        row[0] = i % 256
        yield row


USED_AGAIN = {
    _dicts: lambda r: r["id"],
    _nested: lambda r: r["inner"]["id"],
    _lists: lambda r: r[0],
    _arrays: lambda r: r[0],
    _large_arrays: lambda r: r[0],
    _objects: lambda r: r.id,
    _bytearrays: lambda r: r[0],
}


@pytest.mark.parametrize("read_in", ["thread", "caller"])
@pytest.mark.parametrize("make", USED_AGAIN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("executor", ["process", "pool"])
def test_a_producer_that_uses_its_buffer_again(executor, make, read_in, request):
    """An item is what it was when it was given, wherever items are copied."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from perftricks.parallel import parallel_apply

    def run(**options):
        return parallel_apply(
            USED_AGAIN[make], make(200), 2, 50, unordered=False, read_in=read_in, **options
        )

    if executor == "process":
        got = run()
    else:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            got = run(executor=pool)
    assert got == list(range(200))


def test_items_of_a_list_that_the_callback_changes(processes):
    """An item that was read is not changed by what is done to it afterwards, crash or not."""
    rows = [{"id": i, "more": []} for i in range(20)]
    iterator = iter(rows)
    results = []

    def spoil(result):
        results.append(result)
        for row in rows[: len(rows) - operator.length_hint(iterator)]:  # what has been read
            row["id"] = None

    processes.apply(
        lambda row: row["id"], iterator, size=8, callback=spoil, unordered=False, batch_size=1
    )
    assert results == list(range(20))


def test_an_item_that_is_run_again_is_still_what_it_was(processes, executions):
    """A replay after a crash has the item as it was given."""

    def first_time_dies(row):
        if row["id"] == 3 and executions.note("start") == 1:
            import os

            os._exit(1)
        return row["id"]

    got = processes.apply(first_time_dies, _dicts(20), unordered=False, batch_size=4)
    assert got == list(range(20))


def test_counting_with_a_buffer_that_is_used_again(processes):
    """Counting sees the items as they were given, too."""
    assert len(processes.count(lambda row: [row["id"]], _dicts(500), batch_size=50)) == 500


def test_an_iterable_that_refers_to_a_class_without_a_hash(runner):
    """What an iterable refers to may be of any class."""
    kept = odd.Unequal(5)
    assert runner.apply(plus_one, (kept.number for _ in range(3))) == [6, 6, 6]


def test_what_is_bound_to_a_thread_is_found():
    """Locals of threads, and loops of asyncio, are such things; a queue is none."""
    local = threading.local()
    loop = asyncio.new_event_loop()
    waiting = queue.Queue()
    try:
        assert is_bound(x for x in [1] if local)
        assert is_bound(map(functools.partial(asyncio.run_coroutine_threadsafe, loop=loop), [1]))
        assert not is_bound(waiting.get() for _ in range(3))
        assert not is_bound(iter([1]))
    finally:
        loop.close()


def test_a_stream_of_a_stream_is_forked_before_there_are_threads(tmp_path):
    """A run that feeds another may have a function that only a fork can have."""
    from perftricks.parallel import parallel_apply, parallel_apply_generator

    lock = threading.Lock()

    def locked(x):
        with lock:
            return x

    def pair(x):
        with lock:
            return x[1] + 1

    first = parallel_apply_generator(locked, range(10), 2, 4, start_method="fork", unordered=False)
    second = parallel_apply(pair, first, 2, 4, start_method="fork", unordered=False)
    assert second == list(range(1, 11))
