"""What the engines of both Keras need of a graph of TensorFlow."""
