"""The devices there are, and the devices that each framework sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

FRAMEWORKS = ("tensorflow", "jax", "torch")


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver lists it.

    Attributes:
        name: Its name.
        memory: Its bytes of memory.
        used: How many of them are in use; None where the driver does not say.
    """

    name: str
    memory: int | None
    used: int | None


@dataclass(frozen=True)
class Sight:
    """What a framework sees.

    Attributes:
        framework: "tensorflow", "jax" or "torch".
        devices: Name and bytes of memory of each device, None where the framework does not say.
        problem: Why there is no answer; empty if there is one.
    """

    framework: str
    devices: tuple[tuple[str, int | None], ...] = ()
    problem: str = ""


def find_gpus(timeout: float = 10) -> tuple[Gpu, ...]:
    """List NVIDIA's GPUs, as ``nvidia-smi`` does.

    Args:
        timeout: Seconds to wait for it.

    Returns:
        The GPUs; none if there is no ``nvidia-smi``, or it fails.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = ["--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=timeout, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_gpu(line) for line in done.stdout.splitlines() if line.count(",") >= 2)


def _gpu(line: str) -> Gpu:
    name, total, used = (part.strip() for part in line.rsplit(",", 2))
    return Gpu(name, _mebibytes(total), _mebibytes(used))


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdigit() else None


def ask(framework: str, timeout: float = 120) -> Sight:
    """Ask a framework for its devices, in a process of its own.

    Args:
        framework: "tensorflow", "jax" or "torch".
        timeout: Seconds to wait; importing a framework may take many.

    Returns:
        What it sees, or why it does not answer.
    """
    command = [sys.executable, "-m", "perftricks.environment.probe", framework]
    # Looking must take neither the memory of the GPU nor the screen.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **quiet},
        )
    except subprocess.TimeoutExpired:
        return Sight(framework, problem=f"no answer in {timeout:g} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Sight(framework, problem=f"importing it fails: {last}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Sight(framework, tuple((name, memory) for name, memory in found))
