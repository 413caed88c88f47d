"""A cluster of dask.distributed for tests, in a process of its own: real workers, to be killed.

``python -m tests.clusters WORKERS THREADS`` starts one, prints where its scheduler listens, and
ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from typing import Any

import psutil

from tests.conftest import PATIENCE

ROLES = ("scheduler", "worker", "client")
KINDS = ("cert", "key")
CLUSTERS: set[int] = set()  # the processes that hold them


class Cluster:
    """A scheduler, and workers with a nanny each, which starts another when one dies.

    Args:
        workers: How many.
        threads: How many threads each has.
        tls: A folder with ca.pem, cert.pem and key.pem, with which all of it is encrypted.
    """

    def __init__(self, workers: int = 2, threads: int = 1, tls: str = "") -> None:
        self.workers = workers
        self._client: Any = None
        command = [sys.executable, "-W", "ignore", "-m", "tests.clusters"]
        self._process = subprocess.Popen(
            [*command, str(workers), str(threads), tls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        CLUSTERS.add(self._process.pid)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    @property
    def pid(self) -> int:
        """The process that the scheduler is in."""
        return self._process.pid

    def client(self) -> Any:
        """Return a client, when all workers are there."""
        if self._client is None or self._client.status != "running":
            self._client = self.new_client()
        self._client.wait_for_workers(self.workers, timeout=PATIENCE)
        return self._client

    def new_client(self) -> Any:
        """Return a client of its own, to be closed by whoever asks for it."""
        from distributed import Client

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Client(self.address, timeout=PATIENCE, set_as_default=False)

    def close(self) -> None:
        """End all of it."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close(timeout=1)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                # The one that removes what others have left in shared memory ends by itself then.
                tracks = any("resource_tracker" in part for part in process.cmdline())
                if os.getpgid(process.pid) == self._process.pid and not tracks:
                    process.kill()
        self._process.wait()
        self._process.stdout.close()
        CLUSTERS.discard(self._process.pid)


def _serve(workers: int, threads: int, tls: str) -> None:
    import dask
    from distributed import LocalCluster, Security

    # Workers that are forked from a process that has imported all they need are there at once.
    dask.config.set(
        {
            "distributed.worker.multiprocessing-method": "forkserver",
            "distributed.comm.timeouts.connect": f"{PATIENCE}s",
            # After so long a LocalCluster gives up a worker that was lost once and is, at that
            # moment, lost again.
            "distributed.deploy.lost-worker-timeout": "1h",
            # What a cluster watches in itself takes a tenth of a core all the time.
            "distributed.worker.profile.enabled": False,
            "distributed.admin.tick.interval": "1h",
            "distributed.admin.system-monitor.interval": "1h",
        }
    )
    security = None
    if tls:
        pair = {f"tls_{role}_{kind}": f"{tls}/{kind}.pem" for role in ROLES for kind in KINDS}
        security = Security(tls_ca_file=f"{tls}/ca.pem", require_encryption=True, **pair)
    with LocalCluster(
        protocol="tls" if tls else "tcp",
        security=security,
        n_workers=workers,
        threads_per_worker=threads,
        dashboard_address=None,
        memory_limit=0,
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
        # Nobody needs what they could still say.
        os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
