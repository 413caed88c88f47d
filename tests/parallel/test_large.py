"""Large arrays arrive as they were sent, by whichever way, and hold nothing open for long."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import subprocess
import sys
import threading

import numpy
import pytest

from perftricks.parallel import (
    UnpicklableError,
    WorkerCrashedError,
    aside,
    parallel_apply,
    parallel_apply_generator,
)
from tests.conftest import PATIENCE

pytestmark = pytest.mark.skipif(not aside.is_possible(), reason="needs Linux's memfd_create")

SIDE = 400  # SIDE x SIDE numbers of 8 bytes are more than a megabyte


def _square(order="C"):
    return numpy.asarray(numpy.arange(SIDE * SIDE, dtype=float).reshape(SIDE, SIDE), order=order)


def _readonly():
    array = _square()
    array.flags.writeable = False
    return array


KINDS = {
    "rows": _square,
    "columns": lambda: _square("F"),
    "every other row": lambda: numpy.arange(4 * SIDE * SIDE).reshape(-1, SIDE)[::2],
    "not to be written": _readonly,
    "complex": lambda: _square() * 1j,
    "masked": lambda: numpy.ma.masked_greater(_square(), 9.0),
    "records": lambda: numpy.zeros(200_000, dtype=[("a", "i4"), ("b", "f8")]),
    "bytearray": lambda: bytearray(b"ab" * 1_000_000),
    "two of them, and a small one": lambda: {"a": [_square(), _square() + 1], "b": numpy.ones(3)},
    "the same one twice": lambda: [_square()] * 2,
}


def _parts(thing):
    """List the arrays in something, and what else is to be equal of them."""
    if isinstance(thing, dict):
        return [part for value in thing.values() for part in _parts(value)]
    if isinstance(thing, list):
        return [part for value in thing for part in _parts(value)]
    array = numpy.asarray(thing)
    flags = (array.flags.c_contiguous, array.flags.f_contiguous, array.flags.writeable)
    return [(type(thing), array.dtype, array.shape, flags, array.tobytes())]


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_and_results(processes, kind):
    """A worker sees what was given, and gives back what the caller sees."""
    thing = KINDS[kind]()
    describe = _parts

    def task(given):
        return describe(given), given

    ((seen, back),) = processes.apply(task, [thing], batch_size=1)
    # What is not contiguous is pickled so, as pickle does it anywhere.
    expected = _parts(numpy.ascontiguousarray(thing) if kind == "every other row" else thing)
    assert seen == expected
    assert _parts(back) == expected
    if isinstance(back, list):
        assert back[0] is back[1]


def test_what_a_worker_writes_stays_there(processes):
    """An argument is the worker's own, and a result the caller's own."""
    array = _square()

    def task(given):
        given[0, 0] += 1
        return given

    first, second = processes.apply(task, [array, array], batch_size=1)
    assert (array[0, 0], first[0, 0], second[0, 0]) == (0, 1, 1)
    first[:] = 7
    assert second[0, 1] == 1


MANY = f"""
import os, resource
import numpy
from perftricks.parallel import parallel_apply

def array(i):
    return numpy.full({SIDE * SIDE}, i)

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    found = parallel_apply(array, range(150), 2, 8, batch_size=1, unordered=False)
    assert [int(each.min()) for each in found] == list(range(150))
    assert [int(each.max()) for each in found] == list(range(150))
    assert len(os.listdir("/proc/self/fd")) < 40
"""


def test_more_arrays_are_kept_than_files_can_be_open(tmp_path):
    """However many results a program keeps, they do not use up its file descriptors."""
    script = tmp_path / "many.py"
    script.write_text(MANY)
    subprocess.run([sys.executable, str(script)], check=True, timeout=PATIENCE)


def test_arrays_that_are_gone_hold_no_file():
    """A descriptor, and the memory behind it, live as long as the array."""
    before = len(os.listdir("/proc/self/fd"))
    found = parallel_apply(lambda i: _square() + i, range(5), 2, 8, start_method="fork")
    assert len(found) == 5
    del found
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def _unlucky(i):
    if i == 4:
        raise LookupError
    if i == 6:
        os._exit(3)
    return _square() + i


def _interrupted():
    yield from range(4)
    raise OSError


def _files():
    """Count the descriptors of files; sockets belong to who else is in this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += not os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


@pytest.mark.parametrize("unordered", [True, False])
@pytest.mark.parametrize(
    ("items", "error"),
    [
        (range(9), LookupError),
        ((6, 1, 2), WorkerCrashedError),
        (None, OSError),
        ((1, 2, threading.Lock(), 3), UnpicklableError),
    ],
    ids=["a task", "a worker", "the iterable", "an item"],
)
def test_an_error_keeps_no_arrays(items, error, unordered):
    """What nobody took is let go of with the error, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        before = _files()
        with pytest.raises(error):
            parallel_apply(
                _unlucky,
                items or _interrupted(),
                2,
                8,
                batch_size=1,
                start_method="fork",
                unordered=unordered,
            )
        assert _files() <= before
    finally:
        gc.enable()


def test_no_descriptor_is_left_for_an_array():
    """A program that has used them all up by itself is told so."""
    held = []

    def use_them_up(results):
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            return next(results)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
            for descriptor in held:
                os.close(descriptor)

    def tasks():
        yield 1
        yield 2

    stream = parallel_apply_generator(
        lambda i: _square() + i, tasks(), 1, 1, batch_size=1, start_method="fork", read_in="caller"
    )
    next(stream)
    with pytest.raises((RuntimeError, OSError), match=r"[Tt]oo many open files"):
        use_them_up(stream)
    stream.close()
