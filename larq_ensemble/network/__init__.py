"""Networks as data, without TensorFlow: layer graphs, sharing policies, storage and compute."""
