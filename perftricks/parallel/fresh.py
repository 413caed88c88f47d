"""A fresh interpreter, which does not import the caller's main module.

``multiprocessing`` would import it, which costs what the script's imports cost and forces ``if
__name__ == "__main__":`` on the user. Functions arrive by value instead.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.process
import os
import pickle
import subprocess
import sys
from multiprocessing import spawn
from typing import Any

from perftricks.parallel import server, worker


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return None


# Entries of sys.path may be relative; they mean this folder, even after a chdir.
_ORIGINAL_FOLDER = _folder()


class ExecProcess:
    """A worker in a fresh interpreter."""

    def __init__(self, entry: worker.Entry, descriptors: list[int]) -> None:
        self._popen = start_interpreter(entry, descriptors)
        self.pid = self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._popen.poll()

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._popen.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._popen.kill()

    def close(self) -> None:
        """Do nothing: nothing is held."""


def start_interpreter(
    entry: worker.Entry | server.Entry, descriptors: list[int], *, serves: bool = False
) -> subprocess.Popen[bytes]:
    """Start another interpreter as ``multiprocessing`` does, except that it imports no main module.

    It is the one that ``multiprocessing.set_executable`` has named; a frozen application is started
    again, and goes on in ``multiprocessing.freeze_support``.
    """
    reading, writing = (server.above_standard(end) for end in os.pipe())
    given = {"pipe_handle": reading}
    tracker = None if serves else resource_tracker()
    if tracker is not None:
        given["tracker_fd"] = tracker
    try:
        if getattr(sys, "frozen", False):
            command = spawn.get_command_line(**given)
        else:
            program = (
                f"import sys; sys.path[:] = {search_path()!r}; "
                f"from multiprocessing.spawn import spawn_main; spawn_main(**{given!r})"
            )
            options = [*interpreter_flags(), "-c", program, "--multiprocessing-fork"]
            command = [os.fsdecode(spawn.get_executable()), *options]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if serves or _is_closed(1) else None,
            stderr=subprocess.DEVNULL if _is_closed(2) else None,
            pass_fds=[*descriptors, *given.values()],
            env={**os.environ, worker.SETTING_UP: "1"},
        )
        os.write(writing, pickle.dumps({"sys_path": search_path()}) + pickle.dumps(entry))
    finally:
        os.close(reading)
        os.close(writing)
    return process


def _is_closed(descriptor: int) -> bool:
    """Whether stdout or stderr is; then its descriptor may be that of any file."""
    if (sys.__stdout__ if descriptor == 1 else sys.__stderr__) is None:
        return True
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def search_path() -> list[str]:
    """Return where modules are looked for, whatever the current folder is now."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return [os.path.join(_ORIGINAL_FOLDER, p) for p in path] if _ORIGINAL_FOLDER else path


def preparation() -> bytes:
    """Pickle what ``multiprocessing`` tells a new interpreter, but for its main module and folder.

    Tools such as coverage put in what they need to follow.
    """
    context: Any = multiprocessing.context._default_context
    before = context._actual_context
    try:
        data = spawn.get_preparation_data("perftricks")
    except OSError:  # the working folder is gone
        data = {"sys_argv": sys.argv}
    finally:
        context._actual_context = before  # it fixes the start method of the whole program
    for name in ("init_main_from_name", "init_main_from_path", "dir", "start_method", "sys_path"):
        data.pop(name, None)
    data["authkey"] = bytes(multiprocessing.process.current_process().authkey)
    return pickle.dumps(data)


def interpreter_flags() -> list[str]:
    """Return the options of this interpreter: -O, -X, -W and their like."""
    from multiprocessing import util

    flags: list[str] = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def standard(number: int) -> int:
    """Return a copy of stdout or stderr, or the null device if it is closed."""
    closed = _is_closed(number)
    return server.above_standard(os.open(os.devnull, os.O_RDWR) if closed else os.dup(number))


def resource_tracker() -> int | None:
    """Return the descriptor of multiprocessing's resource tracker, if it runs.

    A worker with a tracker of its own would remove shared memory that is the caller's.
    """
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)


def surroundings() -> object:
    """What a fresh server has inherited; if it has changed since, another server is started."""
    facts: list[object] = [dict(os.environ), spawn.get_executable(), interpreter_flags()]
    for name in ("limits", "status"):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}") as file:
            lines = file.read().splitlines()
            facts.append([line for line in lines if name == "limits" or line.startswith(_KEPT)])
    return facts


_KEPT = ("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "CapEff", "Cpus_allowed:", "Mems_allowed:")
