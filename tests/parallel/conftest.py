"""Binds the contract suite to every way of running, and checks that nothing is left behind."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from perftricks.parallel import parallel_apply, parallel_apply_generator, parallel_count
from tests.clusters import CLUSTERS, Cluster
from tests.conftest import PATIENCE

from .executions import Executions

START_METHODS = ("fork", "forkserver", "fresh", "spawn")
HELPERS = ("forkserver", "resource_tracker")  # the standard library's; they end with the parent
SERVER = "perftricks"  # the name of the process that forks our workers


Function = Callable[..., Any]


class Runner:
    """The public functions with the options of one way of running filled in."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.options = options

    @property
    def in_processes(self) -> bool:
        """Whether items and results are pickled on their way to a process or an interpreter."""
        return self.name not in ("thread", "serial", "thread-pool")

    def workers(self) -> list[psutil.Process]:
        """List the processes that are workers."""
        client = self.options["executor"]
        if isinstance(client, str):
            return workers_of(os.getpid())
        infos = client.run(os.getpid)
        return [psutil.Process(pid) for pid in infos.values()]

    @property
    def ends_workers(self) -> bool:
        """Whether the workers end with the run."""
        return self.name != "dask" and not self.name.endswith("-pool")

    def death(self, how: str) -> str:
        """Say what an error says of a death; of one elsewhere it is not known how it came."""
        return "is gone" if self.name == "dask" else how

    @property
    def in_interpreters(self) -> bool:
        """Whether tasks run where many extension modules, NumPy's too, cannot be imported."""
        return self.name.startswith("interpreter")

    def apply(self, func: Function, items: Any, workers: int = 2, size: int = 8, **kw: Any) -> Any:
        """Call parallel_apply."""
        return parallel_apply(func, items, workers, size, **{**self.options, **kw})

    def stream(self, func: Function, items: Any, workers: int = 2, size: int = 8, **kw: Any) -> Any:
        """Call parallel_apply_generator."""
        return parallel_apply_generator(func, items, workers, size, **{**self.options, **kw})

    def count(self, func: Function, items: Any, workers: int = 2, **kw: Any) -> Any:
        """Call parallel_count."""
        return parallel_count(func, items, workers, **{**self.options, **kw})


INTERPRETERS = ["interpreter", "interpreter-pool"] if sys.version_info >= (3, 14) else []


@pytest.fixture(
    params=[
        *START_METHODS,
        "thread",
        "serial",
        "thread-pool",
        "process-pool",
        "dask",
        *INTERPRETERS,
    ]
)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Every way of running."""
    name = request.param
    if name in START_METHODS or name == "dask":
        yield _processes(request)
    elif name in ("thread", "serial", "interpreter"):
        yield Runner(name, {"executor": name})
    else:
        spawn = multiprocessing.get_context("spawn")
        make = {
            "thread-pool": lambda: concurrent.futures.ThreadPoolExecutor(2),
            "process-pool": lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn),
            "interpreter-pool": lambda: concurrent.futures.InterpreterPoolExecutor(2),
        }[name]
        with make() as pool:
            yield Runner(name, {"executor": pool})


@pytest.fixture(params=[*START_METHODS, "dask"])
def processes(request: pytest.FixtureRequest) -> Runner:
    """Worker processes, by every start method, and those of a cluster."""
    return _processes(request)


@pytest.fixture(params=START_METHODS)
def own_processes(request: pytest.FixtureRequest) -> Runner:
    """Worker processes that perftricks starts, and so may kill."""
    return _processes(request)


def _processes(request: pytest.FixtureRequest) -> Runner:
    if request.param == "dask":
        cluster: Cluster = request.getfixturevalue("cluster")
        return Runner("dask", {"executor": cluster.client()})
    return Runner(request.param, {"executor": "process", "start_method": request.param})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what kills workers of a cluster: each takes a second to be there again."""
    for item in items:
        kills = item.path.name == "test_crashes.py" or "test_every_item_kills" in item.name
        if kills and "dask" in item.name:
            item.add_marker(pytest.mark.cluster_faults)


@pytest.fixture
def executions(tmp_path: Path) -> Executions:
    """A tally that worker processes can write to."""
    return Executions(str(tmp_path / "executions"))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No worker process and no thread of ours outlives a test."""
    yield
    deadline = time.monotonic() + PATIENCE
    while (left := _leftovers()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def _leftovers() -> list[str]:
    threads = [t.name for t in threading.enumerate() if t.name.startswith("perftricks")]
    return threads + [str(process) for process in workers_of(os.getpid())]


def workers_of(pid: int) -> list[psutil.Process]:
    """List the processes below ``pid`` that are workers."""
    workers = []
    clusters = set(CLUSTERS)
    # Parents come before their children.
    for child in psutil.Process(pid).children(recursive=True):
        try:
            parent = child.ppid()
            if child.pid in clusters or parent in clusters:
                clusters.add(child.pid)
                continue
            # A fork server's children have its command line; only the server is ours directly.
            line = " ".join(child.cmdline())
            helper = parent == pid and any(name in line for name in HELPERS)
            helper = helper or child.name() == SERVER
            if child.status() != psutil.STATUS_ZOMBIE and not helper:
                workers.append(child)
        except psutil.NoSuchProcess:
            continue
    return workers
