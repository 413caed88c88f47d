"""Budgets from the least memory to plenty: what each plan really takes, beside the plain step.

Usage: ``KERAS_BACKEND=torch python -m bench.recompute.budgets MODEL [--points N] [--json FILE]``

Peaks are counted, not measured: on torch all storages that a real step makes, on TensorFlow all
that it allocates, on JAX what XLA assigns. Times are those of real steps, a plain one before
each, so that whatever slows the machine down slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from perftricks import recompute
from perftricks.recompute.measure.steps import counted_peak

_TOKENS = {"batch_size": 16, "length": 128}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def transformer() -> tuple[Any, Any, Any, dict[str, int]]:
    """Return 12 blocks of width 256, a batch of 16 x 128 tokens, its classes, and its options."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(1000, 256)(inputs)
    for _ in range(12):
        y = layers.MultiHeadAttention(4, 64, dropout=0.1)(x, x)
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
        y = layers.Dense(256)(layers.Dense(1024, activation="gelu")(x))
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 1000, (16, 128)).astype("int32"), rng.integers(0, 10, 16).astype("int32")
    return model, x, y, _TOKENS


def resnet50() -> tuple[Any, Any, Any, dict[str, int]]:
    """Return ResNet50, a batch of 16 images of 96 x 96, their classes, and its options."""
    model = keras.applications.ResNet50(
        weights=None, input_shape=(96, 96, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    x, y = rng.random((16, 96, 96, 3)).astype("float32"), rng.integers(0, 10, 16).astype("int32")
    return model, x, y, {"batch_size": 16}


def unet() -> tuple[Any, Any, Any, dict[str, int]]:
    """Return a U-Net of four levels, 8 images of 96 x 96, a class for each pixel, its options."""

    def twice(x: Any, width: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    x = inputs = keras.Input((96, 96, 3))
    across = []
    for width in (32, 64, 128):
        x = twice(x, width)
        across.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.3)(twice(x, 256))
    for beside in reversed(across):
        width = beside.shape[-1]
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = twice(layers.Concatenate()([beside, x]), width)
    model = keras.Model(inputs, layers.Conv2D(4, 1)(x))
    rng = np.random.default_rng(0)
    x = rng.random((8, 96, 96, 3)).astype("float32")
    return model, x, rng.integers(0, 4, (8, 96, 96)).astype("int32"), {"batch_size": 8}


def bert() -> tuple[Any, Any, Any, dict[str, int]]:
    """Return keras-hub's BERT with 12 blocks of width 256, 16 x 128 tokens, classes, options."""
    from keras_hub.models import BertBackbone, BertTextClassifier

    backbone = BertBackbone(
        vocabulary_size=1000,
        num_layers=12,
        num_heads=4,
        hidden_dim=256,
        intermediate_dim=1024,
        max_sequence_length=128,
    )
    task = BertTextClassifier(backbone, num_classes=10, preprocessor=None)
    rng = np.random.default_rng(0)
    x = _tokens(rng, segment_ids=np.zeros((16, 128), "int32"))
    y = rng.integers(0, 10, 16).astype("int32")
    return keras.Model(task.input, task.output), x, y, _TOKENS


def gemma() -> tuple[Any, Any, Any, dict[str, int]]:
    """Return keras-hub's Gemma with LoRA, 8 blocks of width 256, 16 x 128 tokens, the next ones."""
    from keras_hub.models import GemmaBackbone, GemmaCausalLM

    backbone = GemmaBackbone(
        vocabulary_size=1000,
        num_layers=8,
        num_query_heads=4,
        num_key_value_heads=1,
        hidden_dim=256,
        intermediate_dim=2048,
        head_dim=64,
        dropout=0.1,
    )
    backbone.enable_lora(4)
    task = GemmaCausalLM(backbone, preprocessor=None)
    rng = np.random.default_rng(0)
    x = _tokens(rng)
    y = np.roll(x["token_ids"], -1, 1)
    return keras.Model(task.input, task.output), x, y, _TOKENS


def _tokens(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    ids = rng.integers(0, 1000, (16, 128)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids), **more}


MODELS: dict[str, Callable[[], Any]] = {
    "transformer": transformer,
    "resnet50": resnet50,
    "unet": unet,
    "bert": bert,
    "gemma": gemma,
}


def main() -> None:
    """Sweep, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = sweep(given.model, given.points, given.rounds)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def sweep(name: str, points: int, rounds: int) -> list[dict[str, Any]]:
    """Plan for some budgets, and measure each plan."""
    planned, x, y, options = _compiled(name)
    plain = _compiled(name)[0]
    curve = recompute.plan(planned, budget="1TiB", **options).curve
    least, most = curve[0].peak, curve[-1].peak
    found = []
    print("  budget  forecast  counted  time forecast  time  seconds to plan")
    for number in range(points):
        budget = least + (most - least) * number // (points - 1)
        began = time.perf_counter()
        plan = recompute.plan(planned, budget=budget, **options)
        seconds = time.perf_counter() - began
        recompute.remove(planned)
        if any(segment.recomputed for segment in plan.segments):
            recompute.apply(planned, plan=plan)
        ratio = _time_ratio(planned, plain, x, y, rounds)
        counted = counted_peak(planned, x, y)
        line = {
            "budget": budget,
            "forecast": plan.step_peak,
            "counted": counted,
            "time_forecast": plan.step_time / curve[-1].time,
            "time": ratio,
            "seconds_to_plan": seconds,
            "backend": keras.backend.backend(),
            "model": name,
        }
        found.append(line)
        megabytes = [size / 1e6 for size in (budget, plan.step_peak, counted)]
        print("  ".join(f"{size:8.1f}" for size in megabytes), end="  ")
        print(f"{line['time_forecast']:13.3f}  {ratio:.3f}  {seconds:.1f}", flush=True)
    return found


def _compiled(name: str) -> Any:
    keras.utils.set_random_seed(0)
    model, *rest = MODELS[name]()
    model.compile(keras.optimizers.SGD(0.01), LOSS)
    return (model, *rest)


def _time_ratio(planned: Any, plain: Any, x: Any, y: Any, rounds: int) -> float:
    """Return how many times as long a planned step takes, the median of some pairs."""
    ratios = []
    for number in range(rounds + 1):
        seconds = []
        for model in (plain, planned):
            began = time.perf_counter()
            float(np.asarray(model.train_on_batch(x, y)))
            seconds.append(time.perf_counter() - began)
        if number:  # the first compiles
            ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
