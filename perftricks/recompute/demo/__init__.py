"""A real model trained with and without recompute, side by side, each in a process of its own.

::

    compare(Config) ──▶ run.py, RECOMPUTE=0 ──▶ Run ─┐
                   └──▶ run.py, RECOMPUTE=1 ──▶ Run ─┴▶ Comparison: peak, time, differences

A process each, because memory that one run has freed would be there for the other to use.

On JAX, XLA compiles the two ways as different programs, whose last bits differ. There a third
process runs the first step both ways operation by operation, and that must be equal. It takes more
memory than a compiled step; where there is not enough, a smaller batch is compared.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from perftricks.recompute import policies
from perftricks.recompute.measure import batches, process
from perftricks.recompute.measure.batches import LARGEST_TRIED
from perftricks.recompute.measure.process import OutOfMemoryError, RunError

MODELS = ("transformer", "bert-base", "bert-large", "resnet50", "deep-mlp")
BACKENDS = ("tensorflow", "jax", "torch")
_PROGRAM = "perftricks.recompute.demo.run"

# How many times farther from a step that runs operation by operation the recomputed program may be
# than the plain one is. XLA rounds both as it likes, so both are as far from it by chance; a wrong
# dropout mask is thousands of times farther.
_FARTHER = 4


@dataclass(frozen=True)
class Config:
    """What is trained, and how.

    Attributes:
        model: One of ``MODELS``.
        backend: One of ``BACKENDS``.
        batch_size: Samples in a step.
        seq_len: Tokens in a sample, of the transformers.
        layers: Blocks of the model; None for as many as the model has by itself.
        width: Units of a layer, of "transformer" and "deep-mlp".
        dropout: The rate of every dropout layer.
        steps: Training steps that are timed.
        device: "auto", "cpu" or "gpu".
        seed: Where weights, data and dropout masks come from.
        policy: What recomputed calls keep: the name of a policy.
        budget: Bytes that a whole step may take, to have it planned what is recomputed; None to
            recompute each block, or the segments that ``apply`` chooses.
    """

    model: str = "transformer"
    backend: str = "tensorflow"
    batch_size: int = 16
    seq_len: int = 128
    layers: Optional[int] = None
    width: int = 256
    dropout: float = 0.1
    steps: int = 3
    device: str = "auto"
    seed: int = 0
    policy: str = "full"
    budget: Optional[int] = None


@dataclass(frozen=True)
class Run:
    """One of the two ways.

    Attributes:
        recompute: Which.
        peak_bytes: Peak of a training step above what was in use before it.
        measured: What the peak is the peak of.
        step_seconds: Median time of a step.
        losses: The loss of each step, the first one included.
        parameters: How many numbers the model learns.
        versions: Package -> version.
        device: Where it ran.
        free_bytes: What the device had left before the first step; None if that is not known.
        planned_bytes: With a budget, the peak of a whole step by forecast; None without.
    """

    recompute: bool
    peak_bytes: int
    measured: str
    step_seconds: float
    losses: List[float]
    parameters: int
    versions: Dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    free_bytes: Optional[int] = None
    planned_bytes: Optional[int] = None


@dataclass(frozen=True)
class Comparison:
    """Both runs.

    Attributes:
        config: What was trained.
        plain: Without recompute.
        recomputed: With it.
        gradient_difference: Largest absolute difference of any gradient of the first step.
        state_difference: Largest absolute difference of any variable of the model, moving averages
            and seeds included, after the last step.
        loss_difference: Largest absolute difference of the losses.
        by_operation: With JAX, where the three above are not zero: the same three of a first step
            that runs operation by operation, by their kind ("gradient", "state", "loss"). XLA
            compiles the two ways as different programs and rounds where it fuses operations; what
            runs uncompiled is the same arithmetic without that.
        error: How far the gradients of the compiled first step are from those of the plain one that
            runs operation by operation, by the way ("plain", "recomputed").
        compared_batch: Samples in the step of which ``by_operation`` and ``error`` tell, where
            memory did not suffice for all; None elsewhere.
    """

    config: Config
    plain: Run
    recomputed: Run
    gradient_difference: float
    state_difference: float
    loss_difference: float
    by_operation: Optional[Dict[str, float]] = None
    error: Optional[Dict[str, float]] = None
    compared_batch: Optional[int] = None

    @property
    def bitwise(self) -> bool:
        """Whether losses, gradients and variables are equal to the last bit."""
        return self.gradient_difference == self.state_difference == self.loss_difference == 0.0

    @property
    def rounding(self) -> bool:
        """Whether XLA's rounding explains the differences: the plain run has errors as large."""
        return self.error is not None and (
            self.error["recomputed"] <= _FARTHER * self.error["plain"]
        )

    @property
    def exact(self) -> bool:
        """Whether they are, or would be if XLA did not round where it fuses operations."""
        if self.bitwise or self.by_operation is None:
            return self.bitwise
        return self.rounding and not any(self.by_operation.values())

    @property
    def memory_ratio(self) -> float:
        """How many times less memory the recomputed steps need."""
        return self.plain.peak_bytes / max(1, self.recomputed.peak_bytes)

    @property
    def time_ratio(self) -> float:
        """How many times longer a recomputed step takes."""
        return self.recomputed.step_seconds / self.plain.step_seconds

    def to_dict(self) -> Dict[str, object]:
        """Return everything as what JSON can hold."""
        derived = {
            "exact": self.exact,
            "bitwise": self.bitwise,
            "memory_ratio": self.memory_ratio,
            "time_ratio": self.time_ratio,
        }
        return dict(asdict(self), **derived)


def compare(config: Config, progress: Optional[Callable[[str], object]] = None) -> Comparison:
    """Train a model without and with recompute and compare.

    Args:
        config: What to train.
        progress: Called with a line on what is being done.

    Raises:
        ValueError: If something in ``config`` is out of range.
        RunError: If a run fails, for want of memory for example.
    """
    check(config)
    tell = progress or (lambda line: None)
    with tempfile.TemporaryDirectory(prefix="perftricks-demo-") as folder:
        folders = os.path.join(folder, "plain"), os.path.join(folder, "recomputed")
        tell("training without recompute")
        plain = Run(recompute=False, **_start(config, False, folders[0]))
        tell("training with recompute")
        recomputed = Run(recompute=True, **_start(config, True, folders[1]))
        tell("comparing gradients and variables")
        losses = zip(plain.losses, recomputed.losses)
        compiled = Comparison(
            config,
            plain,
            recomputed,
            gradient_difference=_difference(*folders, kind="gradient"),
            state_difference=_difference(*folders, kind="variable"),
            loss_difference=max(_gap(*pair) for pair in losses),
        )
        if config.backend != "jax" or compiled.bitwise:
            return compiled
        tell("comparing operation by operation")
        reference = os.path.join(folder, "by-operation")
        try:
            by_operation = _start(config, True, reference, "--by-operation")
        except OutOfMemoryError:
            if config.batch_size == 1:
                raise
        else:
            errors = [_difference(one, reference, "gradient") for one in folders]
            return replace(
                compiled,
                by_operation=by_operation,
                error=dict(zip(("plain", "recomputed"), errors)),
            )
    smaller = compare(replace(config, batch_size=config.batch_size // 2, steps=1), progress)
    return replace(
        compiled,
        by_operation=smaller.by_operation or {"gradient": 0.0, "state": 0.0, "loss": 0.0},
        error=smaller.error or {"plain": 0.0, "recomputed": 0.0},
        compared_batch=smaller.compared_batch or smaller.config.batch_size,
    )


def largest_batch(
    config: Config,
    recompute: bool,
    budget: Optional[int],
    progress: Optional[Callable[[str], object]] = None,
    limit: int = LARGEST_TRIED,
    known: Optional[Run] = None,
    tried: Optional[Callable[[str], object]] = None,
) -> Tuple[int, Optional[Run]]:
    """Find the largest batch with which a model can be trained.

    Args:
        config: What to train; its batch size is where the search begins.
        recompute: Which way.
        budget: Bytes that the peak of a step may take; None for what the device has, found by
            running out of it.
        progress: Called with a line on what is being done.
        limit: The largest batch to try.
        known: The run with the batch size of ``config``, if there has been one.
        tried: Called with a line on what each batch took and whether that fits.

    Returns:
        The largest batch that fits, to within a sixteenth, and the run with it; 0 and None if not
        even one sample does.

    Raises:
        ValueError: If something in ``config`` is out of range.
        RunError: If a run fails for another reason than want of memory.
    """
    check(config)
    tell = progress or (lambda line: None)
    note = tried or (lambda line: None)

    def name(batch_size: int) -> str:
        return "batch %d %s recompute" % (batch_size, "with" if recompute else "without")

    def taken(batch_size: int, run: Run) -> None:
        fits = budget is None or run.peak_bytes <= budget
        answer = "fits" if fits else "does not fit"
        note("%s: %s, %s" % (name(batch_size), mebibytes(run.peak_bytes), answer))

    def run(batch_size: int) -> Run:
        tell(name(batch_size))
        try:
            found = train(replace(config, batch_size=batch_size), recompute)
        except OutOfMemoryError:
            note("%s: out of memory, does not fit" % name(batch_size))
            raise
        taken(batch_size, found)
        return found

    if known is not None and config.batch_size <= limit:
        taken(config.batch_size, known)
    found = batches.largest_batch(run, config.batch_size, budget, limit, known)
    return found.batch_size, found.run


def mebibytes(size: int) -> str:
    """Return a peak of memory as people read it, in the unit of all others.

    >>> mebibytes(2**31), mebibytes(130_000)
    ('2,048 MiB', '0.1 MiB')
    """
    return "{:,.{}f} MiB".format(size / 2**20, 0 if size >= 100 * 2**20 else 1)


def train(config: Config, recompute: bool) -> Run:
    """Train a model in one way, in a process of its own.

    Args:
        config: What to train.
        recompute: Which way.

    Raises:
        ValueError: If something in ``config`` is out of range.
        RunError: If the run fails, for want of memory for example.
    """
    check(config)
    return Run(recompute=recompute, **_start(config, recompute))


def check(config: Config) -> None:
    """Check a configuration.

    Raises:
        ValueError: If something is out of range.
    """
    for name, value, choices in (
        ("model", config.model, MODELS),
        ("backend", config.backend, BACKENDS),
        ("device", config.device, ("auto", "cpu", "gpu")),
        ("policy", config.policy, policies.NAMES),
    ):
        if value not in choices:
            raise ValueError("%s must be one of %s, not %r" % (name, ", ".join(choices), value))
    for name in ("batch_size", "seq_len", "width", "steps"):
        if getattr(config, name) < 1:
            raise ValueError("%s must be at least 1, not %r" % (name, getattr(config, name)))
    if config.budget is not None and config.budget < 1:
        raise ValueError("budget must be at least 1 byte, not %r" % config.budget)
    if config.budget is not None and config.policy != "full":
        raise ValueError("a budget chooses policies; leave policy=%r out" % config.policy)
    if config.layers is not None and config.layers < 1:
        raise ValueError("layers must be at least 1, not %r" % config.layers)
    if config.layers is not None and config.model == "resnet50":
        raise ValueError("resnet50 has the layers it has; leave layers=%d out" % config.layers)
    if not 0 <= config.dropout < 1:
        raise ValueError("dropout must be at least 0 and below 1, not %r" % config.dropout)


def _start(
    config: Config, recompute: bool, folder: Optional[str] = None, *options: str
) -> Dict[str, Any]:
    """Start a process of ``run.py``, which may leave arrays in a folder; return what it writes."""
    arguments: List[str] = []
    if folder is not None:
        os.makedirs(folder)
        arguments += [folder, *options]
    environment = process.environment(
        config.backend,
        config.device,
        process.DETERMINISTIC if "--by-operation" in options else "",
        RECOMPUTE="1" if recompute else "0",
        **process.whole_device(),
    )
    found: Dict[str, Any] = process.run(_PROGRAM, arguments, asdict(config), environment)
    return found


def _difference(one: str, two: str, kind: str) -> float:
    """Return the largest absolute difference of what two runs have left."""
    import numpy as np

    largest = 0.0
    for name in _arrays(one, kind):
        a = np.load(os.path.join(one, name), mmap_mode="r")
        b = np.load(os.path.join(two, name), mmap_mode="r")
        if a.shape != b.shape:
            raise RunError(
                "the runs differ in the shape of a %s: %s, %s" % (kind, a.shape, b.shape)
            )
        largest = max(largest, _gap(a, b))
    return largest


def _gap(a: Any, b: Any) -> float:
    """Return the largest difference of two arrays; NaN is no different from NaN."""
    import numpy as np

    if np.array_equal(a, b):
        return 0.0
    wide, other = np.asarray(a, "float64"), np.asarray(b, "float64")
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        gap = np.where((wide == other) | (np.isnan(wide) & np.isnan(other)), 0, abs(wide - other))
    return float(np.nan_to_num(gap, nan=float("inf")).max(initial=0.0))


def _arrays(folder: str, kind: str) -> Iterator[str]:
    names = sorted(name for name in os.listdir(folder) if name.startswith(kind))
    if not names:
        raise RunError("a run has left no %s to compare" % kind)
    return iter(names)
