"""Workers die in every way and at every moment; the run goes on and names the culprit."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.connection import Connection

import pytest

from perftricks.parallel import ItemTimeoutError, UnpicklableError, WorkerCrashedError
from tests.conftest import PATIENCE

from .functions import die_by_exit, die_by_segfault, die_by_sigkill

WAYS_TO_DIE = [
    pytest.param(die_by_sigkill, "killed by SIGKILL", id="SIGKILL"),
    pytest.param(die_by_exit, "exited with status 3", id="os._exit"),
    pytest.param(die_by_segfault, "killed by SIGSEGV", id="segfault"),
]


@pytest.mark.parametrize(("die", "how"), WAYS_TO_DIE)
@pytest.mark.parametrize("batch_size", [1, 7, "auto"])
def test_raise_names_the_item_after_the_others_are_delivered(processes, die, how, batch_size):
    """A killing item is named by index and cause; every other item that was read is delivered."""
    read = []

    def source():
        for x in range(40):
            read.append(x)
            yield x

    got = []
    with pytest.raises(WorkerCrashedError, match=processes.death(how)) as caught:
        processes.apply(
            lambda x: die() if x == 13 else x,
            source(),
            size=30,
            batch_size=batch_size,
            callback=got.append,
        )
    assert caught.value.index == 13
    assert sorted(got) == [x for x in read if x != 13]


@pytest.mark.parametrize(("die", "how"), WAYS_TO_DIE)
def test_skip_goes_on_without_the_item(processes, die, how):
    """on_error="skip" loses the killing items and nothing else."""
    bad = {3, 11, 12, 29}
    got = processes.apply(
        lambda x: die() if x in bad else x, range(40), batch_size=5, size=40, on_error="skip"
    )
    assert sorted(got) == [x for x in range(40) if x not in bad]


def test_return_delivers_the_crash_in_place(processes):
    """on_error="return" yields the error where the result would be, and goes on."""
    got = processes.apply(
        lambda x: die_by_exit() if x == 4 else x, range(9), on_error="return", unordered=False
    )
    assert isinstance(got[4], WorkerCrashedError)
    assert got[4].index == 4
    assert got[:4] + got[5:] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_every_item_kills(processes):
    """A run in which nothing survives still ends."""
    got = processes.apply(lambda x: die_by_exit(), range(6), on_error="return", batch_size=3)
    assert [type(error) for error in got] == [WorkerCrashedError] * 6


def test_bisection_runs_few_items_again(processes, executions):
    """The item that kills in a batch of 64 is found in about log2(64) deaths."""

    def func(x):
        executions.note(x)
        if x == 40:
            os._exit(1)
        return x

    got = processes.apply(func, range(64), size=64, batch_size=64, on_error="skip")
    assert sorted(got) == [x for x in range(64) if x != 40]
    assert executions.of(40) <= 8
    assert executions.of(0) <= 2


def test_a_worker_killed_once_costs_nothing(processes, executions):
    """An item whose worker dies once, for reasons of its own, is run again and not blamed."""

    def killed_the_first_time(x):
        if x == 5 and executions.note(x) == 1:
            die_by_sigkill()
        return x

    got = processes.apply(killed_the_first_time, range(20), unordered=False, batch_size=4)
    assert got == list(range(20))


def test_a_death_is_not_held_against_a_neighbour(processes, executions):
    """An item whose worker dies once is not blamed since the one before it kills its own."""

    def func(x):
        if x == 2 or (x == 3 and executions.note(x) == 1):
            die_by_sigkill()
        return x

    got = processes.apply(func, range(4), size=4, batch_size=4, on_error="return", unordered=False)
    assert isinstance(got.pop(2), WorkerCrashedError)
    assert got == [0, 1, 3]


def test_crash_retries(processes, executions):
    """retries= applies to crashes as well."""

    def killed_twice(x):
        if x == 2 and executions.note(x) <= 2:
            die_by_sigkill()
        return x

    with pytest.raises(WorkerCrashedError):
        processes.apply(killed_twice, range(4), batch_size=1)
    executions.note(2)
    open(executions.path, "w").close()
    assert processes.apply(killed_twice, range(4), unordered=False, retries=1) == [0, 1, 2, 3]


def test_killed_from_outside_while_idle(processes):
    """A worker that dies with nothing to do is replaced when there is work again."""
    stream = processes.stream(lambda x: x, iter(range(30)), size=4, batch_size=1, unordered=False)
    first = [next(stream)]
    time.sleep(0.5)  # the window is full: all workers are idle
    victims = processes.workers()
    assert victims
    for victim in victims:
        victim.kill()
    assert first + list(stream) == [(x, x) for x in range(30)]


def test_killed_from_outside_while_working(processes, tmp_path):
    """A worker that is killed in the middle of an item is replaced, and the item is run again."""

    def slow(x):
        marker = tmp_path / "started"
        if not marker.exists():
            marker.write_text(str(os.getpid()))
            time.sleep(1000)
        return x

    def kill_the_sleeper():
        yield 0
        for x in range(1, 10):
            marker = tmp_path / "started"
            if x == 3:
                while not marker.exists() or not marker.read_text():
                    time.sleep(0.01)
                os.kill(int(marker.read_text()), signal.SIGKILL)
            yield x

    got = processes.apply(slow, kill_the_sleeper(), batch_size=1, unordered=False)
    assert got == list(range(10))


def test_killed_while_sending_a_large_result(own_processes, executions):
    """A result cut off in the middle is not taken for a result."""

    def send_a_part_and_die(self, buffer, write=os.write):
        write(self._handle, buffer[:1000])
        die_by_sigkill()

    def large(x):
        if x == 1 and executions.note(x) == 1:
            Connection._send = send_a_part_and_die  # in this worker, which is about to send
        return bytes(50_000_000)

    sizes = own_processes.apply(large, range(3), batch_size=1, unordered=False)
    assert [len(result) for result in sizes] == [50_000_000] * 3
    assert executions.of(1) == 2


def test_killed_while_a_program_it_forked_lives_on(processes, executions, tmp_path):
    """A process that a task forked does not keep the death of the worker from being noticed."""
    release, ended = tmp_path / "release", tmp_path / "ended"

    def forks_and_dies(x):
        if executions.note("start") == 1:
            if os.fork() == 0:
                deadline = time.monotonic() + PATIENCE
                while not release.exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
                ended.touch()
                os._exit(0)
            die_by_sigkill()
        return x

    assert processes.apply(forks_and_dies, range(4), unordered=False) == [0, 1, 2, 3]
    assert not ended.exists()
    release.touch()


def test_a_fork_that_returns_from_the_task_answers_nothing(processes):
    """A task that forks and forgets to exit in the child does not give its result twice."""

    def forks(x):
        if x == 1:
            os.fork()
        return x

    assert processes.apply(forks, range(4), unordered=False, batch_size=1) == [0, 1, 2, 3]


def test_large_results_and_arguments(processes):
    """100 MB in and out at once, by more workers than fit into any pipe."""
    got = processes.apply(lambda blob: blob[::-1], [bytes(100_000_000)] * 2, batch_size=1)
    assert [len(result) for result in got] == [100_000_000] * 2


def test_memory_error(processes):
    """A MemoryError is an exception like any other."""

    def greedy(x):
        return bytes(2**62) if x == 2 else x

    with pytest.raises(MemoryError):
        processes.apply(greedy, range(4))


def test_timeout_kills_the_worker_and_names_the_item(own_processes):
    """An item over its time is given up; the rest of its batch and all others are delivered."""
    got = []
    with pytest.raises(ItemTimeoutError, match="item 3 took longer than timeout=4 ") as caught:
        own_processes.apply(
            lambda x: time.sleep(1000) if x == 3 else x,
            range(10),
            batch_size=5,
            size=10,
            timeout=4,
            callback=got.append,
        )
    assert caught.value.index == 3
    assert sorted(got) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_timeout_reaches_code_that_never_lets_go(own_processes):
    """A task that holds the interpreter lock is stopped too."""

    def stuck(x):
        if x == 1:
            import re

            re.match(r"(a+)+$", "a" * 60 + "b")
        return x

    got = own_processes.apply(stuck, range(4), timeout=4, on_error="skip", unordered=False)
    assert got == [0, 2, 3]


def test_timeout_is_per_item(own_processes):
    """Many items that together take longer than the time-out are no reason to stop."""
    got = own_processes.apply(lambda x: time.sleep(0.5), range(9), timeout=4, batch_size=9, size=9)
    assert len(got) == 9


def test_timeout_does_not_count_packing(own_processes):
    """A result that takes long to pickle is not its item's fault."""

    class SlowToPickle:
        def __reduce__(self):
            time.sleep(1.5)
            return int, (7,)

    got = own_processes.apply(lambda x: SlowToPickle(), range(3), size=3, batch_size=3, timeout=4)
    assert got == [7] * 3


def test_worker_that_cannot_start(tmp_path):
    """Workers that die while starting are an error after three tries, not a loop for ever."""
    from perftricks.parallel import parallel_apply

    with pytest.raises(WorkerCrashedError, match="3 worker processes in a row died while starting"):
        parallel_apply(abs, range(5), 2, 4, initializer=lambda: os._exit(7), start_method="spawn")


def test_the_callers_broken_executor_is_reported():
    """An executor of the caller's that breaks is named; it cannot be repaired from here."""
    import concurrent.futures
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        from perftricks.parallel import parallel_apply

        with pytest.raises(WorkerCrashedError, match="the executor broke while item"):
            parallel_apply(lambda x: os._exit(1), range(4), 2, 4, executor=pool)


def test_unpicklable_argument_is_raised_with_its_index(processes):
    """With on_error="raise" the caller learns which item cannot be sent."""
    with pytest.raises(UnpicklableError) as caught:
        processes.apply(str, [1, 2, threading.Lock(), 4], batch_size=4)
    assert caught.value.index == 2


def test_unpicklable_result_is_raised_with_its_index(processes):
    """With on_error="raise" the caller learns whose result cannot be sent."""
    with pytest.raises(UnpicklableError) as caught:
        processes.apply(lambda x: threading.Lock() if x == 2 else x, range(4), batch_size=4)
    assert caught.value.index == 2


def test_a_crash_in_a_nested_run_is_the_tasks_error(processes):
    """That an inner run lost a worker does not look as if the outer one had."""

    def inner(x):
        from perftricks.parallel import parallel_apply

        return parallel_apply(lambda y: os._exit(1), [x], 1, 1)

    with pytest.raises(WorkerCrashedError) as caught:
        processes.apply(inner, range(100), size=2, batch_size=1)
    assert "in inner" in str(caught.value.__cause__)


def test_no_threads_to_be_had(own_processes, monkeypatch):
    """When no thread can be started nothing is left running (checked after every test)."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("perftricks"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        own_processes.apply(abs, range(4))


def test_results_whose_module_only_the_task_imports(own_processes, tmp_path, monkeypatch):
    """Unpickling a result may import for long while another worker is being started."""
    (tmp_path / "slow_module.py").write_text(
        "import time\ntime.sleep(0.5)\nclass Thing:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def make(x):
        import slow_module

        return slow_module.Thing()

    def items():
        for x in range(4):
            time.sleep(0.3)
            yield x

    got = own_processes.apply(make, items(), batch_size=1)
    assert [type(thing).__name__ for thing in got] == ["Thing"] * 4
