"""One model of the zoo on one backend: prints a line of JSON.

Usage: ``KERAS_BACKEND=jax python -m bench.recompute.zoo_trial MODEL``. The model is trained plainly
and by each way, from equal weights: two steps of ``fit``, and on TensorFlow an eager step before
them. Losses, gradients and every variable are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

if os.environ["KERAS_BACKEND"] == "jax":
    # So that an operation gives the same bits in any group that XLA makes: see the tests.
    flags = "--xla_cpu_max_isa=AVX --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"

import keras
import numpy as np

from bench.recompute.verdicts import Trained, arrays, raised, verdict
from perftricks import recompute
from tests.recompute.keras3.kept import kept_bytes
from tests.recompute.keras3.zoo import BATCH, CASES, Case

LEARNING_RATE = 2.0**-7  # a power of two: the first step's momentum is the gradient to the last bit


class Way(NamedTuple):
    """A way to have a model recomputed.

    Attributes:
        blocks: Whether it needs a model that is made of blocks.
        scope: Where the model is built and trained; a function of the classes of its blocks.
        treat: What is done to the model when it is built.
    """

    blocks: bool
    scope: Callable[[set[type]], contextlib.AbstractContextManager[Any]]
    treat: Callable[[Case, Any], Any]


def _nothing(classes: set[type]) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def _calls_wrapped(
    classes: set[type], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Wrap the call of each class for a while."""
    before: dict[Any, Any] = {each: each.call for each in classes}  # type: ignore[attr-defined]
    try:
        for each, call in before.items():
            each.call = wrap(call)
        yield
    finally:
        for each, call in before.items():
            each.call = call


@contextlib.contextmanager
def _decorated(classes: set[type]) -> Iterator[None]:
    with _calls_wrapped(classes, recompute.recompute_grad), recompute.recompute_scope(True):
        yield


def _remat(classes: set[type]) -> contextlib.AbstractContextManager[None]:
    """Have ``keras.remat`` run the calls: the tool of each framework, by another name."""

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Keywords are bound beforehand: on TensorFlow it takes none within ``fit``.
            return keras.remat(lambda *tensors: call(self, *tensors, **kwargs))(*args)

        return wrapped

    return _calls_wrapped(classes, wrap)


def _remat_scope(classes: set[type]) -> contextlib.AbstractContextManager[Any]:
    scope: contextlib.AbstractContextManager[Any] = keras.RematScope(mode="full")
    return scope


PLAIN = Way(False, _nothing, lambda case, model: None)
WAYS = {
    "apply": Way(False, _nothing, lambda case, model: recompute.apply(model)),
    "apply to blocks": Way(
        True, _nothing, lambda case, model: recompute.apply(model, layers=case.is_block)
    ),
    "decorated blocks": Way(True, _decorated, lambda case, model: None),
}
# Other tools, around blocks; where a model has none, around each layer.
TOOLS = {
    "keras.remat": Way(False, _remat, lambda case, model: None),
    "keras.RematScope": Way(False, _remat_scope, lambda case, model: None),
}


def main() -> None:
    """Train a model plainly and by all ways."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=list(CASES), metavar="MODEL")
    parser.add_argument("--way", action="append", choices=[*WAYS, *TOOLS], help="default: ours")
    options = parser.parse_args()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Grappler fuses operations where nobody needs what is between, which rounds differently: a
        # plain run needs it in its backward pass, a recomputed one does not.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    record = {
        "model": options.model,
        "versions": _versions(),
        **trial(CASES[options.model], options.way or list(WAYS)),
    }
    print(json.dumps(record), flush=True)


def trial(case: Case, ways: Sequence[str]) -> dict[str, Any]:
    """Return what comes out: an entry for the plain run, and one for each way."""
    classes: set[type] = set()
    try:
        plain, record = _train(case, PLAIN, classes)
    except Exception as error:
        return {"plain": raised(error)}
    found: dict[str, Any] = {"plain": record}
    for name in ways:
        way = {**WAYS, **TOOLS}[name]
        if way.blocks and not case.blocks:
            continue
        try:
            trained, record = _train(case, way, classes)
        except Exception as error:
            found[name] = raised(error)
            continue
        result = verdict(trained, plain, lambda: _train(case, PLAIN, classes, nudge=True)[0])
        found[name] = {**record, **result, **_count(trained, plain)}
        if found[name]["verdict"] != "exact" and "repeats" not in found["plain"]:
            again, _ = _train(case, PLAIN, classes)
            found["plain"]["repeats"] = verdict(again, plain)
    return found


def _train(
    case: Case, way: Way, classes: set[type], *, nudge: bool = False
) -> tuple[Trained, dict[str, Any]]:
    """Train a model in a way; ``nudge`` changes the last bits of all weights before."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    x, y = case.data()
    with way.scope(classes):
        model = case.build()
        if way is PLAIN:
            classes.update(type(x) for x in _blocks(case, model))
        way.treat(case, model)
        if nudge:
            _nudge(model.trainable_variables)
        kept = kept_bytes(model, x)
        gradients, losses = {}, {}
        if keras.backend.backend() == "tensorflow":
            gradients, losses = _eager_step(model, x)
        optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
        loss = case.loss if isinstance(case.loss, str) else case.loss()
        model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")
        options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
        history = model.fit(x, y, **options).history["loss"]
        gradients |= arrays([v for v in optimizer.variables if "momentum" in v.path])
        began = time.perf_counter()
        history += model.fit(x, y, **options).history["loss"]
        seconds = time.perf_counter() - began
    losses["fit"] = np.asarray(history, dtype="float64")
    return Trained(gradients, arrays(model.variables), losses), {
        "kept_bytes": kept,
        "losses": history,
        "step_seconds": round(seconds, 3),
    }


def _nudge(weights: list[Any]) -> None:
    """Move every number to one of its two neighbours, at random."""
    draw = np.random.default_rng(7)
    for weight in weights:
        value = keras.ops.convert_to_numpy(weight.value)
        if value.dtype.kind == "f":
            weight.assign(
                np.nextafter(value, draw.choice([-np.inf, np.inf], value.shape), dtype=value.dtype)
            )


def _blocks(case: Case, model: Any) -> list[Any]:
    """List the blocks of a model; the layers with weights or state of one that has none."""
    layers = list(model._flatten_layers(include_self=False))
    if case.blocks:
        return [layer for layer in layers if case.is_block(layer)]
    return [layer for layer in layers if layer.variables and not list(layer._layers)]


def _eager_step(model: Any, x: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    import tensorflow as tf

    x = keras.tree.map_structure(tf.convert_to_tensor, x)
    with tf.GradientTape() as tape:
        outputs = keras.tree.flatten(model(x, training=True))
        loss = sum(tf.reduce_mean(tf.square(tf.cast(o, "float32"))) for o in outputs)
        loss += sum(tf.reduce_sum(extra) for extra in model.losses)
    variables = [v.value for v in model.trainable_variables]
    gradients = {
        f"{i} eager": np.array(tf.convert_to_tensor(g))
        for i, g in enumerate(tape.gradient(loss, variables))
        if g is not None
    }
    return gradients, {"eager": np.array(loss)}


def _count(trained: Trained, plain: Trained) -> dict[str, Any]:
    """Return which gradients differ, and how many there are."""
    ours, theirs = trained.gradients, plain.gradients.values()
    pairs = zip(ours.items(), theirs, strict=True)
    different = [name for (name, a), b in pairs if not np.array_equal(a, b)]
    return {"different": different, "gradients": len(plain.gradients)}


def _versions() -> dict[str, str]:
    names = ("keras", keras.backend.backend(), "keras_hub")
    return {name: importlib.import_module(name).__version__ for name in names}


if __name__ == "__main__":
    main()
