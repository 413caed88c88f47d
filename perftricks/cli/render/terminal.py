"""Lines and tables, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_BAR_ROOM = 50  # columns of a terminal from which on there is room for bars


def print_line(*parts: str | tuple[str, str]) -> None:
    """Print text, or texts with a style each, on one line however long it is."""
    if sys.stdout.isatty():
        Console(highlight=False).print(Text.assemble(*parts), soft_wrap=True)
    else:
        print("".join(part if isinstance(part, str) else part[0] for part in parts))


def print_facts(facts: Mapping[str, str], *, width: int = 0) -> None:
    """Print a line for each fact: its name, and what it is.

    Args:
        facts: Name -> text.
        width: Columns for the names; at least what the longest takes.
    """
    width = max([width, *map(cell_len, facts)])
    for name, value in facts.items():
        print_line((name + " " * (width - cell_len(name)), "bold"), " ", value)


def show_table(
    header: list[str],
    rows: list[list[str]],
    *,
    bars: list[int] | None = None,
    text_columns: int = 1,
) -> None:
    """Print a table of columns of text, then columns of numbers.

    Args:
        header: The names of the columns.
        rows: What to print in them.
        bars: A number for each row, drawn as a bar after it on a terminal, the first the largest.
        text_columns: How many columns are text, and begin at the left.
    """
    if not sys.stdout.isatty():
        _print_plain([header, *rows], text_columns)
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(header[0], no_wrap=True, overflow="ellipsis")
    for number, name in enumerate(header[1:], 1):
        table.add_column(name, justify="left" if number < text_columns else "right", no_wrap=True)
    if bars is None or console.width < _BAR_ROOM or not console.encoding.startswith("utf"):
        bars = None
    else:
        table.expand = True
        table.columns[0].max_width = console.width // 3
        table.add_column("", ratio=1)
    for number, row in enumerate(rows):
        cells: list[RenderableType] = [Text(cell) for cell in row]
        if bars is not None:
            cells.append(Bar(bars[0], 0, bars[number], color="cyan"))
        table.add_row(*cells)
    console.print(table)


def _print_plain(rows: list[list[str]], text_columns: int) -> None:
    """Print aligned columns, row by row: someone may stop reading after a few of millions."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell + " " * (width - cell_len(cell)) if number < text_columns else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


class Steps(NamedTuple):
    """How a command of many steps says where it is.

    Attributes:
        begin: Called with what is being done.
        note: Called with what has come out, which stays on the screen.
    """

    begin: Callable[[str], object]
    note: Callable[[str], object]


@contextlib.contextmanager
def steps() -> Iterator[Steps]:
    """Say on stderr what is being done: in one place on a terminal, else on a line each."""
    if not sys.stderr.isatty():

        def line(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        yield Steps(line, line)
        return
    with Console(stderr=True, highlight=False).status("starting") as status:
        yield Steps(
            lambda text: status.update(Text(text)), lambda text: status.console.print(Text(text))
        )


@contextlib.contextmanager
def announcer(*, hidden: bool = False) -> Iterator[Callable[[str], object] | None]:
    """Say on stderr what is being done, if that is a terminal.

    Args:
        hidden: Say nothing.

    Yields:
        A function to call with what is being done; None when there is no terminal to say it on.
    """
    if hidden or not sys.stderr.isatty():
        yield None
        return
    clear = "\r\x1b[K"
    try:
        yield lambda what: print(f"{clear}{what} ...", end="", file=sys.stderr, flush=True)
    finally:
        print(clear, end="", file=sys.stderr, flush=True)
