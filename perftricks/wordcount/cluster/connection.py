"""A client to count with: the caller's, one of a scheduler that is named, or of a local cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from perftricks.parallel.cluster import check_client, is_client
from perftricks.parallel.cores import available_cores
from perftricks.parallel.errors import ClusterError
from perftricks.wordcount.errors import OptionError

_THREADS = 4  # of a local worker
_SCHEMES = ("tcp://", "tls://", "ucx://", "ws://", "wss://", "inproc://")


@dataclass(frozen=True)
class Scheduler:
    """Where a scheduler listens, and how to prove who is who.

    Attributes:
        address: Such as "tcp://10.0.0.1:8786"; None for a cluster of this machine alone.
        tls_ca: A file with the certificate of whoever signed those of the cluster, in PEM.
        tls_cert: A file with this client's certificate.
        tls_key: A file with its key.
    """

    address: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def check(self) -> None:
        """Check that the parts go together, and that distributed is installed.

        Raises:
            OptionError: If not.
        """
        if importlib.util.find_spec("distributed") is None:
            raise OptionError(
                "engine 'dask' needs dask.distributed: pip install 'perftricks[dask]'"
            )
        if importlib.util.find_spec("pyarrow") is None:
            raise OptionError("engine 'dask' needs pyarrow: pip install 'perftricks[dask]'")
        if self.address is not None and not self.address.startswith(_SCHEMES):
            raise OptionError(
                f"scheduler {self.address!r}: expected an address such as tcp://10.0.0.1:8786 or "
                "tls://10.0.0.1:8786"
            )
        files = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        given = {name: path for name, path in files.items() if path is not None}
        secure = (self.address or "").startswith(("tls://", "wss://"))
        if given and not secure:
            raise OptionError(f"{', '.join(given)}: for a scheduler at tls://..., give its address")
        if given and len(given) < len(files):
            missing = ", ".join(files.keys() - given.keys())
            raise OptionError(f"TLS needs tls_ca, tls_cert and tls_key; {missing} is missing")
        for name, path in given.items():
            try:
                open(path, "rb").close()
            except OSError as error:
                raise OptionError(f"{name} {path!r} cannot be read: {error.strerror}") from None


Engine = Any  # a client, "dask", the address of a scheduler, or a Scheduler


def checked(engine: Engine) -> Engine:
    """Return an engine as it is used: a client, or a :class:`Scheduler`.

    Raises:
        OptionError: If it is none, or cannot be used.
    """
    if is_client(engine):
        try:
            check_client(engine)
        except ValueError as error:
            raise OptionError(f"engine: {error}") from None
        return engine
    if isinstance(engine, str):
        if engine != "dask" and not engine.startswith(_SCHEMES):
            raise OptionError(
                "engine must be None, 'dask', a client of dask.distributed or the address of its "
                f"scheduler, such as 'tcp://10.0.0.1:8786', not {engine!r}"
            )
        engine = Scheduler(None if engine == "dask" else engine)
    if not isinstance(engine, Scheduler):
        raise OptionError(
            "engine must be None, 'dask', a client of dask.distributed or the address of its "
            f"scheduler, not {engine!r}"
        )
    engine.check()
    return engine


@contextlib.contextmanager
def connected(engine: Engine, workers: int | None) -> Iterator[Any]:
    """Give a client; what is opened here is closed afterwards.

    Args:
        engine: What :func:`checked` returned.
        workers: Threads of a local cluster; None for the cores there are.

    Raises:
        ClusterError: If the scheduler cannot be reached.
    """
    if is_client(engine):
        yield engine
        return
    from distributed import Client

    if engine.address is None:
        with _local_cluster(workers or available_cores()) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(engine.address, security=_security(engine), set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ClusterError(
            f"the scheduler {engine.address} cannot be reached ({what}); is it running, and is "
            "this its address?"
        ) from None
    with client:
        yield client


# dask has workers give memory back as soon as it is free, and get it anew for each array: a quarter
# more time for a table. And each process looks fifty times a second at how late it is. This cluster
# ends with the count.
_SETTINGS = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 512 << 20,
    "distributed.admin.tick.interval": "1s",
}


def _local_cluster(threads: int) -> Any:
    import dask
    from distributed import LocalCluster

    processes = math.ceil(threads / _THREADS)
    shows = importlib.util.find_spec("bokeh") is not None
    with dask.config.set(_SETTINGS):
        return LocalCluster(
            n_workers=processes,
            threads_per_worker=math.ceil(threads / processes),
            dashboard_address="127.0.0.1:0" if shows else None,
            silence_logs=logging.CRITICAL,
        )


def _security(scheduler: Scheduler) -> Any:
    from distributed import Security

    if scheduler.tls_ca is None:
        return None
    return Security(
        tls_ca_file=scheduler.tls_ca,
        tls_client_cert=scheduler.tls_cert,
        tls_client_key=scheduler.tls_key,
        require_encryption=True,
    )
