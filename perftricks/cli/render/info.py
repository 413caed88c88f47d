"""What ``perftricks info`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.filesize import decimal

from perftricks.cli.render.terminal import print_facts, print_line
from perftricks.environment import Environment
from perftricks.environment.devices import FRAMEWORKS, Gpu, Sight
from perftricks.wordcount.table.printable import printable

# What brings a package that is missing.
_EXTRAS = {
    "keras": ("tensorflow", "jax", "torch"),
    "tensorflow": ("tensorflow",),
    "jax": ("jax",),
    "torch": ("torch",),
    "matplotlib": ("plot",),
}


def show(environment: Environment, sights: Sequence[Sight] | None) -> None:
    """Print the environment, and what the frameworks see if they were asked."""
    here = environment
    sections: dict[str, Mapping[str, str]] = {
        "this machine": {
            "system": here.platform,
            "cores": _cores(here),
            "memory": _memory(here.memory),
            "GPU": "; ".join(map(_gpu, here.gpus)) or "none that nvidia-smi lists",
        },
        "installed packages": {
            "perftricks": here.perftricks,
            "python": here.python,
            **{name: _package(name, version) for name, version in here.packages.items()},
        },
        "recompute: training in less memory": {
            "RECOMPUTE": _switch(here),
            "Keras runs on": _backend(here),
            "tested with": _tested(here.rows),
        },
        "wordcount: what it keeps on the disk to start fast": {
            "folder": printable(str(here.cache.folder or "none that can be used")),
            "size": f"{decimal(here.cache.total_bytes)} in {here.cache.total_files:,} files; "
            "'perftricks cache clear' removes them",
        },
    }
    if sights is not None:
        seen = {sight.framework: _sight(sight) for sight in sights}
        sections["devices that each framework sees"] = seen or {
            "": "TensorFlow, JAX and torch are not installed"
        }
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
    extras = " or ".join(f"'perftricks[{extra}]'" for extra in _EXTRAS.get(name, ()))
    return "not installed" + (f": pip install {extras}" if extras else "")


def _switch(here: Environment) -> str:
    switch = here.recompute
    if switch.meaning == "unset":
        return f"not set: {switch.detail}"
    if switch.meaning == "invalid":
        return f"INVALID: {switch.detail}"
    return f"{switch.value!r}, {switch.meaning}: {switch.detail}"


def _backend(here: Environment) -> str:
    name = here.keras_backend
    if name is None:
        return "nothing: Keras 3 is not installed"
    if here.packages.get(name, "") is not None:
        return name
    others = [one for one in FRAMEWORKS if here.packages[one] is not None]
    step = f"KERAS_BACKEND={others[0]}" if others else f"pip install 'perftricks[{name}]'"
    return f"{name}, which is not installed; {step} would help"


def _tested(rows: Sequence[str]) -> str:
    """Return the combinations of versions, without the sessions of nox that check them."""
    names = [row.partition(": ")[2] for row in rows]
    return "; ".join(names) or "other versions than these"


def _sight(sight: Sight) -> str:
    if sight.problem:
        return sight.problem
    return "; ".join(
        name if memory is None else f"{name}, {_memory(memory)}" for name, memory in sight.devices
    )
