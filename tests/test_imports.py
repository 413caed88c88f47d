"""Importing costs nothing that was not asked for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import perftricks

HEAVY = {
    "jax",
    "jieba",
    "keras",
    "numba",
    "numpy",
    "rich",
    "tensorflow",
    "tf_keras",
    "torch",
    "typer",
}


def loaded_by(statement: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import perftricks",
        "import perftricks.parallel",
        "import perftricks.recompute",
        "import perftricks.wordcount",
        "import perftricks.recompute as r; r.apply, r.plan, r.remove, r.status, r.verify, r.Plan",
        "import perftricks; perftricks.parallel.parallel_apply; perftricks.wordcount.count_words",
        "import perftricks.recompute as r; f = r.recompute_grad(lambda x: x); f(1)",
    ],
)
def test_importing_loads_nothing_heavy(statement):
    """No framework, no segmenter and no terminal library is imported before it is used."""
    assert loaded_by(statement) == set()


def test_the_check_can_fail():
    """The check sees a heavy import when there is one."""
    assert loaded_by("import numpy") == {"numpy"}


def test_a_worker_loads_what_it_needs():
    """What only some tasks need is not imported at the start of each worker."""
    code = (
        "import sys; before = {*sys.modules}; import perftricks.parallel.worker; "
        "new = {*sys.modules} - before; "
        "print(*{'cloudpickle', 'dataclasses', 'inspect', 'traceback'} & new)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_loads_neither_framework_nor_segmenter():
    """``perftricks --help`` needs the command line library and nothing else."""
    statement = """
import sys
import perftricks.__main__
sys.argv = ["perftricks", "--help"]
try:
    perftricks.__main__.main()
except SystemExit as done:
    assert not done.code
"""
    assert loaded_by(statement) <= {"rich", "typer"}


PRIVATE = re.compile(
    r"^(keras\.(src|engine|backend|utils)|tf_keras\.src|tensorflow(_core)?\.(python|compiler|core)"
    r"|jax\._src|torch\._\w+)\b|(^|\.)_\w+$"
)


def imports(source: str) -> list[str]:
    """List the modules, and the names of modules, that Python code imports."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            found += [f"{node.module}.{name.name}" for name in node.names]
    return found


def test_private_parts_have_one_home():
    """What frameworks keep for themselves is imported in ``private...`` of each package only."""
    folder = Path(perftricks.recompute.__path__[0])
    homes = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if any(map(PRIVATE.search, imports(path.read_text(encoding="utf-8"))))
    }
    assert homes == {
        "keras2/private.py",
        "keras2/private_graphs.py",
        "keras3/private.py",
        "keras3/private_torch.py",
        "tensorflow_graphs/private.py",
    }


def test_no_circle():
    """No module needs another that needs it, not even for a type or within a function."""
    folder = Path(perftricks.__path__[0])
    paths = {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts): path
        for path in folder.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    needs = {
        module: {
            found if found in modules else found.rpartition(".")[0]
            for found in imports(path.read_text(encoding="utf-8"))
            if found.startswith("perftricks")
        }
        for module, path in modules.items()
    }
    # The package offers its parts, each when it is asked for; they ask it for its version.
    needs["perftricks"] = set()
    assert len(tuple(TopologicalSorter(needs).static_order())) >= len(modules)


def test_planning_is_arithmetic():
    """It imports numpy, what writes files and pictures, the words of policies, and itself."""
    folder = Path(perftricks.recompute.__path__[0]) / "planning"
    allowed = tuple(
        "perftricks." + x
        for x in ("recompute.planning.", "recompute.policies.", "recompute.pictures.", "files.")
    )
    found = {
        name
        for path in folder.glob("*.py")
        for name in imports(path.read_text(encoding="utf-8"))
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith(allowed)
    }
    assert found <= {"numpy"}  # in the solver, where it runs


def test_public_names():
    """The public names are these; a change here is a change of the interface."""
    assert perftricks.__all__ == ["__version__", "parallel", "recompute", "wordcount"]
    assert perftricks.parallel.__all__ == [
        "ClusterError",
        "ItemTimeoutError",
        "ParallelError",
        "RemoteError",
        "UnpicklableError",
        "WorkerCrashedError",
        "available_cores",
        "item_seed",
        "parallel_apply",
        "parallel_apply_generator",
        "parallel_count",
        "worker_state",
    ]
    assert perftricks.recompute.__all__ == [
        "BudgetError",
        "LargestBatch",
        "MaxBatchSize",
        "Pareto",
        "Plan",
        "Profile",
        "Segment",
        "SegmentProfile",
        "Status",
        "Verification",
        "apply",
        "keep",
        "max_batch_size",
        "plan",
        "profile",
        "recompute_grad",
        "recompute_scope",
        "remove",
        "status",
        "verify",
    ]
    for module in (perftricks.parallel, perftricks.recompute, perftricks.wordcount):
        for name in module.__all__:
            assert getattr(module, name).__doc__
    assert set(dir(perftricks)) >= set(perftricks.__all__)


def test_parallel_needs_no_extension_module_but_pythons_own():
    """One that is not made for it would give a free-threaded Python its lock back."""
    code = """
import sys, perftricks.parallel
perftricks.parallel.parallel_apply
for name, module in sorted(sys.modules.items()):
    file = getattr(module, "__file__", None) or ""
    if file.endswith((".so", ".pyd")) and "-packages" in file:
        print(name, file)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


LAZY = ["perftricks", "perftricks.parallel", "perftricks.recompute", "perftricks.wordcount"]


@pytest.mark.parametrize("name", LAZY)
def test_listing_the_names_finds_all_and_loads_nothing_heavy(name):
    """dir(), inspect, a star import and completion know every public name from the first moment."""
    statement = f"""
import importlib, inspect, rlcompleter
module = importlib.import_module({name!r})
public = set(module.__all__)
assert public <= set(dir(module)), public - set(dir(module))
assert public <= {{found for found, _ in inspect.getmembers(module)}}
completer = rlcompleter.Completer({{"module": module}})
offered = []
while (word := completer.complete("module.", len(offered))) is not None:
    offered.append(word)
words = {{word.partition(".")[2].partition("(")[0] for word in offered}}
assert {{found for found in public if not found.startswith("_")}} <= words, words
star = {{}}
exec(f"from {name} import *", star)
assert public <= set(star)
"""
    assert loaded_by(statement) == set()


def test_unknown_names():
    """A misspelt name is an AttributeError as everywhere."""
    with pytest.raises(AttributeError, match="no attribute 'paralel'"):
        perftricks.paralel  # noqa: B018
