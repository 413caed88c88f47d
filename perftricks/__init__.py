"""Two performance tricks, each exact and each measured.

* :mod:`perftricks.recompute` trains Keras models in less memory, by computing activations twice.
* :mod:`perftricks.parallel` applies a function to an endless stream over many workers.
* :mod:`perftricks.wordcount` counts the words of a corpus exactly as jieba cuts them.

Importing ``perftricks`` imports none of them, and no framework: a submodule is loaded when it is
first used.
"""

import importlib
import sys

TYPE_CHECKING = False  # what typing calls so; it is not worth an import
if TYPE_CHECKING:
    from perftricks import parallel, recompute, wordcount

__version__ = "0.1.0"

__all__ = ["__version__", "parallel", "recompute", "wordcount"]

_SUBMODULES = ("parallel", "recompute", "wordcount")

if sys.version_info < (3, 10):  # a star import and what lists the names ask for each of them
    __all__.remove("parallel")
    __all__.remove("wordcount")


def __getattr__(name):  # type: ignore[no-untyped-def]
    if name in _SUBMODULES:
        if name != "recompute" and sys.version_info < (3, 10):
            raise ImportError(
                "perftricks.%s needs Python 3.10 or newer, this is Python %d.%d; "
                "only perftricks.recompute runs on Python 3.7 to 3.9"
                % ((name,) + sys.version_info[:2])
            )
        return importlib.import_module("perftricks." + name)
    raise AttributeError("module 'perftricks' has no attribute %r" % name)


def __dir__():  # type: ignore[no-untyped-def]
    return sorted(__all__)
