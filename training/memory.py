"""Freeing memory between trainings in one process."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from larq_ensemble.keras import keras


@contextlib.contextmanager
def temporary_graphs() -> Iterator[None]:
    """Lets TensorFlow free the graphs traced within the block, once their models are gone.

    Each use of `tf.custom_gradient` in a graph registers a gradient for the life of the process,
    and the gradient holds the graph. Larq's quantizers use it, so the graphs of all binarized
    networks would stay in memory. At the end of the block the gradients registered within it are
    removed: a training step looks them up only while it is traced.

    # References
        - TensorFlow's issues [27492](https://github.com/tensorflow/tensorflow/issues/27492) and
          [97697](https://github.com/tensorflow/tensorflow/issues/97697).
    """
    gradients = registered_gradients()
    before = set(gradients)
    try:
        yield
    finally:
        for name in gradients.keys() - before:
            if name.startswith("CustomGradient-"):  # not one of a module imported meanwhile
                del gradients[name]


def registered_gradients() -> dict[str, Any]:
    """TensorFlow's registry of gradients by name, which is private.

    Empty if this version of TensorFlow keeps it elsewhere. Then graphs stay in memory, and nothing
    else changes.
    """
    try:
        from tensorflow.python.framework.ops import gradient_registry

        return gradient_registry._registry
    except (ImportError, AttributeError):
        return {}


def free_networks() -> None:
    """Clears Keras's global state, and collects networks that only reference cycles keep alive."""
    keras.backend.clear_session()
    gc.collect()
