"""What a worker does with a batch: apply the function, collect the values, note the failures.

Classes are written out here, without :mod:`dataclasses`: a fresh worker would spend a good part of
its start on importing that.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

from perftricks.parallel import pickling, seeds
from perftricks.parallel.aside import Aside
from perftricks.parallel.errors import Failure, UnpicklableError, raisable
from perftricks.parallel.pickling import Keeper, Packed, Unsendable
from perftricks.parallel.state import state_set


class Batch:
    """Neighbouring items of the iterable, handed to a worker together.

    Attributes:
        start: Index of the first item.
        items: The items; kept until their results have arrived, for a replay.
        failures: How often the item has failed (only a batch of one is tried again).
        crashes: How many workers have died on the item (only a batch of one counts them).
        broken: Offset -> why there is no such item in this process.
        suspect: Whether a worker died with it, so that it must be alone in one.
    """

    def __init__(
        self,
        start: int,
        items: Sequence[Any],
        failures: int = 0,
        crashes: int = 0,
        broken: Mapping[int, Exception] | None = None,
        suspect: bool = False,
    ) -> None:
        self.start = start
        self.items = items
        self.failures = failures
        self.crashes = crashes
        self.broken = broken or {}
        self.suspect = suspect

    def __len__(self) -> int:
        return len(self.items)

    def part(self, begin: int, end: int | None = None) -> Batch:
        """Return the batch of the items from ``begin`` to ``end``, with the same history."""
        items = self.items[begin:end]
        start = self.start + begin
        return Batch(start, items, self.failures, self.crashes, suspect=self.suspect)


class BatchResult(NamedTuple):
    """What came of the first ``done`` items of a batch.

    Attributes:
        values: One value an item (None at a failure), or the counts of all of them, a dict.
        failures: Offset in the batch -> what the task raised.
        seconds: Time the worker spent.
    """

    done: int
    values: Any
    failures: Mapping[int, Exception | Failure]
    seconds: float


class BatchLost(NamedTuple):
    """A batch that gave no result at all.

    Attributes:
        reason: "crash": its worker died. "timeout": item ``offset`` took too long, its worker was
            killed. "memory": the same, because it took too much memory. "unpicklable": it, or its
            result, could not be sent.
        error: The error to report if a single item is to blame.
        offset: The item that took too much.
        shared: Whether other batches were in the worker that died, each of which may be to blame.
    """

    reason: Literal["crash", "timeout", "memory", "unpicklable"]
    error: Exception
    offset: int = 0
    shared: bool = False


class Collector(Protocol):
    """Gathers the values of a batch inside the worker."""

    def add(self, value: Any) -> None:
        """Take the value of the next item."""

    def skip(self) -> None:
        """Leave room for an item that failed."""

    def values(self) -> Any:
        """Return what was gathered."""


Keep = Callable[[Any], Any]


class ListCollector:
    """Keeps every value, in the order of the items.

    Args:
        keep: Makes of a value what it is now, whatever the task does to it afterwards; None to
            leave it.
    """

    def __init__(self, keep: Keep | None = None) -> None:
        self._values: list[Any] = []
        self._keep = keep

    def add(self, value: Any) -> None:
        """Take the value of the next item."""
        self._values.append(value if self._keep is None else self._keep(value))

    def skip(self) -> None:
        """Keep the offsets aligned with the items."""
        self._values.append(None)

    def values(self) -> list[Any]:
        """Return one value an item."""
        return self._values


class CountCollector:
    """Counts the keys of all items in one Counter, so that one table a batch travels."""

    def __init__(self, keep: Keep | None = None) -> None:
        self._counter: Counter[Any] = Counter()

    def add(self, value: Any) -> None:
        """Count the keys of one item: all of them, or none if that fails.

        A mapping tells how often each key came, and None has no keys, as for ``Counter.update``.
        """
        if value is None:
            return
        if isinstance(value, Mapping):
            self._counter.update(Counter(value))
            return
        keys = value if isinstance(value, list) else list(value)
        try:
            self._counter.update(keys)
        except TypeError:
            self._take_back(keys)
            raise

    def _take_back(self, keys: list[Any]) -> None:
        """Undo the counting of keys up to the one that cannot be hashed."""
        for key in keys:
            try:
                self._counter[key] -= 1
            except TypeError:
                return
            if not self._counter[key]:
                del self._counter[key]

    def skip(self) -> None:
        """Count nothing."""

    def values(self) -> dict[Any, int]:
        """Return the counts of the batch."""
        return dict(self._counter)


class Work:
    """The job of a run, sent to each worker once.

    Attributes:
        func: Called with each item.
        collector: Makes the collector of a batch.
        initializer: Called once in each worker before its first item; returns the worker's state.
        finalizer: Called once in each worker at its end.
        root_seed: The root of the items' seeds; None leaves all generators alone.
        worker_seeds: One seed a worker, used once when it starts.
        seed_globals: Whether ``random`` and ``numpy.random`` are seeded for each item; not in
            threads, which share them.
        in_caller: Whether the worker is the caller's own thread. Then the generators' states are
            put back after each item, and Ctrl-C is the caller's.
    """

    root_seed: int | None = None
    worker_seeds: Sequence[Any] = ()
    seed_globals = True
    in_caller = False

    def __init__(
        self,
        func: Callable[[Any], Any],
        collector: Callable[[Keep | None], Collector] = ListCollector,
        initializer: Callable[[], object] | None = None,
        finalizer: Callable[[], object] | None = None,
    ) -> None:
        self.func = func
        self.collector = collector
        self.initializer = initializer
        self.finalizer = finalizer

    def set_up(self, slot: int) -> object:
        """Prepare worker number ``slot``; return its state."""
        if self.root_seed is not None and self.seed_globals:
            seeds.expect_numpy(may_wait=not self.in_caller)
        if self.worker_seeds:
            self._seed_worker(self.worker_seeds[slot % len(self.worker_seeds)])
        return None if self.initializer is None else self.initializer()

    def finish(self, state: object) -> None:
        """Take leave of a worker."""
        if self.finalizer is not None:
            with state_set(state):
                self.finalizer()

    def apply(self, item: Any, index: int) -> Any:
        """Call the function on one item, under the item's own seed."""
        if self.root_seed is None:
            return self.func(item)
        seed = seeds.seed_of(self.root_seed, index)
        with seeds.item_seed_set(seed):
            if not self.seed_globals:
                return self.func(item)
            if not self.in_caller:
                seeds.seed_generators(seed)
                return self.func(item)
            with seeds.generators_preserved():
                seeds.seed_generators(seed)
                return self.func(item)

    def _seed_worker(self, seed: Any) -> None:
        seeds.expect_numpy(may_wait=False)
        if seed is None or isinstance(seed, (int, float, str, bytes, bytearray)):
            random.seed(seed)
        seeds.seed_numpy(seed)


def run_batch(
    work: Work,
    batch: Batch,
    budget: float | None = None,
    before_item: Callable[[], bool] | None = None,
    state: object = None,
    keeper: ResultKeeper | None = None,
) -> BatchResult:
    """Run the items of a batch, all of them or as many as fit into ``budget`` seconds.

    A worker whose batch turns out long hands the rest back, so that other workers can share it: one
    slow item in a large batch delays nobody. At least one item is run.

    Args:
        work: The job.
        batch: The items.
        budget: Seconds after which no further item is started; None for no limit.
        before_item: Called before each item; what it returns says whether to go on.
        state: What the worker's initializer returned.
        keeper: What keeps values and failures, if they travel.

    Returns:
        The values and failures of the items that were run.
    """
    with state_set(state):
        return _run_batch(work, batch, budget, before_item, keeper)


def _run_batch(
    work: Work,
    batch: Batch,
    budget: float | None,
    before_item: Callable[[], bool] | None,
    keeper: ResultKeeper | None,
) -> BatchResult:
    began = time.perf_counter()
    collector = work.collector(None if keeper is None else keeper.value)
    broken = batch.broken
    failures: dict[int, Exception | Failure] = {}
    done = 0
    for item in batch.items:
        if before_item is not None and not before_item():
            break
        try:
            if done in broken:
                raise broken[done]
            collector.add(work.apply(item, batch.start + done))
        except BaseException as error:
            if work.in_caller and isinstance(error, KeyboardInterrupt):
                raise
            failure = raisable(error, batch.start + done)
            failures[done] = failure if keeper is None else keeper.failure(failure)
            collector.skip()
        done += 1
        if budget is not None and time.perf_counter() - began > budget:
            break
    return BatchResult(done, collector.values(), failures, time.perf_counter() - began)


class ResultKeeper:
    """Keeps what came of items for its way to another process.

    Args:
        keeper: Makes of a value what it is now.
        before_packing: Called before each.
    """

    def __init__(self, keeper: Keeper, before_packing: Callable[[], None] | None) -> None:
        self._keeper = keeper
        self._before_packing = before_packing

    def failure(self, error: Exception) -> Failure:
        """Return what stands for what an item has raised."""
        if self._before_packing is not None:
            self._before_packing()
        return Failure.of(error)

    def value(self, result: Any) -> Any:
        """Return what stands for what an item has given.

        Raises:
            UnpicklableError: If it cannot be pickled, whatever that raises.
        """
        if self._before_packing is not None:
            self._before_packing()
        try:
            kept = self._keeper(result)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            kept = Unsendable(raisable(error, None))
        if type(kept) is Unsendable:
            what = f"its result, of type {type(result).__name__!r},"
            raise _unsendable(what, kept.error) from None
        return kept


def encode_result(result: BatchResult, aside: Aside | None = None) -> Packed:
    """Pickle what came of a batch.

    Args:
        result: What came of it: counts, or results that were kept.
        aside: Where their large buffers are.
    """
    done, values, failures, seconds = result
    packed: list[tuple[int, int, int]] = []  # offsets, and which of the buffers belong there
    try:
        if not isinstance(values, list):
            values = pickling.dumps(values)
        for offset, value in enumerate(values if isinstance(values, list) else ()):
            if type(value) is Packed:
                packed.append((offset, value.begin, value.end))
                values[offset] = value.pickled
        content = done, values, packed, dict(failures), seconds
        return Packed(pickle.dumps(content, pickle.HIGHEST_PROTOCOL), aside)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = "its result" if isinstance(values, list) else "its keys"
        lost = BatchLost("unpicklable", _unsendable(what, raisable(error, None)))
        return Packed(pickle.dumps(lost, pickle.HIGHEST_PROTOCOL))


def decode_result(reply: Packed) -> BatchResult | BatchLost:
    """Rebuild what :func:`encode_result` packed; a result that cannot be is a failure."""
    try:
        content = pickle.loads(reply.pickled)
        if isinstance(content, BatchLost):
            return content
        done, values, packed, failures, seconds = content
        if isinstance(values, bytes):
            values = pickle.loads(values)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return BatchLost("unpicklable", _unsendable("its result", raisable(error, None)))
    for offset, begin, end in packed:
        aside = reply.aside if end else None
        try:
            values[offset] = Packed(values[offset], aside, begin, end).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            values[offset] = None
            failures[offset] = _unsendable("its result", raisable(error, None))
    return BatchResult(done, values, failures, seconds)


class Order(NamedTuple):
    """A batch on its way to a worker.

    Attributes:
        message: The pickled batch.
        asides: Large buffers of its items.
    """

    message: bytes
    asides: list[Aside]


def encode_order(batch: Batch, budget: float | None) -> Order:
    """Pickle a batch whose items were kept by a :class:`~perftricks.parallel.pickling.Keeper`.

    Raises:
        UnpicklableError: If an item could not be pickled.
    """
    items: list[Any] = []
    packed: list[tuple[int, int, int]] = []  # offsets, which of the asides, how many buffers
    asides: list[Aside] = []
    for offset, item in enumerate(batch.items):
        kind = type(item)
        if kind is pickling.Unsendable:
            raise _unsendable("the item", item.error) from item.error
        if kind is pickling.Packed:
            packed.append((offset, len(asides), item.end))
            items.append(item.pickled)
            if item.aside is not None:
                asides.append(item.aside)
        else:
            items.append(item)
    message = pickle.dumps((batch.start, items, packed, budget), pickle.HIGHEST_PROTOCOL)
    return Order(message, asides)


def decode_order(order: Order) -> tuple[Batch, float | None]:
    """Rebuild what :func:`encode_order` packed; an item that cannot be is noted in the batch."""
    start, items, packed, budget = pickle.loads(order.message)
    broken: dict[int, Exception] = {}
    for offset, number, end in packed:
        aside = order.asides[number] if end else None
        try:
            items[offset] = Packed(items[offset], aside, 0, end).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            items[offset] = None
            broken[offset] = _unsendable("the item", raisable(error, None))
    return Batch(start, items, broken=broken), budget


def run_order(
    work: Work,
    order: Order,
    before_item: Callable[[], bool] | None = None,
    before_packing: Callable[[], None] | None = None,
    loading: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    state: object = None,
    large: bool = False,
) -> Packed:
    """Unpack a batch, run it and pack the result: all that a worker process does with an order.

    Args:
        work: The job.
        order: The pickled batch.
        before_item: As for :func:`run_batch`.
        before_packing: Called when an item is done, before its result is packed.
        loading: Gives a context in which the batch is unpacked.
        state: What the worker's initializer returned.
        large: Whether large buffers can be put aside.
    """
    with loading():
        batch, budget = decode_order(order)
    keeper = Keeper(pickling.shares_main, large=large, together=True)
    kept = ResultKeeper(keeper, before_packing)
    result = run_batch(work, batch, budget, before_item, state, kept)
    if before_packing is not None:
        before_packing()
    return encode_result(result, keeper.aside)


def encode_work(work: Work, why: str = "") -> bytes:
    """Pickle the job for the workers.

    Args:
        work: The job.
        why: Why it has to be pickled, a sentence for the error.

    Raises:
        UnpicklableError: If the function, what it closes over, or the initializer cannot be.
    """
    try:
        return pickling.dumps(work)
    except Exception as error:
        raise UnpicklableError(
            f"the function {work.func!r}, or something that it refers to, cannot be sent to a "
            f"worker process: {error}. Create what it needs in an initializer, or use threads "
            f"(dummy=True).{why}"
        ) from error


def _unsendable(what: str, error: Exception) -> UnpicklableError:
    """Build the error for something that cannot cross the process boundary."""
    if isinstance(error, UnpicklableError):
        return error
    return UnpicklableError(
        f"{what} cannot be sent between processes: {type(error).__name__}: {error}. "
        "Use something that can be pickled, or threads (dummy=True)."
    )
