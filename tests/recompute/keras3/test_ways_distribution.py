"""Training on several devices, and with what several processes use, in one process.

Each program is run plainly and recomputed, whole, and leaves the same losses and variables.
"""

from __future__ import annotations

import contextlib

import keras
import pytest

from perftricks import recompute
from tests.recompute.comparison import Run
from tests.recompute.keras3.programs import data, fitted, network, sgd
from tests.recompute.keras3.test_ways_transforms import torch_data, torch_step
from tests.recompute.keras3.training import (
    BACKEND,
    PLAIN,
    assert_same_program,
    only_tensorflow,
    only_torch,
    variables_of,
)

two_ways = pytest.mark.parametrize("way", ["decorated", "applied to layers"], indirect=True)


@contextlib.contextmanager
def distributed(make):
    """Put a distribution of Keras in force for a while."""
    keras.distribution.set_distribution(make(keras.distribution.list_devices()))
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


def data_parallel(devices):
    """Two devices have half of a batch each."""
    return keras.distribution.DataParallel(devices=devices)


def model_parallel(devices):
    """Two devices have half of each kernel each."""
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    layout[".*bias"] = ("model",)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def layouts_of_outputs(devices):
    """Layouts are given to the outputs of layers too."""
    mesh = keras.distribution.DeviceMesh((2, 1), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    layout["dense[^/]*/output"] = ("batch", None)
    layout["block[^/]*/output"] = ("batch", None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


@two_ways
@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution is JAX's")
@pytest.mark.parametrize("make", [data_parallel, model_parallel, layouts_of_outputs])
def test_keras_distribution(make, way):
    """``keras.distribution`` on two virtual devices."""

    def program(way):
        with distributed(make):
            model = network(way)
            model.compile(sgd(), "mse")
            return fitted(model)

    assert_same_program(way, program)


@two_ways
@only_tensorflow
def test_strategy_in_a_custom_loop(way, strategy):
    """``strategy.run`` with tape and update inside, in a tf.function."""
    import tensorflow as tf

    def program(way):
        with strategy.scope():
            model, optimizer = network(way), sgd()
            optimizer.build(model.trainable_variables)
        batches = tf.data.Dataset.from_tensor_slices(data()).batch(4)

        def step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2) / 2
            weights = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
            return loss

        @tf.function
        def run(x, y):
            return strategy.reduce("SUM", strategy.run(step, (x, y)), axis=None)

        losses = [float(run(*b)) for b in strategy.experimental_distribute_dataset(batches)]
        return Run(losses, variables_of(model, optimizer))

    assert_same_program(way, program)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """A group of one process, over gloo."""
    import torch.distributed

    path = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", f"file://{path}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def replicated(model, **options):
    import torch

    return torch.nn.parallel.DistributedDataParallel(model, **options)


def replicated_statically(model):
    return replicated(model, static_graph=True)


def replicated_searching(model):
    return replicated(model, find_unused_parameters=True)


def sharded(model):
    """FSDP2, which has DTensors in the place of parameters."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


@two_ways
@only_torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [replicated, replicated_statically, replicated_searching, sharded])
def test_wrappers_of_torch(wrap, way, process_group):
    """DDP and FSDP around a model of Keras, for three steps."""

    def program(way):
        model = network(way)
        wrapped = wrap(model)
        losses = [
            torch_step(wrapped, lambda x: wrapped(x, training=True), torch_data(seed))
            for seed in range(3)
        ]
        return Run(losses, variables_of(model))

    assert_same_program(way, program)


@only_tensorflow
def test_planned_in_the_scope_of_a_strategy(strategy):
    """Where a model is made, it is profiled, planned and verified as outside of the scope."""
    x, y = data()
    with strategy.scope():
        model = network(PLAIN)
        model.compile(sgd(), "mse")
        inside = recompute.plan(model, batch_size=4, budget="1GiB")
        profile = recompute.profile(model, batch_size=4)
        recompute.apply(model, every=1)
        assert recompute.verify(model, x, y).ok
    assert inside == recompute.plan(model, batch_size=4, budget="1GiB")
    assert profile == recompute.profile(model, batch_size=4)
