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
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from bench.recompute.layer_cases import CASES, Case, Make, build
from bench.recompute.verdicts import Trained, arrays, raised, verdict
from perftricks.recompute import recompute_grad, recompute_scope

LEARNING_RATE = 2.0**-4  # a power of two: the first step's momentum is the gradient to the last bit
STEPS = 3


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
        gradients = arrays(momenta)
        losses += model.fit(x, y, epochs=STEPS - 1, **options).history["loss"]
    return Trained(
        gradients, arrays(model.variables), {"loss": np.asarray(losses, dtype="float64")}
    )


def _verdict(case: Case, tool: Tool, plain: Trained) -> dict[str, str]:
    """Train by a tool and compare with the plain run."""
    try:
        return verdict(_train(case, tool), plain)
    except Exception as error:
        return raised(error)


def _versions() -> dict[str, str]:
    names = ("keras", keras.backend.backend())
    return {name: importlib.import_module(name).__version__ for name in names}


if __name__ == "__main__":
    main()
