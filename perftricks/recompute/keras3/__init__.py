"""Recompute on Keras 3: the call as a pure function, on TensorFlow, JAX and torch."""
