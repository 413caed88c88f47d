"""What all tests need: patience, a temporary folder of their own, and that Ctrl-C works."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import signal
import tempfile

import pytest

# Seconds to wait for what must come, before a test says that it does not. On a machine that is busy
# with ten other things a second of work takes most of a minute.
PATIENCE = 300

# A shell starts what it runs in the background with SIGINT ignored, and programs inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And nohup starts it with SIGHUP ignored.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# jieba reads its file in the temporary folder whatever its age, also that of another jieba. So the
# tests, and the workers of pytest-xdist, have a folder of their own; pytest's stays where it is.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    own = os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="tests-")

    def remove(process):
        """Remove the folder at the very end, and not in a fork."""
        if os.getpid() == process:
            shutil.rmtree(own, ignore_errors=True)

    atexit.register(remove, os.getpid())


def pytest_configure(config):
    """Register the marker of what kills parts of a cluster."""
    config.addinivalue_line("markers", "xdist_group: what runs in the same worker of pytest-xdist")
    config.addinivalue_line(
        "markers", "cluster_faults: kills parts of a cluster; for `nox -s dask`, which takes longer"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what kills parts of a cluster, unless it is asked for.

    What needs the cluster runs in one worker of pytest-xdist, so that there is one.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        if "cluster" in item.fixturenames or (callspec and "dask" in callspec.params.values()):
            item.add_marker(pytest.mark.xdist_group("cluster"))
    if os.environ.get("PERFTRICKS_DASK") == "all":
        return
    left_out = [item for item in items if item.get_closest_marker("cluster_faults")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def made_once(tmp_path_factory, name, make):
    """Make a folder that all workers of pytest-xdist share, and return its path.

    Args:
        tmp_path_factory: pytest's.
        name: The folder's name.
        make: Called with the empty folder, in the worker that is there first.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / name
    with open(folder / f"{name}.made", "ab+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        if not os.fstat(made.fileno()).st_size:
            path.mkdir(mode=0o700)
            make(path)
            made.write(b"yes")
    return path


@pytest.fixture
def restored_jieba():
    """Put what jieba's own tokenizer cuts with back to what it was.

    It gives the words, their total, and those that are forced apart.
    """
    import jieba

    jieba.dt.check_initialized()
    words, total = dict(jieba.dt.FREQ), jieba.dt.total
    forced = set(jieba.finalseg.Force_Split_Words)
    names = [(module, dict(vars(module))) for module in (jieba, jieba.finalseg)]
    yield words, total, forced
    for module, before in names:
        vars(module).update(before)
    jieba.dt.FREQ, jieba.dt.total = dict(words), total
    jieba.finalseg.Force_Split_Words.clear()
    jieba.finalseg.Force_Split_Words.update(forced)


@pytest.fixture(scope="session")
def cluster():
    """A cluster of two workers, of one thread each."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    from tests.clusters import Cluster

    cluster = Cluster()
    yield cluster
    cluster.close()
