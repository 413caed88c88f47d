"""What all tests need: Ctrl-C works, also where the tests run in the background."""

from __future__ import annotations

import signal

# A shell starts what it runs in the background with SIGINT ignored, and programs inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
