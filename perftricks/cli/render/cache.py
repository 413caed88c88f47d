"""What ``perftricks cache`` shows."""

from __future__ import annotations

from rich.filesize import decimal

from perftricks.cli.render.terminal import print_line, show_table
from perftricks.wordcount.storage.cachefiles import CacheReport
from perftricks.wordcount.table.printable import printable

_WHAT = {
    "kernels": "machine code of the kernel",
    "tables": "tables of dictionaries",
    "aliases": "which tables belong to which dictionary",
    "locks": "so that each is built once",
    "leftovers": "unfinished files of programs that were killed",
}


def show(report: CacheReport) -> None:
    """Print what is in the cache."""
    if report.folder is None:
        print_line("no cache: no folder can be written that nobody else can write to")
        _show_passed_over(report)
        return
    print_line(("folder  ", "bold"), printable(str(report.folder)))
    limit = decimal(report.limit)
    print_line(("limit   ", "bold"), f"{limit}, beyond which what was not used for longest goes")
    if report.total_files:
        print_line()
        _show_files(report)
        print_line()
        print_line("'perftricks cache clear' removes them; they are built again when needed")
    else:
        print_line("empty: it is filled when a corpus is first counted by the compiled method")
    _show_strangers(report)
    _show_passed_over(report)


def show_cleared(report: CacheReport) -> None:
    """Print what was removed and what was left."""
    if report.total_files:
        files = "1 file" if report.total_files == 1 else f"{report.total_files:,} files"
        where = printable(str(report.folder))
        print_line(f"removed {files}, {decimal(report.total_bytes)}, from {where}")
        print_line()
        _show_files(report)
    elif report.folder is None or not (report.in_use or report.failed):
        where = "any folder" if report.folder is None else printable(str(report.folder))
        print_line(f"nothing to remove in {where}")
    for name in report.in_use:
        print_line(f"left {name}: it is being built at this moment")
    _show_strangers(report)


def _show_files(report: CacheReport) -> None:
    rows = [
        [kind, _WHAT[kind], f"{report.files[kind]:,}", decimal(report.sizes[kind])]
        for kind in _WHAT
        if report.files[kind]
    ]
    rows.append(["all", "", f"{report.total_files:,}", decimal(report.total_bytes)])
    show_table(["", "what it is", "files", "size"], rows, text_columns=2)


def _show_strangers(report: CacheReport) -> None:
    if report.strangers:
        names = ", ".join(map(repr, report.strangers[:3]))
        more = f" and {len(report.strangers) - 3} more" if len(report.strangers) > 3 else ""
        print_line(f"not of the cache, and left alone: {names}{more}")


def _show_passed_over(report: CacheReport) -> None:
    for folder, reason in report.passed_over.items():
        print_line(f"not used: {folder!r}: {reason}")
