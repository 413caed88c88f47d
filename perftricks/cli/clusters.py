"""The options of ``perftricks wordcount`` that are about many machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from perftricks.cli.errors import complain

if TYPE_CHECKING:
    from perftricks.wordcount.cluster.engine import ClusterJob
    from perftricks.wordcount.job import FileJob


class ClusterOptions(NamedTuple):
    """What was said of a cluster; all None where nothing was."""

    engine: str | None = None
    scheduler: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    folder: str | None = None

    def job(self, job: FileJob, command: str, *, quiet: bool) -> FileJob | ClusterJob:
        """Return what counts: the job itself, or the same on a cluster; checked.

        Args:
            job: The job.
            command: What complains.
            quiet: Whether to keep the address of the dashboard.

        Raises:
            OptionError: If the options do not go together.
        """
        from perftricks.wordcount.errors import OptionError

        if self.engine is None:
            for name, value in self._asdict().items():
                if value is not None:
                    option = name.replace("_", "-")
                    raise OptionError(f"--{option} is for --engine dask")
            job.check()
            return job
        from perftricks.wordcount.cluster.connection import Scheduler
        from perftricks.wordcount.cluster.engine import ClusterJob

        def tell(address: str) -> None:
            if not quiet and address.startswith("http"):
                complain(command, f"the cluster's dashboard: {address}")

        scheduler = Scheduler(self.scheduler, self.tls_ca, self.tls_cert, self.tls_key)
        cluster = ClusterJob(job, scheduler, self.folder, tell)
        cluster.check()
        return cluster


def storage_options(given: Sequence[str] | None) -> dict[str, Any]:
    """Return options of a file system; numbers, true, false and JSON are taken for what they are.

    Raises:
        OptionError: If one is not KEY=VALUE.

    >>> storage_options(["anon=true", "key=AB=="])
    {'anon': True, 'key': 'AB=='}
    """
    import json

    from perftricks.wordcount.errors import OptionError

    found: dict[str, Any] = {}
    for one in given or ():
        key, sign, value = one.partition("=")
        if not sign or not key:
            raise OptionError(f"--storage-option {key!r}: expected KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
