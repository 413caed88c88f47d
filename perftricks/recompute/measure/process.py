"""A run in a process of its own: memory that another run has freed would be there for it to use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any, Dict, Optional, Sequence

# Up to jaxlib 0.11.0, XLA orders a program for the CPU so that most of the saving is hidden, unless
# it is told not to. From 0.11.1 on it keeps the saving, and what it was told costs memory.
_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
_LAST_TO_HIDE = (0, 11, 0)

# On GPUs, XLA adds in any order where gradients meet, as those of an embedding do, unless it is
# told not to. Where two ways must agree to the last bit, it is.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class RunError(RuntimeError):
    """A run failed; the message says how."""


class OutOfMemoryError(RunError):
    """A run failed for want of memory."""


def run(module: str, arguments: Sequence[str], given: Any, environment: Dict[str, str]) -> Any:
    """Run a module in a process of its own, and return what it writes.

    Args:
        module: What ``python -m`` runs. The last line that it writes to stdout is JSON.
        arguments: What follows on its command line.
        given: What it reads from stdin, as JSON.
        environment: Its environment; see ``environment``.

    Raises:
        OutOfMemoryError: If memory did not suffice.
        RunError: If it fails for another reason.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input=json.dumps(given),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=environment,
    )
    if done.returncode:
        raise _failure(done)
    return json.loads(done.stdout.splitlines()[-1])


def environment(backend: Optional[str], device: str, *flags: str, **more: str) -> Dict[str, str]:
    """Return the environment of a run: that of this process, and what the run needs.

    Args:
        backend: Of Keras 3; None for the one that Keras takes by itself.
        device: "cpu" hides GPUs.
        flags: For XLA, beside those that it needs to show what recomputing saves.
        more: Variables.
    """
    found = dict(
        os.environ,
        TF_CPP_MIN_LOG_LEVEL="3",
        TF_ENABLE_ONEDNN_OPTS=os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        XLA_FLAGS=" ".join(filter(None, [os.environ.get("XLA_FLAGS", ""), xla_flags(), *flags])),
        PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
    )
    if backend is not None:
        found["KERAS_BACKEND"] = backend
    found.update(more)
    if device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
        found["JAX_PLATFORMS"] = "cpu"
    return found


def whole_device() -> Dict[str, str]:
    """Return the variables by which JAX takes as much of a GPU as there is, for ``environment``."""
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    return {name: os.environ.get(name, ".95")}


def xla_flags() -> str:
    """Return the flags that XLA needs to keep on the CPU what recomputing saves, if any."""
    try:
        from importlib.metadata import PackageNotFoundError, version
    except ImportError:  # Python 3.7, for which there is no such XLA
        return ""
    try:
        numbers = re.findall(r"\d+", version("jaxlib"))
    except PackageNotFoundError:
        return ""
    return _SCHEDULER if tuple(map(int, numbers[:3])) <= _LAST_TO_HIDE else ""


def _failure(done: subprocess.CompletedProcess[str]) -> RunError:
    """Say in one line why a run failed."""
    last = _reason(done.stderr)
    text = done.stderr.lower()
    out_of_memory = done.returncode == -9 or any(
        words in text
        for words in ("resourceexhausted", "resource_exhausted", "out of memory", "memoryerror")
    )
    if out_of_memory:
        return OutOfMemoryError("not enough memory for a batch of this size: %s" % last)
    if done.returncode < 0:
        return RunError("a run was killed by signal %d: %s" % (-done.returncode, last))
    return RunError(last)


def _reason(stderr: str) -> str:
    """Return the line that says what went wrong: an error's first, or else the last there is.

    The message of an error may have many lines, and its last be the middle of an array.
    """
    lines = [line for line in stderr.splitlines() if line.strip()]
    tracebacks = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    if tracebacks:
        lines = [line for line in lines[tracebacks[-1] + 1 :] if not line.startswith(" ")][:1]
    return lines[-1] if lines else "no message"
