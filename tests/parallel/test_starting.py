"""How workers start: never beside threads that could hold a lock, never without end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from perftricks.parallel import UnpicklableError, WorkerCrashedError, parallel_apply
from perftricks.parallel.threads import LockFreeThread, other_threads

from .conftest import START_METHODS, workers_of


def run(tmp_path, script, *arguments, name="program.py", **options):
    """Run a program to its end; return its result."""
    (tmp_path / name).write_text(textwrap.dedent(script))
    return subprocess.run(
        [sys.executable, *(arguments or [str(tmp_path / name)])],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        **options,
    )


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="fork is no longer the usual way")
def test_fork_only_without_threads(tmp_path):
    """A program without threads forks; one with a thread starts fresh workers, by itself."""
    done = run(
        tmp_path,
        """
        import threading
        from perftricks.parallel import parallel_apply
        marker = []
        def seen(x):
            return bool(marker)
        marker.append("only a fork has it")
        import sys
        module = sys.modules["here"] = type(sys)("here")  # not to be found by a fresh interpreter
        def is_fork(x):
            import sys
            return "here" in sys.modules
        print(parallel_apply(is_fork, [1], 1, 1))
        import numpy  # its threads are no reason: they end before a fork
        numpy.ones((300, 300)) @ numpy.ones((300, 300))
        print(parallel_apply(is_fork, [1], 1, 1))
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)
        thread.start()
        print(parallel_apply(is_fork, [1], 1, 1))
        print(parallel_apply(is_fork, [1], 1, 1, start_method="fork"))
        gate.set()
        thread.join()
        print(parallel_apply(is_fork, [1], 1, 1))
        """,
    )
    assert (done.stdout.split(), done.stderr) == (
        ["[True]", "[True]", "[False]", "[True]", "[True]"],
        "",
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")
def test_threads_that_are_not_pythons_count(tmp_path):
    """A thread that a C library has started is seen, and forbids a fork."""
    done = run(
        tmp_path,
        """
        import ctypes, ctypes.util, sys
        from perftricks.parallel import parallel_apply
        from perftricks.parallel.threads import other_threads
        sys.modules["here"] = type(sys)("here")
        def is_fork(x):
            import sys
            return "here" in sys.modules
        print(other_threads())
        libc = ctypes.CDLL(None)
        pause = ctypes.cast(libc.pause, ctypes.c_void_p)
        thread = ctypes.c_ulong()
        assert libc.pthread_create(ctypes.byref(thread), None, pause, None) == 0
        print(other_threads(), parallel_apply(is_fork, [1], 1, 1))
        """,
    )
    assert (done.stdout.split(), done.stderr) == (["0", "1", "[False]"], "")


def test_threads_that_hold_no_lock_do_not_count():
    """The threads that talk to workers are no reason not to fork."""
    gate = threading.Event()
    before = other_threads()
    harmless = LockFreeThread(gate.wait, "harmless")
    other = threading.Thread(target=gate.wait)
    try:
        harmless.start()
        assert other_threads() == before
        other.start()
        assert other_threads() == before + 1
    finally:
        gate.set()
        harmless.join()
        other.join()


def test_the_error_says_why_workers_are_fresh(tmp_path):
    """A function that cannot be pickled is refused beside threads, with the reason."""
    lock = threading.Lock()
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    try:
        with pytest.raises(UnpicklableError, match="threads beside which a fork may hang"):
            parallel_apply(lambda x: lock.locked(), [1], 1, 1)
    finally:
        gate.set()
        thread.join()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="warned of from Python 3.12 on")
def test_an_explicit_fork_beside_threads_is_warned_of():
    """Python's own warning is heard."""
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    try:
        with pytest.warns(DeprecationWarning, match="fork"):
            parallel_apply(abs, [1], 1, 1, start_method="fork")
    finally:
        gate.set()
        thread.join()


def test_threads_of_a_program_hold_up_no_worker(tmp_path):
    """A lock that another thread holds all the time is free in the workers."""
    done = run(
        tmp_path,
        """
        import logging, threading
        from perftricks.parallel import parallel_apply
        logging.basicConfig(filename="log")
        def chatter():
            while True:
                logging.warning("chatter")
        threading.Thread(target=chatter, daemon=True).start()
        def task(x):
            logging.warning("task")
            return x
        for _ in range(3):
            print(parallel_apply(task, range(8), 2, 8, unordered=False) == list(range(8)))
        """,
    )
    assert done.stdout.split() == ["True"] * 3


def test_the_server_of_fresh_workers_is_warm(tmp_path):
    """One server serves all runs; another is started where the environment has changed."""
    done = run(
        tmp_path,
        """
        import os
        from perftricks.parallel import parallel_apply
        def servers(n):
            return {parallel_apply(lambda x: os.getppid(), [1], 1, 1, start_method="fresh")[0]
                    for _ in range(n)}
        first = servers(3)
        os.environ["NEW"] = "1"
        print(len(first), len(servers(2) - first))
        print(parallel_apply(lambda x: os.environ["NEW"], [1], 1, 1, start_method="fresh"))
        os.environ["NEW"] = "2"
        print(parallel_apply(lambda x: os.environ["NEW"], [1], 1, 1, start_method="fresh"))
        os.mkdir("other")
        os.chdir("other")
        where = parallel_apply(lambda x: os.getcwd(), [1], 1, 1, start_method="fresh")
        print(where == [os.getcwd()])
        """,
    )
    assert (done.stdout.split(), done.stderr) == (["1", "1", "['1']", "['2']", "True"], "")


@pytest.mark.parametrize("start_method", ["fork", "fresh"])
def test_a_server_that_is_killed_is_replaced(start_method):
    """The death of the process that forks the workers costs no result."""
    from perftricks.parallel import parallel_apply_generator

    stream = parallel_apply_generator(
        abs, iter(range(60)), 2, 4, batch_size=1, unordered=False, start_method=start_method
    )
    first = [next(stream)]
    servers = {worker.parent() for worker in workers_of(os.getpid())}
    assert servers
    for server in servers:
        server.kill()
    assert first + list(stream) == [(x, x) for x in range(60)]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_module_that_starts_workers_when_it_is_imported(tmp_path, start_method):
    """Workers that import it start none in their turn; the error has the remedy."""
    done = run(
        tmp_path,
        f"""
        import os
        from perftricks.parallel import parallel_apply
        depth = int(os.environ.get("DEPTH", 0))
        os.environ["DEPTH"] = str(depth + 1)
        print("depth", depth, flush=True)
        def double(x):
            return 2 * x
        print(parallel_apply(double, range(4), 2, 4, unordered=False,
                             start_method={start_method!r}), flush=True)
        """,
        "-c",
        "import module",
        name="module.py",
    )
    assert "depth 2" not in done.stdout
    if start_method in ("fork", "forkserver"):  # which imports it before it becomes a worker
        assert "depth 0" in done.stdout
    else:
        assert (
            "RuntimeError: a worker process that is being set up starts no workers" in done.stderr
        )
        assert "if __name__ == '__main__':" in done.stderr


@pytest.mark.parametrize("supported", [True, False])
def test_a_frozen_application(tmp_path, supported):
    """Started again as a worker it goes on in freeze_support(); without, it is told so."""
    script = f"""
    import multiprocessing.spawn, sys
    sys.frozen = True
    print("started", flush=True)
    if {supported}:
        multiprocessing.spawn.freeze_support()  # what those who freeze put in place of the other
    from perftricks.parallel import parallel_apply
    if __name__ == "__main__":
        print(parallel_apply(abs, [-1, -2], 2, 4, unordered=False, start_method="spawn"))
    """
    program = tmp_path / "program.py"
    executable = tmp_path / "application"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
    executable.chmod(0o755)
    prepare = f"import sys; sys.executable = {str(executable)!r}\n"
    done = run(tmp_path, prepare + textwrap.dedent(script))
    if supported:
        assert done.stdout.splitlines()[-1] == "[1, 2]"
        assert done.returncode == 0
    else:
        assert done.returncode == 1
        assert "freeze_support() first" in done.stderr.splitlines()[-1]
        assert done.stdout.count("started") <= 7  # once, and three starts of two workers


def test_set_executable_is_honoured(tmp_path):
    """Fresh interpreters are those that multiprocessing was told to use."""
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexport STARTED_BY=other\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    done = run(
        tmp_path,
        f"""
        import multiprocessing, os
        from perftricks.parallel import parallel_apply
        multiprocessing.set_executable({str(other)!r})
        def look(x):
            return os.environ.get("STARTED_BY")
        print(parallel_apply(look, [1], 1, 1, start_method="spawn"))
        """,
    )
    assert (done.stdout, done.stderr) == ("['other']\n", "")


STANDARD = """
import os, sys
for closed in {closed}:
    os.close(closed)
import subprocess
from perftricks.parallel import parallel_apply
def task(x):
    print("said by a task")
    return x + len(subprocess.run(["cat"], stdout=subprocess.PIPE).stdout)
got = [parallel_apply(task, range(4), 2, 4, unordered=False, start_method=method)
       for method in ("fork", "fresh", "spawn")]
with open("result", "w") as file:
    file.write(str(got == [[0, 1, 2, 3]] * 3))
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_stdin_stdout_or_stderr_closed(tmp_path, closed):
    """No pipe takes the place of one of these, where a program that a task starts would use it."""
    run(tmp_path, STANDARD.format(closed=closed), stdin=subprocess.DEVNULL)
    assert (tmp_path / "result").read_text() == "True"


def test_a_folder_that_is_gone(tmp_path):
    """A program may be started in a folder that has been removed meanwhile."""
    leave = """
        import os, sys
        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir("../gone")
    """
    plain = (
        leave
        + """
        import subprocess
        sys.exit(subprocess.call([sys.executable, "-c", "import multiprocessing.connection"]))
    """
    )
    if run(tmp_path, plain).returncode:
        pytest.skip("this Python itself cannot import multiprocessing there (CPython 3.13.0)")
    done = run(
        tmp_path,
        leave
        + """
        from perftricks.parallel import parallel_apply
        for method in ("fork", "fresh", "spawn"):
            print(parallel_apply(abs, [-1], 1, 1, start_method=method))
        """,
    )
    assert (done.stdout.split(), done.stderr) == (["[1]"] * 3, "")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_an_application_that_ignores_its_children(tmp_path, start_method):
    """With SIGCHLD ignored the cause of a death is still told, and nothing is left."""
    done = run(
        tmp_path,
        f"""
        import os, signal
        from perftricks.parallel import parallel_apply, WorkerCrashedError
        def die(x):
            os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            print(parallel_apply(abs, [-1], 1, 1, start_method={start_method!r}))
            try:
                parallel_apply(die, [1], 1, 1, start_method={start_method!r})
            except WorkerCrashedError as error:
                print(error)
        """,
    )
    assert done.stdout.startswith("[1]\n")
    assert "killed by SIGKILL" in done.stdout
    assert done.stderr == ""


def test_shared_memory_of_the_caller_outlives_the_workers(processes):
    """Workers have the caller's resource tracker, not one that removes what they attach to."""
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=10)
    try:
        memory.buf[0] = 7

        def look(name):
            attached = shared_memory.SharedMemory(name)
            try:
                return attached.buf[0]
            finally:
                attached.close()

        assert processes.apply(look, [memory.name] * 3) == [7] * 3
        assert processes.apply(look, [memory.name] * 3) == [7] * 3
    finally:
        memory.close()
        memory.unlink()


def test_a_run_that_has_begun_elsewhere_has_no_server_left(processes):
    """A generator that is dropped before it begins leaves nothing (checked after every test)."""
    stream = processes.stream(abs, range(3))
    del stream
    time.sleep(0)


def test_workers_that_die_at_their_start_are_an_error():
    """Fresh workers that die while starting are told of after three tries."""
    with pytest.raises(WorkerCrashedError, match="3 worker processes in a row died while starting"):
        parallel_apply(abs, range(5), 2, 4, initializer=lambda: os._exit(7), start_method="fresh")
