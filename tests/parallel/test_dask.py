"""A cluster of dask.distributed as an executor: real worker processes, of which one is killed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import PATIENCE

# In a program of its own: the cluster starts threads and processes, and warns as it stops.
PROGRAM = """
import os
import signal
import sys

from distributed import Client

from perftricks.parallel import parallel_apply


def first(sign):
    with open(sign, "a") as file:
        file.write("x")
    return os.path.getsize(sign) == 1


if __name__ == "__main__":
    sign = sys.argv[1]
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None, timeout=2700) as client:
        options = {"executor": client.get_executor(), "workers": 2, "max_queue_size": 20}
        tasks = range(200)
        squares = parallel_apply(lambda x: (x * x, os.getpid()), tasks, unordered=False, **options)
        assert [square for square, _ in squares] == [x * x for x in range(200)]
        assert os.getpid() not in {pid for _, pid in squares}

        def fatal(x):
            if x == 7 and first(sign):
                os.kill(os.getpid(), signal.SIGKILL)
            return x

        found = parallel_apply(fatal, range(40), unordered=False, batch_size=1, **options)
        assert found == list(range(40)), found
        assert os.path.getsize(sign) == 2, "the item whose worker was killed ran again, once"

        try:
            parallel_apply(lambda x: 1 // (x - 7), range(20), **options)
        except ZeroDivisionError:
            print("done")
"""


@pytest.mark.timeout(10 * PATIENCE)  # four processes import all of dask before anything happens
def test_cluster(tmp_path):
    """Results come in order, errors as they are, and a worker that is killed loses nothing."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "program.py", "sign"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=9 * PATIENCE,
        # dask's own patience is for machines that have nothing else to do; but it waits as long
        # for a worker that was killed.
        env={**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "90s"},
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]
