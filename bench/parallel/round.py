"""A round of the storm: what is to happen, and whether what came of it is right.

::

    Plan.drawn(seed, number) ──▶ play: a run of parallel_apply_generator ──▶ judge ──▶ report
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil

from bench.parallel import tasks
from bench.parallel.supervision import sign_names, signal_members

# What is done to an item -> whether it has a result all the same, in processes and in threads.
FAULTS: dict[str, tuple[bool, bool]] = {
    "raises": (False, False),
    "raises what cannot be pickled": (False, False),
    "calls sys.exit": (False, False),
    "cannot be pickled": (False, True),
    "returns what cannot be pickled": (False, True),
    "returns a megabyte": (True, True),
    "returns a large array": (True, True),
    "is slow": (True, True),
    "forks": (True, True),
    "is killed": (False, False),
    "is killed, once": (True, False),
    "calls os._exit": (False, False),
    "crashes": (False, False),
    "never ends": (False, False),
}
# They end whole processes, or need one that can be ended: workers of ours only.
FATAL = ("is killed", "is killed, once", "calls os._exit", "crashes", "never ends")
BESIDE = "beside a thread"  # where workers are started as the program has it, which has a thread
OURS = ("fork", "fresh", "forkserver", "spawn", BESIDE)
THREADS = ("thread", "thread pool", "serial")
TIMEOUT = 5.0  # for an item, where one never ends


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens in a round.

    Attributes:
        way: How it runs: a start method of processes, or another executor.
        items: How many.
        workers: How many.
        queue: ``max_queue_size``.
        batch: ``batch_size``; 0 for "auto".
        ordered: Whether results come in the order of the items.
        on_error: As for ``parallel_apply``.
        retries: As for ``parallel_apply``.
        faults: Index -> what is done to the item.
        ending: How the run ends; one of ENDINGS.
        at: After how many results or items it ends so, or seconds after its beginning.
    """

    way: str
    items: int
    workers: int
    queue: int
    batch: int
    ordered: bool
    on_error: str
    retries: int
    faults: dict[int, str]
    ending: str
    at: float

    ENDINGS: ClassVar[tuple[str, ...]] = (
        "all is read",
        "the consumer leaves",
        "the consumer raises",
        "the iterable raises",
        "Ctrl-C",
        "the program is killed",
        "the program is terminated",
    )
    SIGNALS: ClassVar[dict[str, signal.Signals]] = {
        "Ctrl-C": signal.SIGINT,
        "the program is killed": signal.SIGKILL,
        "the program is terminated": signal.SIGTERM,
    }

    @staticmethod
    def ways() -> list[str]:
        """List the ways to run that this Python has."""
        interpreters = ["interpreter"] if sys.version_info >= (3, 14) else []
        return [*OURS, *THREADS, "process pool", *interpreters]

    @classmethod
    def drawn(cls, seed: int, number: int) -> Plan:
        """Draw the plan of a round: the same for the same seed and number."""
        rng = random.Random(f"{seed}/{number}")
        # Processes of ours are what most can happen to.
        way = rng.choice([*OURS, *OURS, *cls.ways()])
        items = rng.choice([1, 7, 30, 100, 300])
        possible = [name for name in FAULTS if way in OURS or name not in FATAL]
        if way == "interpreter":
            possible.remove("forks")
        kinds = rng.sample(possible, rng.choice([0, 1, 1, 2, 3]))
        if "never ends" in kinds and rng.random() < 0.8:  # each takes its time
            kinds.remove("never ends")
        many = [kind for kind in kinds for _ in range(rng.choice([1, 1, 3]))]
        faults = {rng.randrange(items): kind for kind in many}
        endings = [*cls.ENDINGS[:1] * 6, *cls.ENDINGS[1:]]
        ending = rng.choice(endings)
        if way == "process pool" and ending in cls.SIGNALS:  # what that leaves is not ours
            ending = "all is read"
        return cls(
            way=way,
            items=items,
            workers=rng.choice([1, 2, 3]),
            queue=rng.choice([1, 5, 20, 200]),
            batch=rng.choice([0, 0, 1, 3, 50]),
            ordered=rng.random() < 0.5,
            on_error=rng.choice(["raise", "skip", "return"]),
            retries=rng.choice([0, 0, 1]),
            faults=faults,
            ending=ending,
            at=rng.uniform(0, 2) if ending in cls.SIGNALS else rng.randrange(items),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Plan:
        """Return the plan that :meth:`to_dict` made a dict of."""
        faults = {int(index): fault for index, fault in found["faults"].items()}
        return cls(**{**found, "faults": faults})

    @property
    def ends_the_program(self) -> bool:
        """Whether nothing may come of it but an end."""
        return self.ending in self.SIGNALS

    def meddle(self, folder: Path) -> Callable[[int], None]:
        """Return what sends the program its signal, once it says that it is ready."""

        def send(program: int) -> None:
            if self.ending not in self.SIGNALS:
                return
            deadline = time.monotonic() + 120
            while not (folder / "ready").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(self.at)
            signal_members(program, self.SIGNALS[self.ending], group=self.ending == "Ctrl-C")

        return send

    def good(self, index: int) -> bool:
        """Tell whether an item has a result."""
        fault = self.faults.get(index)
        return fault is None or FAULTS[fault][self.way in THREADS]

    def read_at_most(self) -> int:
        """Return how many items the iterable gives."""
        return int(self.at) if self.ending == "the iterable raises" else self.items


class Left(Exception):
    """The consumer raises, as the plan says."""


def play(plan: Plan, folder: str) -> dict[str, Any]:
    """Run a plan; return what went wrong."""
    if plan.way == BESIDE:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with _executor(plan) as options:
        _run(dataclasses.replace(plan, faults={}, items=3, ending="all is read"), folder, options)
        before = _belongings()
        Path(folder, "ready").touch()
        results, error = _run(plan, folder, options)
        found = judge(plan, results, error)
        del results, error  # arrays, and what the error refers to, hold descriptors
        # A pool of the caller's starts its workers when it likes, and stays open.
        found["left_inside"] = [] if plan.way.endswith(" pool") else _still_there(before)
    return found


@contextlib.contextmanager
def _executor(plan: Plan) -> Iterator[dict[str, Any]]:
    """Give the options that make a run run as it is planned."""
    if plan.way in OURS:
        limit = TIMEOUT if "never ends" in plan.faults.values() else None
        method = None if plan.way == BESIDE else plan.way
        yield {"executor": "process", "start_method": method, "timeout": limit}
    elif plan.way.endswith(" pool"):
        spawn = multiprocessing.get_context("spawn")
        with (
            concurrent.futures.ThreadPoolExecutor(plan.workers)
            if plan.way == "thread pool"
            else concurrent.futures.ProcessPoolExecutor(plan.workers, mp_context=spawn)
        ) as pool:
            yield {"executor": pool}
    else:
        yield {"executor": plan.way}


def _run(
    plan: Plan, folder: str, options: dict[str, Any]
) -> tuple[list[tuple[int, Any]], BaseException | None]:
    """Return the results that came, with their indices, and the error that did."""
    from perftricks.parallel import parallel_apply_generator

    def items() -> Iterator[tuple[int, Any]]:
        for index in range(plan.read_at_most()):
            odd = plan.faults.get(index) == "cannot be pickled"
            yield index, threading.Lock() if odd else None
        if plan.ending == "the iterable raises":
            raise OSError("the disk is gone")

    results: list[tuple[int, Any]] = []
    stream = parallel_apply_generator(
        tasks.Storm(plan.faults, folder),
        items(),
        plan.workers,
        plan.queue,
        unordered=not plan.ordered,
        batch_size=plan.batch or "auto",
        on_error=plan.on_error,  # type: ignore[arg-type]
        retries=plan.retries,
        **options,
    )
    try:
        with contextlib.closing(stream):
            for pair in stream:
                results.append(pair)
                if len(results) > plan.at and plan.ending == "the consumer leaves":
                    break
                if len(results) > plan.at and plan.ending == "the consumer raises":
                    raise Left
    except (Exception, KeyboardInterrupt) as error:
        return results, error
    return results, None


def judge(
    plan: Plan, results: list[tuple[int, Any]], error: BaseException | None
) -> dict[str, Any]:
    """Say whether the results and the error are what the plain loop and the plan ask for."""
    came = collections.Counter(index for index, _ in results)
    doubled = [index for index, count in came.items() if count > 1]
    wrong = [index for index, value in results if not _right(plan, index, value)]
    complaints = [f"items {wrong[:5]} have wrong results"] if wrong else []
    if plan.ordered and [index for index, _ in results] != sorted(came):
        complaints.append("out of order")
    complaints += _unexpected(plan, error)
    missing: list[int] = []
    whole = error is None or plan.on_error != "raise" or "the disk is gone" in str(error)
    if whole and plan.ending in ("all is read", "the iterable raises"):
        due = range(plan.read_at_most())
        if plan.on_error != "return":
            due = [index for index in due if plan.good(index)]  # type: ignore[assignment]
        missing = [index for index in due if not came[index]]
    details = [*complaints]
    details += [f"items {missing[:5]} are lost, {len(missing)} in all"] if missing else []
    details += [f"items {doubled[:5]} came twice"] if doubled else []
    return {
        "lost": int(bool(missing)),
        "doubled": int(bool(doubled)),
        "wrong": int(bool(complaints)),
        "detail": "; ".join(details),
    }


def _right(plan: Plan, index: int, value: Any) -> bool:
    if not plan.good(index):
        return plan.on_error == "return" and isinstance(value, Exception)
    if plan.faults.get(index) == "returns what cannot be pickled":
        return type(value) is type(threading.Lock())
    if plan.faults.get(index) == "returns a large array":
        return bool((value == tasks.large_array(index)).all())
    return bool(value == tasks.expected(index, plan.faults.get(index)))


def _unexpected(plan: Plan, error: BaseException | None) -> list[str]:
    """Return a complaint if an error came that should not, or none came that should."""
    if plan.ends_the_program or plan.ending == "the consumer leaves":
        return []
    bad = [index for index in range(plan.read_at_most()) if not plan.good(index)]
    expected = plan.ending in ("the consumer raises", "the iterable raises")
    if plan.on_error == "raise" and bad:
        expected = True
    if error is None:
        # The consumer raises only if so many results come.
        few = plan.ending == "the consumer raises" and len(bad) + plan.at >= plan.items
        return ["no error"] if expected and not few else []
    if not expected:
        return [f"{type(error).__name__}: {error}"[:200]]
    if isinstance(error, Left) or "the disk is gone" in str(error):
        return []
    named = getattr(error, "index", None)
    if plan.on_error == "raise" and (named in bad or any(f"item {i}" in str(error) for i in bad)):
        return []
    return [f"unexpected {type(error).__name__}: {error}"[:200]]


def _belongings() -> collections.Counter[str]:
    """Count what this process has: descriptors, threads, children."""
    this = psutil.Process()
    found = collections.Counter(
        descriptors=this.num_fds(),
        threads=sum(thread.name.startswith("perftricks") for thread in threading.enumerate()),
    )
    for child in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found["zombies" if child.status() == psutil.STATUS_ZOMBIE else "processes"] += 1
    return found


def _still_there(before: collections.Counter[str], patience: float = 10) -> list[str]:
    """Return of what there is more than before, after a while if need be."""
    deadline = time.monotonic() + patience
    while (more := _belongings() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return sorted(more)


def main(plan: str, report: str) -> None:
    """Play a round, and write what went wrong into a file."""
    sign_names()
    found = play(Plan.from_dict(json.loads(plan)), os.environ["STORM_FOLDER"])
    part = Path(report + ".part")  # the program may be killed while it writes
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
