"""Classes, functions and globals of the main module are in workers what they are in the caller."""

from __future__ import annotations

import builtins
import concurrent.futures
import functools
import importlib
import multiprocessing
import os
import random
import subprocess
import sys
import textwrap
import threading

import pytest

from perftricks.parallel import parallel_apply, parallel_count, worker_state
from tests.conftest import PATIENCE

from .conftest import START_METHODS

PROGRAM = """
import dataclasses, enum, functools, sys, typing
from perftricks.parallel import parallel_apply

METHOD = sys.argv[1]
RATE = 1
CONNECTION = None

def connect():
    global CONNECTION
    CONNECTION = "connection"
    Price.table = {"loaded": 0}

class Price:
    made = 0
    table = None

    def __init__(self, x):
        self.x = x

    def total(self):
        return self.x * RATE

    def connected(self):
        return CONNECTION

    @classmethod
    def loads(cls):
        if cls.table is None:
            cls.table = {"loaded": 0}
        cls.table["loaded"] += 1
        return cls.table["loaded"]

@dataclasses.dataclass(slots=True)
class Point:
    x: int

class Slots:
    __slots__ = ("a", "__weakref__")

    def __init__(self, a):
        self.a = a

class Color(enum.Enum):
    RED = 1

class Row(typing.NamedTuple):
    x: int
    y: str = "y"

Kind = typing.TypeVar("Kind")

class Pair(typing.Generic[Kind]):
    __slots__ = ("both",)

class Lazy:
    @functools.cached_property
    def value(self):
        return RATE

def apply(function, items, **options):
    return parallel_apply(
        function, items, 1, 9, unordered=False, batch_size=1, start_method=METHOD, **options
    )

def wrong(point):
    try:
        point.y = 5
    except AttributeError:
        return "AttributeError"
    return "set"

if __name__ == "__main__":
    before = Price.total
    prices = apply(lambda x: Price(x), [10, 20])
    assert Price.total is before
    RATE = 3
    assert [price.total() for price in prices] == [30, 60]
    assert [type(price) for price in prices] == [Price, Price]

    def note(price):
        Price.made += 1

    apply(lambda x: Price(x), range(10), callback=note)
    assert Price.made == 10

    items = [Price(1), Price(2), Price(3)]
    assert apply(lambda p: p.connected(), items, initializer=connect) == ["connection"] * 3
    assert apply(lambda p: p.loads(), items) == [1, 2, 3]
    assert Price.table is None
    RATE = 5  # a new run sees what is so when it begins
    assert apply(lambda p: p.total(), items) == [5, 10, 15]

    assert apply(lambda x: Point(x), [1, 2]) == [Point(1), Point(2)]
    assert apply(wrong, [Point(1), Slots(2)]) == ["AttributeError"] * 2
    assert [slots.a for slots in apply(lambda x: Slots(x), [3])] == [3]
    assert apply(lambda color: color, [Color.RED])[0] is Color.RED

    assert apply(lambda x: Row(x), [1]) == [Row(1)]
    assert [type(row) for row in apply(lambda row: row, [Row(1)])] == [Row]
    assert apply(lambda row: row._replace(x=2).y, [Row(1)]) == ["y"]
    assert [type(pair) for pair in apply(lambda x: Pair[int](), [1])] == [Pair]
    assert apply(wrong, [Row(1), Pair()]) == ["AttributeError"] * 2
    assert apply(lambda x: Lazy().value, [1]) == [RATE]
    assert [lazy.value for lazy in apply(lambda x: Lazy(), [1])] == [RATE]
    print("done")
"""


@pytest.mark.parametrize("start_method", START_METHODS)
def test_the_main_module(tmp_path, start_method):
    """What a program, an initializer or a task puts into it stays there."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(script), start_method],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


NESTED = """
import threading
from perftricks.parallel import parallel_apply

def task(x):
    lock = threading.Lock()

    def add(y):
        with lock:
            return x + y

    return sum(parallel_apply(add, range(3), 2))

if __name__ == "__main__":
    print(parallel_apply(task, [1, 2], 2, unordered=False, start_method="fork"))
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="fork is no longer the usual way")
def test_a_run_in_a_task_is_as_any_other(tmp_path):
    """A worker has a thread of ours, beside which a fork is safe."""
    script = tmp_path / "program.py"
    script.write_text(NESTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = [sys.executable, str(script)]
    assert subprocess.check_output(run, env=environment, timeout=PATIENCE) == b"[6, 9]\n"


def _load(path):
    return int(path.read_text())


def _times(x):
    return x * worker_state()


def _below(x):
    return range(worker_state())


@pytest.mark.parametrize("pool", [concurrent.futures.ProcessPoolExecutor, "threads"])
def test_a_pool_of_the_caller_sets_up_each_run(pool, tmp_path):
    """The initializer is called in each run, however much like the last one it is."""
    path = tmp_path / "rate"
    load = functools.partial(_load, path)
    if pool == "threads":
        opened = concurrent.futures.ThreadPoolExecutor(1)
    else:
        opened = pool(1, mp_context=multiprocessing.get_context("spawn"))
    with opened as executor:
        for rate in (1, 3):
            path.write_text(str(rate))
            options = {"executor": executor, "initializer": load}
            assert parallel_apply(_times, [10], random_seeds=False, **options) == [10 * rate]
            assert parallel_apply(_times, [10], root_seed=1, **options) == [10 * rate]
            assert len(parallel_count(_below, [0], **options)) == rate


class Inline(concurrent.futures.Executor):
    """Runs each call at once, as some executors for tests do."""

    def submit(self, function, /, *args, **kwargs):
        """Run it."""
        future = concurrent.futures.Future()
        future.set_result(function(*args, **kwargs))
        return future


class Threads(concurrent.futures.Executor):
    """Runs each call in a thread, and does not say so."""

    def submit(self, function, /, *args, **kwargs):
        """Run it."""
        future = concurrent.futures.Future()
        thread = threading.Thread(target=lambda: future.set_result(function(*args, **kwargs)))
        thread.start()
        thread.join()
        return future


@pytest.mark.parametrize("executor", [Inline, Threads])
def test_an_executor_in_this_process_leaves_random_numbers_alone(executor):
    """What the caller draws afterwards is what it would have drawn."""
    random.seed(1)
    expected = random.random()
    random.seed(1)
    assert parallel_apply(abs, [-1, 2], executor=executor(), unordered=False) == [1, 2]
    assert random.random() == expected


class NotFoundError(Exception):
    """Makes its text of what it is given."""

    def __init__(self, name):
        super().__init__(f"model {name} not found")
        self.name = name


class GrownError(Exception):
    """Has other arguments than it is given."""

    def __init__(self, n):
        super().__init__(n + 1)


class CodeError(OSError):
    """Derives from an exception of Python's with a constructor of its own."""

    def __init__(self, code, more=()):
        super().__init__(code, f"code {code}")
        self.more = more


ERRORS = {
    "text": lambda: NotFoundError("a"),
    "arguments": lambda: GrownError(3),
    "OSError": lambda: CodeError(5, [1]),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"abc\xff", 3, 4, "invalid"),
    "FileNotFoundError": lambda: FileNotFoundError(2, "No such file", "a.txt"),
    "several arguments": lambda: KeyError("a", "b"),
}


Group = getattr(builtins, "ExceptionGroup", None)


def _chained():
    """Return an error that has others, which their own ``__init__`` cannot rebuild, and itself."""
    error = NotFoundError("a")
    error.others = [CodeError(5, [1]), (NotFoundError("b"),)]
    error.itself = error
    return error


@pytest.mark.skipif(Group is None, reason="groups are new in Python 3.11")
def test_groups_of_exceptions(processes):
    """What is in a group arrives as it was raised."""

    def fail(x):
        raise Group("two", [ValueError(1), Group("in", [NotFoundError("b")])])

    (error,) = processes.apply(fail, [1], on_error="return")
    assert type(error) is Group
    first, (second,) = error.exceptions[0], error.exceptions[1].exceptions
    assert (type(first), first.args) == (ValueError, (1,))
    assert (type(second), str(second), second.name) == (NotFoundError, "model b not found", "b")


def test_exceptions_that_have_others(processes):
    """What an exception refers to comes with it."""

    def fail(x):
        raise _chained()

    (error,) = processes.apply(fail, [1], on_error="return")
    code, (found,) = error.others
    assert (str(error), error.name) == ("model a not found", "a")
    assert (type(code), code.args, code.more) == (CodeError, (5, "code 5"), [1])
    assert (type(found), found.name) == (NotFoundError, "b")
    assert error.itself is error


@pytest.mark.parametrize("kind", ERRORS)
def test_exceptions_keep_their_text(processes, kind):
    """An exception whose ``__init__`` makes its text does not make it twice."""
    make = ERRORS[kind]

    def fail(x):
        raise make()

    error = make()
    with pytest.raises(type(error)) as caught:
        processes.apply(fail, [1])
    assert str(caught.value) == str(error)
    assert caught.value.args == error.args
    assert vars(caught.value) == vars(error)


LOCAL = textwrap.dedent(
    """
    import threading
    _local = threading.local()

    class Manager:
        @property
        def all(self):
            return getattr(_local, "rows", ["committed"])

    class Model:
        objects = Manager()

    def begin(rows):
        _local.rows = rows

    def rows():
        return getattr(_local, "rows", ["committed"])
    """
)


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A module with state that belongs to a thread."""
    (tmp_path / "localdb.py").write_text(LOCAL)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("localdb")
    del sys.modules["localdb"]


@pytest.mark.parametrize(
    "how", ["generator", "class", "map", "expression", "model", "function in a function"]
)
def test_rows_of_a_thread(database, how):
    """What belongs to a thread is found behind functions of modules, classes and their objects."""
    database.begin(["committed", "mine"])

    class Reader:
        def __init__(self):
            self.n = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.n += 1
            if self.n > len(database.rows()):
                raise StopIteration
            return database.rows()[self.n - 1]

    def generator():
        yield from database.rows()

    def of_model():
        yield from database.Model.objects.all

    def helper():
        return list(database.rows())

    items = {
        "generator": generator,
        "class": Reader,
        "map": lambda: map(str, generator()),
        "expression": lambda: (row for _ in range(1) for row in database.rows()),
        "model": of_model,
        "function in a function": lambda: (row for _ in range(1) for row in helper()),
    }[how]
    assert parallel_apply(str.upper, items(), 2, unordered=False) == ["COMMITTED", "MINE"]
