"""What can be run here: ``nox --list``. Each session makes an environment of its own."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from bench import rows
from bench.sessions import (
    for_each,
    group,
    install,
    install_lowest,
    install_row,
    measure,
    pytest,
    run_or_write,
)
from perftricks.compatibility import (
    BACKENDS,
    FREE_THREADED,
    KERAS2,
    KERAS3,
    OLD_PYTHON,
    PYTHONS,
    Row,
)

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "typing", "docs"]
nox.options.error_on_missing_interpreters = False

# Tests start hundreds of programs, which must not compile all that they import each time.
os.environ["UV_COMPILE_BYTECODE"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What is old may call what newer versions of its own dependencies have deprecated.
OLD = ("-W", "ignore::DeprecationWarning")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs nox."""
    run_tests(session, ".".join(platform.python_version_tuple()[:2]))


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """Run the tests on every Python that is supported in full."""
    run_tests(session, str(session.python))


def run_tests(session: nox.Session, python: str) -> None:
    """Run all tests but those of rows."""
    install(session, "test")
    with rows.recorded(session, f"pythons-{python}") as counted:
        # Many tests wait, for a time-out or for another process.
        workers = str(2 * (os.cpu_count() or 2))
        pytest(session, counted, "-n", workers, "--dist", "loadgroup")


@nox.session(python=FREE_THREADED.python, default=False)
def free_threaded(session: nox.Session) -> None:
    """Run the tests of parallel on a Python without the global interpreter lock."""
    row = FREE_THREADED
    session.install("--no-deps", "-e", ".")
    session.install(*row.requirements)
    with rows.recorded(session, row.session, row.packages) as counted:
        without = "--ignore=tests/parallel/test_cluster.py"
        pytest(session, counted, row.tests, without, env=row.env)


@nox.session(default=False)
def dask(session: nox.Session) -> None:
    """Run all that is promised of worker processes on those of a dask cluster."""
    install(session, "test")
    pytest(session, "tests", "-k", "dask or cluster", env={"PERFTRICKS_DASK": "all"})


@nox.session(python=OLD_PYTHON.python, venv_backend="venv")
def py37(session: nox.Session) -> None:
    """Install on Python 3.7: the package imports, and says clearly what needs a newer Python."""
    session.install(".", "pytest<8")
    options = ("-p", "no:cacheprovider", "-c", os.devnull, "-q")
    with rows.recorded(session, OLD_PYTHON.session) as counted:
        session.run("pytest", *options, counted, "tests/old_python")


@nox.session(default=False)
def package(session: nox.Session) -> None:
    """Build what is published, check it, and install it on every Python that is here."""
    session.install("build", "twine")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    for python in PYTHONS:
        session.notify(f"installed-{python}", [])


@nox.session(python=PYTHONS, default=False)
def installed(session: nox.Session) -> None:
    """Install the wheel that ``package`` has built, and count with it."""
    session.install(*map(str, Path("dist").glob("*.whl")))
    corpus = str(Path("docs/samples").absolute())
    with session.chdir(session.create_tmp()):  # where no sources are
        session.run("perftricks", "wordcount", corpus, "--words-only", "--top", "3")
        session.run("python", "-c", "import perftricks.recompute, perftricks.parallel")


@for_each(KERAS3, "keras3")
@for_each(KERAS2, "keras2")
def contract(session: nox.Session, row: Row) -> None:
    """Run the contract of recompute: {row}."""
    with rows.recorded(session, row.session, row.packages) as counted:
        install_row(session, row)
        pytest(session, counted, row.tests, env=row.env)


@nox.session(default=False, venv_backend="none")
def table(session: nox.Session) -> None:
    """Print the compatibility table, as rows last ran here; ``-- --write`` puts it into README."""
    lines = rows.table()
    print("\n".join(lines))
    if "--write" in session.posargs:
        rows.write_table(lines)


@for_each(KERAS3, "peers", reuse_venv=True)
def peers(session: nox.Session, row: Row) -> None:
    """Run Keras' own tests on decorated layers: {row}; -- --sample for some."""
    install_row(session, row)
    session.run("python", "-m", "tests.peers", *session.posargs, env=row.env)


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the tests with the oldest versions of the dependencies that are allowed."""
    install_lowest(session, ".", *group("test"))
    pytest(session, *OLD)


# The oldest of all runs on the Python that runs nox.
@for_each((row._replace(python=None) for row in KERAS3), "minimums_keras3", venv_backend="uv")
def minimums_keras3(session: nox.Session, row: Row) -> None:
    """Run the contract of recompute with the oldest versions allowed, in place of {row}."""
    install_lowest(session, f".[{row.key}]", *group("test"))
    # The zoo wants new Keras.
    pytest(session, *OLD, row.tests, "--ignore=tests/recompute/keras3/test_zoo.py", env=row.env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting; ``nox -s lint -- --fix`` repairs what can be repaired."""
    session.install(*group("lint"))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types, strictly."""
    install(session, "typing")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; any warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "build/docs")


@nox.session(default=False, venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure all that the newest Python can: counting, streams, recompute; list the claims.

    ``-- --full`` measures at full size, ``-- --compare`` compares with the last saved run; other
    arguments go to pytest. PERFTRICKS_CORPUS=FILE adds a corpus of your own.
    """
    for name in ("bench_counting", *(f"bench_recompute({backend})" for backend in BACKENDS)):
        session.notify(name, session.posargs)
    session.notify("bench_claims", [])


@nox.session(default=False)
def bench_counting(session: nox.Session) -> None:
    """Measure word counts and streams."""
    install(session, "bench")
    groups = "--benchmark-group-by=group,param:corpus"
    measure(session, "build/bench.json", "bench", "--ignore=bench/recompute", groups)


@for_each(KERAS3, "bench_recompute", venv_backend="virtualenv")
def bench_recompute(session: nox.Session, row: Row) -> None:
    """Measure recompute: {row}."""
    install(session, "bench", row.key)
    report = f"build/bench-recompute-{row.key}.json"
    measure(session, report, "bench/recompute", "--benchmark-group-by=group", env=row.env)


@for_each(KERAS2, "bench_keras2")
def bench_keras2(session: nox.Session, row: Row) -> None:
    """Measure recompute: {row}."""
    install_row(session, row)
    report = Path(f"build/bench-keras2-{row.key}.json")
    report.parent.mkdir(exist_ok=True)
    program = ("python", "-W", "ignore", "-m", "bench.recompute.keras2", "--row", row.name)
    session.run(*program, "--json", str(report), *session.posargs, env=row.env)


@nox.session(default=False)
def bench_claims(session: nox.Session) -> None:
    """List the claims with what was measured; ``-- --write docs`` fills the pages."""
    install(session, "bench")
    found = sorted(str(path) for path in Path("build").glob("bench*.json"))
    if not found:
        session.error("nothing has been measured here yet: run nox -s bench first")
    session.run("python", "-m", "bench.claims", *found, *session.posargs)


@for_each(KERAS3, "zoo", venv_backend="virtualenv")
def zoo(session: nox.Session, row: Row) -> None:
    """Train other people's models, plainly and recomputed: {row}; resumes."""
    install_row(session, row)
    program = ("python", "-W", "ignore", "-m", "bench.recompute.zoo", "--backend", row.key)
    session.run(*program, "--json", f"build/zoo-{row.key}.json", *session.posargs)


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """Try faults on executors, ours and others; resumes; ``-- --write`` fills docs/faults.md."""
    run_or_write(session, "bench.parallel.conformance", "build/conformance.jsonl")


@nox.session(default=False)
def storm(session: nox.Session) -> None:
    """Run a storm of faults on parallel_apply; resumes; ``-- --write`` fills docs/faults.md."""
    run_or_write(session, "bench.parallel.storm", "build/storm.jsonl")
