"""Which method counts: the one that was asked for, or the one that is done first."""

from __future__ import annotations

import math
from collections.abc import Callable

from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.methods.batched import Batched
from perftricks.wordcount.methods.compiled import Compiled
from perftricks.wordcount.methods.method import Method
from perftricks.wordcount.methods.naive import Naive
from perftricks.wordcount.methods.parallel import Parallel
from perftricks.wordcount.reading.feeds import Feed
from perftricks.wordcount.settings import MethodName, Settings

METHODS: dict[MethodName, Callable[[], Method]] = {
    "naive": Naive,
    "batched": Batched,
    "parallel": Parallel,
    "compiled": Compiled,
}


def check(settings: Settings) -> None:
    """Check what can be checked without reading a document; imports the tokenizer's module.

    Raises:
        OptionError: If something cannot be used.
    """
    settings.check()
    if settings.method is None:
        return
    reason = METHODS[settings.method]().why_not(settings)
    if reason is not None:
        raise OptionError(f"method {settings.method!r} cannot be used: {reason}")


def choose(feed: Feed, settings: Settings, workers: int) -> tuple[Method, str]:
    """Return the method that counts, and why it is not "compiled" where that was left open.

    Among the others "batched" and "parallel" are the ones to choose from.

    Args:
        feed: The documents. Some may be looked at, to see how many there are; they stay in it.
        settings: How to count; checked already.
        workers: How many processes or threads may work.
    """
    if settings.method is not None:
        return METHODS[settings.method](), ""
    size = feed.estimate()
    compiled, batched, parallel = Compiled(), Batched(), Parallel()
    seconds = [method.estimate(settings, size, workers) for method in (batched, parallel)]
    reason = compiled.why_not_now(settings, size, workers) or compiled.why_not(settings)
    known = math.isfinite(size)
    if reason is None and known and compiled.estimate(settings, size, workers) >= min(seconds):
        reason = compiled.too_short
    if reason is None:
        try:
            compiled.load(settings)
        except OptionError as error:
            reason = str(error)
    if reason is None:
        return compiled, ""
    if workers == 1 or (known and seconds[0] <= seconds[1]):
        return batched, reason
    stays = parallel.why_not(settings) or _why_not_afresh(settings)
    if stays is not None:
        return batched, f"{reason}; not parallel: {stays}"
    return parallel, reason


def _why_not_afresh(settings: Settings) -> str | None:
    """Say that fresh workers may find something else than there is here in a tokenizer's module."""
    from perftricks.parallel.launch import usual_start_method

    if not settings.spec.is_own or settings.start_method or usual_start_method() == "fork":
        return None
    return (
        "workers start afresh, and import the tokenizer anew; use method 'parallel' if that is "
        "the same"
    )
