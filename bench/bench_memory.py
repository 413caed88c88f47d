"""Memory of an endless run: flat, however long it goes on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import itertools, json, os, psutil
from perftricks.parallel import parallel_apply_generator

def resident():
    me = psutil.Process()
    return sum(p.memory_info().rss for p in [me, *me.children(recursive=True)]) / 2**20

def work(x):
    return bytes(10_000)

stream = parallel_apply_generator(work, itertools.count(), 2, 200)
marks = {}
for done, _ in enumerate(stream, 1):
    if done in {marks_at}:
        marks[done] = round(resident(), 1)
    if done == {last}:
        break
stream.close()
print(json.dumps(marks))
"""


@pytest.mark.benchmark(group="memory of an endless stream, 2 workers, results of 10 kB")
def bench_memory_stays_flat(benchmark):
    """Resident MiB of the parent and both workers, after more and more items."""
    marks_at = (5_000, 50_000, 200_000)
    program = PROGRAM.replace("{marks_at}", repr(marks_at)).replace("{last}", str(marks_at[-1]))

    def run():
        return json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))

    marks = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["resident_MiB_after_items"] = marks
