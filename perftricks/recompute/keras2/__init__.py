"""Recompute on keras 2.3.1, tf.keras and tf_keras, in graphs and eagerly."""
