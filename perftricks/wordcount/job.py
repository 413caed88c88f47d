"""The job: documents in, a table out, by one of the methods in ``methods``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perftricks.parallel.cores import available_cores
from perftricks.wordcount.checkpoint import Checkpoint, identity_of
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.methods.choice import check, choose
from perftricks.wordcount.methods.compiled import Compiled
from perftricks.wordcount.methods.method import Method, Progress, Work
from perftricks.wordcount.reading.documents import check_options
from perftricks.wordcount.reading.feeds import Feed, FileFeed
from perftricks.wordcount.reading.options import ReadOptions
from perftricks.wordcount.reading.partitions import PARTITION_BYTES, divided
from perftricks.wordcount.reading.sources import Corpus
from perftricks.wordcount.settings import Settings, TableFilter
from perftricks.wordcount.table.counts import RunInfo, WordCounts
from perftricks.wordcount.table.spill import Spill
from perftricks.wordcount.tagging import tags_digest

if TYPE_CHECKING:
    from perftricks.wordcount.kernel import Engine


@dataclass(frozen=True)
class FileJob:
    """All that counting files needs to know.

    Attributes:
        corpus: The files.
        options: How they are read.
        settings: How they are counted.
        table_filter: What is left out of the table.
        checkpoint: Where snapshots are taken.
    """

    corpus: Corpus
    options: ReadOptions
    settings: Settings
    table_filter: TableFilter
    checkpoint: Checkpoint | None = None

    def check(self) -> None:
        """Check that the parts go together.

        Raises:
            OptionError: If not.
        """
        check(self.settings)
        self.table_filter.check(self.settings.spec)
        check_options(self.options, self.corpus.sources)
        if self.checkpoint is None:
            return
        if self.settings.method not in ("compiled", None):
            raise OptionError(
                f"a checkpoint is for method 'compiled'; method is {self.settings.method!r}"
            )
        folder = os.path.realpath(self.checkpoint.folder)
        for root in self.corpus.folders:
            if os.path.commonpath([os.path.realpath(root), folder]) == os.path.realpath(root):
                raise OptionError(
                    f"checkpoint {str(self.checkpoint.folder)!r} lies in {root!r}, which is "
                    "counted, and its own files with it; name a folder elsewhere"
                )
        if self.settings.verify:
            raise OptionError("verify needs all documents in one run; leave it or checkpoint out")
        reason = Compiled().why_not(self.settings)
        if reason is not None:
            raise OptionError(
                f"a checkpoint needs method 'compiled', which cannot be used: {reason}"
            )

    def feed(self) -> FileFeed:
        """Return the documents."""
        return FileFeed(self.corpus, replace(self.options, limit=self.settings.limit))

    def divided(self, size: int = PARTITION_BYTES) -> Iterator[FileJob]:
        """Yield jobs for partitions of the corpus, which may run in any process and any order.

        Their tables add up to the table of this job before words are left out. A job, and a table,
        survives a pickle.

        Args:
            size: Bytes of a partition, about.

        Raises:
            OptionError: If the corpus cannot be divided.

        >>> from perftricks.wordcount.reading.sources import find_sources
        >>> from perftricks.wordcount.tokenizers import make_spec
        >>> job = FileJob(
        ...     find_sources("docs/samples"), ReadOptions(), Settings(make_spec()), TableFilter()
        ... )
        >>> parts = [part.run() for part in job.divided(2000)]
        >>> len(parts), sum(parts) == job.run()
        (4, True)
        """
        for source in divided(self.corpus, self.options, size):
            corpus = Corpus((source,), 0, skip_bad=self.corpus.skip_bad)
            yield replace(self, corpus=corpus, table_filter=TableFilter(), checkpoint=None)

    def run(self, progress: Progress | None = None) -> WordCounts:
        """Count and return the table; see :func:`count_files`."""
        if self.checkpoint is None:
            return self.table_filter.apply(run(self.feed(), self.settings, progress))
        settings = replace(self.settings, method="compiled")
        method = Compiled()
        counts = run(
            self.feed(),
            settings,
            progress,
            method=method,
            checkpoint=self.checkpoint,
            identity=self.identity(method.load(settings)),
        )
        return self.table_filter.apply(counts)

    def identity(self, engine: Engine) -> dict[str, Any]:
        """Return what must not change between the parts of a run with a checkpoint."""
        settings = self.settings
        chosen: dict[str, Any] = {
            "mode": settings.spec.mode,
            "hmm": settings.spec.hmm,
            "ngrams": settings.ngrams,
            "document_frequency": settings.document_frequency,
        }
        if settings.spec.pos:
            chosen["pos"] = tags_digest(settings.spec.posseg_tokenizer())
        return identity_of(self.corpus, self.options, chosen, engine)


def run(
    feed: Feed,
    settings: Settings,
    progress: Progress | None = None,
    *,
    method: Method | None = None,
    checkpoint: Checkpoint | None = None,
    identity: dict[str, Any] | None = None,
) -> WordCounts:
    """Count the documents of a feed.

    Args:
        feed: The documents.
        settings: How to count; checked already.
        progress: Called with the bytes done and the bytes there are.
        method: What counts; None for what the settings say.
        checkpoint: Where it takes snapshots, if it is "compiled".
        identity: What must not change between the parts of a run.

    Returns:
        The whole table, with a :class:`RunInfo` that says how it was made.
    """
    began = time.perf_counter()
    if progress is not None:
        progress(0, feed.total)
    workers = settings.workers or available_cores()
    note = resumed = ""
    if method is None:
        method, note = choose(feed, settings, workers)
    spill = Spill(settings.limit)
    try:
        if checkpoint is None:
            counted = method.count(Work(feed, settings, workers, spill, progress))
        else:
            with checkpoint.opened(identity or {}) as state:
                begun = state.documents or state.source or state.offset
                resumed = "complete" if state.complete else "resumed" if begun else ""
                runs = checkpoint.runs(state)
                spill = Spill(settings.limit, checkpoint.folder, runs, state.runs_total)
                counted = method.count(
                    Work(feed, settings, workers, spill, progress, checkpoint, state)
                )
    except BaseException:
        spill.close()
        raise
    info = RunInfo(
        method=counted.method,
        workers=counted.workers,
        batch_size=settings.batch_size,
        tokenizer=settings.spec.describe(),
        files=feed.files,
        passed_over=feed.passed_over,
        text_bytes=feed.meter.text,
        stored_bytes=feed.meter.stored,
        seconds=time.perf_counter() - began,
        note=note,
        verified=counted.verified,
        ngrams=settings.ngrams,
        tagged=settings.spec.pos,
        resumed=resumed,
        spilled=len(spill.runs),
        not_read=tuple(feed.not_read),
        bad=tuple(feed.bad),
        encodings=+feed.meter.encodings,
    )
    return WordCounts.of(counted.table, documents=counted.documents, run=info)
