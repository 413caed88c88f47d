"""What the rows of the compatibility table found here, and the table of README; nox uses this."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from perftricks.compatibility import ROWS, Row

if TYPE_CHECKING:
    import nox

RESULTS = Path("build/rows")  # a file for each row that was run
README = Path("README.md")
_BEGIN, _END = "<!-- rows: begin -->\n", "<!-- rows: end -->"


@contextlib.contextmanager
def recorded(session: nox.Session, name: str, packages: tuple[str, ...] = ()) -> Iterator[str]:
    """Run a row; write down how it ended, when, and with which versions.

    A run with arguments of its own may leave tests out, and is not written down.

    Args:
        session: The session that runs the row.
        name: The session's name in the table.
        packages: Whose versions to write down.

    Yields:
        The option that makes pytest leave its counts.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    junit, record = RESULTS / f"{name}.xml", RESULTS / f"{name}.json"
    junit.unlink(missing_ok=True)
    result = "failed"
    try:
        yield f"--junitxml={junit}"
        result = "passed"
    finally:
        found = {
            "result": result,
            "date": datetime.date.today().isoformat(),
            "versions": versions(session, packages),
            "tests": counts(junit),
        }
        # Where environments are only installed, nothing is run, and so nothing counted.
        if not session.posargs and (found["tests"] or result == "failed"):
            record.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def versions(session: nox.Session, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of Python and of packages in a session's environment."""
    program = """
import json, platform, sys
try:
    from importlib.metadata import version
except ImportError:
    from pkg_resources import get_distribution
    version = lambda name: get_distribution(name).version
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except Exception as error:
        found[name] = "not installed"
print(json.dumps(found))
"""
    out = session.run("python", "-W", "ignore", "-c", program, *packages, silent=True, log=False)
    return dict(json.loads(str(out).strip().splitlines()[-1])) if out else {}


def counts(junit: Path) -> dict[str, int]:
    """Return how many tests ran, failed and were skipped; nothing if pytest did not get there."""
    if not junit.exists():
        return {}
    suites = list(xml.etree.ElementTree.parse(junit).iter("testsuite"))
    names = ("tests", "failures", "errors", "skipped")
    return {name: sum(int(suite.get(name, 0)) for suite in suites) for name in names}


def table() -> list[str]:
    """Return the lines of the table, as rows last ran here."""
    return [
        "| row | what runs there | last run | with | checked by |",
        "| --- | --- | --- | --- | --- |",
        *(f'| {row.name} | {row.what} | {found(row)} | `nox -s "{row.session}"` |' for row in ROWS),
    ]


def write_table(lines: list[str]) -> None:
    """Put the table into README.

    Raises:
        ValueError: If there are no markers of where it is.
    """
    before, begin, rest = README.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"expected the markers of the rows in {README}")
    README.write_text("\n".join([before + begin + lines[0], *lines[1:], end + after]), "utf-8")


def found(row: Row) -> str:
    """Return two cells of the table: how a row ended, or why it was not run; and with what."""
    record = RESULTS / f"{row.session}.json"
    if not record.exists():
        if row.python and shutil.which(f"python{row.python}") is None:
            return f"not run: no Python {row.python} here |"
        return "not run |"
    run = json.loads(record.read_text(encoding="utf-8"))
    text = run["result"]
    if tests := run["tests"]:
        failed = tests["failures"] + tests["errors"]
        text += f": {tests['tests'] - failed - tests['skipped']} tests"
        text += f", {failed} failed" if failed else ""
        text += f", {tests['skipped']} skipped" if tests["skipped"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"{text}; {run['date']} | {packages}"
