"""What all tests need: patience, a temporary folder of their own, and that Ctrl-C works."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile

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
OWN = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    OWN = tempfile.mkdtemp(prefix="tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = OWN


def pytest_unconfigure():
    """Remove the folder at the end."""
    if OWN is not None:
        shutil.rmtree(OWN, ignore_errors=True)
