"""Which Keras 2 is under test, and the few things that are spelled differently in each.

PERFTRICKS_KERAS is ``keras`` (2.3.1, of its own), ``tf.keras`` or ``tf_keras``; PERFTRICKS_GRAPH=1
switches TensorFlow 2 to graphs with sessions, as TensorFlow 1 has them.
"""

from __future__ import annotations

import contextlib
import os
import random
import warnings

import numpy as np

NAME = os.environ["PERFTRICKS_KERAS"]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of the frameworks about each other
    import tensorflow as tf

    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    if os.environ.get("PERFTRICKS_GRAPH") == "1":
        tf.compat.v1.disable_eager_execution()
        # Else a gradient changes the loop it belongs to, and fails where a session has run that,
        # without recomputation too.
        tf.compat.v1.experimental.output_all_intermediates(True)
    if NAME == "keras":
        import keras
    elif NAME == "tf.keras":
        from tensorflow import keras
    elif NAME == "tf_keras":
        import tf_keras as keras
    else:
        raise ValueError("PERFTRICKS_KERAS is keras, tf.keras or tf_keras, not %r" % NAME)

K, layers = keras.backend, keras.layers

TF = tuple(int(n) for n in tf.__version__.split(".")[:2])
TF_EAGER = tf.executing_eagerly()
STANDALONE = NAME == "keras"
# Keras 2.3.1 builds a graph of its own, also where TensorFlow runs eagerly.
GRAPH = STANDALONE or not TF_EAGER

# One thread, and no Grappler: it fuses operations whose intermediate results nobody else needs.
# The plain run needs them in its backward pass, so the last bits would differ.
GRAPPLER = ("disable_meta_optimizer",)
if TF == (2, 0):  # which loses the iterators of fit without it
    GRAPPLER = ("remapping", "arithmetic_optimization", "constant_folding", "layout_optimizer")
if TF_EAGER:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def use_grappler(on):
    """Have graphs rewritten before they run, as they are by default, or run as they are."""
    if TF_EAGER:
        tf.config.optimizer.set_experimental_options(
            {name: on is not name.startswith("disable") for name in GRAPPLER}
        )
    else:
        options = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
        )
        options.graph_options.rewrite_options.disable_meta_optimizer = not on
        session_backend().set_session(tf.compat.v1.Session(config=options))


def session_backend():
    """Return the module with ``get_session`` and ``set_session``, where there are sessions."""
    if NAME == "tf_keras":
        from tf_keras.api._v1.keras import backend

        return backend
    return K if STANDALONE else tf.compat.v1.keras.backend


@contextlib.contextmanager
def keras_graph():
    """Enter the graph that Keras 2.3.1 keeps on TensorFlow 2, as its models do."""
    if STANDALONE and TF_EAGER:
        from keras.backend import tensorflow_backend

        with tensorflow_backend.get_graph().as_default():
            yield
    else:
        yield


def sgd(*args, **kwargs):
    """Make an optimizer; in graphs of newer versions, the kind that knows sessions."""
    optimizers = getattr(keras.optimizers, "legacy", keras.optimizers)
    return (optimizers if GRAPH else keras.optimizers).SGD(*args, **kwargs)


def clear_session(grappler=False):
    """Forget all graphs, names and sessions; seed everything that draws numbers."""
    K.clear_session()
    use_grappler(grappler)
    random.seed(7)
    np.random.seed(7)
    tf.compat.v1.set_random_seed(7)


def needs(name):
    """Skip, saying so, where this Keras has no such layer."""
    import pytest

    if not hasattr(layers, name):
        pytest.skip("%s of TensorFlow %d.%d has no %s" % ((NAME, *TF, name)))
