"""The contract of recompute on Keras 3, bound to the backend that KERAS_BACKEND names.

One process, one backend: ``KERAS_BACKEND=jax pytest tests/recompute``. Without the variable nothing
here is collected, so that the ordinary session needs no framework; with it, a framework that is
missing is an error and not a skip.
"""

from __future__ import annotations

import contextlib
import os
import warnings

import pytest

from tests.recompute.graphs import forgotten

BACKEND = os.environ.get("KERAS_BACKEND")
OF_KERAS = "Layer '.*' .* was passed an input with a mask:UserWarning"  # about its own layers

if BACKEND is None:
    collect_ignore_glob = ["*"]
else:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if BACKEND == "jax":
        # XLA generates code for groups of operations, and the groups are others when some are
        # there twice. Without fused multiply-add (which AVX has not, AVX2 has), without LLVM's
        # own ideas and with every bfloat16 rounded, an operation gives the same bits in any group.
        flags = [
            "--xla_cpu_max_isa=AVX",
            "--xla_backend_optimization_level=0",
            "--xla_allow_excess_precision=false",
            "--xla_force_host_platform_device_count=2",
        ]
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])
        # On GPUs, JAX multiplies float32 matrices with 10 bits of mantissa unless told otherwise.
        os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the frameworks about each other
        import keras

    if BACKEND == "tensorflow":
        import tensorflow as tf

        # Grappler fuses operations whose intermediate results nobody else needs. The plain run
        # needs them in its backward pass, so the last bits would differ; test_modes has it on.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )


def pytest_collection_modifyitems(items):
    for item in items:
        if os.path.dirname(__file__) in str(item.path):
            for ignored in (":DeprecationWarning", ":FutureWarning", OF_KERAS):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{ignored}"))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test starts with a fresh Keras and with nothing switched."""
    monkeypatch.delenv("RECOMPUTE", raising=False)
    keras.utils.clear_session()
    with forgotten() if BACKEND == "tensorflow" else contextlib.nullcontext():
        yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(params=["decorated", "applied", "applied to layers"])
def way(request):
    """How recomputation is asked for; what is on and off is up to the scope of a test."""
    from tests.recompute.keras3.training import WAYS

    return WAYS[request.param]


@pytest.fixture(scope="session")
def strategy():
    """Two replicas; a second strategy in a process would number its exchanges differently."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
