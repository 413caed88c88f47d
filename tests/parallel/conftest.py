"""Binds the contract suite to every way of running, and checks that nothing is left behind."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from perftricks.parallel import parallel_apply, parallel_apply_generator, parallel_count

START_METHODS = ("fork", "forkserver", "spawn")
HELPERS = ("forkserver", "resource_tracker")  # the standard library's; they end with the parent


Function = Callable[..., Any]


class Runner:
    """The public functions with the options of one way of running filled in."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.options = options

    @property
    def in_processes(self) -> bool:
        """Whether items and results cross a process boundary."""
        return self.name not in ("thread", "serial", "thread-pool")

    def apply(self, func: Function, items: Any, workers: int = 2, size: int = 8, **kw: Any) -> Any:
        """Call parallel_apply."""
        return parallel_apply(func, items, workers, size, **{**self.options, **kw})

    def stream(self, func: Function, items: Any, workers: int = 2, size: int = 8, **kw: Any) -> Any:
        """Call parallel_apply_generator."""
        return parallel_apply_generator(func, items, workers, size, **{**self.options, **kw})

    def count(self, func: Function, items: Any, workers: int = 2, **kw: Any) -> Any:
        """Call parallel_count."""
        return parallel_count(func, items, workers, **{**self.options, **kw})


@pytest.fixture(params=[*START_METHODS, "thread", "serial", "thread-pool", "process-pool"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Every way of running."""
    name = request.param
    if name in START_METHODS:
        yield Runner(name, {"executor": "process", "start_method": name})
    elif name in ("thread", "serial"):
        yield Runner(name, {"executor": name})
    else:
        spawn = multiprocessing.get_context("spawn")
        make = {
            "thread-pool": concurrent.futures.ThreadPoolExecutor,
            "process-pool": partial(concurrent.futures.ProcessPoolExecutor, mp_context=spawn),
        }[name]
        with make(2) as pool:
            yield Runner(name, {"executor": pool})


@pytest.fixture(params=START_METHODS)
def processes(request: pytest.FixtureRequest) -> Runner:
    """Worker processes, by every start method."""
    return Runner(request.param, {"executor": "process", "start_method": request.param})


@pytest.fixture
def executions(tmp_path: Path) -> Executions:
    """A tally that worker processes can write to."""
    return Executions(str(tmp_path / "executions"))


class Executions:
    """Counts how often each item was really run, across processes: a line in a file each time."""

    def __init__(self, path: str) -> None:
        self.path = path
        open(path, "w").close()

    def note(self, item: object) -> int:
        """Note one execution; return which one it is for this item, from 1."""
        with open(self.path, "a") as file:
            file.write(f"{item}\n")
        return self.of(item)

    def of(self, item: object) -> int:
        """Return how often ``item`` was run."""
        with open(self.path) as file:
            return file.read().splitlines().count(str(item))

    def total(self) -> int:
        """Return how many runs there were of any item."""
        with open(self.path) as file:
            return len(file.readlines())


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No worker process and no thread of ours outlives a test."""
    yield
    deadline = time.monotonic() + 5
    while (left := _leftovers()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def _leftovers() -> list[str]:
    threads = [t.name for t in threading.enumerate() if t.name.startswith("perftricks")]
    return threads + [str(process) for process in workers_of(os.getpid())]


def workers_of(pid: int) -> list[psutil.Process]:
    """List the processes below ``pid`` that are workers."""
    workers = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            # A fork server's children have its command line; only the server is ours directly.
            line = " ".join(child.cmdline())
            helper = child.ppid() == pid and any(name in line for name in HELPERS)
            if child.status() != psutil.STATUS_ZOMBIE and not helper:
                workers.append(child)
        except psutil.NoSuchProcess:
            continue
    return workers
