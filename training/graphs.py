"""Memory of trainings that follow one another in a process."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from larq_ensemble.keras import keras

from tensorflow.python.framework import ops  # isort: skip


@contextlib.contextmanager
def temporary_graphs() -> Iterator[None]:
    """Lets TensorFlow free the graphs that are traced within, when their models are gone.

    TensorFlow registers the gradient of each use of `tf.custom_gradient` in a graph by a name of
    its own and for good, and that gradient holds the graph. Larq's quantizers are such uses, so
    every binarized network that was ever trained would stay in memory, its graph at least. At the
    end those of within are taken off the register: nobody asks for them by name once the gradients
    of a training step are part of its graph.

    # References
        - TensorFlow's issues [27492](https://github.com/tensorflow/tensorflow/issues/27492) and
          [97697](https://github.com/tensorflow/tensorflow/issues/97697).
    """
    registered = ops.gradient_registry._registry
    before = set(registered)
    try:
        yield
    finally:
        for name in registered.keys() - before:
            if name.startswith("CustomGradient-"):  # and not of a module that was imported
                del registered[name]


def free_networks() -> None:
    """Frees what Keras keeps of networks, and those that nothing refers to but they themselves."""
    keras.backend.clear_session()
    gc.collect()
