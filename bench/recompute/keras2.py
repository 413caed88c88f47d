"""Memory and time of recompute on Keras 2, beside other tools.

``nox -s "bench_keras2(tf1.15-keras)"`` runs it in the environment of a row of the compatibility
table; in such an environment, with the row's variables::

    PERFTRICKS_KERAS=keras python -m bench.recompute.keras2 --json results.json
    PERFTRICKS_KERAS=tf_keras PERFTRICKS_GRAPH=1 python -m bench.recompute.keras2 --quick

Each case trains the same transformer in a process of its own, a step of each in turn, with dropout
and without: other tools may be wrong or hang where there is some. Shown are the peak of what
TensorFlow allocates during one step (allocation records of a session's full trace; without sessions
there are none), the rise of the resident set while training, and the median time of a step. It runs
on Python 3.7, without pytest, and writes what pytest-benchmark would.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import platform
import resource
import statistics
import sys
import warnings
from collections.abc import Callable
from typing import Any

from bench.recompute.steps import StepProcess, TrainingError
from perftricks.recompute.measure.counters import allocated_peak

CASES = {
    "plain": "everything is kept",
    "perftricks": "recompute_grad of perftricks",
    "redrawing": "a custom gradient that calls the layer again, which draws other dropout masks",
    "tf.recompute_grad": "TensorFlow's own, around each layer's call",
}
# As in bench.recompute.trainer.
SIZES = {"blocks": 12, "width": 256, "heads": 4, "length": 128, "batch": 32}
QUICK = {"blocks": 4, "width": 64, "heads": 2, "length": 32, "batch": 8}
RATES = (0.1, 0.0)  # of dropout
SAME_LOSS = 1e-5  # a share: Grappler may fuse operations of the two graphs differently
PATIENCE = 180  # seconds for an answer; a first step takes a tenth of it
MIB = 2**20


def frameworks() -> Any:
    """Return TensorFlow and the Keras that the environment names."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    if os.environ.get("PERFTRICKS_GRAPH") == "1":
        tf.compat.v1.disable_eager_execution()
    name = os.environ.get("PERFTRICKS_KERAS", "keras")
    if name == "tf_keras":
        import tf_keras as keras
    elif name == "tf.keras":
        keras = tf.keras
    else:
        import keras
    return tf, keras


def name_of(keras: Any) -> str:
    """Return what a Keras is called."""
    return os.environ.get("PERFTRICKS_KERAS", str(keras.__name__))


def redrawing(tf: Any) -> Callable[..., Any]:
    """Return a decorator as they are often published: the gradient calls the layer again."""

    def decorate(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapper(self: Any, x: Any) -> Any:
            @tf.custom_gradient
            def function(x: Any) -> Any:
                y = call(self, x)

                def grad(dy: Any, variables: list[Any] | None = None) -> Any:
                    sources = [x, *(variables or [])]
                    with tf.control_dependencies([dy]):
                        again = tf.identity(x)
                        found = tf.gradients(call(self, again), [again, *sources[1:]], dy)
                    return found[0], found[1:]

                function.phase = getattr(y, "_uses_learning_phase", False)
                return y, grad

            y = function(x)
            y._uses_learning_phase = function.phase  # else keras 2.3.1 trains without dropout
            return y

        return wrapper

    return decorate


def decorator(case: str, tf: Any) -> Callable[..., Any]:
    """Return what a case puts on the blocks' ``call``."""
    if case == "perftricks":
        from perftricks.recompute import recompute_grad

        return recompute_grad
    if case == "redrawing":
        return redrawing(tf)
    if case == "tf.recompute_grad":
        return lambda call: lambda self, x: tf.recompute_grad(functools.partial(call, self))(x)
    return lambda call: call


def build(case: str, rate: float, sizes: dict[str, int], tf: Any, keras: Any) -> Any:
    """Return a transformer whose blocks are decorated."""
    layers, width, heads, length = keras.layers, sizes["width"], sizes["heads"], sizes["length"]

    class Block(layers.Layer):  # type: ignore[misc,name-defined]
        """Self-attention and feed-forward, each with dropout and a residual connection."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.parts = [layers.Dense(width) for _ in range(4)]
            self.query, self.key, self.value, self.merge = self.parts
            self.inner = layers.Dense(4 * width)
            self.outer = layers.Dense(width)
            self.dropout, self.attention_dropout = layers.Dropout(rate), layers.Dropout(rate)

        def build(self, shape: Any) -> None:
            for layer in [*self.parts, self.inner, self.dropout, self.attention_dropout]:
                layer.build((None, length, width))
            self.outer.build((None, length, 4 * width))
            super().build(shape)

        @decorator(case, tf)
        def call(self, x: Any) -> Any:
            # By call: layers that a gradient calls, as other tools do, tf_keras takes for new parts
            # of a model, in v1 graphs, and never comes back.
            def split(t: Any) -> Any:
                t = tf.reshape(t, [-1, length, heads, width // heads])
                return tf.transpose(t, [0, 2, 1, 3])

            q, k, v = split(self.query.call(x)), split(self.key.call(x)), split(self.value.call(x))
            scores = tf.matmul(q, k, transpose_b=True) * (width / heads) ** -0.5
            seen = tf.matmul(self.attention_dropout.call(tf.nn.softmax(scores)), v)
            seen = tf.reshape(tf.transpose(seen, [0, 2, 1, 3]), [-1, length, width])
            x = self.normalized(x + self.dropout.call(self.merge.call(seen)))
            h = self.inner.call(x)
            h = 0.5 * h * (1 + tf.math.erf(h * 0.5**0.5))
            x = self.normalized(x + self.dropout.call(self.outer.call(h)))
            x._uses_learning_phase = rate > 0  # operations lose it; keras 2.3.1 would drop nothing
            return x

        def normalized(self, x: Any) -> Any:
            mean, variance = tf.nn.moments(x, [-1], keepdims=True)
            return (x - mean) * tf.math.rsqrt(variance + 1e-6)

    inputs = x = layers.Input((length, width))
    for _ in range(sizes["blocks"]):
        x = Block()(x)
    return keras.models.Model(inputs, layers.Dense(1)(x))


def allocated(model: Any, x: Any, tf: Any, keras: Any) -> int | None:
    """Return the peak of bytes allocated in a backward pass, or None where there is no session."""
    if tf.executing_eagerly():
        return None
    backend = keras.backend
    if not hasattr(backend, "get_session"):
        if keras.__name__ == "tf_keras":
            from tf_keras.api._v1.keras import backend
        else:
            backend = tf.compat.v1.keras.backend
    session = backend.get_session()
    loss = tf.reduce_mean(tf.square(model.outputs[0]))
    gradients = keras.backend.gradients(loss, model.trainable_weights)
    feed = {model.inputs[0]: x}
    if not isinstance(keras.backend.learning_phase(), int):
        feed[keras.backend.learning_phase()] = 1
    metadata = tf.compat.v1.RunMetadata()
    options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
    session.run([g.op for g in gradients], feed, options=options, run_metadata=metadata)
    return allocated_peak(metadata.step_stats)


def resident() -> int:
    """Return the highest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(case: str, rate: float, sizes: dict[str, int]) -> None:
    """Train in one way, a step for each line "step" of stdin; answer in JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf, keras = frameworks()
    import numpy as np

    shape = (sizes["batch"], sizes["length"], sizes["width"])
    x = np.random.RandomState(0).normal(size=shape).astype("float32")
    y = np.zeros((*shape[:2], 1), "float32")
    np.random.seed(0)
    tf.compat.v1.set_random_seed(0)
    if hasattr(keras.utils, "set_random_seed"):
        keras.utils.set_random_seed(0)
    model = build(case, rate, sizes, tf, keras)
    model.compile("sgd", "mse")
    keras.backend.set_value(model.optimizer.learning_rate, 1e-3)  # a larger one runs away
    model.train_on_batch(x[:1], y[:1])  # what is loaded, traced and allocated once
    before = resident()
    model.train_on_batch(x, y)
    answer(ready=True)
    for line in sys.stdin:
        if line.strip() == "step":
            answer(loss=float(model.train_on_batch(x, y)))
        else:
            answer(
                resident_bytes=resident() - before,
                allocated_bytes=allocated(model, x, tf, keras),
                versions={"tensorflow": tf.__version__, name_of(keras): keras.__version__},
                sessions=not tf.executing_eagerly(),
            )


def answer(**values: Any) -> None:
    """Write a line of JSON."""
    print(json.dumps(values), flush=True)


def process(case: str, rate: float, quick: bool) -> StepProcess:
    """Return the process of a case, to be started."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.recompute.keras2"]
    command += ["--case", case, "--dropout", str(rate)] + (["--quick"] if quick else [])
    return StepProcess(command, dict(os.environ, RECOMPUTE="1"), PATIENCE)


def in_turn(rate: float, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Train all cases, a step of each in turn; return the results. What fails is a result too."""
    results: dict[str, dict[str, Any]] = {case: {"case": case} for case in CASES}
    with contextlib.ExitStack() as started:
        running: dict[str, StepProcess] = {}

        def attempt(case: str, what: Callable[[], Any]) -> Any:
            try:
                return what()
            except TrainingError as error:
                running.pop(case, None)
                last = (str(error).strip().splitlines() or ["no output"])[-1][:200]
                results[case]["error"] = last if last.startswith("hangs") else "raises " + last
                return None

        for case in CASES:
            one = process(case, rate, quick)
            if attempt(case, functools.partial(started.enter_context, one)):
                running[case] = one
        for _ in range(rounds):
            for case, one in [*running.items()]:
                attempt(case, one.step)
        plain = running.get("plain")
        for case, one in [*running.items()]:
            figures = attempt(case, one.figures)
            if figures is None:
                continue
            results[case].update(figures, seconds=figures["median_step_seconds"])
            results[case]["loss"] = one.losses[-1]
            if plain is not None:
                ratios = [own / its for own, its in zip(one.seconds, plain.seconds)]  # noqa: B905
                results[case]["time_ratio"] = statistics.median(ratios)
    return [*results.values()]


def described(rates: dict[float, list[dict[str, Any]]], row: str, quick: bool) -> dict[str, Any]:
    """Return the results, by rate of dropout, as pytest-benchmark writes its own."""
    sizes = QUICK if quick else SIZES
    group = f"{row}: {sizes['blocks']} blocks, width {sizes['width']}, batch {sizes['batch']}, "
    group += f"{sizes['length']} tokens, dropout "
    benchmarks = []
    for rate, results in rates.items():
        plain = results[0]
        for result in results:
            info = dict(result, tool=result["case"], dropout=rate)
            if result.get("allocated_bytes") and plain.get("allocated_bytes"):
                info["allocated_ratio"] = result["allocated_bytes"] / plain["allocated_bytes"]
            benchmarks.append(
                {
                    "name": f"bench_keras2[{row}-{rate}-{result['case']}]",
                    "group": group + str(rate),
                    "stats": {"median": result.get("seconds", 0.0)},
                    "extra_info": info,
                }
            )
    return {
        "machine_info": {
            "cpu": {"brand_raw": processor(), "count": os.cpu_count()},
            "machine": platform.machine(),
            "system": platform.system(),
            "python_version": platform.python_version(),
        },
        "datetime": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "benchmarks": benchmarks,
    }


def processor() -> str:
    """Return the name of the processor, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model n")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def show(results: list[dict[str, Any]]) -> None:
    """Print the results."""
    for result in results:
        print(f"{result['case']}: {CASES[result['case']]}")
        if "error" in result:
            print(f"    {result['error']}")
            continue
        counted = result["allocated_bytes"]
        print(f"    allocated {counted / MIB:,.1f} MiB" if counted else "    no sessions")
        print(f"    resident {result['resident_bytes'] / MIB:,.0f} MiB")
        ratio = f" ({result['time_ratio']:.2f}x)" if "time_ratio" in result else ""
        print(f"    a step {result['seconds']:.3f} s{ratio}, loss {result['loss']:.6f}")


def main() -> None:
    """Measure all cases, or, with ``--case``, one in this process."""
    parser = argparse.ArgumentParser(description="Memory and time of recompute on Keras 2.")
    parser.add_argument("--case", choices=list(CASES), help="measure one case in this process")
    parser.add_argument("--dropout", type=float, help="the rate in that case", default=RATES[0])
    parser.add_argument("--quick", action="store_true", help="a small model")
    parser.add_argument("--rounds", type=int, help="steps of each case (default: 10, quick: 3)")
    parser.add_argument("--row", default="here", help="what the results are called")
    parser.add_argument("--json", help="write the results to this file")
    options = parser.parse_args()
    sizes = QUICK if options.quick else SIZES
    if options.case:
        serve(options.case, options.dropout, sizes)
        return
    rounds = options.rounds or (3 if options.quick else 10)
    rates = {}
    for rate in RATES:
        rates[rate] = in_turn(rate, options.quick, rounds)
        print(f"dropout {rate}:")
        show(rates[rate])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(described(rates, options.row, options.quick), file, indent=2)
            file.write("\n")
    for results in rates.values():
        check(*results[:2])


def check(plain: dict[str, Any], ours: dict[str, Any]) -> None:
    """End with an error unless both trained, with the same losses."""
    for result in (plain, ours):
        if "error" in result:
            sys.exit(f"{result['case']} {result['error']}")
    if abs(ours["loss"] - plain["loss"]) > SAME_LOSS * abs(plain["loss"]):
        sys.exit(f"the losses must be the same, not {plain['loss']!r} and {ours['loss']!r}")


if __name__ == "__main__":
    main()
