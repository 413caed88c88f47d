"""What ``perftricks info`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.filesize import decimal

from perftricks.cli.render.terminal import print_facts, print_line
from perftricks.environment import Environment
from perftricks.environment.devices import Gpu, Sight
from perftricks.wordcount.table.printable import printable

_EXTRAS = {
    "keras": "tensorflow, jax or torch",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "torch": "torch",
    "matplotlib": "plot",
}


def show(environment: Environment, sights: Sequence[Sight] | None) -> None:
    """Print the environment, and what the frameworks see if they were asked."""
    here = environment
    sections: dict[str, Mapping[str, str]] = {
        "machine": {
            "system": here.platform,
            "cores": _cores(here),
            "memory": _memory(here.memory),
            "GPU": "; ".join(map(_gpu, here.gpus)) or "none that nvidia-smi lists",
        },
        "packages": {
            "perftricks": here.perftricks,
            "python": here.python,
            **{name: _package(name, version) for name, version in here.packages.items()},
        },
        "recompute": {
            "RECOMPUTE": _switch(here),
            "backend": here.keras_backend or "no Keras 3",
            "rows": "; ".join(here.rows) or "none of the compatibility table",
        },
        "cache": {
            "folder": printable(str(here.cache.folder or "none that can be used")),
            "size": f"{decimal(here.cache.total_bytes)} in {here.cache.total_files:,} files",
        },
    }
    if sights is not None:
        seen = {sight.framework: _sight(sight) for sight in sights}
        sections["devices"] = seen or {"": "no framework is installed"}
    width = max(len(name) for facts in sections.values() for name in facts)
    for number, (title, facts) in enumerate(sections.items()):
        if number:
            print_line()
        print_line((title, "bold cyan"))
        print_facts({f"  {name}": text for name, text in facts.items()}, width=width + 4)


def summary(environment: Environment, sights: Sequence[Sight] | None) -> dict[str, Any]:
    """Return the same for machines; ``devices`` is null unless the frameworks were asked."""
    devices = None if sights is None else [asdict(sight) for sight in sights]
    return {**environment.to_dict(), "devices": devices}


def _cores(here: Environment) -> str:
    if here.cores == here.machine_cores:
        return str(here.cores)
    return f"{here.cores} of the machine's {here.machine_cores} may be used"


def _memory(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _gpu(gpu: Gpu) -> str:
    if gpu.memory is None:
        return gpu.name
    used = "" if gpu.used is None else f", {_memory(gpu.used)} in use"
    return f"{gpu.name}, {_memory(gpu.memory)}{used}"


def _package(name: str, version: str | None) -> str:
    if version is not None:
        return version
    extra = _EXTRAS.get(name)
    return "not installed" + (f" (extra {extra})" if extra else "")


def _switch(here: Environment) -> str:
    switch = here.recompute
    if switch.meaning == "unset":
        return f"unset: {switch.detail}"
    if switch.meaning == "invalid":
        return f"INVALID: {switch.detail}"
    return f"{switch.value!r}, {switch.meaning}: {switch.detail}"


def _sight(sight: Sight) -> str:
    if sight.problem:
        return sight.problem
    return "; ".join(
        name if memory is None else f"{name}, {_memory(memory)}" for name, memory in sight.devices
    )
