"""``perftricks recompute-plan``."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Annotated, Any

import typer

from perftricks.cli.errors import reported
from perftricks.cli.json_files import JsonFile, JsonOption, check_path
from perftricks.cli.recompute_demo import Backend, check_picture, installed
from perftricks.sizes import parse_size

COMMAND = "perftricks recompute-plan"
_PLENTY = 1 << 60  # bytes; the plan that fits is the plain run

# "\b" keeps the lines of the next paragraph apart.
HELP = """Plan what to recompute for a budget of memory.

It shows where the memory of a training step goes, what plans need, and the one that fits.

MODEL is a file that Keras has saved (.keras), or MODULE:FUNCTION, where the function returns a
model; models of keras.applications are built without weights. A model with a call of its own comes
with samples of what it is called with: the function returns (model, x) or (model, x, y). Nothing is
trained, and nothing of the size of a batch is allocated.

\b
Examples:
  perftricks recompute-plan keras.applications:ResNet50 --batch-size 64
  perftricks recompute-plan keras.applications:ResNet50 --batch-size 64 --budget 4GiB
  perftricks recompute-plan model.keras --batch-size 32 --length 512 --budget 8GB --save plan.json

Without --budget it shows what plans need, from the least memory to the plain step; with it, the
fastest whose whole training step fits.

Exit status: 0 planned, 1 nothing fits or the model cannot be had, 2 wrong usage, 130 interrupted.
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class _NoModelError(Exception):
    """The model cannot be had; the message says why."""


@app.command(help=HELP)
def recompute_plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="FILE.keras or MODULE:FUNCTION.")],
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Samples in a batch.")],
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a step may take, such as 6GiB.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="For unknown dimensions: tokens, or the sides of an image."
        ),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="Keras' backend.", show_default="the first installed")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Keras' name of it.", show_default="the model's, else adam"
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Keras' name of it.", show_default="the model's, else mse"
        ),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Save the plan, which Plan.load reads: .json."),
    ] = None,
    json_path: JsonOption = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Draw time over memory: .png, .svg or .pdf (with matplotlib)."
        ),
    ] = None,
) -> None:
    """Parse, plan, render."""
    from perftricks.cli.render import plan as render
    from perftricks.cli.render import terminal

    with reported(COMMAND, usage=(ValueError,), data=(_NoModelError, OSError)):
        if save is not None and budget is None:
            raise ValueError("--save saves the plan that a --budget chooses; give both or neither")
        size = None if budget is None else parse_size(budget)
        json_file = JsonFile(json_path)
        json_file.check()
        for path in filter(None, (plot, save)):
            check_path(path)
        if plot is not None:
            check_picture(plot)
        _choose_backend(installed(backend))
        with terminal.steps() as steps:
            tell = steps.begin
            tell("building the model")
            built, samples = _model(model)
            from perftricks import recompute
            from perftricks.recompute.measure.unmeasurable import UnmeasurableError
            from perftricks.recompute.samples import NoSamplesError

            if optimizer is None and not getattr(built, "compiled", False):
                optimizer = "adam"
            setting: dict[str, Any] = {
                "batch_size": batch_size,
                "length": length,
                "optimizer": optimizer,
            }
            try:
                tell("asking what each part keeps")
                profile = recompute.profile(built, x=samples.get("x"), **setting)
                tell("planning")
                plenty = _PLENTY if size is None else size
                plan = recompute.plan(built, budget=plenty, loss=loss, **samples, **setting)
            except recompute.BudgetError as error:
                raise _NoModelError(str(error)) from None
            except NoSamplesError:
                raise _NoModelError(
                    f"{built.name} has a call of its own, so what it takes is not known: name a "
                    "function, MODULE:FUNCTION, that returns (model, x), x being samples"
                ) from None
            except UnmeasurableError as error:
                raise _NoModelError(str(error)) from None
            except ValueError:
                raise
            except Exception as error:  # of a layer, for example, that looks at numbers
                raise _NoModelError(
                    f"{model!r} cannot be traced without numbers: {_first_line(error)}"
                ) from None
        options: dict[str, object] = {
            "budget": budget,
            "batch_size": batch_size,
            "length": length,
            "loss": loss,
            "optimizer": optimizer,
            **{name: name for name in samples},
        }
        given = {name: value for name, value in options.items() if value is not None}
        if not json_file.to_stdout:
            render.show(profile, plan, given, save)
        if save is not None:
            plan.save(save)
        if json_file.wanted:
            json_file.write(
                {
                    "profile": json.loads(profile.to_json()),
                    "curve": [point._asdict() for point in plan.curve],
                    "plan": None if size is None else json.loads(plan.to_json()),
                }
            )
        if plot is not None:
            plan.pareto().plot(plot)


def _choose_backend(name: str) -> None:
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _model(given: str) -> tuple[Any, dict[str, Any]]:
    """Load or build the model; return it with the samples that came with it, by their names."""
    import keras

    if given.endswith((".keras", ".h5")):
        if not os.path.isfile(given):
            raise _NoModelError(f"{given!r}: no such file")
        try:
            return keras.saving.load_model(given), {}
        except Exception as error:
            raise _NoModelError(f"{given!r} cannot be loaded: {_first_line(error)}") from None
    name, colon, attribute = given.partition(":")
    if not (colon and name and attribute):
        raise ValueError(f"expected FILE.keras or MODULE:FUNCTION as the model, not {given!r}")
    sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        function = getattr(importlib.import_module(name), attribute)
        is_application = name.startswith("keras.applications")
        built = function(weights=None) if is_application else function()
    except (Exception, SystemExit) as error:
        raise _NoModelError(f"{given!r} cannot be built: {_first_line(error)}") from None
    finally:
        sys.path.remove(os.getcwd())
    built, *data = built if isinstance(built, tuple) else (built,)
    if not isinstance(built, keras.Model) or len(data) > 2:
        kinds = ", ".join(type(one).__name__ for one in (built, *data))
        raise _NoModelError(
            f"{given!r} must return a keras.Model, not an object of {kinds}; or one with samples, "
            "(model, x, y)"
        )
    return built, dict(zip(("x", "y"), data, strict=False))


def _first_line(error: BaseException) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
