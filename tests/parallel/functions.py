"""Functions of items, in a module that imports little: every new worker must import it."""

from __future__ import annotations

import ctypes
import os
import random
import signal

from perftricks.parallel import item_seed


def square(x):
    return x * x


def plus_one(x):
    return x + 1


def die_by_sigkill():
    os.kill(os.getpid(), signal.SIGKILL)


def die_by_exit():
    os._exit(3)


def die_by_segfault():
    import faulthandler

    faulthandler.disable()  # pytest's report of a segmentation fault is noise here
    ctypes.string_at(0)


class Unloadable:
    """Pickles, and fails to load."""

    def __reduce__(self):
        return _fail_to_load, ()


def _fail_to_load():
    raise RuntimeError("will not load")


def draw(x):
    import numpy

    return random.random(), float(numpy.random.rand()), item_seed()


def draw_without_numpy(x):
    return random.random(), item_seed()


def draw_from_item_seed(x):
    return random.Random(item_seed()).random()
