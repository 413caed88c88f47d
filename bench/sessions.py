"""What the sessions of noxfile.py are made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nox

from perftricks.compatibility import Row

# What all benchmarks are run with.
BENCH = (
    *("--benchmark-only", "--benchmark-columns=median,min,max,rounds", "--benchmark-sort=mean"),
    *("--benchmark-autosave", "--timeout=3600", "-p", "no:xdist"),
    *("-W", "ignore"),  # of the packages that are compared; the tests are where they are errors
)

RowSession = Callable[[nox.Session, Row], None]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name)


def install(session: nox.Session, *groups: str, also: Iterable[str] = ()) -> None:
    """Install the package, some dependency groups and other requirements."""
    requirements = [requirement for name in groups for requirement in group(name)]
    session.install("-e", ".", *requirements, *also)


def install_row(session: nox.Session, row: Row) -> None:
    """Install the package and what a row asks for."""
    install(session, *row.groups, also=row.requirements)
    if row.bare:
        session.install("--no-deps", *row.bare)


def install_lowest(session: nox.Session, package: str, *requirements: str) -> None:
    """Install the package and requirements, each in the oldest version that it is allowed in."""
    if shutil.which("uv") is None:
        session.error("this session needs uv to resolve the lowest versions: pip install uv")
    session.install("-e", package, *requirements, "--resolution", "lowest-direct")


def pytest(session: nox.Session, *arguments: str, env: Any = None) -> None:
    """Run pytest on all cores."""
    session.run("pytest", "-n", "auto", *arguments, *session.posargs, env=env)


def for_each(rows: Iterable[Row], kind: str, **options: Any) -> Callable[[RowSession], RowSession]:
    """Make a session of a function for each row; ``{row}`` in its docstring is the row's name."""

    def decorate(function: RowSession) -> RowSession:
        for row in rows:
            make_session(function, row, f"{kind}({row.key})", options)
        return function

    return decorate


def make_session(function: RowSession, row: Row, name: str, options: dict[str, Any]) -> None:
    """Make one session of a row."""

    def run(session: nox.Session) -> None:
        function(session, row)

    run.__doc__ = (function.__doc__ or "").format(row=row.name)
    # pip and not uv, which looks past a CPU build of torch that pip.conf or PIP_CONSTRAINT point
    # to; venv and not virtualenv, of which only old versions make environments of Python 3.7.
    usual = {"venv_backend": "virtualenv" if row.python is None else "venv", "default": False}
    nox.session(name=name, python=row.python, **{**usual, **options})(run)


def measure(session: nox.Session, report: str, *arguments: str, env: Any = None) -> None:
    """Run pytest on benchmarks; if arguments select none of them, that is no failure."""
    Path(report).parent.mkdir(exist_ok=True)
    # --compare is short for what pytest-benchmark calls it.
    more = [
        argument.replace("--compare", "--benchmark-compare", 1)
        if argument.partition("=")[0] == "--compare"
        else argument
        for argument in session.posargs
    ]
    command = ("pytest", *arguments, f"--benchmark-json={report}", *BENCH, *more)
    session.run(*command, env=env, success_codes=[0, 5] if more else [0])


def run_or_write(session: nox.Session, module: str, results: str) -> None:
    """Run a program that appends to a file, or have it write what the file has into the page."""
    install(session, "bench")
    if session.posargs == ["--write"]:
        session.run("python", "-m", module, "--write", "docs/faults.md", results)
    else:
        session.run("python", "-m", module, "--json", results, *session.posargs)
