"""``max_batch_size``: the largest batch that trains, plain, recomputed and by a plan."""

from __future__ import annotations

import base64
import contextlib
import pickle
import sys
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple, Union

from perftricks.recompute.batch_trial import WAYS, Outcome, Trial
from perftricks.recompute.choosing import check_count
from perftricks.recompute.measure import batches, process
from perftricks.recompute.planning.notebook import as_html
from perftricks.recompute.planning.plans import readable_size
from perftricks.sizes import parse_size

_PROGRAM = "perftricks.recompute.batch_trial"
_STEPS = 3  # of a try; the first is not timed

# What of a device's memory is planned for: an allocator keeps some in reserve.
_SHARE = 0.97
_PLANS = 3  # plans for a batch size, each smaller, before it counts as too large


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch that trains in one way.

    Attributes:
        way: "plain", "full" or "planned".
        batch_size: Samples; 0 if not even one fits.
        too_large: The smallest batch that was tried and does not fit; None if all did.
        peak: Bytes at the peak of a whole step with it; None if nothing fits.
        sample_seconds: The time of a step, by sample; None if nothing fits.
    """

    way: str
    batch_size: int
    too_large: Optional[int]
    peak: Optional[int]
    sample_seconds: Optional[float]


@dataclass(frozen=True)
class MaxBatchSize:
    """The largest batches that train, way by way.

    ``str(found)`` is a table; ``found["planned"].batch_size`` is one of them.

    Attributes:
        memory: Bytes that a step may take; None for what the device has.
        measured: What a peak is the peak of.
        device: "cpu" or "gpu".
        ways: One for each way, in the order asked for.
    """

    memory: Optional[int]
    measured: str
    device: str
    ways: Tuple[LargestBatch, ...]

    def __getitem__(self, way: str) -> LargestBatch:
        for found in self.ways:
            if found.way == way:
                return found
        raise KeyError(way)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        memory = "the memory of the device" if self.memory is None else readable_size(self.memory)
        lines = ["largest batches in %s (%s, %s)" % (memory, self.device, self.measured)]
        lines.append(
            "%-8s  %7s  %9s  %10s  %11s" % ("", "samples", "too large", "peak", "a sample")
        )
        for way in self.ways:
            time = "-" if way.sample_seconds is None else "%.2f ms" % (1e3 * way.sample_seconds)
            large = "-" if way.too_large is None else str(way.too_large)
            columns = (way.way, way.batch_size, large, readable_size(way.peak), time)
            lines.append("%-8s  %7d  %9s  %10s  %11s" % columns)
        return "\n".join(lines)

    def to_dict(self) -> Dict[str, object]:
        """Return everything as what JSON can hold."""
        return asdict(self)


def max_batch_size(
    build: Callable[[], Any],
    *,
    memory: Union[int, str, None] = None,
    ways: Sequence[str] = WAYS,
    length: Optional[int] = None,
    start: int = 8,
    limit: int = batches.LARGEST_TRIED,
    steps: int = 10,
    progress: Optional[Callable[[str], object]] = None,
) -> MaxBatchSize:
    """Find the largest batch that trains: plain, recomputed, and by a plan for the memory.

    Each try is a process of its own, which builds the model and trains some steps: what another try
    has freed is not there to be used. What is found has been trained; a batch that is more than a
    sixteenth larger does not fit.

    Args:
        build: Returns a compiled model of Keras 3, or ``(model, x, y)`` with some samples and their
            targets, which are repeated up to a batch. Without them a batch of noise and zeros is
            made. It is pickled, so it may be a lambda or a function of a notebook.
        memory: What a whole step may take, weights and all: bytes, or a size such as "6GiB". None
            for what a GPU has, which is found by running out of it. On a CPU it must be given:
            torch's bytes are counted, JAX's are what XLA assigns, TensorFlow's the resident set.
        ways: Some of "plain", "full" (what is decorated with ``recompute_grad``, else the default
            of ``apply``) and "planned" (``plan`` with the memory as its budget).
        length: What to take for each other dimension of the inputs that is not known, as for
            ``profile``; for plans, and for batches that are made.
        start: The batch to begin with.
        limit: The largest batch to try.
        steps: Steps for which what is found is trained in the end.
        progress: Called with a line on what is being tried.

    Returns:
        The batch sizes, peaks and times; ``print`` it for a table.

    Raises:
        TypeError: If ``build`` cannot be called or pickled.
        ValueError: If an option is out of range.
        RuntimeError: If a try fails for another reason than want of memory; the message says how.

    Example:
        >>> from perftricks import recompute
        >>> found = recompute.max_batch_size(build, memory="2GiB")  # doctest: +SKIP
        >>> found["planned"].batch_size  # doctest: +SKIP
        57
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown or isinstance(ways, str) or not ways:
        raise ValueError("ways must be some of %s, got %r" % (", ".join(map(repr, WAYS)), ways))
    length = None if length is None else check_count("length", length)
    start, limit = check_count("start", start), check_count("limit", limit)
    steps = check_count("steps", steps)
    size = parse_size(memory) if isinstance(memory, str) else memory
    size = None if size is None else check_count("memory", size)
    search = _Search(_pickled(build), size, length, progress or (lambda line: None))
    found = [search.largest(way, start, limit, steps) for way in ways]
    return MaxBatchSize(size, search.measured, search.device, tuple(found))


class _Peak(NamedTuple):
    """What a search asks of a run."""

    peak_bytes: int
    free_bytes: Optional[int]


class _Search:
    """Tries batches.

    Attributes:
        measured: What a peak is the peak of.
        device: "cpu" or "gpu".
    """

    def __init__(
        self, build: str, memory: Optional[int], length: Optional[int], tell: Callable[[str], Any]
    ) -> None:
        self._build = build
        self._memory = memory
        self._length = length
        self._tell = tell
        self._shares: Dict[Tuple[str, int], float] = {}  # of the memory, that a plan was for
        self.measured = self.device = ""

    def largest(self, way: str, start: int, limit: int, steps: int) -> LargestBatch:
        """Find the largest batch of one way, and train it for some steps."""
        failed: Optional[int] = None
        tried: Dict[int, Outcome] = {}

        def run(size: int) -> _Peak:
            outcome = tried[size] = self._try(way, size, _STEPS)
            # A plan takes what there is: what grows with the batch is the least that any takes.
            peak = outcome.least_bytes
            if not self._fits(outcome):
                peak = max(outcome.peak, 1 + (self._memory or 0))
            return _Peak(peak, outcome.free_bytes)

        while limit:
            found = batches.largest_batch(run, start, self._memory, limit)
            size = found.batch_size
            too_large = found.too_large if found.too_large <= limit else failed
            if not size:
                return LargestBatch(way, 0, too_large, None, None)
            with contextlib.suppress(process.OutOfMemoryError):
                last = self._try(way, size, steps) if steps > _STEPS else tried[size]
                if self._fits(last):
                    assert last.seconds is not None
                    return LargestBatch(way, size, too_large, last.peak, last.seconds / size)
            # A few steps have fitted, and more do not.
            failed, limit = size, size - 1 - size // 32
            start = min(start, limit)
        return LargestBatch(way, 0, failed, None, None)

    def _try(self, way: str, size: int, steps: int) -> Outcome:
        """Train a batch; a plan that takes more than it promised is made again, for less.

        Raises:
            OutOfMemoryError: If the device has run out of memory, or has too little for any plan.
        """
        key = (way, size)
        share = self._shares.get(key, _SHARE if self._memory is None else 1.0)
        for left in reversed(range(_PLANS if way == "planned" else 1)):
            self._tell("%s, a batch of %d" % key)
            trial = Trial(self._build, way, size, self._length, self._memory, share, steps)
            try:
                outcome = self._run(trial)
            except process.OutOfMemoryError:
                if not left:
                    raise
                share *= _SHARE
                continue
            self._shares[key] = share
            if outcome.seconds is None and self._memory is None:
                raise process.OutOfMemoryError("no plan fits")
            if outcome.seconds is None or not left or self._fits(outcome):
                break
            assert self._memory is not None
            share *= 0.995 * self._memory / outcome.peak
        return outcome

    def _fits(self, outcome: Outcome) -> bool:
        return outcome.seconds is not None and (
            self._memory is None or outcome.peak <= self._memory
        )

    def _run(self, trial: Trial) -> Outcome:
        environment = process.environment(
            _backend(),
            "auto",
            TF_FORCE_GPU_ALLOW_GROWTH="true",
            **process.whole_device(),
        )
        outcome = Outcome(**process.run(_PROGRAM, [], trial._asdict(), environment))
        if outcome.seconds is not None:
            self.measured, self.device = outcome.measured, outcome.device
        return outcome


def _backend() -> Optional[str]:
    """Return the backend of this process's Keras; None if it has not been imported."""
    config: Any = getattr(sys.modules.get("keras"), "config", None)
    return None if config is None else str(config.backend())


def _pickled(build: Any) -> str:
    if not callable(build):
        raise TypeError("build must be a function that returns a model, got %r" % (build,))
    try:
        import cloudpickle as pickler
    except ImportError:  # where Python is older than Keras 3 needs
        pickler = pickle
    try:
        return base64.b64encode(pickler.dumps(build)).decode()
    except Exception as error:
        raise TypeError(
            "build cannot be pickled for another process (%s): have it make all it needs" % error
        ) from None
