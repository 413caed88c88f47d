"""Counting on a cluster, measured: ``python -m bench.wordcount.cluster speed|faults|stream ...``.

``speed PATH...``: CPU seconds and wall time of one process and of a cluster, in turn.
``faults PATH...``: workers are killed, added and restarted; tokens that are lost or doubled. A path
may be ``generated://MEGABYTES``, so that the count lasts long enough to be hit.
``stream MEGABYTES``: text that workers generate, so that no disk holds it; memory of the scheduler,
the client and the workers.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
from fsspec import AbstractFileSystem, register_implementation

from bench.markdown import table
from perftricks.parallel import ClusterError
from perftricks.wordcount import WordCounts, count_files
from tests.clusters import Cluster

_WORDS = [
    "喝茶",
    "北京大学",
    "的",
    "水火",
    "我们",
    "研究生命",
    "起源",
    "tea",
    "3.14",
    "，",
    "乒乓球",
]
BLOCK = 1 << 20


def block(number: int) -> bytes:
    """Return a megabyte of text: whole lines, the same each time."""
    return _lines(number % 64).replace(b"000", f"{number % 1000:03}".encode())


@functools.cache
def _lines(seed: int) -> bytes:
    """Return a megabyte of lines; each ends with a number of which only zeros are there yet."""
    generator = random.Random(seed)
    lines, size = [], 0
    while size < BLOCK:
        line = ("".join(generator.choices(_WORDS, k=12)) + "000号\n").encode()
        lines.append(line)
        size += len(line)
    data = b"".join(lines)[: BLOCK - 1]
    return data[: data.rfind(b"\n") + 1].ljust(BLOCK - 1, b" ") + b"\n"


class Generated(AbstractFileSystem):
    """Files of so many megabytes as their names say: ``generated://10000``."""

    protocol = "generated"
    cachable = False

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Say how large a file is."""
        size = int(self._strip_protocol(path)) * BLOCK
        return {"name": path, "size": size, "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return io.BufferedReader(_Blocks(self.info(path)["size"]), BLOCK)


class _Blocks(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0
        self._block = -1, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a position."""
        self._position = position + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Make what comes next."""
        if self._position >= self._size:
            return 0
        number, start = divmod(self._position, BLOCK)
        if self._block[0] != number:
            self._block = number, block(number)
        data = self._block[1][start : start + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def register() -> None:
    """Make the generated files known in this process."""
    register_implementation("generated", Generated, clobber=True)


def _cpu(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


def speed(paths: list[str], workers: int, threads: int, rounds: int = 3) -> None:
    """Print what one process and a cluster take, in turn."""
    cluster = Cluster(workers, threads)
    client = cluster.client()
    pids = [cluster.pid, *client.run(os.getpid).values()]
    count_files(paths, engine=client)
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        local = count_files(paths, workers=workers * threads)
        list(local.columns())
        one = time.perf_counter() - wall, time.process_time() - cpu
        wall, cpu, before = time.perf_counter(), time.process_time(), _cpu(pids)
        found = count_files(paths, engine=client)
        list(found.columns())
        many = time.perf_counter() - wall, time.process_time() - cpu + _cpu(pids) - before
        assert list(local.rows()) == list(found.rows())
        print(
            f"one process {one[0]:.2f} s, {one[1]:.2f} s of CPU; cluster {many[0]:.2f} s, "
            f"{many[1]:.2f} s of CPU: {one[0] / many[0]:.0%}, {one[1] / many[1]:.0%}"
        )
    cluster.close()


def faults(paths: list[str], tries: int) -> None:
    """Print a row for each fault: how often it was tried, how the counts ended, what was wrong."""
    register()
    expected = count_files(paths)
    print(table(["fault", "tried", "right", "ended in a ClusterError", "lost or doubled"], []))
    for name, fault in FAULTS.items():
        right = errors = wrong = 0
        for attempt in range(tries):
            cluster = Cluster(2)
            try:
                found = _count_with(cluster, paths, fault, random.Random(attempt))
            except ClusterError as error:
                print(f"{name}, try {attempt}: {error}", file=sys.stderr)
                errors += 1
            else:
                both = {*found, *expected}
                off = sum(abs(found.get(token, 0) - expected.get(token, 0)) for token in both)
                right += not off
                wrong += off
            finally:
                cluster.close()
        print(f"| {name} | {tries} | {right} | {errors} | {wrong} |", flush=True)


def _count_with(
    cluster: Cluster, paths: list[str], fault: Callable[..., None], generator: random.Random
) -> WordCounts:
    client, other, stop = cluster.client(), cluster.new_client(), threading.Event()
    client.register_plugin(_plugin())
    thread = threading.Thread(target=fault, args=(cluster, other, generator, stop))
    thread.start()
    try:
        return count_files(paths, engine=client)
    finally:
        stop.set()
        thread.join()
        other.close()


def _kill(
    seconds: tuple[float, float],
    cluster: Cluster,
    client: Any,
    generator: random.Random,
    stop: threading.Event,
) -> None:
    while not stop.wait(generator.uniform(*seconds)):
        pids = list(client.run(os.getpid, on_error="ignore").values())
        if pids:
            os.kill(generator.choice(pids), signal.SIGKILL)


def _kill_all(cluster: Cluster, client: Any, generator: random.Random, stop: Any) -> None:
    stop.wait(generator.uniform(1, 4))
    for pid in client.run(os.getpid, on_error="ignore").values():
        os.kill(pid, signal.SIGKILL)


def _restart(cluster: Cluster, client: Any, generator: random.Random, stop: Any) -> None:
    stop.wait(generator.uniform(1, 4))
    for address in list(client.nthreads())[:1]:  # as a nanny does when memory is short
        client.restart_workers([address], raise_for_error=False)


def _kill_scheduler(
    cluster: Cluster, client: Any, generator: random.Random, stop: threading.Event
) -> None:
    stop.wait(generator.uniform(1, 4))
    os.kill(cluster.pid, signal.SIGKILL)


def _add(cluster: Cluster, client: Any, generator: random.Random, stop: Any) -> None:
    stop.wait(generator.uniform(0, 2))
    command = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_worker"]
    worker = subprocess.Popen(
        [*command, cluster.address, "--no-dashboard", "--nthreads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stop.wait()
    worker.terminate()
    worker.wait()


FAULTS = {
    "a worker killed every 2 to 6 s": functools.partial(_kill, (2, 6)),
    "a worker killed every 8 to 12 s": functools.partial(_kill, (8, 12)),
    "all workers killed at once": _kill_all,
    "a worker restarted": _restart,
    "a worker added": _add,
    "the scheduler killed": _kill_scheduler,
}


def stream(megabytes: int, workers: int) -> None:
    """Print the memory of all processes while generated text is counted, and check the table."""
    register()
    cluster = Cluster(workers)
    client = cluster.client()
    client.register_plugin(_plugin())
    sampled: list[tuple[float, float, float]] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(2):
            pids = list(client.run(os.getpid, on_error="ignore").values())
            rss = [psutil.Process(pid).memory_info().rss / 1e6 for pid in pids]
            own = psutil.Process().memory_info().rss / 1e6
            scheduler = psutil.Process(cluster.pid).memory_info().rss / 1e6
            sampled.append((scheduler, own, max(rss, default=0.0)))

    thread = threading.Thread(target=sample)
    thread.start()
    began = time.perf_counter()
    found = count_files(f"generated://{megabytes}", engine=client)
    seconds = time.perf_counter() - began
    stop.set()
    thread.join()
    cluster.close()
    print(f"{megabytes} MB in {seconds:.0f} s, {found.tokens:,} tokens, {len(found):,} distinct")
    for what, place in (("scheduler", 0), ("client", 1), ("largest worker", 2)):
        column = [one[place] for one in sampled]
        quarter = max(1, len(column) // 4)
        print(
            f"{what}: {max(column[:quarter]):.0f} MB in the first quarter, "
            f"{max(column[-quarter:]):.0f} MB in the last"
        )
    print("table right:", found == count_files(f"generated://{megabytes}"))


def _plugin() -> Any:
    from distributed import WorkerPlugin

    class Register(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            from bench.wordcount.cluster import register

            register()

    return Register()


def main() -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "faults", "stream"))
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tries", type=int, default=3)
    given = parser.parse_args()
    if given.what == "speed":
        speed(given.arguments, given.workers, given.threads)
    elif given.what == "faults":
        faults(given.arguments, given.tries)
    else:
        stream(int(given.arguments[0]), given.workers)


if __name__ == "__main__":
    main()
