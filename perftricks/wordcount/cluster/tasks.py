"""What workers do: count a partition, add tables up, finish a part of the table.

All of it is found by name on the worker, and what it gives depends on its arguments alone, so that
it may be run again wherever a worker was lost.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perftricks.parallel import pickling
from perftricks.parallel.errors import Failure
from perftricks.wordcount.cluster.agreement import agreed
from perftricks.wordcount.cluster.allocator import adapted
from perftricks.wordcount.cluster.hashed import Hashed, columns_to_arrow
from perftricks.wordcount.job import FileJob, run
from perftricks.wordcount.methods.batched import Batched
from perftricks.wordcount.methods.compiled import Compiled
from perftricks.wordcount.methods.method import Method
from perftricks.wordcount.reading.sources import Corpus, NotRead, Source
from perftricks.wordcount.reading.urls import Storage
from perftricks.wordcount.table.columns import Columns
from perftricks.wordcount.table.rows import Filter
from perftricks.wordcount.table.saved import Facts

_SHARE = 0.3  # of a worker's memory, for the table of the partition that is being counted
_counting = threading.Lock()


@dataclass(frozen=True)
class Tally:
    """What is known of a table without its rows.

    Attributes:
        documents: How many documents were counted.
        tokens: The sum of the counts.
        text: Bytes of text.
        stored: The same as stored.
        rows: How many keys there are.
        nbytes: Bytes that the table takes.
        bad: Files that could not be read.
        encodings: Encodings that were found out -> files.
    """

    documents: int = 0
    tokens: int = 0
    text: int = 0
    stored: int = 0
    rows: int = 0
    nbytes: int = 0
    bad: tuple[NotRead, ...] = ()
    encodings: Mapping[str, int] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        """Return what is known of two tables together; ``rows`` and ``nbytes`` at most."""
        return Tally(
            self.documents + other.documents,
            self.tokens + other.tokens,
            self.text + other.text,
            self.stored + other.stored,
            self.rows + other.rows,
            self.nbytes + other.nbytes,
            self.bad + other.bad,
            Counter(self.encodings) + Counter(other.encodings),
        )


class TaskFailed(Exception):
    """Carries what a task raised, which may be something that cannot be pickled as it is."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True)
class Common:
    """What the tasks of a count have in common.

    Attributes:
        job: The job, pickled, without its files.
        identity: What the client counts with.
        memory_limit: Bytes that tables may take, if that was said.
    """

    job: bytes
    identity: Mapping[str, str]
    memory_limit: int | None

    @classmethod
    def of(cls, job: FileJob, identity: Mapping[str, str]) -> Common:
        """Return what all partitions of a job have in common."""
        bare = replace(job, corpus=Corpus((), 0, skip_bad=job.corpus.skip_bad))
        limit = None if job.settings.memory_limit is None else job.settings.limit
        return cls(pickling.dumps(bare), identity, limit)


Counted = tuple[Any, Tally]  # a table of Arrow, and what is known of it


def same(common: Common) -> Common:
    """Return what the tasks have in common, so that it is sent to the scheduler once."""
    return common


def check(common: Common, dask_worker: Any) -> Failure | None:
    """Say why this worker would not count as the client does; None if it would.

    Args:
        common: What the client counts with.
        dask_worker: The worker, which dask passes under this name.
    """
    try:
        agreed(_job(common).settings.spec, common.identity, str(dask_worker.address))
    except Exception as error:
        return Failure.of(error)
    return None


@adapted
def count(common: Common, source: Source) -> Counted:
    """Count a partition with all threads of the worker.

    One partition at a time: the other threads of the worker meanwhile add tables up, or wait.

    Raises:
        TaskFailed: Whatever goes wrong.
    """
    try:
        job = _job(common)
        found = agreed(job.settings.spec, common.identity, _where())
        compiled = Compiled(found.engine)
        method: Method = Batched() if compiled.why_not(job.settings) else compiled
        limit = common.memory_limit or _worker_memory()
        settings = replace(job.settings, workers=_threads(), memory_limit=limit)
        part = replace(job, corpus=replace(job.corpus, sources=(source,)), settings=settings)
        with _counting:
            counts = run(part.feed(), settings, method=method)
        parts = list(counts.columns(ordered=False)) or [_no_rows(job)]
        columns = Columns.joined(parts)
        table = Hashed.of(columns).to_arrow()
        info = counts.run
        assert info is not None
        tally = Tally(
            counts.documents or 0,
            counts.tokens,
            info.text_bytes,
            info.stored_bytes,
            len(columns),
            table.nbytes,
            info.bad,
            Counter(info.encodings),
        )
    except Exception as error:
        raise TaskFailed(Failure.of(error)) from None
    return table, tally


def tally_of(counted: Counted) -> Tally:
    """Return what is known of a table."""
    return counted[1]


@adapted
def merge(*tables: Counted) -> Counted:
    """Add tables up."""
    total = Hashed.summed([Hashed.of_arrow(table) for table, _ in tables])
    table = total.to_arrow()
    tally = sum((tally for _, tally in tables), Tally())
    return table, replace(tally, rows=len(total.columns), nbytes=table.nbytes)


def pick(counted: Counted, number: int, parts: int) -> Any:
    """Return a range of hashes of a table."""
    return Hashed.of_arrow(counted[0]).part(number, parts).to_arrow()


@adapted
def total_of(*tables: Any) -> Any:
    """Add up the same range of tables."""
    return Hashed.summed([Hashed.of_arrow(table) for table in tables]).to_arrow()


@adapted
def finish(chosen: Filter, number: int, *tables: Any) -> Any:
    """Add up range ``number`` of tables, and leave out what is to be left out."""
    return columns_to_arrow(_finished(chosen, tables))


def _finished(chosen: Filter, tables: Sequence[Any]) -> Columns:
    total = Hashed.summed([Hashed.of_arrow(table) for table in tables])
    return total.columns.filtered(chosen)


@adapted
def write_range(
    write: Callable[..., int],
    folder: str,
    storage: Storage,
    facts: Facts,
    parts: int,
    chosen: Filter,
    number: int,
    *tables: Any,
) -> int:
    """Add up range ``number`` of tables, and write it to a folder; return how many rows it has.

    Raises:
        TaskFailed: If that fails.
    """
    try:
        rows = _finished(chosen, tables).ordered()
        return write(folder, storage, facts, number, parts, rows)
    except Exception as error:
        raise TaskFailed(Failure.of(error)) from None


def _job(common: Common) -> FileJob:
    import pickle

    job = pickle.loads(common.job)
    assert isinstance(job, FileJob)
    return job


def _no_rows(job: FileJob) -> Columns:
    settings = job.settings
    empty = Columns.of_rows([], document_frequency=settings.document_frequency)
    ngram = settings.strings if settings.strings > 1 else 0
    return replace(empty, ngram=ngram, tagged=settings.spec.pos)


def _where() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _threads() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _worker_memory() -> int | None:
    from distributed import get_worker

    limit = get_worker().memory_manager.memory_limit
    return None if limit is None else max(1, int(_SHARE * limit))
