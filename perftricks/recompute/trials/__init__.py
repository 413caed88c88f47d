"""What ``verify`` compares: passes of a model, run by one module for Keras 3, one for Keras 2."""
