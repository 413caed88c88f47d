"""A model that a ``tf.distribute.Strategy`` copies to several devices, as one of them runs it."""

from __future__ import annotations

import contextlib
from typing import ContextManager

import keras

from perftricks.recompute.tensorflow_graphs import private


def one_replica() -> ContextManager[None]:
    """Leave the scope of a strategy of TensorFlow for a while, if the caller is in one.

    A variable has a copy on each device there, and a layer that runs cannot tell which is meant.
    What is found out about a model is found out of one copy, with the batch that this one has.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy():
            return private.outside_of_strategies()
    return contextlib.nullcontext()
