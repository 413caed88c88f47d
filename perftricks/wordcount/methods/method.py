"""What a method of counting is: one file for each here, and one entry in ``choice.METHODS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from perftricks.wordcount.reading.feeds import Feed
from perftricks.wordcount.settings import MethodName, Settings
from perftricks.wordcount.table.spill import Spill
from perftricks.wordcount.table.table import Table

if TYPE_CHECKING:
    from perftricks.wordcount.checkpoint import Checkpoint, State

Progress = Callable[[int, int | None], object]

# Rough figures that say which method is done first.
JIEBA_BYTES_PER_SECOND = 0.4e6  # of one process with jieba
JIEBA_SECONDS = 0.8  # to import it and load its dictionary


@dataclass(frozen=True)
class Work:
    """What there is to count, and with what.

    Attributes:
        feed: The documents.
        settings: How to count; checked already.
        workers: How many processes or threads may work.
        spill: Where tables go that outgrow the memory limit.
        progress: Called with the bytes done and the bytes there are.
        checkpoint: Where to take snapshots, of a method that can.
        state: Where the run before was, if there is a checkpoint.
    """

    feed: Feed
    settings: Settings
    workers: int
    spill: Spill
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    state: State | None = None


class Counted(NamedTuple):
    """What a method gives.

    Attributes:
        method: Its name.
        workers: How many processes or threads worked; 1 for the calling one.
        table: The table, with document frequencies if they were asked for.
        documents: How many documents were counted.
        verified: How many were counted once more by jieba.
    """

    method: MethodName
    workers: int
    table: Table
    documents: int
    verified: int = 0


class Method(Protocol):
    """A way to count; all give the same table."""

    def why_not(self, settings: Settings) -> str | None:
        """Say why it cannot count like this; None if it can."""

    def estimate(self, settings: Settings, size: float, workers: int) -> float:
        """Return about how many seconds it takes.

        Args:
            settings: How to count.
            size: Bytes of text, roughly; may be infinite.
            workers: How many processes or threads may work.
        """

    def count(self, work: Work) -> Counted:
        """Count all documents.

        Raises:
            OptionError: If that turns out to be impossible, before a document was read.
        """
