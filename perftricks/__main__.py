"""``perftricks`` and ``python -m perftricks``."""

import gc
import sys


def main() -> int:
    """Run the command line and return its exit status."""
    # Only perftricks.recompute runs on older versions, so this file must still parse on them.
    if sys.version_info < (3, 10):  # noqa: UP036
        found = f"{sys.version_info[0]}.{sys.version_info[1]}"
        sys.stderr.write(
            f"perftricks: the command line needs Python 3.10 or newer, this is {found}\n"
        )
        return 2
    # Imports and dictionaries make many objects that stay: to look through them for garbage again
    # and again takes a fifth of the start.
    gc.set_threshold(100_000)
    try:
        from perftricks.cli import main as cli_main

        return cli_main()
    except KeyboardInterrupt:  # before a command could say so itself
        return 130


if __name__ == "__main__":
    sys.exit(main())
