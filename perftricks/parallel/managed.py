"""Worker processes that :mod:`multiprocessing` starts: "spawn" and "forkserver"."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import signal
from typing import Any

from perftricks.parallel import worker
from perftricks.parallel.errors import WorkerCrashedError


class ManagedProcess:
    """A worker that :mod:`multiprocessing` starts."""

    def __init__(self, start_method: str, arguments: tuple[Any, ...]) -> None:
        if start_method == "forkserver":
            _start_fork_server()
        context = multiprocessing.get_context(start_method)
        self._process: multiprocessing.process.BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=worker.main_in_process,
            args=arguments,
            name="perftricks",
            daemon=True,  # multiprocessing must not wait for it at exit
        )
        try:
            self._process.start()
        except (ConnectionError, EOFError) as error:  # Python 3.14 asks the server to answer
            raise WorkerCrashedError(
                f"the fork server died while starting a worker ({error}); with 'forkserver' a "
                "script needs `if __name__ == '__main__':`. What it printed may say why."
            ) from error
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._exitcode: int | None = None
        self._closed = False

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.exitcode is not None

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        if self._exitcode is None and not self._closed:
            self._exitcode = self._process.exitcode
        return self._exitcode

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most ``timeout`` seconds."""
        if not self._closed:
            self._process.join(timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if not self._closed:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        if not self._closed:
            self._process.kill()

    def close(self) -> None:
        """Free what is held for a process that has ended."""
        if self.exitcode is not None and not self._closed:
            self._closed = True
            self._process.close()


def _start_fork_server() -> None:
    """Start the fork server with SIGTERM let through: all its children inherit what is blocked."""
    from multiprocessing import forkserver, resource_tracker

    # The server would start its tracker first, and that lets signals through when it is done.
    resource_tracker.ensure_running()
    if hasattr(signal, "pthread_sigmask"):
        # Not SIGINT: the server ignores it, but dies of one that comes before it could say so.
        signal.pthread_sigmask(signal.SIG_BLOCK, worker.HELD_BACK)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, worker.HELD_BACK - {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, worker.HELD_BACK)
