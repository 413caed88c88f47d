"""``perftricks recompute-demo``."""

from __future__ import annotations

import importlib.util
import os
from enum import Enum
from typing import Annotated

import typer

from perftricks.cli.errors import BAD_DATA, complain, reported
from perftricks.cli.json_files import JsonFile, JsonOption, check_path
from perftricks.sizes import parse_size

COMMAND = "perftricks recompute-demo"

# "\b" keeps the lines of the next paragraph apart.
HELP = """Train a real model with and without recompute, and compare.

Each way runs in a process of its own, with the same seed, data and dropout masks. The command shows
the peak of memory in a training step, the time of a step, and whether losses, gradients and
variables are equal..

\b
Examples:
  perftricks recompute-demo
  perftricks recompute-demo --backend torch --layers 24 --batch-size 8
  perftricks recompute-demo --model bert-base --seq-len 512 --max-batch --device gpu
  perftricks recompute-demo --policy save_masks
  perftricks recompute-demo --budget 500MB --json result.json --plot result.png

With JAX, XLA compiles the two ways as different programs and rounds where it fuses operations. So
the first step is also compared operation by operation, and must be equal to the last bit.

Exit status: 0 equal (see above), 1 not equal or a run failed, 2 wrong usage, 130 interrupted.
"""


class Model(str, Enum):
    """Choices of --model."""

    TRANSFORMER = "transformer"
    BERT_BASE = "bert-base"
    BERT_LARGE = "bert-large"
    RESNET50 = "resnet50"
    DEEP_MLP = "deep-mlp"


class Backend(str, Enum):
    """Choices of --backend."""

    TENSORFLOW = "tensorflow"
    JAX = "jax"
    TORCH = "torch"


class Device(str, Enum):
    """Choices of --device."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "gpu"


class Policy(str, Enum):
    """Choices of --policy."""

    FULL = "full"
    SAVE_MASKS = "save_masks"
    SAVE_MATMULS = "save_matmuls"
    SAVE_ATTENTION = "save_attention"


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=HELP)
def recompute_demo(
    model: Annotated[Model, typer.Option(help="What to train.")] = Model.TRANSFORMER,
    backend: Annotated[
        Backend | None, typer.Option(help="Keras' backend.", show_default="the first installed")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Where to train; auto: a GPU if there is one.")
    ] = Device.AUTO,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Samples in a step.")] = 16,
    seq_len: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens in a sample.")] = 128,
    layers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Blocks of the model.", show_default="as many as the model has"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps that are timed.")] = 3,
    policy: Annotated[
        Policy, typer.Option(help="What recomputed blocks keep; full: nothing.")
    ] = Policy.FULL,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Plan what to recompute: what a whole step may take, such as 500MB.",
        ),
    ] = None,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="Also find the largest batch that fits, both ways.")
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="With --max-batch: what a step may take, such as 2GiB.",
            show_default="1GiB on the CPU, all there is on a GPU",
        ),
    ] = None,
    json: JsonOption = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Draw memory and time: .png, .svg or .pdf (with matplotlib)."
        ),
    ] = None,
) -> None:
    """Parse, run, render."""
    from perftricks.cli.render import demo as render
    from perftricks.cli.render import terminal
    from perftricks.recompute.demo import Config, compare, largest_batch
    from perftricks.recompute.measure.process import RunError

    with reported(COMMAND, usage=(ValueError,), data=(RunError, OSError)):
        config = Config(
            model=model.value,
            backend=installed(backend),
            batch_size=batch_size,
            seq_len=seq_len,
            layers=layers,
            steps=steps,
            device=device.value,
            policy=policy.value,
            budget=None if budget is None else parse_size(budget),
        )
        if budget is not None and max_batch:
            raise ValueError("--budget plans for one batch size; leave --max-batch out")
        if memory is not None and not max_batch:
            raise ValueError("--memory says what --max-batch may take; give both or neither")
        room = None if memory is None else parse_size(memory)
        json_file = JsonFile(json)
        json_file.check()
        if plot is not None:
            check_path(plot)
            check_picture(plot)
        with terminal.steps() as steps_done:
            comparison = compare(config, steps_done.begin)
            largest = None
            if max_batch:
                if room is None and comparison.plain.device == "cpu":
                    room = 2**30
                largest = tuple(
                    largest_batch(
                        config,
                        run.recompute,
                        room,
                        steps_done.begin,
                        known=run,
                        tried=steps_done.note,
                    )[0]
                    for run in (comparison.plain, comparison.recomputed)
                )
        if not json_file.to_stdout:
            render.show(comparison, largest, room)
        if json_file.wanted:
            record = {**comparison.to_dict(), "max_batch": largest, "memory_budget": room}
            json_file.write(record)
        if plot is not None:
            render.draw(comparison, plot)
    if not comparison.exact:
        complain(COMMAND, "the two ways are not equal; see the differences")
        raise typer.Exit(BAD_DATA)


def installed(backend: Backend | None) -> str:
    """Return the backend to use; Keras and the framework must be installed."""
    frameworks = [one.value for one in Backend]
    if backend is not None:
        frameworks = [backend.value]
    found = [name for name in frameworks if importlib.util.find_spec(name) is not None]
    if not found:
        extra = frameworks[0]
        raise ValueError(
            f"{' or '.join(frameworks)} is not installed: pip install 'perftricks[{extra}]'"
        )
    if importlib.util.find_spec("keras") is None:
        raise ValueError(f"keras is not installed: pip install 'perftricks[{found[0]}]'")
    return found[0]


def check_picture(path: str) -> None:
    """Refuse a picture that cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install 'perftricks[plot]'")
    from perftricks.cli.render import demo as render

    kinds = render.picture_kinds()
    if os.path.splitext(path)[1][1:].lower() not in kinds:
        raise ValueError(f"expected a picture of a kind such as x.png for --plot, not {path!r}")
