"""The faults: what each does to an executor, and what must come of it.

A fault is a function that is called with an adapter in a process of its own, and returns a verdict
with a few words. It counts as hung if it does not return, and what it leaves behind is found from
outside: see :mod:`bench.parallel.conformance`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.parallel import tasks
from bench.parallel.adapters import QUEUE, WORKERS, Adapter, Function

OK, WRONG, LOST, REFUSED, NOTHING = "ok", "wrong", "lost", "refused", "not offered"
ITEMS = 40
_ERRORS_TAKEN = 3


class Verdict(NamedTuple):
    """What came of a fault.

    Attributes:
        word: OK; WRONG, another result than the plain loop's, or none and no error; LOST, fewer
            results than there were; REFUSED with an error that says why; NOTHING, where the
            executor has no such thing.
        detail: More, in a few words.
    """

    word: str
    detail: str = ""


class Outcome(NamedTuple):
    """What an executor gave.

    Attributes:
        results: In the order in which they came.
        errors: What was raised on the way.
    """

    results: list[Any]
    errors: list[BaseException]

    def names(self) -> str:
        """Name the errors."""
        return ", ".join(dict.fromkeys(type(error).__name__ for error in self.errors))


def collect(
    adapter: Adapter, func: Function, items: Iterable[Any], *, ordered: bool = False
) -> Outcome:
    """Take all results, past errors where the executor goes on after one."""
    outcome = Outcome([], [])
    try:
        with adapter.open(func, items, ordered) as results:
            while len(outcome.errors) < _ERRORS_TAKEN:
                try:
                    outcome.results.append(next(results))
                except StopIteration:
                    break
                except Exception as error:
                    outcome.errors.append(error)
    except Exception as error:
        outcome.errors.append(error)
    return outcome


def _complete(outcome: Outcome, expected: Iterable[Any]) -> Verdict:
    """Judge a run that should give all results."""
    want, got = sorted(expected), sorted(outcome.results)
    if got == want:
        return Verdict(OK) if not outcome.errors else Verdict(WRONG, outcome.names())
    if not outcome.errors:
        return Verdict(WRONG, f"{len(set(want) & set(got))} of {len(want)} right, and no error")
    return Verdict(LOST, f"{len(got)} of {len(want)} results, then {outcome.names()}")


def _all_but_one(adapter: Adapter, func: Function, victim: int = tasks.VICTIM) -> Verdict:
    """Judge a run in which one item has no result: the others that were read, and an error."""
    source = _Source(range(ITEMS))
    outcome = collect(adapter, func, source)
    want = [x for x in range(source.read) if x != victim]
    got = sorted(outcome.results)
    if not outcome.errors:
        return Verdict(WRONG, f"{len(got)} of {len(want)} results, and no error")
    if got != want:
        return Verdict(LOST, f"{len(got)} of {len(want)} results, then {outcome.names()}")
    named = any(str(victim) in str(error) for error in outcome.errors)
    return Verdict(OK, "names the item" if named else outcome.names())


def _error_arrives(outcome: Outcome, text: str) -> Verdict:
    """Judge a run in which an item's error must reach the caller, with its text."""
    if not outcome.errors:
        return Verdict(WRONG, "no error")
    if any(text in str(error) for error in outcome.errors):
        return Verdict(OK, outcome.names())
    return Verdict(WRONG, f"only {outcome.names()}: {str(outcome.errors[0])[:60]}")


def task_raises(adapter: Adapter) -> Verdict:
    return _error_arrives(collect(adapter, tasks.fails, range(ITEMS)), "no seven")


def exception_unpicklable(adapter: Adapter) -> Verdict:
    return _error_arrives(collect(adapter, tasks.fails_unpicklably, range(ITEMS)), "no seven")


def exception_awkward(adapter: Adapter) -> Verdict:
    return _error_arrives(collect(adapter, tasks.fails_awkwardly, range(ITEMS)), "no seven")


def killed_once(adapter: Adapter) -> Verdict:
    return _complete(collect(adapter, tasks.killed_once, range(ITEMS)), range(ITEMS))


def killed(adapter: Adapter) -> Verdict:
    return _all_but_one(adapter, tasks.killed)


def exits(adapter: Adapter) -> Verdict:
    return _all_but_one(adapter, tasks.exits)


def segfault(adapter: Adapter) -> Verdict:
    return _all_but_one(adapter, tasks.crashes)


def argument_unpicklable(adapter: Adapter) -> Verdict:
    items = [threading.Lock() if x == tasks.VICTIM else x for x in range(ITEMS)]
    outcome = collect(adapter, tasks.kind, items)
    if adapter.in_threads:
        return _complete(outcome, [*["int"] * (ITEMS - 1), "lock"])
    return Verdict(OK, outcome.names()) if outcome.errors else Verdict(WRONG, "no error")


def result_unpicklable(adapter: Adapter) -> Verdict:
    outcome = collect(adapter, tasks.result_unpicklable, range(ITEMS))
    if adapter.in_threads:
        return Verdict(OK) if len(outcome.results) == ITEMS else Verdict(WRONG)
    return Verdict(OK, outcome.names()) if outcome.errors else Verdict(WRONG, "no error")


def iterable_raises(adapter: Adapter) -> Verdict:
    def source() -> Iterator[int]:
        yield from range(tasks.VICTIM)
        raise OSError("the disk is gone")

    outcome = collect(adapter, tasks.same, source())
    arrived = _error_arrives(outcome, "the disk is gone")
    if arrived.word == OK and len(outcome.results) < tasks.VICTIM:
        return Verdict(LOST, f"{len(outcome.results)} of the {tasks.VICTIM} results before it")
    return arrived


def consumer_raises(adapter: Adapter) -> Verdict:
    try:
        with adapter.open(tasks.slow, range(1000), False) as results:
            for number, _ in enumerate(results):
                if number == tasks.VICTIM:
                    raise KeyError("full")
    except KeyError:
        return Verdict(OK)
    return Verdict(WRONG, "the error is gone")


def abandoned(adapter: Adapter) -> Verdict:
    with adapter.open(tasks.slow, range(1000), False) as results:
        return Verdict(OK) if next(results) in range(1000) else Verdict(WRONG)


class _Source:
    """Counts what is read from it."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self.read = 0

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.read += 1
        return item


def _bounded(read: int) -> Verdict:
    # One more than can be waiting is the result at hand.
    return Verdict(OK if read <= QUEUE + 1 + WORKERS else WRONG, f"{read:,} items read")


def consumer_pauses(adapter: Adapter) -> Verdict:
    source = _Source(range(10_000))
    with adapter.open(tasks.same, source, False) as results:
        next(results)
        time.sleep(2)
        return _bounded(source.read)


def first_is_slow(adapter: Adapter) -> Verdict:
    source = _Source(range(10_000))
    with adapter.open(tasks.slow_first, source, True) as results:
        next(results)
        return _bounded(source.read)


def parent_killed(adapter: Adapter) -> Verdict:
    """Wait to be killed; see ``meddle`` of the fault."""
    with adapter.open(tasks.endless, range(4), False) as results:
        Path(os.environ["TRIAL_READY"]).touch()
        next(results)
    return Verdict(WRONG, "a result of an item that never ends")


def locked_threads(adapter: Adapter) -> Verdict:
    def busy() -> None:
        while True:
            with tasks.lock:
                time.sleep(0.5)

    threading.Thread(target=busy, daemon=True).start()
    time.sleep(0.1)
    return _complete(collect(adapter, tasks.takes_the_lock, range(4)), range(4))


def waiting_producer(adapter: Adapter) -> Verdict:
    todo: queue.Queue[int | None] = queue.Queue()
    todo.put(0)
    with adapter.open(tasks.same, iter(todo.get, None), False) as results:
        found = []
        for result in results:
            found.append(result)
            todo.put(result + 1 if result < 5 else None)
    return _complete(Outcome(found, []), range(6))


def reused_buffer(adapter: Adapter) -> Verdict:
    def rows() -> Iterator[list[int]]:
        row = [0]
        for row[0] in range(1000):
            yield row

    outcome = collect(adapter, tasks.first_of, rows(), ordered=True)
    right = sum(a == b for a, b in zip(outcome.results, range(1000), strict=False))
    if right == 1000:
        return Verdict(OK)
    return Verdict(WRONG, outcome.names() or f"{right:,} of 1,000 right, and no error")


def started_by_import(adapter: Adapter) -> Verdict:
    if adapter.fresh is None:
        return Verdict(NOTHING, "threads")
    program = f"""
import os, sys
depth = int(os.environ.get("DEPTH", 0)); os.environ["DEPTH"] = str(depth + 1)
os.write(2, b"depth %d\\n" % depth)
if depth > 2:
    os._exit(9)
def double(x):
    return 2 * x
{adapter.fresh}
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "starts.py").write_text(program, encoding="utf-8")
        command = [sys.executable, "-c", "import starts"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
        except subprocess.TimeoutExpired as late:
            return Verdict("hung", "again and again" if b"depth 2" in (late.stderr or b"") else "")
    if "depth 2" in done.stderr:
        return Verdict(WRONG, "starts itself again and again")
    if done.returncode == 0 and "[0, 2, 4, 6]" in done.stdout:
        return Verdict(OK)
    return Verdict(REFUSED, done.stderr.strip().splitlines()[-1][:80] if done.stderr else "")


def child_signals_ignored(adapter: Adapter) -> Verdict:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return _complete(collect(adapter, tasks.same, range(ITEMS)), range(ITEMS))


def closed_streams(adapter: Adapter) -> Verdict:
    for descriptor in range(3):
        os.close(descriptor)
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
    return _complete(collect(adapter, tasks.same, range(ITEMS)), range(ITEMS))


def recursion(adapter: Adapter) -> Verdict:
    outcome = collect(adapter, tasks.inner, range(4))
    if not outcome.results and outcome.errors:
        return Verdict(REFUSED, f"{outcome.names()}: {str(outcome.errors[0])[:50]}")
    return _complete(outcome, [x + 6 for x in range(4)])


def out_of_time(adapter: Adapter) -> Verdict:
    if adapter.timed is None:
        return Verdict(NOTHING)
    return _all_but_one(adapter._replace(open=adapter.timed), tasks.stuck)


def memory(adapter: Adapter) -> Verdict:
    import psutil

    this, peak = psutil.Process(), 0
    with adapter.open(tasks.megabyte, range(300), False) as results:
        before = this.memory_info().rss
        for _ in itertools.islice(results, 100):
            time.sleep(0.02)
            peak = max(peak, this.memory_info().rss)
    grown = (peak - before) // 1_000_000
    # Twice what may wait: a result is held pickled and unpickled for a moment.
    return Verdict(OK if grown <= 3 * QUEUE else WRONG, f"{grown} MB for {QUEUE} results of 1 MB")


class Fault(NamedTuple):
    """A row of the table.

    Attributes:
        name: What happens, in words.
        trial: Does it.
        fatal: Whether it ends whole processes, and so the program where workers are threads.
        sends: The signal that the program is sent once it is ready.
        whole_group: Whether all of its processes are sent it, as by Ctrl-C.
    """

    name: str
    trial: Callable[[Adapter], Verdict]
    fatal: bool = False
    sends: signal.Signals | None = None
    whole_group: bool = False


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("a task raises", task_raises),
        Fault("its exception cannot be pickled", exception_unpicklable),
        Fault("its exception cannot be rebuilt", exception_awkward),
        Fault("a worker is killed, once", killed_once, fatal=True),
        Fault("an item has its worker killed each time", killed, fatal=True),
        Fault("an item calls os._exit", exits, fatal=True),
        Fault("an item crashes (segmentation fault)", segfault, fatal=True),
        Fault("an item never ends, with a time limit", out_of_time),
        Fault("an argument cannot be pickled", argument_unpicklable),
        Fault("a result cannot be pickled", result_unpicklable),
        Fault("the iterable raises", iterable_raises),
        Fault("the consumer raises", consumer_raises),
        Fault("the consumer leaves", abandoned),
        Fault("the consumer pauses after a result", consumer_pauses),
        Fault("in order, the first item is slow", first_is_slow),
        Fault("results are large and taken slowly", memory),
        Fault("the program is killed", parent_killed, sends=signal.SIGKILL),
        Fault("Ctrl-C", parent_killed, sends=signal.SIGINT, whole_group=True),
        Fault("a thread holds a lock when workers start", locked_threads),
        Fault("the next item depends on a result", waiting_producer),
        Fault("the producer uses its buffer again", reused_buffer),
        Fault("a module starts it when imported, fresh workers", started_by_import),
        Fault("SIGCHLD is ignored", child_signals_ignored),
        Fault("stdin, stdout and stderr are closed", closed_streams),
        Fault("a task uses the executor itself", recursion),
    )
}


def main(fault: str, adapter: str, report: str) -> None:
    """Try a fault on an adapter, and write the verdict into a file."""
    from bench.parallel.adapters import ADAPTERS

    try:
        verdict = FAULTS[fault].trial(ADAPTERS[adapter])
    except KeyboardInterrupt:
        verdict = Verdict(OK)
    except Exception as error:
        verdict = Verdict(LOST, f"{type(error).__name__}: {error}"[:80])
    with contextlib.suppress(OSError):
        Path(report).write_text("\n".join(verdict), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
