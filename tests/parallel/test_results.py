"""Results on their way: what they were when the task returned them, each pickled once."""

from __future__ import annotations

import threading

import numpy
import pytest

from perftricks.parallel import UnpicklableError

LARGE = 1 << 18  # numbers of 8 bytes: more than a megabyte


class Record:
    """An object that a task returns again and again."""

    def __init__(self):
        self.id = -1


def _in_dict(kept, i):
    row = kept.setdefault("row", {})
    row["id"] = i
    return row


def _in_nested(kept, i):
    rows = kept.setdefault("rows", [{}])
    rows[0]["id"] = i
    return rows


def _in_list(kept, i):
    row = kept.setdefault("list", [0])
    row[0] = i
    return row


def _in_bytearray(kept, i):
    row = kept.setdefault("bytes", bytearray(1))
    row[0] = i
    return row


def _in_array(kept, i):
    row = kept.setdefault("array", numpy.zeros(3))
    row[0] = i
    return row


def _in_large_array(kept, i):
    row = kept.setdefault("large", numpy.zeros(LARGE))
    row[0] = i
    return row


def _in_object(kept, i):
    row = kept.setdefault("object", Record())
    row.id = i
    return row


USED_AGAIN = {
    _in_dict: lambda r: r["id"],
    _in_nested: lambda r: r[0]["id"],
    _in_list: lambda r: r[0],
    _in_bytearray: lambda r: r[0],
    _in_array: lambda r: r[0],
    _in_large_array: lambda r: r[0],
    _in_object: lambda r: r.id,
}


@pytest.mark.parametrize("fill", USED_AGAIN, ids=lambda fill: fill.__name__)
def test_a_task_that_uses_its_buffer_again(runner, fill):
    """A result is what it was when the task returned it, whatever the task does to it then."""
    if not runner.in_processes:
        pytest.skip("the caller gets the very object")
    if runner.in_interpreters and "array" in fill.__name__:
        pytest.skip("needs numpy")
    kept = {}  # each worker's own
    got = runner.apply(lambda i: fill(kept, i), range(24), unordered=False, batch_size=4)
    assert [USED_AGAIN[fill](each) for each in got] == list(range(24))


def test_an_error_that_is_raised_again(runner):
    """An exception is what it was when the task raised it."""
    if not runner.in_processes:
        pytest.skip("the caller gets the very object")
    error = ValueError(-1)

    def task(i):
        error.args = (i,)
        raise error

    got = runner.apply(task, range(12), on_error="return", unordered=False, batch_size=4)
    assert [each.args for each in got] == [(i,) for i in range(12)]


class Counting:
    """Pickles as the number of times that it was pickled."""

    def __init__(self):
        self._times = 0

    def __reduce__(self):
        self._times += 1
        return int, (self._times,)


def test_results_are_pickled_once(runner):
    """That a result cannot be pickled changes nothing for its neighbours."""
    if not runner.in_processes:
        pytest.skip("nothing is pickled")

    def task(i):
        return threading.Lock() if i == 2 else Counting()

    got = runner.apply(task, range(8), on_error="skip", unordered=False, batch_size=4)
    assert got == [1] * 7


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, RecursionError])
@pytest.mark.parametrize("where", ["item", "result", "error"])
def test_what_is_no_error_raised_by_pickling(processes, kind, where):
    """It costs neither a worker nor its neighbours."""

    def refuse(*_):
        raise kind("not now")

    class Refusing(Exception):
        def __reduce__(self):
            return (refuse, ()) if where == "item" else refuse()

    def task(item):
        if item == 2 and where == "result":
            return Refusing()
        if item == 2 and where == "error":
            raise Refusing("of the task")
        return item

    items = [0, 1, Refusing() if where == "item" else 2, 3]
    got = processes.apply(task, items, on_error="return", unordered=False, batch_size=4)
    assert got[:2] + got[3:] == [0, 1, 3]
    if where == "error":
        assert "of the task" in str(got[2])
    else:
        assert isinstance(got[2], UnpicklableError)


class Sealed:
    """Pickles, and raises what is no error when it is loaded."""

    def __reduce__(self):
        return _leave, ()


def _leave():
    raise SystemExit("while loading")


def test_a_result_that_would_end_the_program(runner, executions):
    """Loading a result does not end the caller; its neighbours are not run again."""
    if not runner.in_processes:
        pytest.skip("nothing is pickled")

    def task(i):
        executions.note(i)
        return Sealed() if i == 1 else i

    got = runner.apply(task, range(4), on_error="return", unordered=False, batch_size=4)
    assert got[:1] + got[2:] == [0, 2, 3]
    assert isinstance(got[1], UnpicklableError)
    assert got[1].index == 1
    assert executions.total() == 4


def test_an_array_beside_what_cannot_be_pickled(processes):
    """The buffers of an item that is given up are not those of the next."""

    def items():
        for i in range(4):
            array = numpy.full(LARGE, i)
            yield [array, threading.Lock()] if i == 1 else array

    def task(array):
        return [array, threading.Lock()] if array[0] == 2 else array

    got = processes.apply(task, items(), on_error="skip", unordered=False)
    assert [int(array.max()) for array in got] == [0, 3]
    assert [int(array.min()) for array in got] == [0, 3]


@pytest.mark.parametrize("length", [3, LARGE])
def test_arrays_that_are_not_to_be_written(processes, length):
    """They are such on the other side, large or small."""

    def made(given):
        array = numpy.zeros(length)
        array.flags.writeable = False
        return given.flags.writeable, array

    array = numpy.ones(length)
    array.flags.writeable = False
    got = processes.apply(made, [array, numpy.ones(length)], unordered=False)
    assert [(given, made.flags.writeable) for given, made in got] == [(False, False), (True, False)]
    got = processes.apply(lambda given: given, [array, numpy.ones(length)], unordered=False)
    assert [each.flags.writeable for each in got] == [False, True]


def test_arrays_of_one_batch_hold_one_file(own_processes):
    """Large results of a batch arrive together, each with what is its own."""
    got = own_processes.apply(
        lambda i: [numpy.full(LARGE, i), numpy.full(LARGE, -i)][: i + 1],
        range(6),
        unordered=False,
        batch_size=6,
    )
    assert [[int(a.min()) for a in each] for each in got] == [[0], *([i, -i] for i in range(1, 6))]
