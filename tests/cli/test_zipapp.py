"""The package runs from a zip file, as ``python -m zipapp`` makes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipapp
from importlib import resources

import pytest

from tests.conftest import PATIENCE

MAIN = """
from perftricks.__main__ import main

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Make the zip file."""
    folder = tmp_path_factory.mktemp("zipapp")
    sources = folder / "sources"
    shutil.copytree(
        str(resources.files("perftricks")),
        sources / "perftricks",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (sources / "__main__.py").write_text(MAIN)
    zipapp.create_archive(sources, folder / "perftricks.pyz")
    return folder / "perftricks.pyz"


def run(archive, *arguments):
    """Run the command from the zip file, in a process that finds the package nowhere else."""
    hidden = f"import sys, runpy; sys.path.insert(0, {str(archive)!r}); sys.argv = sys.argv[1:]"
    program = f"{hidden}; runpy.run_path({str(archive)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, "perftricks", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=archive.parent,
        check=False,
    )


@pytest.mark.parametrize("method", ["compiled", "parallel"])
def test_counting(archive, tmp_path, method):
    """Words are counted, on threads and on worker processes, and a report is written."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("我来到北京清华大学\n", encoding="utf-8")
    result = run(
        *(archive, "wordcount", corpus, "--method", method, "-w", 2, "-o", tmp_path / "t.tsv"),
        *("--stop-words", "zh", "--report", tmp_path / "report.html"),
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "t.tsv").read_text(encoding="utf-8").splitlines()[1:] == [
        "北京\t1",
        "来到\t1",
        "清华大学\t1",
    ]
    assert "清华大学" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_where_it_is_found(archive):
    """It is the zip file that is run."""
    program = "import perftricks; print(perftricks.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(archive)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(archive) in result.stdout
