"""Targets: each writes a `Module` as a file for one inference engine. None needs TensorFlow."""
