"""Telling how far a run has come, without ever being in its way."""

from __future__ import annotations

import contextlib
import operator
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, cast

Progress = bool | Callable[[int], object] | None
Unit = Callable[[int], str]  # a number in words

_REFRESH_SECONDS = 0.1


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


class _DrawingReporter(Reporter):
    """Draws the number of items delivered, now and then, in the caller's thread.

    A thread of its own would be there while workers are forked.
    """

    _unit: Unit

    def __init__(self, total: int | None, unit: Unit) -> None:
        super().__init__()
        self._total = total
        self._unit = unit
        self._delivered = 0
        self._drawn = 0.0
        self._ended = False

    def __enter__(self) -> _DrawingReporter:
        self._begin()
        self.callback(self._end)  # the last word, before the drawing ends
        return self

    def done(self, items: int) -> None:
        self.reach(self._delivered + items, self._total)

    def reach(self, done: int, total: int | None) -> None:
        """Note how many have been delivered, and how many there will be."""
        self._delivered, self._total = done, total
        now = time.monotonic()
        if now - self._drawn >= _REFRESH_SECONDS:
            self._drawn = now
            self._draw()

    def _end(self) -> None:
        self._ended = True
        self._draw()

    def _begin(self) -> None:
        """Draw for the first time."""

    def _draw(self) -> None:
        """Draw what has been delivered."""


class _BarReporter(_DrawingReporter):
    """Shows a progress bar on a terminal."""

    def __init__(self, total: int | None, unit: Unit, terminal: IO[str]) -> None:
        super().__init__(total, unit)
        self._terminal = terminal

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        # Workers that are forked, and whoever reads what this program prints, get the streams as
        # they are: nothing is redirected.
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=Console(file=cast(IO[str], _Forgiving(self._terminal)), force_jupyter=False),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._task = self._bar.add_task("items", total=self._total, shown=self._shown())
        self.enter_context(self._bar)

    def _shown(self) -> str:
        total = "?" if self._total is None else self._unit(self._total)
        return f"{self._unit(self._delivered)}/{total}"

    def _draw(self) -> None:
        self._bar.update(
            self._task, completed=self._delivered, total=self._total, shown=self._shown()
        )
        self._bar.refresh()


class _Forgiving:
    """A stream that may go away meanwhile, as a terminal does that is closed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _NotebookReporter(_DrawingReporter):
    """Shows a progress bar in the output of a notebook's cell.

    That of rich needs ipywidgets, and warns at each refresh where they are not installed.
    """

    def _begin(self) -> None:
        from IPython.display import display

        self._handle = display(self._picture(), raw=True, display_id=True)

    def _draw(self) -> None:
        with contextlib.suppress(Exception):  # whatever the page is doing, the run goes on
            self._handle.update(self._picture(), raw=True)

    def _picture(self) -> dict[str, str]:
        done, total = self._delivered, self._total
        of = self._unit(done) + ("" if total is None else f" of {self._unit(total)}")
        if total is None and self._ended:
            total = done  # else the bar would look busy for ever
        known = "" if total is None else f' value="{done}" max="{total}"'
        return {
            "text/plain": of,
            "text/html": f'<progress style="width: 20em"{known}></progress> {of}',
        }


def reporter(progress: Progress, iterable: Iterable[Any]) -> Reporter:
    """Return the reporter for the ``progress`` argument.

    That is a bar for True, in a notebook or on a terminal; a function is called; False and None
    report nothing, as does True where nobody would see it: stderr is a file or a pipe, is closed,
    or is not there.

    Raises:
        TypeError: If ``progress`` is neither a bool, None nor callable.
    """
    if progress is None or progress is False:
        return Reporter()
    if progress is True:
        return _drawing(_length(iterable), "{:,}".format) or Reporter()
    if not callable(progress):
        raise TypeError(f"progress must be True, False or a function of an int, not {progress!r}")
    return _CallingReporter(progress)


ByteProgress = Callable[[int, int | None], object]


@contextlib.contextmanager
def byte_progress(progress: bool | ByteProgress | None) -> Iterator[ByteProgress | None]:
    """Show a bar over bytes while the block runs, where ``progress`` is True and somebody sees it.

    Args:
        progress: True for a bar, on stderr if that is a terminal or in a notebook; a function is
            left as it is; False and None show nothing.

    Yields:
        A function to call with the bytes done and the bytes there are, None if that is not known;
        or None.

    Raises:
        TypeError: If ``progress`` is neither a bool, None nor callable.
    """
    if progress is None or isinstance(progress, bool):
        drawing = _drawing(None, _size) if progress else None
        if drawing is None:
            yield None
            return
        with drawing:
            yield drawing.reach
        return
    if not callable(progress):
        raise TypeError(f"progress must be True, False or a function of two ints, not {progress!r}")
    yield progress


def _size(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)


def _drawing(total: int | None, unit: Unit) -> _DrawingReporter | None:
    """Return what draws, in a notebook or on a terminal; None where nobody would see it."""
    if _in_notebook():
        return _NotebookReporter(total, unit)
    return _BarReporter(total, unit, sys.stderr) if _is_terminal(sys.stderr) else None


def _length(iterable: Iterable[Any]) -> int | None:
    """Return how many items there will be, as far as the iterable knows."""
    try:
        length = operator.length_hint(iterable, -1)
    except Exception:  # data sets without end raise errors of many kinds
        return None
    return None if length < 0 else length


def _in_notebook() -> bool:
    """Tell whether this is the kernel of a notebook: its shell has one, that of a terminal not."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _is_terminal(stream: IO[str] | None) -> bool:
    """Tell whether somebody watches a stream: not if it is closed, or None as under pythonw."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, OSError, ValueError):
        return False
