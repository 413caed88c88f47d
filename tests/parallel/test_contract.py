"""What every way of running promises."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import random
import sys
import threading
import time

import pytest

from bench.parallel.tasks import AwkwardError, LockedError
from perftricks.parallel import (
    ParallelError,
    RemoteError,
    UnpicklableError,
    item_seed,
    parallel_apply,
    parallel_apply_generator,
    parallel_count,
)
from tests.conftest import PATIENCE

from .functions import Unloadable, draw, draw_from_item_seed, draw_without_numpy, square


class Source:
    """An iterable that counts how many items were read from it."""

    def __init__(self, items):
        self.items = iter(items)
        self.read = 0

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self.items)
        self.read += 1
        return item


def test_results_of_all_items(runner):
    """Every item's result arrives once, in any order."""
    assert sorted(runner.apply(square, range(100))) == [x * x for x in range(100)]


def test_ordered_results(runner):
    """With unordered=False results come in the order of the items."""
    assert runner.apply(square, range(100), unordered=False) == [x * x for x in range(100)]


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_generator_pairs_each_result_with_its_index(runner, batch_size):
    """The generator yields the item's index and its result."""
    pairs = runner.stream(square, range(50), batch_size=batch_size)
    assert sorted(pairs) == [(x, x * x) for x in range(50)]


def test_lambdas_and_closures(runner):
    """Functions that pickle cannot handle work."""
    offset = 10
    assert runner.apply(lambda x: x + offset, range(5), unordered=False) == [10, 11, 12, 13, 14]


def test_results_may_be_none(runner):
    """None is a result like any other."""
    assert runner.apply(lambda x: None, range(5)) == [None] * 5


def test_callback_gets_the_results_in_the_calling_thread(runner):
    """With a callback nothing is returned, and the callback runs in the caller's thread."""
    got, threads = [], set()

    def callback(result):
        got.append(result)
        threads.add(threading.current_thread())

    assert runner.apply(square, range(20), callback=callback) is None
    assert sorted(got) == [x * x for x in range(20)]
    assert threads == {threading.current_thread()}


def test_published_signature_by_position():
    """Calls written for bert4keras run unchanged: callback, dummy, random_seeds, unordered."""
    got = []
    assert parallel_apply(square, range(5), 2, 10, got.append, True, [1, 2], False) is None
    assert got == [0, 1, 4, 9, 16]


def test_function_and_iterable_are_enough(runner):
    """The number of workers and the length of the queue have defaults; so has the count's."""
    assert parallel_apply(square, range(9), unordered=False, **runner.options) == [
        x * x for x in range(9)
    ]
    assert sorted(parallel_apply_generator(square, range(3), **runner.options)) == [
        (0, 0),
        (1, 1),
        (2, 4),
    ]
    assert parallel_count(str.split, ["a b", "a"], **runner.options) == {"a": 2, "b": 1}


@pytest.mark.parametrize(("batch_size", "limit"), [("auto", 200), (7, 200), (100, 800)])
def test_default_queue_holds_what_keeps_the_workers_busy(runner, batch_size, limit):
    """By default 100 items a worker are read ahead, or four batches of a given size."""
    source = Source(itertools.count())
    stream = parallel_apply_generator(
        square, source, 2, unordered=False, batch_size=batch_size, **runner.options
    )
    for delivered in range(1, 1000):
        next(stream)
        assert source.read <= delivered + limit
    stream.close()


def test_default_number_of_workers(monkeypatch):
    """As many workers as there are cores to use, or as a pool that is given has."""

    def meet(barrier):
        barrier.wait(PATIENCE)

    def where(x):
        time.sleep(0.002)
        return threading.get_ident()

    monkeypatch.setattr("perftricks.parallel.options.available_cores", lambda: 3)
    parallel_apply(meet, [threading.Barrier(3)] * 3, dummy=True, batch_size=1)
    assert len(set(parallel_apply(where, range(60), dummy=True, batch_size=1))) <= 3
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        parallel_apply(meet, [threading.Barrier(20)] * 20, executor=pool, batch_size=1)
        parallel_apply(meet, [threading.Barrier(20)] * 20, executor=pool)


def test_empty_iterable(runner):
    """No items, no results, no workers."""
    assert runner.apply(square, []) == []


def test_more_workers_than_items(runner):
    """Workers that are not needed do no harm."""
    assert sorted(runner.apply(square, range(3), workers=6)) == [0, 1, 4]


def test_infinite_iterable(runner):
    """An endless stream can be consumed in part."""
    stream = runner.stream(square, itertools.count())
    first = [next(stream) for _ in range(30)]
    stream.close()
    assert all(result == index * index for index, result in first)


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
@pytest.mark.parametrize("unordered", [True, False])
def test_reads_no_further_than_the_queue_while_the_consumer_sleeps(runner, unordered, batch_size):
    """At most max_queue_size items are read ahead of those delivered, at every moment."""
    source = Source(itertools.count())
    stream = runner.stream(square, source, size=12, unordered=unordered, batch_size=batch_size)
    for delivered in range(1, 40):
        next(stream)
        assert source.read <= delivered + 12
    time.sleep(0.2)
    assert source.read <= 39 + 12
    stream.close()


def test_reads_no_further_than_the_queue_while_the_first_item_is_slow(runner):
    """An ordered run does not pile up results behind a slow first item."""
    source = Source(range(200))

    def slow_first(x):
        time.sleep(0.3 if x == 0 else 0)
        return x

    stream = runner.stream(slow_first, source, size=10, unordered=False, batch_size=1)
    assert next(stream) == (0, 0)
    assert source.read <= 11
    assert [x for x, _ in stream] == list(range(1, 200))


def test_task_error_keeps_its_type_message_and_traceback(runner):
    """The caller sees what the task raised, and where."""

    def guilty(x):
        if x == 7:
            raise LookupError("no seven")
        return x

    with pytest.raises(LookupError, match="no seven") as caught:
        runner.apply(guilty, range(20))
    if runner.in_processes:
        assert "guilty" in str(caught.value.__cause__)
        assert "(item 7)" in str(caught.value.__cause__)
    else:
        assert any(entry.name == "guilty" for entry in caught.traceback)


def test_ordered_results_precede_the_error(runner):
    """In an ordered run all results before the failing item are delivered."""

    def guilty(x):
        if x == 5:
            raise ValueError(x)
        return x

    got = []
    with pytest.raises(ValueError, match="5"):
        runner.apply(guilty, range(20), callback=got.append, unordered=False)
    assert got == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_skip_leaves_failing_items_out(runner, batch_size):
    """on_error="skip" delivers all other results."""
    got = runner.apply(
        lambda x: 10 // (x % 5), range(25), unordered=False, on_error="skip", batch_size=batch_size
    )
    assert got == [10 // (x % 5) for x in range(25) if x % 5]


def test_return_delivers_the_exception_in_place(runner):
    """on_error="return" puts the exception where the result would be."""
    got = runner.apply(lambda x: 6 // x, [1, 0, 2], unordered=False, on_error="return")
    assert got[0] == 6
    assert isinstance(got[1], ZeroDivisionError)
    assert got[2] == 3


def test_exceptions_that_their_init_cannot_rebuild(runner):
    """They arrive as what they are, so that a program can catch them, with the same text."""

    def raises(x):
        raise AwkwardError(3, "odd")

    with pytest.raises(AwkwardError, match="3: odd") as caught:
        runner.apply(raises, [1])
    assert caught.value.args == AwkwardError(3, "odd").args
    if runner.in_processes:
        assert "in raises" in str(caught.value.__cause__)


def test_exceptions_that_cannot_be_pickled(runner):
    """An exception that cannot cross the border is told by type and message, with its traceback."""

    def raises(x):
        raise LockedError("locked")

    with pytest.raises(Exception, match="locked") as caught:
        runner.apply(raises, [1])
    if runner.in_processes:
        assert isinstance(caught.value, RemoteError)
        assert "LockedError: locked" in str(caught.value)
        assert "in raises" in str(caught.value.__cause__)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, StopIteration, KeyboardInterrupt])
def test_exceptions_that_are_no_errors_do_not_end_the_caller(runner, kind):
    """A task that calls sys.exit() ends neither worker nor caller."""

    def leaves(x):
        raise kind("bye")

    if runner.name == "serial" and kind is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):  # in the caller's thread it is the caller's own
            runner.apply(leaves, [1])
        return
    with pytest.raises(RemoteError, match=f"{kind.__name__}: bye") as caught:
        runner.apply(leaves, [1])
    assert caught.value.index == 0


def test_results_that_cannot_be_pickled(runner):
    """Such a result is its item's failure in processes and no problem in threads."""

    def make(x):
        return threading.Lock() if x == 3 else x

    got = runner.apply(make, range(6), unordered=False, on_error="return", batch_size=6)
    assert [x for i, x in enumerate(got) if i != 3] == [0, 1, 2, 4, 5]
    if runner.in_processes:
        assert isinstance(got[3], UnpicklableError)
        assert "lock" in str(got[3])


def test_arguments_that_cannot_be_pickled(runner):
    """Such an item fails alone; those beside it in the batch do not."""
    items = [0, 1, threading.Lock(), 3]

    def kind(x):
        return type(x).__name__

    got = runner.apply(kind, items, unordered=False, on_error="return", batch_size=4)
    assert got[:2] + got[3:] == ["int"] * 3
    if runner.in_processes:
        assert isinstance(got[2], UnpicklableError)
        assert got[2].index == 2
    else:
        assert got[2] == "lock"


@pytest.mark.parametrize("where", ["argument", "result"])
def test_objects_that_pickle_but_do_not_load(runner, where):
    """An object that cannot be rebuilt on the other side is its item's failure alone."""
    items = [Unloadable() if x == 2 and where == "argument" else x for x in range(5)]

    def func(x):
        return Unloadable() if x == 2 and where == "result" else 1

    got = runner.apply(func, items, unordered=False, on_error="return", batch_size=5)
    assert [got[i] for i in (0, 1, 3, 4)] == [1] * 4
    if runner.in_processes:
        assert isinstance(got[2], UnpicklableError)
        assert "will not load" in str(got[2])


def test_functions_that_cannot_be_pickled(runner):
    """Refused at once with advice, or run where no pickling is needed."""
    lock = threading.Lock()

    def func(x):
        with lock:
            return x

    if runner.in_processes and runner.name != "fork":
        with pytest.raises(UnpicklableError, match="initializer"):
            runner.apply(func, range(4))
    else:
        assert sorted(runner.apply(func, range(4))) == [0, 1, 2, 3]


def test_iterable_that_raises(runner):
    """What was read before is delivered, then the iterable's own error is raised."""

    def source():
        yield from range(7)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        runner.apply(square, source(), callback=got.append)
    assert sorted(got) == [x * x for x in range(7)]


def test_callback_that_raises(runner):
    """The callback's error reaches the caller and ends the run."""
    with pytest.raises(KeyError, match="full"):
        runner.apply(square, itertools.count(), callback=_refuse)


def _refuse(result):
    if result > 100:
        raise KeyError("full")


def test_abandoned_generator(runner):
    """A generator that is dropped half-way ends its workers (checked after every test)."""
    stream = runner.stream(square, itertools.count())
    next(stream)
    del stream


def test_closed_generator(runner):
    """A closed generator is exhausted."""
    stream = runner.stream(square, range(1000))
    next(stream)
    stream.close()
    assert list(stream) == []


def test_retries(runner, executions):
    """An item that fails is tried again, up to the given number of times, under the same seed."""

    def flaky(x):
        if executions.note(x) < 3:
            raise ConnectionError
        return x

    assert runner.apply(flaky, range(4), unordered=False, retries=2) == [0, 1, 2, 3]
    assert [executions.of(x) for x in range(4)] == [3] * 4


def test_retries_run_out(runner, executions):
    """The last failure counts when all retries are used up."""

    def hopeless(x):
        raise ConnectionError(f"attempt {executions.note(x)}")

    with pytest.raises(ConnectionError, match="attempt 3"):
        runner.apply(hopeless, [0], retries=2)
    assert executions.total() == 3


def test_each_item_is_run_once(runner, executions):
    """Batches that are handed back half done are not started over."""

    def slow_at_first(x):
        executions.note(x)
        time.sleep(0.12 if 20 <= x < 30 else 0)
        return x

    assert runner.apply(slow_at_first, range(60), size=200, unordered=False) == list(range(60))
    assert executions.total() == 60


def test_initializer_runs_in_each_worker(runner):
    """What the initializer prepares is there for the tasks."""

    def prepare():
        random.prepared = "yes"

    try:
        results = runner.apply(lambda x: random.prepared, range(8), initializer=prepare)
    finally:
        if hasattr(random, "prepared"):
            del random.prepared
    assert set(results) == {"yes"}


def test_initializer_that_raises(runner):
    """The initializer's error reaches the caller."""

    def broken():
        raise PermissionError("no licence")

    with pytest.raises(PermissionError, match="no licence"):
        runner.apply(square, range(8), initializer=broken)


def test_progress_function(runner):
    """The progress function is told the number of items delivered."""
    seen = []
    runner.apply(square, range(10), progress=seen.append)
    assert seen == list(range(1, 11))


def test_seeds_belong_to_items(runner):
    """Results that depend on chance are the same for 1, 2 and 8 workers."""
    shares_generators = runner.name in ("thread", "thread-pool")
    drawn = draw_from_item_seed if shares_generators else draw
    drawn = draw_without_numpy if runner.in_interpreters else drawn
    runs = [
        runner.apply(drawn, range(24), workers=n, unordered=False, root_seed=5) for n in (1, 2, 8)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs[0])) == 24
    assert runs[0] != runner.apply(draw, range(24), unordered=False, root_seed=6)


def test_item_seed_everywhere(runner):
    """item_seed() depends on root seed and index alone, in threads too."""
    runs = [
        runner.apply(lambda x: item_seed(), range(9), workers=n, unordered=False, root_seed=1)
        for n in (1, 3)
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 9
    assert item_seed() is None


def test_default_root_seed_differs_from_call_to_call(runner):
    """Without root_seed two runs draw differently."""
    one, two = (runner.apply(lambda x: item_seed(), [0]) for _ in range(2))
    assert one != two


def test_callers_generators_are_left_alone(runner):
    """A run changes neither random nor numpy.random in the caller."""
    import numpy

    random.seed(3)
    numpy.random.seed(3)
    expected = random.random(), numpy.random.rand()
    random.seed(3)
    numpy.random.seed(3)
    if runner.name in ("thread", "thread-pool"):
        runner.apply(square, range(5), root_seed=1)
    else:
        runner.apply(draw_without_numpy if runner.in_interpreters else draw, range(5), root_seed=1)
    assert (random.random(), numpy.random.rand()) == expected


def test_from_another_thread(runner):
    """A run may be started in any thread."""
    got = []
    thread = threading.Thread(target=lambda: got.extend(runner.apply(square, range(10))))
    thread.start()
    thread.join(PATIENCE)
    assert sorted(got) == [x * x for x in range(10)]


def test_several_runs_at_a_time(runner):
    """Runs in several threads do not disturb each other."""
    results = {}

    def run(k):
        results[k] = runner.apply(lambda x: x + k, range(30), unordered=False)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {k: [x + k for x in range(30)] for k in range(3)}


def test_results_in_the_iterable_of_another_run(runner):
    """The stream of one run can feed another."""
    first = runner.stream(square, range(20), unordered=False)
    second = runner.apply(lambda pair: pair[1] + 1, first, unordered=False)
    assert second == [x * x + 1 for x in range(20)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"size": 0}, "max_queue_size must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": "big"}, "batch_size must be an int of at least 1, not 'big'"),
        ({"retries": -1}, "retries must be at least 0, not -1"),
        ({"on_error": "ignore"}, "on_error must be one of 'raise', 'skip', 'return', not 'ignore'"),
        ({"random_seeds": False, "root_seed": 1}, "leave one of them out"),
        ({"progress": 3}, "progress must be"),
    ],
)
def test_bad_arguments_are_refused_at_once(runner, arguments, message):
    """An argument out of range is refused before anything is read or started."""
    source = Source(range(3))
    with pytest.raises((ValueError, TypeError), match=message):
        runner.stream(square, source, **arguments)
    assert source.read == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"executor": "gpu"}, "executor must be one of"),
        ({"executor": "interpreter", "timeout": 1}, "timeout needs executor='process'"),
        ({"executor": "process", "dummy": True}, "dummy=True means threads"),
        ({"executor": "thread", "timeout": 1}, "timeout needs executor='process'"),
        ({"timeout": 0}, "positive number of seconds"),
        ({"start_method": "teleport"}, "start_method must be one of"),
    ],
)
def test_contradictory_arguments(arguments, message):
    """Arguments that exclude each other are refused with the way out."""
    with pytest.raises(ValueError, match=message):
        parallel_apply(square, [1], 2, 2, **arguments)


def test_interpreters_where_python_has_them():
    """An older Python refuses them and says which has them."""
    if sys.version_info >= (3, 14):
        assert parallel_apply(square, range(3), executor="interpreter", unordered=False) == [
            0,
            1,
            4,
        ]
    else:
        with pytest.raises(ValueError, match=r"needs Python 3\.14 or newer"):
            parallel_apply(square, range(3), executor="interpreter")


def test_seeds_for_workers(runner):
    """A sequence seeds each worker once; where the workers are not ours it is refused."""
    if runner.name.endswith("-pool") or runner.name == "dask" or runner.in_interpreters:
        with pytest.raises(ValueError, match="the workers are those of an executor"):
            runner.apply(square, [1], random_seeds=[1, 2])
        return
    with pytest.raises(ValueError, match="1 seeds for 2 workers"):
        runner.apply(square, [1], random_seeds=[1])
    if runner.in_processes:
        first = runner.apply(lambda x: random.random(), range(3), workers=1, random_seeds=[5])
        assert first == [random.Random(5).random() for _ in range(1)] + first[1:]
        assert first == runner.apply(
            lambda x: random.random(), range(3), workers=1, random_seeds=[5]
        )


def test_item_seed_survives_a_run_inside_the_task(runner):
    """A nested run does not take the item's seed away."""

    def task(x):
        before = item_seed()
        parallel_apply(square, [x], 1, 1, executor="serial", root_seed=9)
        return before == item_seed() is not None

    assert runner.apply(task, range(3)) == [True] * 3


@pytest.mark.parametrize("batch_size", [10, 8])
def test_a_batch_for_each_worker(runner, batch_size):
    """A batch size near max_queue_size leaves no worker without work."""

    def where(x):
        time.sleep(0.05)
        return threading.get_ident(), os.getpid()

    places = set(runner.apply(where, range(40), size=10, batch_size=batch_size))
    assert len(places) == (1 if runner.name == "serial" else 2)


def test_descriptors_do_not_pile_up(runner):
    """Many small runs leave no file descriptor open, garbage collection or not."""
    runner.apply(square, range(3))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        runner.apply(square, range(3))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_not_a_function(runner):
    """Something that cannot be called is refused."""
    with pytest.raises(TypeError, match="func must be callable"):
        runner.stream(3, [])


def test_errors_share_a_base():
    """One except clause catches what the module itself raises."""
    assert issubclass(RemoteError, ParallelError)
    assert issubclass(UnpicklableError, ParallelError)
