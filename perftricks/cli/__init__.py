"""The command line: a module for each command, imported when the command is run.

A command parses its options, calls the library and renders what comes back. What it prints is made
in :mod:`perftricks.cli.render`; what it says when things go wrong, in :mod:`perftricks.cli.errors`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import perftricks
from perftricks.cli.errors import complain, forget_stdout
from perftricks.cli.json_files import with_json_values
from perftricks.signals import Terminated, ending

# Name -> what it does. The module of a command is its name with underscores; its ``app`` is a Typer
# with one command.
COMMANDS = {
    "wordcount": "Count the words of a corpus, exactly as jieba cuts them.",
    "recompute-demo": "Train a real model with and without recompute, and compare.",
    "recompute-plan": "Plan what to recompute for a budget of memory.",
    "info": "Show versions, cores, memory, GPUs and the cache.",
    "cache": "Show or empty the cache of compiled code and dictionaries.",
}


class LazyCommands(TyperGroup):
    """A group that imports a command when it is needed, not to list it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command."""
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # a shell asks how a line goes on
                return None
            ctx.fail(f"no command {cmd_name!r}; the commands are: {', '.join(COMMANDS)}")
        module = importlib.import_module(f"perftricks.cli.{cmd_name.replace('-', '_')}")
        return typer.main.get_command(module.app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


# No markup in the help: for that Typer imports rich, which takes three times as long as all else.
app = typer.Typer(
    name="perftricks",
    cls=LazyCommands,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perftricks {perftricks.__version__}")
        raise typer.Exit


@app.callback()
def perftricks_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Performance tricks, each exact and each measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows the program's name; None takes it from ``sys.argv``.

    Returns:
        The exit status: 0, 1 for bad data, 2 for wrong usage, 130 after Ctrl-C, 128 + n after a
        signal n that ends programs (143 for SIGTERM, 129 for SIGHUP).
    """
    _open_missing_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a token must not fail on a terminal that lacks it
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        with ending():
            status = command.main(
                with_json_values(given) or ["--help"], prog_name="perftricks", standalone_mode=False
            )
        sys.stdout.flush()  # what --help and --version print
    except Terminated as error:  # before a command could say so itself
        return error.status
    except BrokenPipeError:
        forget_stdout()
        return 0
    except OSError as error:
        forget_stdout()
        complain("perftricks", (error.strerror or str(error)).lower())
        return 1
    except _usage_error() as error:
        name = error.ctx.command_path if getattr(error, "ctx", None) else "perftricks"
        message = " ".join(error.format_message().split()).rstrip(".")
        complain(name, f"{message}. See '{name} --help'.")
        return 2
    return status if isinstance(status, int) else 0


def _open_missing_streams() -> None:
    """Let what is written go nowhere where stdout or stderr is closed, as services are started.

    Not only are the streams None then: the next file that is opened would get their descriptor, and
    with it whatever libraries and child processes print.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free
        if name != "stdin":  # which the commands themselves say is closed, if they are to read it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _usage_error() -> Any:
    """Return click's ``ClickException``, which newer versions of Typer keep to themselves."""
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
