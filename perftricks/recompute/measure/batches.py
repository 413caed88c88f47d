"""The largest batch that fits into memory, found with few runs."""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional

from perftricks.recompute.measure.process import OutOfMemoryError

LARGEST_TRIED = 4096  # samples in a batch, where the search ends
_GUESSES = 5  # runs after which the search no longer guesses but halves


class Found(NamedTuple):
    """What a search has found.

    Attributes:
        batch_size: The largest batch that fits; 0 if not even one sample does.
        run: What was returned for it; None if nothing fits.
        too_large: The smallest batch that was tried and does not fit; the limit and one if none
            was too large.
    """

    batch_size: int
    run: Any
    too_large: int


def largest_batch(
    run: Callable[[int], Any],
    start: int,
    budget: Optional[int],
    limit: int = LARGEST_TRIED,
    known: Any = None,
) -> Found:
    """Find the largest batch with which something runs, to within a sixteenth.

    Args:
        run: Runs a batch of a size; what it returns has ``peak_bytes``, the peak of a step, and
            ``free_bytes``, what the device had left before it, or None. It raises
            ``OutOfMemoryError`` if memory does not suffice.
        start: The size to begin with.
        budget: Bytes that the peak of a step may take; None for what the device has, found by
            running out of it.
        limit: The largest batch to try.
        known: What ``run(start)`` would return, if that is known.
    """
    runs: Dict[int, Any] = {}
    largest, failure = 0, limit + 1
    trial = min(start, limit)
    room = budget
    while failure - largest > _coarse(largest):
        found = known if known is not None and trial == start else _fitting(run, trial)
        if found is not None:
            runs[trial] = found
            room = found.free_bytes if budget is None else budget
        # A small step may not show in the memory of its process; it takes a byte at least.
        if found is None or (budget is not None and max(found.peak_bytes, 1) > budget):
            failure = trial
        else:
            largest = trial
        trial = _next_trial(runs, largest, failure, room)
    return Found(largest, runs.get(largest), failure)


def _fitting(run: Callable[[int], Any], size: int) -> Any:
    """Run; return None if memory does not suffice."""
    try:
        return run(size)
    except OutOfMemoryError:
        return None


def _coarse(batch_size: int) -> int:
    """Return how much larger a batch is that counts as the next."""
    return max(1, batch_size // 16)


def _next_trial(runs: Dict[int, Any], largest: int, failure: int, room: Optional[int]) -> int:
    """Return the batch to try next.

    A peak is nearly a line over the size of the batch: what does not grow, and what each sample
    takes. Two peaks give the line, and one more trial on the other side of where it meets ``room``
    ends the search. Where lines mislead, the interval is halved.

    Args:
        runs: The runs of the batches that were tried, those that memory did not suffice for left
            out.
        largest: The largest batch that fits; 0 if none is known to.
        failure: The smallest batch that does not.
        room: Bytes that there are; None if that is not known.
    """
    peaks = [(0, 0), *((size, runs[size].peak_bytes) for size in sorted(runs))]
    (x, low), (y, high) = peaks[-2:] if runs else [(0, 0)] * 2
    guess = 2 * largest
    if room is not None and high > low:
        guess = int(y + (room - high) * (y - x) / (high - low))
    if guess <= largest:
        guess = largest + _coarse(largest)
    elif guess >= failure:
        guess = -(-16 * failure // 17)  # the smallest that ends the search if it fits
    if not largest < guess < failure or len(runs) > _GUESSES:
        guess = (largest + failure) // 2
    return guess
