"""A count on a cluster: what it cannot do, its partitions, its table, its checkpoint."""

from __future__ import annotations

import codecs
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from perftricks.wordcount.checkpoint import Checkpoint, State
from perftricks.wordcount.cluster import tasks
from perftricks.wordcount.cluster.agreement import Tokenizing, tokenizing
from perftricks.wordcount.cluster.connection import Engine, Scheduler, checked, connected
from perftricks.wordcount.cluster.driver import Driver, Table
from perftricks.wordcount.cluster.hashed import columns_of_arrow
from perftricks.wordcount.cluster.tasks import Common, Tally
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.job import FileJob
from perftricks.wordcount.methods.compiled import as_key
from perftricks.wordcount.methods.kernel_tables import ngram_table, token_table
from perftricks.wordcount.methods.method import Progress
from perftricks.wordcount.reading.partitions import divided
from perftricks.wordcount.reading.sources import Range, Source
from perftricks.wordcount.reading.streams import with_whole_lines
from perftricks.wordcount.table.columnar import ColumnTable
from perftricks.wordcount.table.columns import Columns, columns_of
from perftricks.wordcount.table.counts import RunInfo, WordCounts
from perftricks.wordcount.table.rows import table_bytes
from perftricks.wordcount.table.saved import Facts
from perftricks.wordcount.table.spill import Spill, flattened
from perftricks.wordcount.table.sums import gathered
from perftricks.wordcount.table.table import Table as AnyTable

_LEAST, _MOST, _MOST_NGRAMS = 8 << 20, 256 << 20, 32 << 20  # bytes of a partition
_SHARES = 4  # partitions for each worker, where that makes them neither small nor large


@dataclass(frozen=True)
class ClusterJob:
    """A job for a cluster.

    Attributes:
        job: The job.
        engine: A client, "dask", the address of a scheduler, or a :class:`.connection.Scheduler`.
        folder: The path or URL of a folder, to which workers write the table; None for a table that
            comes back.
        dashboard: Called with the address of the cluster's dashboard when it is known.
    """

    job: FileJob
    engine: Engine
    folder: str | None = None
    dashboard: Callable[[str], object] | None = None

    def check(self) -> None:
        """Check that this can be counted on a cluster.

        Raises:
            OptionError: If not; it names the option.
        """
        self.job.check()
        engine, settings = checked(self.engine), self.job.settings
        if settings.method not in (None, "compiled"):
            raise OptionError(
                f"a cluster counts with method 'compiled'; method {settings.method!r} is for one "
                "machine"
            )
        if settings.spec.pos and self.job.checkpoint is not None:
            raise OptionError(
                "a checkpoint of a cluster holds no part-of-speech tags: leave pos, engine or "
                "checkpoint out"
            )
        if settings.start_method is not None:
            raise OptionError("start_method is for processes of this machine, not for a cluster")
        if settings.verify:
            raise OptionError("verify counts documents again in this process; not with a cluster")
        own = isinstance(engine, Scheduler) and engine.address is None
        if settings.workers is not None and not own:
            raise OptionError("workers are those that the scheduler has; leave workers out")
        if self.folder is not None and self.job.checkpoint is not None:
            raise OptionError(
                "a checkpoint holds the table on this machine, and the folder is written by "
                "workers: leave one of them out"
            )
        if self.folder is not None:
            from perftricks.wordcount.table.parted import check_new

            check_new(self.folder, self.job.corpus.storage)
        next(iter(divided(self.job.corpus, self.job.options, _MOST)), None)

    def run(self, progress: Progress | None = None) -> WordCounts:
        """Count and return the table; see :func:`perftricks.wordcount.count_files`."""
        began = time.perf_counter()
        job = self.job
        found = tokenizing(job.settings.spec)
        common = Common.of(replace(job, checkpoint=None), found.identity)
        stored, total = 0, job.corpus.size

        def counted(size: int) -> None:
            nonlocal stored
            stored += size
            if progress is not None:
                progress(stored, total)

        counted(0)
        with connected(checked(self.engine), job.settings.workers) as client:
            if self.dashboard is not None:
                dashboard = client.scheduler_info()["services"].get("dashboard")
                self.dashboard(str(client.dashboard_link) if dashboard else "")
            driver = Driver(client, common, counted)
            with driver.explained():
                driver.check(common)
                run = _Run(self, driver, counted)
                if job.checkpoint is None:
                    counts = run.table()
                else:
                    counts = run.with_checkpoint(job.checkpoint, found)
                threads = sum(map(int, client.nthreads().values()))
        tally = run.tally
        info = RunInfo(
            method="dask",
            workers=threads,
            batch_size=job.settings.batch_size,
            tokenizer=job.settings.spec.describe(),
            files=len(job.corpus.sources) - len(tally.bad),
            passed_over=job.corpus.passed_over,
            text_bytes=run.before[0] + tally.text,
            stored_bytes=run.before[1] + tally.stored,
            seconds=time.perf_counter() - began,
            ngrams=job.settings.ngrams,
            tagged=job.settings.spec.pos,
            resumed=run.resumed,
            spilled=run.spilled,
            not_read=job.corpus.not_read,
            bad=(*job.corpus.bad, *tally.bad),
            encodings=+Counter(tally.encodings),
        )
        return WordCounts.of(
            counts,
            documents=run.documents,
            tokens=run.tokens,
            run=info,
            smallest=max(1, job.table_filter.chosen.min_count),
        )


class _Place:
    """Where in the corpus a partition begins: the number of its source, and the partition."""

    def __init__(self, number: int, source: Source) -> None:
        self.number = number
        self.source = source


class _Run:
    """A count that is under way.

    Attributes:
        tally: What is known of what was counted.
        documents: How many documents, those before a checkpoint included.
        tokens: The same of tokens.
        before: Bytes of text, and as stored, that a run before had counted.
        resumed: As in :class:`RunInfo`.
        spilled: As there.
    """

    def __init__(
        self, cluster_job: ClusterJob, driver: Driver, counted: Callable[[int], object]
    ) -> None:
        self._job = cluster_job.job
        self._folder = cluster_job.folder
        self._driver = driver
        self._counted = counted
        self.tally = Tally()
        self.documents = self.tokens = 0
        self.before = (0, 0)
        self.resumed = ""
        self.spilled = 0
        self._filter = self._job.table_filter.chosen

    def table(self) -> AnyTable:
        """Count all of it; the table comes back, or is written by workers."""
        places = self._places(0, 0)
        tables = self._driver.count(place.source for place in places)
        self._note(tables)
        if not tables:
            return gathered([], 1, document_frequency=self._job.settings.document_frequency)
        parts = self._driver.parts(tables)
        if self._folder is not None:
            return self._written(tables, parts)
        ranges = self._driver.ranges(tables, parts, tasks.finish, self._filter)
        return self._gathered(tables, ranges)

    def _note(self, tables: list[Table]) -> None:
        self.tally = sum((table.tally for table in tables), self.tally)
        self.documents += sum(table.tally.documents for table in tables)
        self.tokens += sum(table.tally.tokens for table in tables)

    def _gathered(self, tables: list[Table], ranges: Iterator[Any]) -> AnyTable:
        found = map(columns_of_arrow, self._driver.results(ranges))
        documents, limit = self._job.settings.document_frequency, self._job.settings.limit
        rows = sum(table.tally.rows for table in tables)  # or fewer
        if table_bytes(rows, document_frequency=documents) <= limit:
            return ColumnTable.of(Columns.joined(list(found)))
        parts = (part for columns in found for part in columns.parts())
        return gathered(parts, limit, document_frequency=documents)

    def _written(self, tables: list[Table], parts: int) -> AnyTable:
        from perftricks.wordcount.table.parted import PartedTable, write_part

        assert self._folder is not None
        settings = self._job.settings
        facts = Facts(
            self.documents,
            self.tokens,
            max(1, self._filter.min_count),
            settings.document_frequency,
            0,
        )
        storage = self._job.corpus.storage
        arguments = (write_part, self._folder, storage, facts, parts, self._filter)
        written = self._driver.ranges(tables, parts, tasks.write_range, *arguments)
        for _ in self._driver.results(written):
            pass
        return PartedTable.opened(self._folder, storage, settings.limit)

    # ------------------------------------------------------------------------- partitions

    def _places(self, number: int, offset: int) -> Iterator[_Place]:
        """Yield the partitions from a place on.

        Raises:
            OptionError: If the place is one that only the engine of one machine knows.
        """
        job = self._job
        size = _partition_size(job, self._driver.workers)
        for index, source in enumerate(job.corpus.sources[number:], number):
            begin = offset if index == number else 0
            whole = replace(source, path=_absolute(source.path))
            if begin and not _has_places(job, source):
                raise OptionError(
                    f"the checkpoint is in the midst of {source.name!r}, at a document that only "
                    "the engine of one machine finds again; let that go on with it"
                )
            corpus = replace(job.corpus, sources=(whole,))
            # Pieces of the same size, and no small one at the end.
            pieces = max(1, round((source.size or 0) / size))
            for part in divided(corpus, job.options, math.ceil((source.size or 1) / pieces)):
                rest = _behind(part, begin) if begin else part
                self._pass_over((part.size or 0) - (0 if rest is None else rest.size or 0))
                if rest is not None:
                    yield _Place(index, rest)

    def _pass_over(self, stored: int) -> None:
        """Note bytes that a run before had counted."""
        if stored:
            self.before = (self.before[0] + stored, self.before[1] + stored)
            self._counted(stored)

    # ------------------------------------------------------------------------- checkpoint

    def with_checkpoint(self, checkpoint: Checkpoint, found: Tokenizing) -> AnyTable:
        """Count in stretches, each of which ends with a snapshot on this machine."""
        assert found.engine is not None
        job = self._job
        document_frequency = job.settings.document_frequency
        with checkpoint.opened(job.identity(found.engine)) as state:
            runs = checkpoint.runs(state)
            spill = Spill(job.settings.limit, checkpoint.folder, runs, state.runs_total)
            if state.complete:
                self.resumed = "complete"
            elif state.source or state.offset:
                self.resumed = "resumed"
            self._take_over(checkpoint, state, spill, found)
            self.before = (state.text, state.stored)
            self._counted(state.stored)
            self._count_on(checkpoint, state, spill)
            self.documents, self.tokens = state.odd_documents, spill.total
            self.spilled = len(spill.runs)
            parts = columns_of(flattened(spill.summed()), document_frequency=document_frequency)
            table = gathered(parts, spill.limit, document_frequency=document_frequency)
            spill.close()
        return table.filtered(self._filter)

    def _take_over(
        self, checkpoint: Checkpoint, state: State, spill: Spill, found: Tokenizing
    ) -> None:
        """Make runs of all that a run before had counted, on one machine perhaps."""
        tables = checkpoint.tables(state, found.engine) if found.engine is not None else {}
        for table in tables.values():
            spill.add_table(ngram_table(table) if table.ngram > 1 else token_table(table))
        if state.odd:
            spill.add_counter(Counter({as_key(key): count for key, count in state.odd}))
        fed = sum(state.documents.values()) - state.continued
        state.odd_documents += fed
        state.documents, state.tables, state.continued, state.odd = {}, {}, 0, []

    def _count_on(self, checkpoint: Checkpoint, state: State, spill: Spill) -> None:
        if state.complete:
            return
        places = self._places(state.source, state.offset)
        place = next(places, None)
        while place is not None:
            begun = time.monotonic()

            def stretch(first: _Place = place, begun: float = begun) -> Iterator[Source]:
                nonlocal place
                place = first
                while place is not None:
                    due = time.monotonic() - begun >= checkpoint.seconds
                    if due and place is not first and self._may_stop(place):
                        return
                    yield place.source
                    place = next(places, None)

            tables = self._driver.count(stretch())
            self._note(tables)
            table = self._driver.sum(tables)
            rows = next(self._driver.results(iter([table.future])))[0]
            spill.add_table(ColumnTable.of(columns_of_arrow(rows)))
            state.odd_documents += table.tally.documents
            self._move(state, place)
            checkpoint.save(_with_runs(state, spill), {})
        if not state.complete:
            self._move(state, None)
            checkpoint.save(_with_runs(state, spill), {})

    def _may_stop(self, place: _Place) -> bool:
        return place.source.begins_file or _has_places(self._job, place.source)

    def _move(self, state: State, place: _Place | None) -> None:
        """Note in the state that all before a place is done."""
        sources = self._job.corpus.sources
        state.source = len(sources) if place is None else place.number
        state.offset = 0
        if place is not None and place.source.rows is not None:
            state.offset = place.source.rows.start
        elif place is not None and place.source.start:
            state.offset = with_whole_lines(place.source).start
        state.stored = sum(source.size or 0 for source in sources[: state.source])
        state.text = state.stored  # as far as that is known without reading
        state.complete = place is None


def _with_runs(state: State, spill: Spill) -> State:
    state.runs = [(run.path.name, run.rows, run.digest) for run in spill.runs]
    state.runs_total = spill.total
    return state


def _has_places(job: FileJob, source: Source) -> bool:
    """Whether a place in a source is the same number to the engine of one machine.

    It is one of documents there, but of bytes in text that is counted as it is stored.
    """
    options = job.options
    return source.format == "parquet" or (
        source.format == "text"
        and not source.compression
        and options.errors == "strict"
        and options.document == "line"
        and options.encoding != "auto"
        and codecs.lookup(options.encoding).name == "utf-8"
    )


def _behind(part: Source, place: int) -> Source | None:
    """Return what of a partition is behind a place in its file; None if nothing is.

    Raises:
        OptionError: If the place is in the midst of a line.
    """
    if part.format == "parquet":
        start, stop = part.rows or Range(0)
        if stop is not None and stop <= place:
            return None
        return replace(part, rows=Range(max(start, place), stop))
    if part.stop is not None and part.stop <= place:
        return None
    if part.start < place:
        part = replace(part, start=place, size=(part.size or 0) - place + part.start)
        if with_whole_lines(part).start != place:
            raise OptionError(
                f"the checkpoint is in the midst of a line of {part.name!r}, as long ones are; let "
                "the engine of one machine go on with it"
            )
    return part


def _partition_size(job: FileJob, workers: int) -> int:
    most = _MOST_NGRAMS if job.settings.strings > 1 else _MOST
    return max(min((job.corpus.size or 0) // (_SHARES * workers), most), _LEAST)


def _absolute(path: str) -> str:
    """Return a path that means the same where another folder is the current one."""
    return path if "://" in path else os.path.abspath(path)
