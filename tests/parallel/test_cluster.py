"""What is promised of a dask cluster beside the contract: it comes, goes, and is lost."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import pytest

from perftricks.parallel import (
    ClusterError,
    WorkerCrashedError,
    item_seed,
    parallel_apply,
    parallel_apply_generator,
)
from tests.clusters import Cluster
from tests.conftest import PATIENCE

pytest.importorskip("distributed", reason="distributed is not installed")


def await_file(path):
    """Wait until there is a file."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def test_a_client_that_is_closed(cluster):
    """A client that cannot be used is refused before anything is read."""
    client = cluster.new_client()
    client.close()
    with pytest.raises(ValueError, match="the dask client is closed"):
        parallel_apply(abs, [1], executor=client)


def test_a_client_that_is_closed_meanwhile(cluster, tmp_path):
    """A run whose client is closed ends with an error that says so."""
    client = cluster.new_client()

    def slow(x):
        (tmp_path / "begun").touch()
        time.sleep(0.5)
        return x

    closer = threading.Thread(target=lambda: (await_file(tmp_path / "begun"), client.close()))
    closer.start()
    with pytest.raises(ClusterError, match="was closed, or the scheduler is lost"):
        parallel_apply(slow, range(1000), executor=client, batch_size=1)
    closer.join()


@pytest.mark.cluster_faults
def test_nothing_is_begun_in_a_loop_that_ends(cluster):
    """A client that is closed takes no further batch along, which would be said at its end."""
    for _ in range(10):
        client = cluster.new_client()
        stream = parallel_apply_generator(
            lambda x: time.sleep(0.01), range(10**6), 2, 50, executor=client, batch_size=1
        )
        next(stream)
        closer = threading.Timer(0.2, client.close)
        closer.start()
        with pytest.raises(ClusterError, match="was closed, or the scheduler is lost"):
            deque(stream, maxlen=0)
        closer.join()
        del stream, client
        gc.collect()  # a coroutine that never began warns, which is an error here


def test_an_asynchronous_client_is_refused(cluster):
    """A client that has to be awaited is refused, with what to do."""
    import asyncio

    from distributed import Client

    async def attempt():
        async with Client(cluster.address, asynchronous=True, set_as_default=False) as client:
            with pytest.raises(ValueError, match="without asynchronous=True"):
                parallel_apply(abs, [1], executor=client)

    asyncio.run(attempt())


@pytest.mark.parametrize(
    "options", [{"timeout": 1}, {"memory_limit": "1GB"}, {"max_tasks_per_worker": 1}]
)
def test_options_of_own_processes(cluster, options):
    """What needs workers that are ours is refused by name."""
    with pytest.raises(ValueError, match=next(iter(options))):
        parallel_apply(abs, [1], executor=cluster.client(), **options)


def test_a_finalizer_is_refused(cluster):
    """Workers of a cluster live on, so that nothing can be done at their end."""
    with pytest.raises(ValueError, match="finalizer"):
        parallel_apply(abs, [1], executor=cluster.client(), finalizer=print)


@pytest.mark.cluster_faults
def test_another_version_on_a_worker(cluster, monkeypatch):
    """Workers with another version are refused by name before they work."""
    monkeypatch.setattr("perftricks.__version__", "0.0.0")
    with pytest.raises(ClusterError, match=r"has perftricks .*, and the client has 0\.0\.0"):
        parallel_apply(abs, range(4), executor=cluster.client())


@pytest.mark.cluster_faults
def test_an_interrupt_ends_the_run_and_not_the_cluster(cluster, tmp_path):
    """Ctrl-C ends the run at once; workers begin no further item, and serve the next run."""
    program = f"""
import sys, time
from distributed import Client
from perftricks.parallel import parallel_apply

def slow(x):
    with open({str(tmp_path / "items")!r}, "a") as file:
        file.write("x")
    time.sleep(0.1)

if __name__ == "__main__":
    with Client({cluster.address!r}, set_as_default=False) as client:
        try:
            parallel_apply(slow, range(1000), 2, 1000, executor=client, batch_size=400)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True
    )
    await_file(tmp_path / "items")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE)[0] == "interrupted\n"
    assert process.returncode == 0
    run = (tmp_path / "items").stat().st_size
    assert run < 400
    assert parallel_apply(abs, range(4), executor=cluster.client(), unordered=False) == [0, 1, 2, 3]
    assert (tmp_path / "items").stat().st_size <= run + 2


@pytest.mark.cluster_faults
def test_the_scheduler_is_lost(tmp_path):
    """A run whose scheduler dies ends with an error that names it."""
    cluster = Cluster(1)
    try:
        client = cluster.new_client()
        stream = parallel_apply_generator(
            lambda x: time.sleep(0.01) or x, range(10**6), executor=client, batch_size=1
        )
        next(stream)
        os.killpg(cluster.pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match=cluster.address):
            for _ in stream:
                pass
        client.close(timeout=1)
    finally:
        cluster.close()


@pytest.mark.cluster_faults
def test_workers_of_several_threads():
    """Threads of a worker work at a time; what kills it is found, and nothing else is blamed."""
    cluster = Cluster(1, threads=3)
    try:
        client = cluster.client()

        def func(x):
            time.sleep(0.05)
            if x == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return x, threading.get_ident(), item_seed()

        found = parallel_apply(
            func, range(9), executor=client, batch_size=1, on_error="return", unordered=False
        )
        assert isinstance(found.pop(5), WorkerCrashedError)
        assert [x for x, _, _ in found] == [0, 1, 2, 3, 4, 6, 7, 8]
        client.wait_for_workers(1)
        found = parallel_apply(
            func, range(10, 25), executor=client, batch_size=1, unordered=False, root_seed=3
        )
        assert len({thread for _, thread, _ in found}) == 3
        assert len({seed for _, _, seed in found}) == 15
    finally:
        cluster.close()


def test_a_clients_executor(cluster, tmp_path):
    """What concurrent.futures has of a client works as any executor: tasks are the scheduler's."""
    executor = cluster.client().get_executor()
    assert parallel_apply(lambda x: x * x, range(50), 2, executor=executor, unordered=False) == [
        x * x for x in range(50)
    ]
    with pytest.raises(ZeroDivisionError):
        parallel_apply(lambda x: 1 // (x - 7), range(20), 2, executor=executor)
