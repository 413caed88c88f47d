"""One backend's part of the table of layers: prints a line of JSON for each layer.

Usage: ``KERAS_BACKEND=jax python -m bench.recompute.layer_trial [LAYER ...] [--without=LAYER]...``
Each layer is trained by ``fit``, plainly and by each tool; losses, gradients and every variable are
compared.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from bench.recompute.layer_cases import CASES, Case, Make, build
from perftricks.recompute import recompute_grad, recompute_scope

LEARNING_RATE = 2.0**-4  # a power of two: the first step's momentum is the gradient to the last bit
STEPS = 3
# Share of an array's largest number by which the last bits may differ: XLA compiles forward and
# backward pass as one program, and groups operations differently when some are there twice.
ROUNDING = 4e-5
_COLORS = re.compile("\x1b\\[[0-9;]*m")
_PLACES = (
    "Exception encountered",
    "in user code",
    "File ",
)  # Keras tells where before it tells what


class Trained(NamedTuple):
    """What training has left, arrays by name."""

    gradients: dict[str, np.ndarray]
    variables: dict[str, np.ndarray]
    losses: dict[str, np.ndarray]


class Tool(NamedTuple):
    """A way to have a layer recomputed.

    Attributes:
        make: Makes a layer; a function of its class and arguments.
        scope: Where the model is built and trained.
    """

    make: Make
    scope: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def _plain(layer: type, *args: Any, **kwargs: Any) -> Any:
    return layer(*args, **kwargs)


def _decorated(layer: Any, *args: Any, **kwargs: Any) -> Any:
    namespace = {"call": recompute_grad(layer.call)}
    return type(layer.__name__, (layer,), namespace)(*args, **kwargs)


def _remat(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a layer whose call is run by ``keras.remat``.

    Options are bound beforehand: on TensorFlow it takes no keywords within ``fit``.
    """

    @functools.wraps(layer.call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return keras.remat(lambda *tensors: layer.call(self, *tensors, **kwargs))(*args)

    return type(layer.__name__, (layer,), {"call": call})(*args, **kwargs)


def _remat_scope(layer: Any, *args: Any, **kwargs: Any) -> Any:
    with keras.RematScope(mode="full"):
        return layer(*args, **kwargs)


TOOLS = {
    "perftricks": Tool(_decorated, lambda: recompute_scope(True)),
    "RematScope": Tool(_remat_scope),
    "keras.remat": Tool(_remat),
}


def main() -> None:
    """Train all layers, or those that are named, by all tools."""
    warnings.simplefilter("ignore")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Grappler fuses operations where nobody needs what is between, which rounds differently: a
        # plain run needs it in its backward pass, a recomputed one does not.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    print(json.dumps({"versions": _versions()}), flush=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("layers", nargs="*", metavar="LAYER", default=list(CASES))
    parser.add_argument("--without", action="append", default=[], metavar="LAYER")
    options = parser.parse_args()
    for name in options.layers:
        if name in options.without:
            continue
        plain = _train(CASES[name], Tool(_plain))
        verdicts = {tool: _verdict(CASES[name], TOOLS[tool], plain) for tool in TOOLS}
        print(json.dumps({"layer": name, **verdicts}), flush=True)


def _train(case: Case, tool: Tool) -> Trained:
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    with tool.scope():
        model, x, y = build(case, tool.make)
        optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
        model.compile(optimizer, "mse")
        options = {"batch_size": len(x), "shuffle": False, "verbose": 0}
        losses = model.fit(x, y, **options).history["loss"]
        momenta = [v for v in optimizer.variables if "momentum" in v.path]
        gradients = _arrays(momenta)
        losses += model.fit(x, y, epochs=STEPS - 1, **options).history["loss"]
    return Trained(
        gradients, _arrays(model.variables), {"loss": np.asarray(losses, dtype="float64")}
    )


def _arrays(variables: list[Any]) -> dict[str, np.ndarray]:
    return {
        f"{i} {v.path}": np.array(keras.ops.convert_to_numpy(v.value))
        for i, v in enumerate(variables)
    }


def _verdict(case: Case, tool: Tool, plain: Trained) -> dict[str, str]:
    """Train by a tool and compare with the plain run.

    Returns:
        The "verdict" in a few words, and "detail": the difference, or the error's first line.
    """
    try:
        trained = _train(case, tool)
    except Exception as error:
        return {"verdict": "raises", "detail": _first_line(error)}
    largest = {
        what: max(_differences(ours, theirs), default=0.0)
        for what, ours, theirs in zip(Trained._fields, trained, plain, strict=True)
    }
    detail = ", ".join(f"{what} {size:.1e}" for what, size in largest.items() if size)
    if not detail:
        return {"verdict": "exact", "detail": ""}
    if max(largest.values()) <= ROUNDING:
        return {"verdict": "exact but for rounding", "detail": detail}
    wrong = "gradients" if largest["gradients"] > ROUNDING else "state"
    return {"verdict": f"wrong {wrong}", "detail": detail}


def _differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Iterator[float]:
    """Give the largest difference of each pair of arrays, as a share of the largest number."""
    if [a.shape for a in ours.values()] != [a.shape for a in theirs.values()]:
        yield float("inf")
        return
    for one, two in zip(ours.values(), theirs.values(), strict=True):
        if not one.size or np.array_equal(one, two):
            continue
        a, b = one.astype("float64"), two.astype("float64")
        # A gradient near zero is what is left when larger numbers cancel.
        size = 1.0 if one.dtype.kind in "iub" else max(np.abs(b).max(), 0.01)
        difference = float(np.abs(a - b).max() / size)
        yield difference if np.isfinite(difference) else float("inf")


def _first_line(error: BaseException) -> str:
    """Return the type of the first error of a chain, and the first line of its message."""
    while error.__cause__ or (error.__context__ and not error.__suppress_context__):
        error = error.__cause__ or error.__context__
    lines = [line.strip() for line in _COLORS.sub("", str(error)).splitlines()]
    message = next((line for line in lines if line and not line.startswith(_PLACES)), "")
    return f"{type(error).__name__}: {message}".rstrip(": ")


def _versions() -> dict[str, str]:
    names = ("keras", keras.backend.backend())
    return {name: importlib.import_module(name).__version__ for name in names}


if __name__ == "__main__":
    main()
