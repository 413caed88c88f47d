"""``help(function)`` answers by itself: every argument is explained there."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

PACKAGES = ("perftricks.parallel", "perftricks.wordcount", "perftricks.recompute")
ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
# What sends the reader elsewhere.
ELSEWHERE = re.compile(r"\bas (for|in) (:func:)?`|\bsee :|as for what follows", re.IGNORECASE)


def functions():
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield pytest.param(thing, id=f"{package}.{name}")


def entries(function):
    """Return the arguments that a docstring explains: name -> text."""
    text = inspect.getdoc(function) or ""
    arguments = re.search(r"^Args:\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE)
    return dict(ENTRY.findall(arguments[1])) if arguments else {}


@pytest.mark.parametrize("function", list(functions()))
def test_every_argument_is_explained(function):
    """In the order of the signature, and without a word about another function's help."""
    explained = entries(function)
    assert list(explained) == list(inspect.signature(function).parameters)
    for name, text in explained.items():
        assert not ELSEWHERE.search(text), (name, text)


def test_the_check_can_fail():
    """An argument that is missing, or that is explained elsewhere, is noticed."""

    def function(a, b):
        pass

    function.__doc__ = "Do it.\n\nArgs:\n    a: As for :func:`other`.\n"
    assert list(entries(function)) == ["a"]
    assert ELSEWHERE.search(entries(function)["a"])
