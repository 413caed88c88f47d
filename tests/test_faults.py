"""The conformance suite and the storm say what happened."""

from __future__ import annotations

import collections
import contextlib
import itertools
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from bench.parallel import conformance, storm, tasks
from bench.parallel.adapters import ADAPTERS, Adapter
from bench.parallel.faults import FAULTS
from bench.parallel.round import OURS, Plan, judge
from bench.parallel.supervision import Traces, supervise
from tests.conftest import PATIENCE

SLEEPER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; {}'])"
CHILD = SLEEPER.format("time.sleep(1000)")


def run(program, quiet=60, **options):
    return supervise([sys.executable, "-c", program], quiet, **options)


def test_a_program_that_ends():
    """Its status is told, and what it said."""
    ending = run("import sys; print('why', file=sys.stderr); sys.exit(3)")
    assert (ending.status, ending.left, ending.errors) == (3, 0, "why\n")


def test_a_program_that_hangs():
    """It is ended, with all that it has started, once nothing happens any more."""
    ending = run(f"{CHILD}; import time; time.sleep(1000)", quiet=2)
    assert (ending.status, ending.left) == (None, 0)


def test_a_program_that_is_busy_does_not_hang():
    """What uses the processor is not said to hang, however long it takes."""
    busy = "import time; end = time.monotonic() + 9\nwhile time.monotonic() < end: pass"
    assert run(busy, quiet=6).status == 0


def test_processes_that_a_program_leaves_behind():
    """Processes that outlive it are counted and ended."""
    assert run(CHILD).left == 1


def test_files_that_a_program_leaves_behind(tmp_path):
    """Its temporary files, shared memory and semaphores are named; those of others are not."""
    traces = Traces(tmp_path)
    assert traces.left() == []
    program = """
import multiprocessing, os, tempfile
from multiprocessing import resource_tracker, shared_memory
from bench.parallel.supervision import sign_names
sign_names()
tempfile.mkstemp(prefix="forgotten")
resource_tracker.register = lambda *arguments: None
kept = shared_memory.SharedMemory(create=True, size=10), multiprocessing.get_context("spawn").Lock()
def forget():
    kept = multiprocessing.get_context("spawn").Lock()
    os._exit(0)
child = multiprocessing.get_context("fork").Process(target=forget)
child.start()
child.join()
os._exit(0)
"""
    other = shared_memory.SharedMemory(create=True, size=10)
    run(program, env=traces.environment)
    left = traces.left()
    other.close()
    other.unlink()
    kinds = collections.Counter(name.rpartition(".")[0] for name in left if "memory" in name)
    for name in left:
        if name.startswith("shared memory "):
            Path("/dev/shm", name.removeprefix("shared memory ")).unlink()
    assert left[0].startswith("temporary file forgotten")
    assert kinds == {"shared memory psm_": 1, "shared memory sem.mp-": 2}


@pytest.mark.parametrize("adapter", ["perftricks, processes", "ThreadPoolExecutor"])
def test_a_fault(adapter):
    """A fault is tried in a process of its own, and what came of it is told."""
    record = conformance.trial(FAULTS["a task raises"], ADAPTERS[adapter])
    assert (record["verdict"], record["detail"], record["left"]) == ("ok", "LookupError", 0)


def test_a_fault_that_is_a_signal():
    """A program is sent its signal once it is ready, and what it leaves is found."""
    record = conformance.trial(FAULTS["the program is killed"], ADAPTERS["perftricks, processes"])
    assert (record["verdict"], record["left"]) == ("ok", 0)


def test_a_fault_that_ends_the_program():
    """Workers that are threads are not tried where they would take the program along."""
    fault = FAULTS["an item calls os._exit"]
    assert conformance.trial(fault, ADAPTERS["ThreadPoolExecutor"])["verdict"] == "ends the program"


def executor(*things):
    """Stand in for an executor that gives these results, and raises these errors."""

    class Open:
        def __init__(self, func, items, ordered):
            self.left = [*things]
            with contextlib.suppress(OSError):
                collections.deque(itertools.islice(items, 1000), maxlen=0)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

        def __next__(self):
            if not self.left:
                raise StopIteration
            thing = self.left.pop(0)
            if isinstance(thing, Exception):
                raise thing
            return thing

    return Adapter("a stand-in", "", Open)


OTHERS = [x for x in range(40) if x != tasks.VICTIM]


@pytest.mark.parametrize(
    ("fault", "things", "verdict"),
    [
        ("a task raises", [1, LookupError("no seven")], "ok"),
        ("a task raises", [1, RuntimeError("something")], "wrong"),
        ("a task raises", range(40), "wrong"),
        ("an item calls os._exit", [*OTHERS, RuntimeError("item 7")], "ok"),
        ("an item calls os._exit", [*OTHERS[1:], RuntimeError("item 7")], "lost"),
        ("an item calls os._exit", OTHERS, "wrong"),
        ("a worker is killed, once", range(40), "ok"),
        ("a worker is killed, once", OTHERS, "wrong"),
        ("a worker is killed, once", [*OTHERS, RuntimeError("broken")], "lost"),
        ("the producer uses its buffer again", [999] * 1000, "wrong"),
        ("a task uses the executor itself", [AssertionError("daemonic")], "refused"),
        ("an item never ends, with a time limit", [], "not offered"),
        ("the iterable raises", [*range(7), OSError("the disk is gone")], "ok"),
        ("the iterable raises", [*range(3), OSError("the disk is gone")], "lost"),
    ],
)
def test_verdicts(fault, things, verdict):
    """Each kind of result has its word."""
    assert FAULTS[fault].trial(executor(*things)).word == verdict


def test_table_of_faults():
    """What was tried last counts, what was not tried is said, and what is wrong stands out."""

    def record(executor, verdict, detail="", left=0, fault="a task raises"):
        return {
            "fault": fault,
            "executor": executor,
            "verdict": verdict,
            "detail": detail,
            "left": left,
            "date": "2026-11-28",
            "version": "1.2",
            "python": "3.11.7",
        }

    page = conformance.render(
        [
            record("mpire", "ok"),
            record("mpire", "hung", left=2),
            record("perftricks, processes", "ok", "LookupError"),
            record("mpire", "lost", "1 | 2", fault="Ctrl-C"),
        ]
    )
    assert "perftricks 1.2, mpire 1.2" in page
    assert "| a task raises | ok: LookupError | **hung**, **2 left** |" in page
    assert "| Ctrl-C | not tried | **lost**: 1 \\| 2 |" in page


def plan(**changes):
    """Return a plan of ten items, two of them bad, all to be read in order."""
    usual = {
        "way": "fork",
        "items": 10,
        "workers": 2,
        "queue": 5,
        "batch": 0,
        "ordered": True,
        "on_error": "skip",
        "retries": 0,
        "faults": {3: "raises", 5: "is killed"},
        "ending": "all is read",
        "at": 0,
    }
    return Plan(**{**usual, **changes})


GOOD = [(index, index * 7 + 1) for index in range(10) if index not in (3, 5)]


@pytest.mark.parametrize(
    ("results", "error", "wrong"),
    [
        (GOOD, None, []),
        (GOOD[:-1], None, ["lost"]),
        ([*GOOD, GOOD[-1]], None, ["doubled", "wrong"]),
        ([GOOD[1], GOOD[0], *GOOD[2:]], None, ["wrong"]),
        ([(0, 2), *GOOD[1:]], None, ["wrong"]),
        ([*GOOD[:3], (3, None), *GOOD[3:]], None, ["wrong"]),
        (GOOD, OSError("odd"), ["wrong"]),
    ],
)
def test_judgement(results, error, wrong):
    """What the plain loop would not give is lost, doubled or wrong."""
    found = judge(plan(), results, error)
    assert [name for name in ("lost", "doubled", "wrong") if found[name]] == wrong


@pytest.mark.parametrize(
    ("changes", "results", "error", "wrong"),
    [
        ({"on_error": "raise"}, GOOD[:3], LookupError("item 3"), 0),
        ({"on_error": "raise"}, GOOD, None, 1),
        ({"on_error": "raise"}, GOOD[:3], LookupError("item 4"), 1),
        ({"ending": "the iterable raises", "at": 3}, GOOD[:3], OSError("the disk is gone"), 0),
        ({"ending": "the iterable raises", "at": 3}, GOOD[:3], None, 1),
        ({"ending": "the consumer leaves", "at": 1}, GOOD[:2], None, 0),
        ({"on_error": "return", "faults": {0: "raises"}, "items": 1}, [(0, KeyError())], None, 0),
    ],
)
def test_judgement_of_endings(changes, results, error, wrong):
    """An error must come where the plan has one, and the one that it has."""
    assert judge(plan(**changes), results, error)["wrong"] == wrong


def test_plans_are_drawn_again():
    """A seed and a number give the same round, also through JSON; others give others."""
    plans = [Plan.drawn(1, number) for number in range(200)]
    assert plans == [Plan.drawn(1, number) for number in range(200)]
    assert plans[:20] != [Plan.drawn(2, number) for number in range(20)]
    assert [Plan.from_dict(one.to_dict()) for one in plans] == plans
    assert {one.ending for one in plans} == set(Plan.ENDINGS)
    fatal = [one for one in plans if "is killed" in one.faults.values()]
    assert fatal
    assert all(one.way in OURS for one in fatal)


def test_a_storm_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    """Rounds that the file has are not run again; the table counts what went wrong."""
    ran = []

    def stand_in(seed, number):
        ran.append(number)
        counts = dict.fromkeys(storm.COUNTS, 0)
        counts["lost"] = int(number == 4)
        here = {"seed": seed, "round": number, "date": "2026-11-28", "python": "3.11", "detail": ""}
        return {**here, "plan": plan().to_dict(), **counts}

    monkeypatch.setattr(storm, "run", stand_in)
    file = tmp_path / "storm.jsonl"
    assert storm.main(["--json", str(file), "--rounds", "3", "--seed", "5"]) == 0
    assert storm.main(["--json", str(file), "--rounds", "6"]) == 1
    assert ran == [0, 1, 2, 3, 4, 5]
    out = capsys.readouterr()
    assert "seed 5" in out.err
    assert "| all rounds | 6 | 0 | 1 | 0 | 0 | 0 |" in out.out
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- storm: begin -->\n<!-- storm: end -->\n")
    storm.main(["--write", str(page), str(file)])
    assert "| raises | 6 | 0 | 1 | 0 | 0 | 0 |" in page.read_text()


@pytest.mark.parametrize("number", range(3))
def test_a_round(number):
    """A round of the storm is really run, and nothing goes wrong in it."""
    record = storm.run(11, number)
    gone = {name: record["detail"] for name in storm.COUNTS if record[name]}
    assert not gone


@pytest.mark.parametrize(("what", "times"), [("kills", "3"), ("damage", "19")])
def test_counting_under_faults(what, times):
    """The program that kills runs, and damages files, finds nothing wrong."""
    command = [sys.executable, "-m", "bench.wordcount.faults", what, "--times", times]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("| all | ")
