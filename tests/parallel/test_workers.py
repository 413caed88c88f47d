"""The life of a worker: its state, its limits, its end."""

from __future__ import annotations

import atexit
import functools
import gzip
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import pytest

from perftricks.parallel import (
    ItemTimeoutError,
    WorkerCrashedError,
    parallel_apply,
    worker_state,
)

from . import odd


def test_the_initializers_value_is_the_workers_state(runner):
    """Each worker has one, made once."""
    got = runner.apply(lambda x: (x, id(worker_state())), range(20), initializer=list)
    assert sorted(x for x, _ in got) == list(range(20))
    assert len({state for _, state in got}) <= 2


def test_state_without_an_initializer_is_none(runner):
    """worker_state() works in every task."""
    assert runner.apply(lambda x: worker_state(), range(3)) == [None] * 3


def test_state_outside_of_a_task():
    """There is none, and the error says so."""
    with pytest.raises(RuntimeError, match="for tasks and finalizers"):
        worker_state()


def test_state_in_threads_that_a_task_starts(own_processes):
    """They belong to the worker, too."""

    def in_thread(x):
        got = []
        thread = threading.Thread(target=lambda: got.append(worker_state()))
        thread.start()
        thread.join()
        return got[0]

    assert own_processes.apply(in_thread, [1, 2], initializer=lambda: "state") == ["state"] * 2


def test_state_survives_a_run_inside_the_task(runner):
    """A nested run has a state of its own."""

    def task(x):
        inner = parallel_apply(
            lambda y: worker_state(), [1], 1, 1, executor="serial", initializer=lambda: "inner"
        )
        return inner, worker_state()

    got = runner.apply(task, [1, 2], initializer=lambda: "outer")
    assert got == [(["inner"], "outer")] * 2


def _note(path, text):
    with open(path, "a") as file:
        file.write(f"{text}\n")


def test_finalizers(runner, tmp_path):
    """One is called in each worker at its end, where the state is still there."""
    path = str(tmp_path / "ended")

    def finish():
        _note(path, worker_state())

    if not runner.ends_workers:
        with pytest.raises(ValueError, match="finalizer needs workers of this run"):
            runner.apply(abs, range(4), finalizer=finish)
        return
    runner.apply(abs, range(4), initializer=lambda: "state", finalizer=finish)
    with open(path) as file:
        lines = file.read().split()
    assert lines in (["state"], ["state", "state"])


def test_a_finalizer_that_raises(runner):
    """Its error reaches the caller."""
    if not runner.ends_workers:
        return  # refused, see above

    def broken():
        raise OSError("cannot say goodbye")

    with pytest.raises(OSError, match="cannot say goodbye"):
        runner.apply(abs, range(4), finalizer=broken)


def test_workers_end_as_processes_should(own_processes, tmp_path):
    """Handlers of atexit, finalizers of multiprocessing, files and threads: all as at home."""
    folder = str(tmp_path)

    def prepare():
        import multiprocessing.util

        name = f"{folder}/{os.getpid()}"
        atexit.register(_note, name, "atexit")
        multiprocessing.util.Finalize(None, _note, (name, "finalizer"), exitpriority=1)
        late = threading.Thread(target=lambda: (time.sleep(0.3), _note(name, "thread")))
        late.start()
        return open(f"{name}.open", "w"), gzip.open(f"{name}.gz", "wt")  # never closed

    def task(x):
        for file in worker_state():
            file.write(f"{x}\n")
        return os.getpid()

    pids = own_processes.apply(task, range(20), initializer=prepare)
    written = []
    for pid in set(pids):
        assert sorted((tmp_path / str(pid)).read_text().split()) == [
            "atexit",
            "finalizer",
            "thread",
        ]
        plain = (tmp_path / f"{pid}.open").read_text()
        with gzip.open(tmp_path / f"{pid}.gz", "rt") as packed:
            assert packed.read() == plain
        written += plain.split()
    assert sorted(map(int, written)) == list(range(20))


@pytest.mark.parametrize("kind", odd.KINDS)
def test_files_beside_objects_of_odd_classes(own_processes, tmp_path, kind):
    """Whatever a task leaves in memory, the files that it leaves open are written."""
    path = str(tmp_path / "file")
    task = functools.partial(odd.leave_open, path)
    assert own_processes.apply(task, [kind], workers=1) == [kind]
    with gzip.open(path, "rt") as file:
        assert file.read() == "all of it"


def test_exit_handlers_of_the_caller_are_not_run_in_workers(tmp_path):
    """A fork has them in its memory, but they are not its own."""
    script = """
    import atexit, os
    from perftricks.parallel import parallel_apply
    atexit.register(lambda: print("at exit", flush=True))
    log = open("log", "w")
    log.write("once")
    parallel_apply(abs, range(4), 2, 4, start_method="fork")
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.stdout, done.stderr) == ("at exit\n", "")
    assert (tmp_path / "log").read_text() == "once"


def test_a_thread_that_never_ends_holds_up_no_worker(own_processes, tmp_path):
    """A worker waits for the threads that its tasks have left, but not for ever."""
    path = str(tmp_path / "ended")

    def leaves_a_thread(x):
        threading.Thread(target=time.sleep, args=(600,)).start()
        atexit.register(_note, path, "atexit")
        return x

    assert own_processes.apply(leaves_a_thread, [1], workers=1) == [1]
    with open(path) as file:
        assert file.read() == "atexit\n"


def test_idle_workers_of_an_abandoned_run_end_as_processes_should(own_processes, tmp_path):
    """Only workers that are at an item are killed."""
    path = str(tmp_path / "ended")

    stream = own_processes.stream(
        abs,
        iter(range(100)),
        workers=1,
        size=1,
        batch_size=1,
        initializer=lambda: atexit.register(_note, path, "atexit") and None,
    )
    next(stream)
    time.sleep(0.3)
    stream.close()
    with open(path) as file:
        assert file.read() == "atexit\n"


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_workers_are_replaced_after_so_many_items(own_processes, batch_size):
    """max_tasks_per_worker counts items, whatever the batches."""
    pids = own_processes.apply(
        lambda x: os.getpid(), range(20), size=20, max_tasks_per_worker=3, batch_size=batch_size
    )
    counts = Counter(pids).values()
    assert sum(counts) == 20
    assert max(counts) <= 3


def test_a_finalizer_of_a_worker_that_is_replaced(own_processes, tmp_path):
    """It is called for each of them."""
    path = str(tmp_path / "ended")
    pids = own_processes.apply(
        lambda x: os.getpid(),
        range(6),
        workers=1,
        max_tasks_per_worker=2,
        finalizer=lambda: _note(path, os.getpid()),
    )
    with open(path) as file:
        ended = set(map(int, file.read().split()))
    assert set(pids) <= ended
    assert len(set(pids)) == 3


needs_linux = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")


@needs_linux
def test_a_worker_that_grows_is_replaced(own_processes):
    """One that has more than memory_limit after an item takes no further one."""
    kept = []

    def grows(x):
        kept.append(b"x" * 30_000_000)
        return os.getpid()

    pids = own_processes.apply(
        grows, range(12), workers=1, size=12, memory_limit="120MB", batch_size=6
    )
    counts = Counter(pids).values()
    assert sum(counts) == 12
    assert 1 < max(counts) <= 4


@needs_linux
def test_a_worker_that_jumps_is_killed_and_its_item_named(own_processes):
    """An item that alone takes far more than the limit is to blame; all others are delivered."""

    def jumps(x):
        if x == 5:
            _ = b"x" * 400_000_000
            time.sleep(60)
        return x

    got = []
    with pytest.raises(WorkerCrashedError, match=r"item 5 needs too much memory.*100,000,000"):
        own_processes.apply(
            jumps, range(9), size=9, memory_limit=100_000_000, callback=got.append, batch_size=3
        )
    assert sorted(got) == [0, 1, 2, 3, 4, 6, 7, 8]


@needs_linux
def test_memory_that_a_fork_shares_is_not_its_own():
    """A large caller may have small workers."""
    large = b"x" * 200_000_000
    got = parallel_apply(
        lambda x: len(large) + x, range(9), 2, 9, memory_limit="100MB", start_method="fork"
    )
    assert sorted(got) == [200_000_000 + x for x in range(9)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tasks_per_worker": 0}, "max_tasks_per_worker must be at least 1, not 0"),
        ({"memory_limit": "much"}, "a size such as 500MB"),
        ({"memory_limit": 0}, "memory_limit must be at least 1"),
        ({"memory_limit": 100, "executor": "thread"}, "need executor='process'"),
        ({"max_tasks_per_worker": 1, "executor": "serial"}, "need executor='process'"),
    ],
)
def test_limits_out_of_range(arguments, message):
    """They are refused at once."""
    with pytest.raises(ValueError, match=message):
        parallel_apply(abs, [1], 1, 1, **arguments)


def stop_this_process(seconds):
    """Stop the process that calls this, and have a child of it continue it."""
    pid = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        os._exit(0)
    os.kill(pid, signal.SIGSTOP)


@needs_linux
def test_time_in_which_a_worker_is_stopped_does_not_count(own_processes):
    """A worker that is stopped and continued has its whole time left."""

    def is_stopped_for_long(x):
        stop_this_process(3)
        return x

    assert own_processes.apply(is_stopped_for_long, [1], timeout=1.5) == [1]


def test_time_in_which_the_whole_program_is_stopped_does_not_count(tmp_path):
    """As with Ctrl-Z, or on a computer that is suspended."""
    script = """
    import os, signal, time
    from perftricks.parallel import parallel_apply
    def nap(x):
        print("napping", flush=True)
        time.sleep(2)
        return x
    if __name__ == "__main__":
        print(parallel_apply(nap, [1], 1, 1, timeout=4, start_method="fork"))
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(script))
    program = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert program.stdout.readline() == "napping\n"
    os.killpg(program.pid, signal.SIGSTOP)
    time.sleep(6)
    os.killpg(program.pid, signal.SIGCONT)
    assert program.communicate(timeout=60)[0] == "[1]\n"


def test_a_limit_still_holds_for_a_worker_that_was_stopped(own_processes):
    """Being stopped once is no licence."""

    def is_stopped_and_sleeps(x):
        stop_this_process(0.5)
        time.sleep(600)

    with pytest.raises(ItemTimeoutError):
        own_processes.apply(is_stopped_and_sleeps, [1], timeout=1)
