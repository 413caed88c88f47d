"""What can go wrong in a parallel run, and how an exception crosses a process boundary."""

from __future__ import annotations

import contextlib
import pickle
import signal
from typing import Any, NamedTuple

from perftricks.parallel import pickling


class ParallelError(Exception):
    """Base of the errors that :mod:`perftricks.parallel` itself raises.

    Attributes:
        index: The position, counted from 0, of the item concerned in the iterable; None when the
            error concerns no single item.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (*self.args, self.index)


class WorkerCrashedError(ParallelError):
    """A worker process died without an exception: killed, segmentation fault, ``os._exit``."""


class ClusterError(ParallelError, ConnectionError):
    """A cluster is of no use: no scheduler, no workers, or workers of another version."""


class ItemTimeoutError(ParallelError, TimeoutError):
    """An item ran longer than ``timeout`` seconds; its worker was killed."""


class UnpicklableError(ParallelError, pickle.PicklingError):
    """A function, an argument or a result cannot be sent from one process to another."""


class RemoteError(ParallelError):
    """Stands for a task's exception that cannot itself be raised in the caller.

    That is an exception that cannot be pickled, or one that is not an ordinary error
    (``SystemExit``, ``KeyboardInterrupt``, ``GeneratorExit``, ``StopIteration``). The message holds
    its type and text, the cause holds the worker's traceback.
    """


class RemoteTraceback(Exception):
    """The traceback of the worker, shown as the cause of the exception raised in the caller."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Failure(NamedTuple):
    """A task's exception on its way from a worker process to the caller."""

    pickled: bytes | None
    summary: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Pack ``error``, whatever it is: packing never fails."""
        return cls(
            pickled=_pickle_exception(error),
            summary=_summary(error),
            traceback=_format(error),
        )

    def unpack(self, index: int | None) -> Exception:
        """Return the exception to raise in the caller, its cause the worker's traceback."""
        error: Exception | None = None
        if self.pickled is not None:
            with contextlib.suppress(Exception):
                error = pickle.loads(self.pickled)
        if error is None:
            error = RemoteError(self.summary, index)
        if isinstance(error, ParallelError) and error.index is None:
            error.index = index
        where = "" if index is None else f"(item {index})\n"
        error.__cause__ = RemoteTraceback(where + self.traceback)
        return error


def unpack_failure(pickled: bytes) -> Exception:
    """Return the exception of a worker's set-up."""
    failure = pickle.loads(pickled)
    assert isinstance(failure, Failure)
    return failure.unpack(None)


def raisable(error: BaseException, index: int | None) -> Exception:
    """Return ``error`` itself if it can be raised in the caller, else a :class:`RemoteError`."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    substitute = RemoteError(_summary(error), index)
    substitute.__cause__ = error
    return substitute


def describe_exit(exitcode: int | None) -> str:
    """Say how a process ended, from its exit code (negative: the signal that killed it).

    >>> describe_exit(3)
    'exited with status 3'
    >>> describe_exit(-9)
    'was killed by SIGKILL (kill -9, or the kernel when memory ran out)'
    """
    if exitcode is None:
        return "disappeared"
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = " (kill -9, or the kernel when memory ran out)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _pickle_exception(error: BaseException) -> bytes | None:
    """Pickle ``error`` if it survives the round trip as an ordinary exception, else None.

    The round trip is tried here because many exceptions pickle but cannot be rebuilt (those whose
    ``__init__`` takes other arguments than ``args``), and the caller must not find that out. Others
    are rebuilt with another text, for ``__init__`` makes it of ``args`` once more. A program
    may have told pickle of another way for exceptions (dask.distributed does, by tblib: tracebacks
    come along, and the text of a UnicodeDecodeError does not); that of their class comes first.
    """
    if raisable(error, None) is not error:
        return None
    usable = []
    for way in (_InItsWay(error), error, _WithoutInit(error)):
        with contextlib.suppress(BaseException):
            pickled = pickling.dumps(way)
            rebuilt = pickle.loads(pickled)
            if isinstance(rebuilt, type(error)):
                usable.append(pickled)
                if _alike(rebuilt, error, set()):
                    return pickled
    return usable[0] if usable else None


def _alike(rebuilt: Any, thing: Any, seen: set[int]) -> bool:
    """Whether an exception, and all that it has, was rebuilt with its text and its arguments."""
    if type(thing) in (list, tuple):
        pairs = zip(rebuilt, thing, strict=True)
        return all(_alike(one, other, seen) for one, other in pairs)
    if not isinstance(thing, BaseException) or id(thing) in seen:
        return True
    seen.add(id(thing))
    if not isinstance(rebuilt, type(thing)) or _summary(rebuilt) != _summary(thing):
        return False
    there = vars(rebuilt)
    return _alike(rebuilt.args, thing.args, seen) and all(
        _alike(there[name], value, seen) for name, value in vars(thing).items() if name in there
    )


class _InItsWay:
    """Stands for an exception that is pickled as its class says, whatever was told to pickle."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        return self._error.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


class _WithoutInit:
    """Stands for an exception that is rebuilt without a call of its ``__init__``.

    So are those that it has: a group of exceptions is one.
    """

    def __init__(self, error: BaseException, known: dict[int, _WithoutInit] | None = None) -> None:
        self._error = error
        self._known = {} if known is None else known
        self._known[id(error)] = self

    def __reduce__(self) -> tuple[Any, ...]:
        args = self._standing_for(self._error.args)
        state = {name: self._standing_for(value) for name, value in vars(self._error).items()}
        return _rebuilt, (type(self._error), args), state, None, None, _restore

    def _standing_for(self, thing: Any) -> Any:
        if isinstance(thing, BaseException):
            return self._known.get(id(thing)) or _WithoutInit(thing, self._known)
        if type(thing) in (list, tuple):
            stand_ins = [self._standing_for(each) for each in thing]
            if any(one is not each for one, each in zip(stand_ins, thing, strict=True)):
                return type(thing)(stand_ins)
        return thing


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...]) -> Any:
    error = kind.__new__(kind, *args)
    known = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    with contextlib.suppress(Exception):
        known.__init__(error, *args)  # type: ignore[misc]  # what OSError has beside its arguments
    error.args = args
    return error


def _restore(error: BaseException, state: dict[str, Any]) -> None:
    vars(error).update(state)


def _summary(error: BaseException) -> str:
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    try:
        text = str(error)
    except BaseException:
        text = "<its str() raises>"
    return f"{name}: {text}" if text else name


def _format(error: BaseException) -> str:
    import traceback  # a worker that nothing fails in has no need of it

    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:
        return _summary(error) + "\n"
