"""What ``RECOMPUTE`` says, in words."""

from __future__ import annotations

import os
from dataclasses import dataclass

from perftricks.recompute import switch


@dataclass(frozen=True)
class Switch:
    """The environment variable as recompute sees it.

    Attributes:
        value: Its value; None if it is not set.
        meaning: "on", "off", "unset", or "invalid".
        detail: What follows from it; for an invalid value, what is wrong and what to do.
    """

    value: str | None
    meaning: str
    detail: str


def read_switch() -> Switch:
    """Return what ``RECOMPUTE`` means, now."""
    value = os.environ.get(switch.VARIABLE)
    if value is None:
        return Switch(None, "unset", "@recompute_grad is off, recompute.apply is on")
    try:
        on = switch.enabled(default=False)
    except ValueError as error:
        return Switch(value, "invalid", str(error))
    if on:
        return Switch(value, "on", "@recompute_grad and recompute.apply are on")
    return Switch(value, "off", "@recompute_grad and recompute.apply are off")
