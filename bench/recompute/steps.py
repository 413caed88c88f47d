"""A process that trains one step each time it is asked to. Runs on Python 3.7.

The process writes a line of JSON when it is ready, when it has trained a step for a line ``step``
on its stdin, and with its figures for a line ``figures``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import threading
import time
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T", bound="StepProcess")


class TrainingError(Exception):
    """The process of a case failed; the message is the end of what it wrote."""


class StepProcess:
    """Trains in a process; ``with StepProcess(...) as process`` starts and ends it.

    Args:
        command: The program and its arguments.
        env: Its environment.
        patience: Seconds that any answer may take.

    Attributes:
        losses: Of each step so far.
        seconds: That each step took, from outside.
    """

    def __init__(self, command: list[str], env: dict[str, str], patience: float = 3600) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._command = command
        self._env = env
        self._patience = patience
        self._hangs = False

    def __enter__(self: T) -> T:
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            universal_newlines=True,
            env=self._env,
        )
        try:
            self._answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def step(self) -> None:
        """Train a step."""
        began = time.perf_counter()
        self._ask("step")
        self.losses.append(self._answer()["loss"])
        self.seconds.append(time.perf_counter() - began)

    def figures(self) -> dict[str, Any]:
        """Return what the process has measured, and the median time of a step."""
        self._ask("figures")
        return dict(self._answer(), median_step_seconds=statistics.median(self.seconds))

    def _ask(self, what: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(self._patience, self._stop)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            self._fail()
        return dict(json.loads(line))

    def _stop(self) -> None:
        self._hangs = True
        self._process.kill()

    def _fail(self) -> None:
        status = self._process.wait()
        if self._hangs:
            raise TrainingError(f"hangs, was stopped after {self._patience:g} s")
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace")
        raise TrainingError(f"exit status {status}: {text[-2000:]}")
