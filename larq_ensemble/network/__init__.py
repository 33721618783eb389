"""Networks as data: layers, sharing policies, storage and compute; imports no TensorFlow."""
