"""Back ends: a `Module` as a file that an inference engine runs. None imports TensorFlow."""
