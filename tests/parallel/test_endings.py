"""However a program ends, it ends: no hang, and no worker outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from tests.conftest import PATIENCE

from .conftest import START_METHODS, workers_of

PREAMBLE = """
import itertools, os, re, signal, sys, time
from perftricks.parallel import parallel_apply, parallel_apply_generator

def nap(x):
    time.sleep(0.02)
    return x

def long(x):
    time.sleep(600)

def stuck(x):
    re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter lock

def main():
    {body}

if __name__ == "__main__":
    main()
"""


def start(tmp_path, body, *, script=None):
    """Start a program in a process group of its own."""
    path = tmp_path / "program.py"
    path.write_text(
        script
        or PREAMBLE.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    ").strip())
    )
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def wait_for_workers(program, count):
    """Return the program's workers once there are ``count`` and all have begun."""
    deadline = time.monotonic() + PATIENCE
    while len(workers := workers_of(program.pid)) < count:
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.7)
    return workers


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert not alive


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("task", ["nap", "long"])
@pytest.mark.parametrize("to", ["group", "parent"])
def test_ctrl_c(tmp_path, start_method, task, to):
    """SIGINT ends the program with KeyboardInterrupt alone, and all workers with it."""
    program = start(
        tmp_path,
        f"parallel_apply({task}, itertools.count(), 2, 8, print, start_method={start_method!r})",
    )
    workers = wait_for_workers(program, 2)
    if to == "group":
        os.killpg(program.pid, signal.SIGINT)
    else:
        os.kill(program.pid, signal.SIGINT)
    _, stderr = program.communicate(timeout=PATIENCE)
    assert program.returncode == -signal.SIGINT
    assert stderr.count("KeyboardInterrupt") == 1
    assert_gone(workers)


INTERRUPTED_END = """
import os, signal, psutil
from perftricks.parallel import launch, parallel_apply
plain, waitpid = launch._Server.close, os.waitpid
def interrupted(*arguments):
    os.waitpid = waitpid
    os.kill(os.getpid(), signal.SIGINT)
    return waitpid(*arguments)
def close(server):
    launch._Server.close = plain
    os.waitpid = interrupted
    plain(server)
if __name__ == "__main__":
    launch._Server.close = close
    try:
        parallel_apply(str, range(3), 2, start_method="fork")
    except KeyboardInterrupt:
        print([child.status() for child in psutil.Process().children()])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_ctrl_c_while_it_ends():
    """The process that forks workers is waited for, and is no zombie; then comes the interrupt."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_END], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("executor", ["thread", "serial"])
def test_ctrl_c_without_processes(tmp_path, executor):
    """Ctrl-C is not held up by a thread that sleeps."""
    program = start(
        tmp_path, f"print('go', flush=True)\nparallel_apply(long, [1], 2, 8, executor={executor!r})"
    )
    program.stdout.readline()
    time.sleep(0.3)
    os.kill(program.pid, signal.SIGINT)
    _, stderr = program.communicate(timeout=PATIENCE)
    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in stderr


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("task", ["nap", "long", "stuck"])
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_killed_parent_takes_its_workers_along(tmp_path, start_method, task, death):
    """No worker outlives a parent that was killed, whatever it was doing."""
    program = start(
        tmp_path,
        f"parallel_apply({task}, itertools.count(), 2, 8, start_method={start_method!r})",
    )
    workers = wait_for_workers(program, 2)
    program.send_signal(death)
    program.wait(PATIENCE)
    assert_gone(workers)
    program.communicate()


@pytest.mark.parametrize("start_method", START_METHODS)
def test_interpreter_exit_with_an_open_generator(tmp_path, start_method):
    """A program may end without closing its generator."""
    program = start(
        tmp_path,
        f"""
        global stream
        stream = parallel_apply_generator(
            nap, itertools.count(), 2, 8, start_method={start_method!r}
        )
        print(next(stream)[1] >= 0)
        """,
    )
    stdout, stderr = program.communicate(timeout=PATIENCE)
    assert (program.returncode, stdout.strip(), stderr) == (0, "True", "")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_nested_runs(tmp_path, start_method):
    """A task may itself use processes; killing the outermost parent ends all of them."""
    program = start(
        tmp_path,
        f"""
        def inner(x):
            return sum(parallel_apply(nap, range(x), 2, 4, start_method={start_method!r}))
        print(parallel_apply(inner, [3, 4], 2, 4, unordered=False, start_method={start_method!r}))
        def endless(x):
            parallel_apply(nap, itertools.count(), 2, 4, start_method={start_method!r})
        print("again", flush=True)
        parallel_apply(endless, [1, 2], 2, 4, start_method={start_method!r})
        """,
    )
    assert program.stdout.readline().strip() == "[3, 6]"
    program.stdout.readline()
    workers = wait_for_workers(program, 6)
    program.kill()
    program.wait()
    assert_gone(workers)
    program.communicate()


@pytest.mark.parametrize("start_method", START_METHODS)
def test_ctrl_c_while_workers_start(tmp_path, start_method):
    """However early Ctrl-C comes, the program ends by it and no worker stays."""
    program = f"""
import os, signal, sys, threading, time
from perftricks.parallel import parallel_apply
def report(error):
    # Python drops an interrupt that comes while its import system forgets a lock, and says so.
    if "KeyedRef.remove" not in repr(error.object):
        sys.__unraisablehook__(error)
sys.unraisablehook = report
if __name__ == "__main__":
    for attempt in range(50):
        try:
            threading.Timer(0.0007 * attempt, os.killpg, (0, signal.SIGINT)).start()
            parallel_apply(time.sleep, [0.01] * 100, 3, 8, start_method={start_method!r})
            time.sleep(1)
        except KeyboardInterrupt:
            continue
    import perftricks.parallel.launch as launch
    import perftricks.parallel.processes as processes
    launch.close_fresh_server()  # it stays for the next run
    print(len(launch._parent_ends), len(processes._open_backends), threading.active_count())
"""
    done = start(tmp_path, "", script=program)
    stdout, stderr = done.communicate(timeout=PATIENCE)
    assert (stdout.split(), stderr) == (["0", "0", "1"], "")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_the_fork_server_starts_with_ctrl_c_held_back(tmp_path):
    """One that comes before the server could ignore it would end it, with a traceback."""
    program = start(
        tmp_path,
        """
        from multiprocessing import forkserver
        parallel_apply(nap, [1], 1, 1, start_method="forkserver")
        print(open(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read())
        """,
    )
    stdout, stderr = program.communicate(timeout=PATIENCE)
    (blocked,) = re.findall(r"SigBlk:\s*(\w+)", stdout)
    held = [s for s in (signal.SIGINT, signal.SIGTERM) if int(blocked, 16) >> (s - 1) & 1]
    assert (held, stderr) == ([signal.SIGINT], "")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_classes_of_the_main_module_keep_their_identity(tmp_path, start_method):
    """Instances of a script's own classes are instances of them on both sides."""
    script = f"""
import enum, functools
from perftricks.parallel import parallel_apply
class Point:
    pass
class Color(enum.Enum):
    RED = 1
class OwnError(Exception):
    pass
@functools.lru_cache
def cached(x):
    return x
def check(point):
    return isinstance(point, Point), Point(), Color.RED, cached(1)
def fail(x):
    raise OwnError(x)
if __name__ == "__main__":
    for inside, point, color, one in parallel_apply(
        check, [Point(), Point()], 2, 4, start_method={start_method!r}
    ):
        print(inside, type(point) is Point, color is Color.RED, one == 1)
    try:
        parallel_apply(fail, [1], 2, 4, start_method={start_method!r})
    except OwnError as error:
        print(error.args)
"""
    stdout, stderr = start(tmp_path, "", script=script).communicate(timeout=PATIENCE)
    assert (stdout.splitlines(), stderr) == (["True True True True"] * 2 + ["(1,)"], "")


def test_a_generator_that_a_fork_consumes(tmp_path):
    """A fork may run a generator it has inherited, but not go on with one that had begun."""
    program = start(
        tmp_path,
        """
        for begun in (False, True):
            stream = parallel_apply_generator(nap, range(4), 2, 4, start_method="fork")
            if begun:
                next(stream)
            if os.fork() == 0:
                try:
                    print(sorted(stream), flush=True)
                except RuntimeError as error:
                    print(error, flush=True)
                os._exit(0)
            os.wait()
            print(len(list(stream)), flush=True)
        """,
    )
    stdout, stderr = program.communicate(timeout=PATIENCE)
    lines = stdout.splitlines()
    assert lines[:2] == ["[(0, 0), (1, 1), (2, 2), (3, 3)]", "4"]
    assert "a fork cannot go on with it" in lines[2]
    assert lines[3] == "3"
    assert "Traceback" not in stderr  # a warning of the program's own fork is Python's


@pytest.mark.parametrize("start_method", START_METHODS)
def test_the_interpreters_ways_are_the_workers(tmp_path, start_method):
    """Workers have the caller's arguments, key and search path, wherever it has gone since."""
    (tmp_path / "beside.py").write_text("answer = 42\n")
    program = start(
        tmp_path,
        f"""
        import multiprocessing
        def look(x):
            import beside
            return sys.argv[1:], bytes(multiprocessing.current_process().authkey), beside.answer
        sys.argv.append("word")
        os.chdir("/")
        multiprocessing.current_process().authkey = b"key"
        print(parallel_apply(look, [1], 1, 1, start_method={start_method!r}))
        """,
    )
    stdout, stderr = program.communicate(timeout=PATIENCE)
    assert (stdout, stderr) == ("[(['word'], b'key', 42)]\n", "")


def test_inside_a_daemonic_process(tmp_path):
    """A daemonic process of multiprocessing gets workers that it may have."""
    program = start(
        tmp_path,
        """
        import multiprocessing
        multiprocessing.set_start_method("fork")
        def run():
            print(parallel_apply(nap, [1, 2], 2, 4, unordered=False), flush=True)
            try:
                parallel_apply(nap, [1], 2, 4, start_method="fork")
            except ValueError as error:
                print(error, flush=True)
        child = multiprocessing.Process(target=run, daemon=True)
        child.start()
        child.join()
        """,
    )
    stdout, stderr = program.communicate(timeout=PATIENCE)
    assert stdout.splitlines()[0] == "[1, 2]"
    assert "use 'spawn'" in stdout.splitlines()[1]
    assert stderr == ""


def test_the_start_method_stays_the_callers_choice(tmp_path):
    """A run does not fix multiprocessing's start method for the whole program."""
    program = start(
        tmp_path,
        """
        import multiprocessing
        parallel_apply(nap, [1], 1, 1)
        multiprocessing.set_start_method("spawn")
        print(multiprocessing.get_start_method())
        """,
    )
    assert program.communicate(timeout=PATIENCE) == ("spawn\n", "")


def test_script_without_a_main_guard(tmp_path):
    """With spawn a script needs no guard, and its own functions and classes work."""
    script = """
from perftricks.parallel import parallel_apply
class Point:
    def __init__(self, x): self.x = x
def double(p): return Point(2 * p.x)
points = parallel_apply(double, map(Point, range(5)), 2, 4, unordered=False, start_method="spawn")
print([p.x for p in points], {type(p) is Point for p in points})
"""
    program = start(tmp_path, "", script=script)
    stdout, stderr = program.communicate(timeout=PATIENCE)
    assert (stdout.strip(), stderr) == ("[0, 2, 4, 6, 8] {True}", "")


def test_forkserver_script_without_a_main_guard_is_told_so(tmp_path):
    """Where a guard is needed, the error says so."""
    script = """
from perftricks.parallel import parallel_apply
parallel_apply(abs, range(5), 2, 4, start_method="forkserver")
"""
    program = start(tmp_path, "", script=script)
    _, stderr = program.communicate(timeout=PATIENCE)
    assert program.returncode == 1
    assert "__main__" in stderr.splitlines()[-1]


def test_signals_reach_programs_that_tasks_start(tmp_path):
    """A program started by a task dies of Ctrl-C as usual: workers do not ignore the signal."""
    program = start(
        tmp_path,
        """
        import subprocess
        def child(x):
            code = "from signal import *; print(getsignal(SIGINT) == default_int_handler)"
            command = [sys.executable, "-c", code]
            return subprocess.run(command, capture_output=True, text=True).stdout
        for method in ("fork", "forkserver", "spawn"):
            print(parallel_apply(child, [1], 1, 1, start_method=method)[0].strip())
        """,
    )
    stdout, _ = program.communicate(timeout=PATIENCE)
    assert stdout.split() == ["True"] * 3


def test_output_of_tasks_is_not_lost(tmp_path):
    """What a task prints appears, once, though its worker ends right after."""
    program = start(
        tmp_path,
        """
        print("before")
        for method in ("fork", "forkserver", "spawn"):
            parallel_apply(lambda x: print("task", method), [1], 1, 1, start_method=method)
        """,
    )
    stdout, _ = program.communicate(timeout=PATIENCE)
    lines = sorted(stdout.split("\n"))
    assert lines == ["", "before", "task fork", "task forkserver", "task spawn"]
