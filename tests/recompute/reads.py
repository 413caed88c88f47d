"""Whether TensorFlow reads each variable before it is assigned to; for both contracts.

Grappler rewrites what a ``tf.function`` has traced. If a read is no longer tied to come before an
assignment to its variable, a step may read either value, and now and then a gradient is wrong. This
looks at the graphs that are left in the end, and so does not depend on which comes first this time.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from perftricks.recompute import recompute_grad, recompute_scope

WIDTH = 6


def late(keras, **compiled):
    """Train a step, decorated; return the reads and assignments that nothing puts in order.

    Args:
        keras: Keras 2 or 3.
        compiled: What ``compile`` is given beside the optimizer and the loss.
    """
    model = _model(keras)
    x = np.linspace(-1, 1, 4 * WIDTH).reshape(4, WIDTH).astype("float32")
    with recompute_scope(True):
        model(x)
        model.compile("adam", "mse", **compiled)
        context.enable_graph_collection()
        try:
            model.train_on_batch(x, x)
            graphs = context.context().export_run_metadata().function_graphs
        finally:
            context.disable_graph_collection()
    nodes = [node for graph in graphs for node in graph.post_optimization_graph.node]
    assert sum(map(_assigns, nodes)) >= len(model.trainable_variables)
    return [pair for graph in graphs for pair in _unordered(graph.post_optimization_graph)]


def _model(keras):
    class Dense(keras.layers.Dense):
        @recompute_grad
        def call(self, x):
            return super().call(x)

    class Block(keras.layers.Layer):
        """Of two results one is computed from the scale, and the other is what it will be."""

        def build(self, shape):
            self.inner = keras.layers.Dense(WIDTH)
            self.inner.build((None, WIDTH))
            make = {"initializer": "ones", "trainable": False}
            self.scale = self.add_weight(name="scale", shape=(), **make)
            self.other = self.add_weight(name="other", shape=(3,), **make)
            self.built = True

        @recompute_grad
        def call(self, x):
            return self.inner(x * self.scale), tf.sin(tf.convert_to_tensor(self.other))

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.several = [Dense(WIDTH) for _ in range(3)]
            self.block = Block()

        def call(self, x):
            for layer in self.several:
                x = layer(x)
            x, other = self.block(x)
            self.block.scale.assign(tf.reduce_mean(other))
            return x

    return Model()


def _assigns(node):
    return node.op.startswith(("Assign", "ResourceApply"))


def _unordered(graph):
    nodes = {node.name: node for node in graph.node}

    def before(node):
        found, waiting = set(), [node.name]
        while waiting:
            name = waiting.pop().lstrip("^").partition(":")[0]
            if name not in found:
                found.add(name)
                waiting.extend(nodes[name].input)
        return found

    reads = [node for node in graph.node if node.op == "ReadVariableOp"]
    return [
        (read.name, node.name)
        for node in graph.node
        if _assigns(node)
        for read in reads
        if read.input[0] == node.input[0]
        and read.name not in before(node)
        and node.name not in before(read)
    ]
