"""What can be run here: ``nox --list``. Each session makes an environment of its own."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "typing", "docs"]
nox.options.error_on_missing_interpreters = False

# Tests start hundreds of programs, which must not compile all that they import each time.
os.environ["UV_COMPILE_BYTECODE"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


RESULTS = Path("build/rows")  # what each row of the compatibility table found, for session table


class Row(NamedTuple):
    """A row of the compatibility table of README: what is checked, in which session, and how.

    Attributes:
        session: What ``nox -s`` takes.
        name: What the table calls it.
        what: What of perftricks runs there.
        python: The Python that is needed; None for the one that runs nox.
        requirements: What is installed beside perftricks.
        bare: What is installed without what it depends on.
        env: Environment variables; they say to the tests which Keras is meant.
        packages: Whose versions the table shows.
        tests: What pytest runs.
    """

    session: str
    name: str
    what: str
    python: str | None = None
    requirements: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    env: dict[str, str] = {}  # noqa: RUF012  # never changed
    packages: tuple[str, ...] = ()
    tests: str = "tests"


def keras2_row(
    key: str,
    tensorflow: str,
    keras: str,
    python: str = "3.7",
    *extra: str,
    name: str = "",
    **env: str,
) -> Row:
    """Return a row of Keras 2: ``keras`` 2.3.1, ``tf.keras`` or ``tf_keras``."""
    requirements = (tensorflow, "pytest-timeout", "pytest-xdist", *extra)
    packages = (tensorflow.partition("=")[0],)
    if python == "3.7":
        requirements += ("pytest<8", "h5py<3", "protobuf<3.21")
    if keras == "keras":
        requirements += ("keras==2.3.1",)
    if keras != "tf.keras":
        packages += (keras,)
        requirements += () if keras == "keras" else (keras,)
    own = {"keras": "keras 2.3.1", "tf.keras": "its own tf.keras", "tf_keras": "tf_keras"}[keras]
    return Row(
        session=f"keras2({key})",
        name=f"{name or 'TensorFlow ' + key.partition('-')[0][2:]}, {own}",
        what="`recompute`" + (", bert4keras" if "bert4keras==0.11.5" in extra else ""),
        python=python,
        requirements=requirements,
        env={"PERFTRICKS_KERAS": keras, "KERAS_BACKEND": "tensorflow", **env},
        packages=packages,
        tests="tests/recompute/keras2",
    )


def keras3_row(backend: str, name: str, package: str, python: str | None = None) -> Row:
    """Return a row of Keras 3; the requirements are a dependency group of pyproject.toml."""
    return Row(
        session=f"keras3({backend})",
        name=f"{name}, newest Keras 3",
        what="`recompute`",
        python=python,
        requirements=(*nox.project.dependency_groups(PYPROJECT, backend), *KERAS_HUB_NEEDS),
        bare=("keras-hub",),
        env={"KERAS_BACKEND": backend},
        packages=(package, "keras", "keras-hub"),
        tests="tests/recompute",
    )


BACKENDS = ("tensorflow", "jax", "torch")
BERT = "bert4keras==0.11.5"
# All that the models of keras-hub need beside Keras. It asks for tensorflow-text as well, and so
# for another build of TensorFlow, on JAX and torch too.
KERAS_HUB_NEEDS = ("regex", "tokenizers")
KERAS3 = [
    keras3_row("tensorflow", "newest TensorFlow", "tensorflow-cpu"),
    keras3_row("jax", "newest JAX", "jax", "3.13"),  # newer than any for Python 3.11
    keras3_row("torch", "newest torch", "torch"),
]
KERAS2 = [
    keras2_row("tf1.14-keras", "tensorflow==1.14.0", "keras"),
    keras2_row("tf1.15-keras", "tensorflow==1.15.5", "keras", "3.7", BERT),
    keras2_row("tf1.15-tf.keras", "tensorflow==1.15.5", "tf.keras"),
    keras2_row("tf2.0-keras", "tensorflow==2.0.4", "keras"),
    keras2_row("tf2.0-tf.keras", "tensorflow==2.0.4", "tf.keras"),
    keras2_row("tf2.1-keras", "tensorflow==2.1.4", "keras", "3.7", BERT),
    keras2_row("tf2.1-tf.keras", "tensorflow==2.1.4", "tf.keras"),
    keras2_row("tf2.15-tf.keras", "tensorflow-cpu==2.15.1", "tf.keras", "3.11", "pytest>=8"),
    keras2_row(
        "tf_keras", "tensorflow-cpu", "tf_keras", "3.11", "pytest>=8", name="newest TensorFlow"
    ),
    keras2_row(
        "tf_keras-graph",
        "tensorflow-cpu",
        "tf_keras",
        "3.11",
        "pytest>=8",
        name="newest TensorFlow, v1 graphs",
        PERFTRICKS_GRAPH="1",
    ),
]
ROWS = [
    *(Row(f"pythons-{python}", f"Python {python}", "everything", python) for python in PYTHONS),
    Row("free_threaded", "Python 3.14, free-threaded", "`parallel`", "3.14t"),
    Row("py37", "Python 3.7", "installs; what needs 3.10 says so", "3.7"),
    *KERAS3,
    *KERAS2,
]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, name)


def install(session: nox.Session, *groups: str) -> None:
    """Install the package and some dependency groups."""
    session.install("-e", ".", *[requirement for name in groups for requirement in group(name)])


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


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs nox."""
    install(session, "test")
    with recorded(session, f"pythons-{'.'.join(platform.python_version_tuple()[:2])}") as counted:
        session.run("pytest", "-n", "auto", counted, *session.posargs)


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """Run the tests on every Python that is supported in full."""
    install(session, "test")
    with recorded(session, f"pythons-{session.python}") as counted:
        session.run("pytest", "-n", "auto", counted, *session.posargs)


# All that perftricks.parallel and its tests need: not every other dependency is built for it.
FREE_THREADED = (
    *("cloudpickle", "numpy", "psutil", "rich"),
    *("pytest", "pytest-timeout", "pytest-xdist"),
)


@nox.session(python="3.14t", default=False)
def free_threaded(session: nox.Session) -> None:
    """Run the tests of parallel on a Python without the global interpreter lock."""
    session.install("--no-deps", "-e", ".")
    session.install(*FREE_THREADED)
    tests = ("tests/parallel", "--ignore=tests/parallel/test_dask.py")
    with recorded(session, "free_threaded", ("numpy",)) as counted:
        run = ("pytest", "-n", "auto", counted, *tests, *session.posargs)
        session.run(*run, env={"PYTHON_GIL": "0"})  # no module may switch it on again


def row_session(row: Row) -> None:
    """Make the session of a row: the contract of recompute on one Keras, on the CPU."""

    # pip and not uv, which looks past a CPU build of torch that pip.conf or PIP_CONSTRAINT point
    # to; venv and not virtualenv, of which only old versions make environments of Python 3.7.
    @nox.session(
        name=row.session,
        python=row.python,
        venv_backend="virtualenv" if row.python is None else "venv",
        default=False,
    )
    def run(session: nox.Session) -> None:
        with recorded(session, row.session, row.packages) as counted:
            session.install("-e", ".", *row.requirements)
            if row.bare:
                session.install("--no-deps", *row.bare)
            session.run("pytest", "-n", "auto", counted, row.tests, *session.posargs, env=row.env)

    run.__doc__ = f"Run the contract of recompute: {row.name}."


for row in [*KERAS3, *KERAS2]:
    row_session(row)


@nox.session(default=False, venv_backend="none")
def table(session: nox.Session) -> None:
    """Print the compatibility table, as rows last ran here; ``-- --write`` puts it into README."""
    lines = [
        "| row | what runs there | last run | with | checked by |",
        "| --- | --- | --- | --- | --- |",
        *(f'| {row.name} | {row.what} | {found(row)} | `nox -s "{row.session}"` |' for row in ROWS),
    ]
    print("\n".join(lines))
    if "--write" in session.posargs:
        readme = Path("README.md")
        before, begin, rest = readme.read_text(encoding="utf-8").partition("<!-- rows: begin -->\n")
        _, end, after = rest.partition("<!-- rows: end -->")
        if not (begin and end):
            session.error(f"expected the markers of the rows in {readme}")
        page = "\n".join([before + begin + lines[0], *lines[1:], end + after])
        readme.write_text(page, encoding="utf-8")


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


def peers_session(row: Row, backend: str) -> None:
    """Make the session that runs Keras' own tests, with what its row installs."""

    @nox.session(
        name=f"peers({backend})",
        python=row.python,
        venv_backend="virtualenv" if row.python is None else "venv",
        reuse_venv=True,
        default=False,
    )
    def run(session: nox.Session) -> None:
        session.install("-e", ".", *row.requirements)
        session.run("python", "-m", "tests.peers", *session.posargs, env=row.env)

    run.__doc__ = f"Run Keras' own tests on decorated layers on {backend}; -- --sample for some."


for row, backend in zip(KERAS3, BACKENDS, strict=True):
    peers_session(row, backend)


# What is old may call what newer versions of its own dependencies have deprecated.
OLD = ("-W", "ignore::DeprecationWarning")


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the tests with the oldest versions of the dependencies that are allowed."""
    install_lowest(session, ".", *group("test"))
    session.run("pytest", "-n", "auto", *OLD, *session.posargs)


def install_lowest(session: nox.Session, package: str, *requirements: str) -> None:
    """Install the package and requirements, each in the oldest version that it is allowed in."""
    if shutil.which("uv") is None:
        session.error("this session needs uv to resolve the lowest versions: pip install uv")
    session.install("-e", package, *requirements, "--resolution", "lowest-direct")


def keras3_minimums_session(row: Row, backend: str) -> None:
    """Make the session that runs a row of Keras 3 with the oldest versions that are allowed."""

    @nox.session(name=f"minimums_keras3({backend})", default=False)
    def run(session: nox.Session) -> None:
        install_lowest(session, f".[{backend}]", *group("test"))
        tests = [row.tests, "--ignore=tests/recompute/keras3/test_zoo.py"]  # wants new Keras
        session.run("pytest", "-n", "auto", *OLD, *tests, *session.posargs, env=row.env)

    run.__doc__ = f"Run the contract of recompute with the oldest Keras 3 and {backend} allowed."


for row, backend in zip(KERAS3, BACKENDS, strict=True):
    keras3_minimums_session(row, backend)


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


# What all benchmarks are run with.
BENCH = [
    "--benchmark-only",
    "--benchmark-columns=median,min,max,rounds",
    "--benchmark-sort=mean",
    "--benchmark-autosave",
    "--timeout=3600",
    "-W",
    "ignore",  # of the packages that are compared; the tests are where warnings are errors
    "-p",
    "no:xdist",
]


def bench_arguments(session: nox.Session) -> list[str]:
    """Return the arguments given, with ``--compare`` for what pytest-benchmark calls it."""
    return [
        argument.replace("--compare", "--benchmark-compare", 1)
        if argument.partition("=")[0] == "--compare"
        else argument
        for argument in session.posargs
    ]


@nox.session(default=False, venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure all that the newest Python can: counting, streams, recompute; list the claims.

    ``-- --full`` measures at full size, ``-- --compare`` compares with the last saved run; other
    arguments go to pytest. PERFTRICKS_CORPUS=FILE adds a corpus of your own.
    """
    for name in ("bench_counting", *(f"bench_recompute({backend})" for backend in BACKENDS)):
        session.notify(name, session.posargs)
    session.notify("bench_claims", [])


def run_benchmarks(session: nox.Session, report: str, *arguments: str, **env: str) -> None:
    """Run pytest on benchmarks; if arguments select none of them, that is no failure."""
    Path(report).parent.mkdir(exist_ok=True)
    more = bench_arguments(session)
    session.run(
        *("pytest", *arguments, f"--benchmark-json={report}", *BENCH, *more),
        env=env,
        success_codes=[0, 5] if more else [0],
    )


@nox.session(default=False)
def bench_counting(session: nox.Session) -> None:
    """Measure word counts and streams."""
    install(session, "bench")
    groups = "--benchmark-group-by=group,param:corpus"
    run_benchmarks(session, "build/bench.json", "bench", "--ignore=bench/recompute", groups)


def keras3_bench_session(row: Row, backend: str) -> None:
    """Make the session that measures recompute on a backend of Keras 3."""

    @nox.session(
        name=f"bench_recompute({backend})",
        python=row.python,
        venv_backend="virtualenv",
        default=False,
    )
    def run(session: nox.Session) -> None:
        install(session, "bench", backend)
        report = f"build/bench-recompute-{backend}.json"
        arguments = ("bench/recompute", "--benchmark-group-by=group")
        run_benchmarks(session, report, *arguments, KERAS_BACKEND=backend)

    run.__doc__ = f"Measure recompute on {backend}."


for row, backend in zip(KERAS3, BACKENDS, strict=True):
    keras3_bench_session(row, backend)


def zoo_session(row: Row, backend: str) -> None:
    """Make the session that trains the zoo on a backend of Keras 3."""

    @nox.session(
        name=f"zoo({backend})", python=row.python, venv_backend="virtualenv", default=False
    )
    def run(session: nox.Session) -> None:
        session.install("-e", ".", *row.requirements)
        session.install("--no-deps", *row.bare)
        report = f"build/zoo-{backend}.json"
        program = ("python", "-W", "ignore", "-m", "bench.recompute.zoo", "--backend", backend)
        session.run(*program, "--json", report, *session.posargs)

    run.__doc__ = f"Train other people's models, plainly and recomputed, on {backend}; resumes."


for row, backend in zip(KERAS3, BACKENDS, strict=True):
    zoo_session(row, backend)


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """Try faults on executors, ours and others; resumes; ``-- --write`` fills docs/faults.md."""
    install(session, "bench")
    run_or_write(session, "bench.parallel.conformance", "build/conformance.jsonl")


@nox.session(default=False)
def storm(session: nox.Session) -> None:
    """Run a storm of faults on parallel_apply; resumes; ``-- --write`` fills docs/faults.md."""
    install(session, "bench")
    run_or_write(session, "bench.parallel.storm", "build/storm.jsonl")


def run_or_write(session: nox.Session, module: str, results: str) -> None:
    """Run a program that appends to a file, or have it write what the file has into the page."""
    if session.posargs == ["--write"]:
        session.run("python", "-m", module, "--write", "docs/faults.md", results)
    else:
        session.run("python", "-m", module, "--json", results, *session.posargs)


def keras2_bench_session(row: Row) -> None:
    """Make the session that measures recompute on a row of Keras 2."""
    key = row.session.partition("(")[2].rstrip(")")

    @nox.session(name=f"bench_keras2({key})", python=row.python, venv_backend="venv", default=False)
    def run(session: nox.Session) -> None:
        session.install("-e", ".", *row.requirements)
        program = ("python", "-W", "ignore", "-m", "bench.recompute.keras2", "--row", row.name)
        report = f"build/bench-keras2-{key}.json"
        Path(report).parent.mkdir(exist_ok=True)
        session.run(*program, "--json", report, *session.posargs, env=row.env)

    run.__doc__ = f"Measure recompute: {row.name}."


for row in KERAS2:
    keras2_bench_session(row)


@nox.session(default=False)
def bench_claims(session: nox.Session) -> None:
    """List the claims with what was measured; ``-- --write docs`` fills the pages."""
    install(session, "bench")
    found = sorted(str(path) for path in Path("build").glob("bench*.json"))
    if not found:
        session.error("nothing has been measured here yet: run nox -s bench first")
    session.run("python", "-m", "bench.claims", *found, *session.posargs)


@nox.session(python="3.7", venv_backend="venv")
def py37(session: nox.Session) -> None:
    """Install on Python 3.7: the package imports, and says clearly what needs a newer Python."""
    session.install(".", "pytest<8")
    options = ("-p", "no:cacheprovider", "-c", os.devnull, "-q")
    with recorded(session, "py37") as counted:
        session.run("pytest", *options, counted, "tests/old_python")
