"""What all tests need: patience, and that Ctrl-C works, also in the background."""

from __future__ import annotations

import signal

# Seconds to wait for what must come, before a test says that it does not. On a machine that is busy
# with ten other things a second of work takes most of a minute.
PATIENCE = 300

# A shell starts what it runs in the background with SIGINT ignored, and programs inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And nohup starts it with SIGHUP ignored.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
