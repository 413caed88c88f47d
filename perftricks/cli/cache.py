"""``perftricks cache``."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from perftricks.cli.errors import BAD_DATA, complain, reported
from perftricks.cli.json_files import JsonFile, JsonOption

COMMAND = "perftricks cache"

# "\b" keeps the lines of the next paragraph apart.
HELP = """Show or empty the cache of compiled code and dictionaries.

The compiled word counter keeps its machine code and the tables of dictionaries in a folder, so that
it starts at once. All of it is built again when it is needed, so it may be emptied at any time,
also while other programs count. Beyond a limit what was not used for longest is removed.

\b
Examples:
  perftricks cache
  perftricks cache --json
  perftricks cache clear
  PERFTRICKS_CACHE=/fast/disk perftricks cache
  PERFTRICKS_CACHE_LIMIT=1GB perftricks wordcount corpus/

Exit status: 0 done, 1 something could not be removed, 2 wrong usage.
"""


class Action(str, Enum):
    """What to do."""

    SHOW = "show"
    CLEAR = "clear"


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("cache", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
def cache(
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="What to do.")] = Action.SHOW,
    json: JsonOption = None,
) -> None:
    """Parse, look or clear, show."""
    from perftricks.cli.render import cache as render
    from perftricks.wordcount.storage.cachefiles import clear_cache, inspect_cache

    with reported(COMMAND, usage=(ValueError,), data=(OSError,)):
        json_file = JsonFile(json)
        json_file.check()
        report = clear_cache() if action is Action.CLEAR else inspect_cache()
        if not json_file.to_stdout:
            show = render.show_cleared if action is Action.CLEAR else render.show
            show(report)
        if json_file.wanted:
            json_file.write(report.to_dict())
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        more = f" and {len(report.failed) - 1} more" if len(report.failed) > 1 else ""
        complain(
            COMMAND,
            f"{name!r}{more} could not be removed: {reason}; check who owns {str(report.folder)!r}",
        )
        raise typer.Exit(BAD_DATA)
