"""What this environment is: versions, cores, memory, devices, compatibility rows, caches.

:func:`describe` imports no framework. What the frameworks themselves see, which takes seconds to
find out, is asked of each in a process of its own by :func:`perftricks.environment.devices.ask`.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from typing import Any

import perftricks
from perftricks.compatibility import matching_rows
from perftricks.environment.devices import Gpu, find_gpus
from perftricks.environment.machine import machine_cores
from perftricks.environment.packages import keras_backend, versions
from perftricks.environment.switch import Switch, read_switch
from perftricks.parallel.cores import available_cores
from perftricks.wordcount.storage.cachefiles import CacheReport, inspect_cache
from perftricks.wordcount.table.limits import available_memory


@dataclass(frozen=True)
class Environment:
    """What there is to work with.

    Attributes:
        perftricks: The version of this package.
        python: The version of Python.
        platform: Operating system and processor, in words.
        cores: Cores this process may use.
        machine_cores: Cores of the machine.
        memory: Bytes of memory this process may use.
        gpus: What ``nvidia-smi`` lists; empty if there is none.
        packages: Name -> version, None for what is not installed.
        keras_backend: The backend Keras 3 will choose; None without Keras 3.
        rows: The rows of the compatibility table that this environment is, each with the session
            of nox that checks it.
        recompute: What ``RECOMPUTE`` says.
        cache: The cache of the compiled word counter.
    """

    perftricks: str
    python: str
    platform: str
    cores: int
    machine_cores: int
    memory: int
    gpus: tuple[Gpu, ...]
    packages: dict[str, str | None]
    keras_backend: str | None
    rows: tuple[str, ...]
    recompute: Switch
    cache: CacheReport

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in what JSON has."""
        return {**asdict(self), "cache": self.cache.to_dict()}


def describe() -> Environment:
    """Look at the environment of this process; takes some tenths of a second.

    >>> here = describe()
    >>> here.cores >= 1 and "numpy" in here.packages
    True
    """
    packages = versions()
    backend = keras_backend(packages["keras"])
    return Environment(
        perftricks=perftricks.__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()}, {platform.machine()}",
        cores=available_cores(),
        machine_cores=machine_cores(),
        memory=available_memory(),
        gpus=find_gpus(),
        packages=packages,
        keras_backend=backend,
        rows=matching_rows(sys.version_info[:2], packages, backend),
        recompute=read_switch(),
        cache=inspect_cache(),
    )
