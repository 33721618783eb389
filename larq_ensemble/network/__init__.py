"""Networks as plain data, without TensorFlow: layers, sharing policies, storage and compute."""
