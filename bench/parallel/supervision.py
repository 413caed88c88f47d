"""A program in a process of its own: ended when it hangs, and what it leaves behind is found.

The program leads a session. Whatever it starts stays in that session, so that it can be found even
when the program is gone, and belongs to nobody else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path

import psutil

_PATIENCE = 5.0  # seconds in which what a program has started may end after it
_BUSY_PATIENCE = 60.0  # the same while it uses a processor
_LOOK_SECONDS = 0.05
_LOOKS = 5  # at shared memory that seems to be left
_SIGN = "PERFTRICKS_BENCH_SIGN"  # the variable that holds what a program's shared memory is called
_BUSY_SECONDS = 0.02  # of processor time: a program that uses more in a while does not hang


@dataclass(frozen=True)
class Ending:
    """How a program ended.

    Attributes:
        status: Its exit status, negative for a signal; None if it hung and was killed.
        left: Processes that were still there some seconds after its end, and did nothing any more;
            they are killed.
        errors: The end of what it wrote to stderr.
    """

    status: int | None
    left: int
    errors: str


def heed_interrupts() -> None:
    """Let the programs that are started have Ctrl-C end them, also where this one must ignore it.

    Shells have it ignored by what they start in the background, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def supervise(
    command: Sequence[str],
    quiet: float,
    *,
    limit: float = 300,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    meddle: Callable[[int], object] | None = None,
) -> Ending:
    """Run a program until it ends or hangs.

    On a machine that is busy with something else a program may take any time, but it goes on.

    Args:
        command: The program and its arguments.
        quiet: Seconds in which it and all that it started use no processor; then it is said to
            hang, and killed.
        limit: Seconds after which it is said to hang in any case.
        env: Environment variables beside those that there are.
        cwd: The folder to run it in.
        meddle: Called with its process id once it is started; may send it signals.
    """
    # A file and no pipe: all that was started may hold it open.
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        ) as program,
    ):
        try:
            if meddle is not None:
                meddle(program.pid)
            status = _wait(program, quiet, limit)
        except BaseException:  # Ctrl-C: the program is in a session of its own, and would go on
            _end(program.pid, 0)
            raise
        if status is None:
            program.kill()
            program.wait()
        left = _end(program.pid, _PATIENCE if status is not None else 0)
        errors.seek(0)
        text = errors.read()[-2000:]
    # Processes that hung with the program are not what it left behind.
    return Ending(status, left if status is not None else 0, text.decode(errors="replace"))


def _wait(program: subprocess.Popen[bytes], quiet: float, limit: float) -> int | None:
    """Return the exit status of a program; None if it hangs."""
    began = busy = time.monotonic()
    used = 0.0
    while True:
        try:
            return program.wait(_LOOK_SECONDS if time.monotonic() - began < 5 else 1)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        if abs((use := _processor_time(program.pid)) - used) > _BUSY_SECONDS:
            used, busy = use, now
        if now - busy > quiet or now - began > limit:
            return None


def _processor_time(session: int) -> float:
    total = 0.0
    for process in members(session):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def members(session: int) -> list[psutil.Process]:
    """List the processes of a session that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def signal_members(session: int, number: signal.Signals, *, group: bool) -> None:
    """Send a signal to a program, or to all the processes of its group."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(session, number)


def _end(session: int, patience: float) -> int:
    """Give a session's processes time to end, kill the others; return how many those were."""
    began = busy = time.monotonic()
    used = 0.0
    while (left := members(session)) and time.monotonic() - busy < patience:
        time.sleep(_LOOK_SECONDS)
        use, now = _processor_time(session), time.monotonic()
        if abs(use - used) > _BUSY_SECONDS and now - began < _BUSY_PATIENCE:
            used, busy = use, now  # on a busy machine a process takes its time to end
    count = len(left)
    while left:
        for process in left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        time.sleep(_LOOK_SECONDS)
        left = members(session)
    return count


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in this Python."""
    return [sys.executable, "-m", module, *arguments]


class Traces:
    """What a program may leave outside of its processes: temporary files, shared memory.

    Other programs' shared memory comes and goes beside it. The program is to call `sign_names`, so
    that its own can be told from theirs.

    Args:
        temporary: The folder that it is given for temporary files, empty.

    Attributes:
        environment: Variables for the program.
    """

    _SHARED = Path("/dev/shm")  # semaphores with a name, too

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._sign = f".{secrets.token_hex(2)}"  # short, as names must be
        self.environment = {"TMPDIR": str(temporary), _SIGN: self._sign}

    def left(self) -> list[str]:
        """Name what is left now."""
        found = [f"temporary file {name}" for name in sorted(os.listdir(self._temporary))]
        for _ in range(_LOOKS):  # a tracker may remove them in its own time
            if not (names := self._names()):
                break
            time.sleep(1)
        return found + [f"shared memory {name}" for name in sorted(names)]

    def _names(self) -> set[str]:
        names = os.listdir(self._SHARED) if self._SHARED.is_dir() else []
        return {name for name in names if self._sign in name}


def sign_names() -> None:
    """Sign what this process names in shared memory, and the semaphores of its children.

    Python draws such names at random. Raises a KeyError where what it keeps for itself has changed.
    """
    sign = os.environ[_SIGN]
    config = vars(multiprocessing.current_process())["_config"]  # children inherit it
    config["semprefix"] = f"{config['semprefix']}-{sign}"
    vars(shared_memory)["_SHM_NAME_PREFIX"] += sign
