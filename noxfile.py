"""What can be run here: ``nox --list``. Each session makes an environment of its own."""

from __future__ import annotations

import os
import shutil

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "typing", "docs"]
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, name)


def install(session: nox.Session, *groups: str) -> None:
    """Install the package and some dependency groups."""
    session.install("-e", ".", *[requirement for name in groups for requirement in group(name)])


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs nox."""
    install(session, "test")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(python=PYTHONS)
def pythons(session: nox.Session) -> None:
    """Run the tests on every Python that is supported in full."""
    install(session, "test")
    session.run("pytest", "-n", "auto", *session.posargs)


# pip and not uv, which looks past a CPU build of torch that pip.conf or PIP_CONSTRAINT point to.
@nox.session(default=False, venv_backend="virtualenv")
@nox.parametrize("backend", [nox.param(name, id=name) for name in ("tensorflow", "jax", "torch")])
def keras3(session: nox.Session, backend: str) -> None:
    """Run the contract of recompute on the newest Keras 3 with one backend, on the CPU."""
    install(session, backend)
    env = {"KERAS_BACKEND": backend}
    session.run("pytest", "-n", "auto", "tests/recompute", *session.posargs, env=env)


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the tests with the oldest versions of the dependencies that are allowed."""
    if shutil.which("uv") is None:
        session.error("this session needs uv to resolve the lowest versions: pip install uv")
    session.install("-e", ".", *group("test"), "--resolution", "lowest-direct")
    session.run("pytest", "-n", "auto", *session.posargs)


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


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; PERFTRICKS_CORPUS=FILE adds a corpus of your own."""
    install(session, "bench")
    session.run(
        "pytest",
        "bench",
        "--benchmark-only",
        "--benchmark-columns=median,min,max,rounds",
        "--benchmark-sort=mean",
        "--benchmark-group-by=group,param:corpus",
        "--timeout=1800",
        "-W",
        "ignore",  # of the packages that are compared; the tests are where warnings are errors
        "-p",
        "no:xdist",
        *session.posargs,
    )


@nox.session(python="3.7", venv_backend="venv")
def py37(session: nox.Session) -> None:
    """Install on Python 3.7: the package imports, and says clearly what needs a newer Python."""
    session.install(".", "pytest<8")
    session.run("pytest", "-p", "no:cacheprovider", "-c", os.devnull, "tests/old_python", "-q")
