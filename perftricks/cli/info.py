"""``perftricks info``."""

from __future__ import annotations

from typing import Annotated

import typer

from perftricks.cli.errors import reported
from perftricks.cli.json_files import JsonFile, JsonOption

COMMAND = "perftricks info"

# "\b" keeps the lines of the next paragraph apart.
HELP = """Show versions, cores, memory, GPUs and the cache.

Nothing is imported to find out, so it answers at once. --devices also asks each framework that is
installed which devices it sees; that imports it in a process of its own, and takes some seconds.

\b
Examples:
  perftricks info
  perftricks info --devices
  perftricks info --json environment.json
  RECOMPUTE=1 perftricks info

Exit status: 0 done, 2 wrong usage, 130 interrupted.
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("info", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
def info(
    devices: Annotated[
        bool, typer.Option("--devices", help="Ask each framework for the devices it sees.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Wait this long for each of them.")
    ] = 120,
    json: JsonOption = None,
) -> None:
    """Parse, look around, show."""
    from perftricks.cli.render import info as render
    from perftricks.cli.render import terminal
    from perftricks.environment import describe
    from perftricks.environment.devices import FRAMEWORKS, ask

    with reported(COMMAND, usage=(ValueError,), data=(OSError,)):
        json_file = JsonFile(json)
        json_file.check()
        environment = describe()
        sights = None
        if devices:
            installed = [name for name in FRAMEWORKS if environment.packages[name]]
            with terminal.announcer() as tell:
                sights = []
                for name in installed:
                    if tell is not None:
                        tell(f"asking {name}")
                    sights.append(ask(name, timeout))
        if not json_file.to_stdout:
            render.show(environment, sights)
        if json_file.wanted:
            json_file.write(render.summary(environment, sights))
