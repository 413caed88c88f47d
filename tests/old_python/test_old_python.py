"""What holds on every Python from 3.7 on; run there by ``nox -s py37``."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import perftricks

OLD = sys.version_info < (3, 10)


def test_the_package_imports():
    """The package installs and imports."""
    assert perftricks.__version__.count(".") == 2


@pytest.mark.parametrize("name", ["parallel", "wordcount"])
def test_newer_parts_say_what_they_need(name):
    """On an old Python the parts that need a newer one say so; elsewhere they load."""
    if OLD:
        with pytest.raises(ImportError, match="perftricks.%s needs Python 3.10 or newer" % name):
            getattr(perftricks, name)
    else:
        assert getattr(perftricks, name).__name__ == "perftricks." + name


def test_recompute_is_for_every_python():
    """The decorator works on every Python; while it is off, and without a framework."""
    assert perftricks.recompute.recompute_grad(abs)(-1) == 1
    with perftricks.recompute.recompute_scope(False):
        assert perftricks.recompute.recompute_grad()(abs)(-1) == 1
    with pytest.raises(TypeError):
        perftricks.recompute.recompute_grad("call")


@pytest.mark.parametrize(
    "name",
    [
        module.name
        for module in pkgutil.walk_packages(
            perftricks.recompute.__path__, "perftricks.recompute.", onerror=lambda name: None
        )
    ],
)
def test_all_of_recompute_is_for_every_python(name):
    """Its modules import on every Python; where a framework is missing, for want of that alone."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing = str(getattr(error, "name", None)).partition(".")[0]
        assert missing in {"jax", "keras", "numpy", "scipy", "tensorflow", "tf_keras", "torch"}


def test_the_command_says_what_it_needs():
    """The command answers in one line on an old Python, and with its version elsewhere."""
    command = [sys.executable, "-m", "perftricks", "--version"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if OLD:
        assert done.returncode == 2
        assert done.stderr.decode().count("\n") == 1
        assert b"needs Python 3.10 or newer" in done.stderr
    else:
        assert done.returncode == 0
        assert perftricks.__version__ in done.stdout.decode()


def test_listing_the_names_asks_for_nothing_that_is_not_there():
    """On every Python all listed names can be had: by a star import, by what looks at modules."""
    names = {}
    exec("from perftricks import *", names)
    assert set(perftricks.__all__) <= set(names)
    assert set(dir(perftricks)) == set(perftricks.__all__)
    assert ("parallel" in names) is not OLD
