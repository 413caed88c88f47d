"""A model that is trained in a process of its own, one step at a time."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass

from bench.recompute.steps import StepProcess
from perftricks.recompute.measure.process import environment

BACKENDS = ("tensorflow", "jax", "torch")


@dataclass(frozen=True)
class Case:
    """What is trained, and by which tool its blocks are recomputed.

    Attributes:
        tool: A key of ``bench.recompute.models.TOOLS``.
        backend: One of ``BACKENDS``.
        device: "cpu" or "gpu".
        layers: Transformer blocks.
        width: Size of a token's vector; there is a head for each 64.
        batch_size: Samples in a step.
        seq_len: Tokens in a sample.
        dropout: The rate of each dropout.
        norm_first: Whether a block normalizes what enters a sublayer, and not what leaves it.
        eager: Whether the step runs operation by operation, for tools that need that.
    """

    tool: str
    backend: str
    device: str = "cpu"
    layers: int = 12
    width: int = 256
    batch_size: int = 32
    seq_len: int = 128
    dropout: float = 0.1
    norm_first: bool = False
    eager: bool = False

    @property
    def model(self) -> str:
        """The model, in words."""
        return (
            f"{self.layers} blocks, width {self.width}, batch {self.batch_size}, "
            f"{self.seq_len} tokens, dropout {self.dropout}, "
            f"normalization {'first' if self.norm_first else 'last'}"
        )


class Trainer(StepProcess):
    """Trains a case; ``with Trainer(case) as trainer`` starts its process and ends it.

    The process is ready when the first full step is done, so that what ``step`` does is a step and
    nothing else.

    Attributes:
        case: What is trained.
    """

    def __init__(self, case: Case) -> None:
        command = [sys.executable, "-m", "bench.recompute.child", json.dumps(asdict(case))]
        super().__init__(
            command,
            environment(
                case.backend,
                case.device,
                RECOMPUTE="1",  # it matters to what is decorated only
                TF_FORCE_GPU_ALLOW_GROWTH="true",
                XLA_PYTHON_CLIENT_PREALLOCATE="false",
            ),
        )
        self.case = case


def missing(backend: str, device: str = "cpu") -> str | None:
    """Return why nothing can be measured on a backend and a device; None if something can."""
    for package in ("keras", backend):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if device == "gpu" and not _has_gpu():
        return "there is no GPU"
    return None


def _has_gpu() -> bool:
    """Tell whether there is an NVIDIA GPU; no framework is imported to find out."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.returncode == 0 and "GPU 0" in listed.stdout
