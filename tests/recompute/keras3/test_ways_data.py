"""Where data comes from, what callbacks do, and models that are saved, copied and loaded.

Each program is run plainly and recomputed, whole, and leaves the same losses and variables.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import itertools
import pickle

import keras
import numpy as np

from perftricks.recompute.models import is_applied
from tests.recompute.comparison import Run
from tests.recompute.keras3.programs import Block, data, fitted, network, sgd
from tests.recompute.keras3.training import (
    BACKEND,
    assert_same_program,
    in_turn,
    variables_of,
)


class Batches(keras.utils.PyDataset):
    """Batches by number, some with weights of the samples."""

    def __init__(self, weighted=False, **options):
        super().__init__(**options)
        self.weighted = weighted

    def __len__(self):
        return 3

    def __getitem__(self, i):
        rows = 4 - 2 * (i == 2)  # the last one is smaller
        batch = data(i, rows)
        return (*batch, np.arange(rows, dtype="float32")) if self.weighted else batch


def trained(way, batches, **options):
    model = network(way)
    model.compile(sgd(), "mse")
    losses = model.fit(batches, epochs=2, verbose=0, shuffle=False, **options).history
    return Run([*itertools.chain(*losses.values())], variables_of(model, model.optimizer))


def dataset(way):
    """A PyDataset, one batch at a time."""
    return trained(way, Batches())


def dataset_in_threads(way):
    """A PyDataset with workers, weights of samples, and another one to validate on."""
    return trained(way, Batches(True, workers=2), validation_data=Batches())


def generator(way):
    """A generator of batches, which are counted."""

    def batches():
        while True:
            yield from (data(i) for i in range(2))

    return trained(way, batches(), steps_per_epoch=2)


def tensorflow_dataset(way):
    """tf.data, as Keras takes it on every backend; the last batch is smaller."""
    import tensorflow as tf

    return trained(way, tf.data.Dataset.from_tensor_slices(data()).batch(3).prefetch(1))


def torch_loader(way):
    """A DataLoader of torch."""
    from torch.utils import data as torch_data

    x, y = data()
    return trained(way, torch_data.DataLoader([*zip(x, y)], batch_size=3))


def checkpoints(way, folder):
    """The best weights and the whole model are saved while it trains, and logs are written."""
    model = network(way)
    model.compile(sgd(), "mse")
    callbacks = [
        keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.ModelCheckpoint(folder / "best.keras", "val_loss", save_best_only=True),
        keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
    ]
    run = fitted(model, epochs=3, validation_split=0.25, callbacks=callbacks)
    model.load_weights(folder / "2.weights.h5")
    return Run(run.losses + fitted(model).losses, variables_of(model, model.optimizer))


def interrupted(way, folder):
    """Training that was interrupted goes on from a backup."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    runs = []
    for others in ([Interrupt()], []):
        model = network(way)
        model.compile(sgd(), "mse")
        callbacks = [keras.callbacks.BackupAndRestore(folder), *others]
        with contextlib.suppress(KeyboardInterrupt):
            runs.append(fitted(model, epochs=3, callbacks=callbacks))
    (run,) = runs
    assert len(run.losses) == 2
    return run


def tensorboard(way, folder):
    """TensorBoard writes the graph, histograms and each batch."""
    model = network(way)
    model.compile(sgd(), "mse")
    callback = keras.callbacks.TensorBoard(folder, histogram_freq=1, update_freq=1)
    return fitted(model, callbacks=[callback])


def averages_swapped(way, folder):
    """SwapEMAWeights validates with the averages."""
    model = network(way)
    model.compile(sgd(use_ema=True, ema_momentum=0.9), "mse")
    callbacks = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    return fitted(model, validation_split=0.5, callbacks=callbacks)


def loaded(way, folder):
    """A model is trained, saved, loaded, and trains on; it is asked for recomputation again."""
    model = network(way)
    model.compile(sgd(), "mse")
    first = fitted(model)
    model.save(folder / "model.keras")
    again = keras.models.load_model(folder / "model.keras")
    assert [type(a).__name__ for a in again.layers] == [type(a).__name__ for a in model.layers]
    second = fitted(way.apply(again))
    return Run(first.losses + second.losses, second.arrays)


def cloned(way, folder):
    """A clone is trained, and then the original."""
    return _both(way, keras.models.clone_model)


def deep_copied(way, folder):
    """A deep copy is trained, and then the original."""
    return _both(way, copy.deepcopy)


def pickled(way, folder):
    """What comes out of a pickle is trained, and then the original."""
    return _both(way, lambda model: pickle.loads(pickle.dumps(model)))


def _both(way, duplicate):
    model = network(way)
    model.compile(sgd(), "mse")
    first = fitted(model)
    other = duplicate(model)
    assert not is_applied(other)
    other.set_weights(model.get_weights())
    if not getattr(other, "compiled", False):
        other.compile(sgd(), "mse")
    second, third = fitted(way.apply(other)), fitted(model)
    again = fitted(other)
    arrays = {f"other {k}": a for k, a in again.arrays.items()}
    losses = first.losses + second.losses + third.losses + again.losses
    return Run(losses, {**third.arrays, **arrays})


SOURCES = [dataset, dataset_in_threads, generator]
if BACKEND == "tensorflow":
    SOURCES.append(tensorflow_dataset)
if BACKEND == "torch":
    SOURCES.append(torch_loader)


@in_turn(SOURCES)
def test_data(program, way):
    """The same losses and variables."""
    assert_same_program(way, program)


FILES = [checkpoints, interrupted, averages_swapped, loaded, cloned, deep_copied, pickled]
if BACKEND == "tensorflow" and importlib.util.find_spec("tensorboard"):
    FILES.append(tensorboard)


@in_turn(FILES)
def test_callbacks_and_copies(program, way, tmp_path_factory):
    """The same losses and variables."""

    def run(way):
        own = {kind.__name__: way.layer(kind) for kind in (Block, keras.layers.Dense)}
        with keras.saving.custom_object_scope(own):
            return program(way, tmp_path_factory.mktemp("run"))

    assert_same_program(way, run)
