"""On or off: the ``RECOMPUTE`` environment variable, and the scope that beats it."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from typing import Iterator, List, Optional, Tuple

from perftricks.recompute.tracers import keep_autograph_out, known_to_dynamo

VARIABLE = "RECOMPUTE"
_ON = ("1", "true", "t", "yes", "y", "on")
_OFF = ("0", "false", "f", "no", "n", "off")

_scope: contextvars.ContextVar[Optional[bool]] = contextvars.ContextVar(
    "perftricks_recompute", default=None
)
_entered: List[bool] = []  # the scopes of all threads, the latest last


@contextlib.contextmanager
def recompute_scope(enabled: bool) -> Iterator[None]:
    """Switch recomputation on or off for what runs or is traced inside.

    It beats ``RECOMPUTE``. A function that was traced before stays as it was traced, and
    ``model.fit`` traces once. The scope belongs to the thread or task that enters it; the threads
    in which ``tf.distribute.MirroredStrategy`` runs its replicas share it.

    Args:
        enabled: True for on, False for off.

    Raises:
        TypeError: If ``enabled`` is not a bool.

    Example:
        >>> from perftricks.recompute import recompute_scope
        >>> with recompute_scope(True):
        ...     pass  # model.fit(x, y)
    """
    if not isinstance(enabled, bool):
        raise TypeError("recompute_scope expects True or False, got %r" % (enabled,))
    token = _scope.set(enabled)
    _entered.append(enabled)
    try:
        yield
    finally:
        _entered.remove(enabled)
        _scope.reset(token)


@known_to_dynamo
@keep_autograph_out
def enabled(default: bool) -> bool:
    """Tell whether to recompute, now.

    Args:
        default: The answer when neither a scope nor ``RECOMPUTE`` says anything: False for
            decorated functions, True for models that were asked for by ``apply``.

    Raises:
        ValueError: If ``RECOMPUTE`` has a value that means neither on nor off.
    """
    said = _scope.get()
    if said is None and _entered and _is_replica_thread():
        said = _entered[-1]
    if said is None:
        said = _variable()
    return default if said is None else said


def state(default: bool) -> Tuple[bool, str]:
    """Tell whether to recompute, as ``enabled``, and what says so."""
    on = enabled(default)
    if _scope.get() is not None:
        return on, "recompute_scope(%s)" % on
    word = os.environ.get(VARIABLE)
    return on, "%s is not set" % VARIABLE if word is None else "%s=%s" % (VARIABLE, word)


def _variable() -> Optional[bool]:
    """Return what the environment says, or None."""
    word = os.environ.get(VARIABLE)
    if word is None:
        return None
    if word.strip().lower() in _ON:
        return True
    if word.strip().lower() in _OFF:
        return False
    raise ValueError(
        "%s=%r means neither on nor off: use one of %s to switch recomputation on, one of %s to "
        "switch it off, in any case, or unset it" % (VARIABLE, word, "/".join(_ON), "/".join(_OFF))
    )


def _is_replica_thread() -> bool:
    # TensorFlow runs each replica in a thread of its own, one at a time, while the thread that
    # entered the scope waits. Context variables do not follow it there.
    return type(threading.current_thread()).__name__ == "_MirroredReplicaThread"
