"""Telling how far a run has come."""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

Progress = bool | Callable[[int], object] | None


class Reporter(contextlib.ExitStack):
    """Reports the number of items delivered while it is open; this one to nobody."""

    def done(self, items: int) -> None:
        """Note that ``items`` more have been delivered."""


class _CallingReporter(Reporter):
    """Calls a function with the number of items delivered so far."""

    def __init__(self, function: Callable[[int], object]) -> None:
        super().__init__()
        self._function = function
        self._delivered = 0

    def done(self, items: int) -> None:
        self._delivered += items
        self._function(self._delivered)


class _BarReporter(Reporter):
    """Shows a progress bar on stderr."""

    def __init__(self, total: int | None) -> None:
        super().__init__()
        self._total = total
        self._advance: Callable[[int], object] = lambda items: None

    def __enter__(self) -> _BarReporter:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self.enter_context(bar)
        task = bar.add_task("items", total=self._total)
        self._advance = lambda items: bar.advance(task, items)
        return self

    def done(self, items: int) -> None:
        self._advance(items)


def reporter(progress: Progress, iterable: Iterable[Any]) -> Reporter:
    """Return the reporter for the ``progress`` argument: off, a bar on a terminal, or a function.

    Raises:
        TypeError: If ``progress`` is neither a bool, None nor callable.
    """
    if progress is None or progress is False:
        return Reporter()
    if progress is True:
        total = operator.length_hint(iterable, -1)
        return _BarReporter(None if total < 0 else total) if sys.stderr.isatty() else Reporter()
    if not callable(progress):
        raise TypeError(f"progress must be True, False or a function of an int, not {progress!r}")
    return _CallingReporter(progress)
