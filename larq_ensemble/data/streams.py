"""Images on disk in `tf.data` pipelines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from larq_ensemble.data.splits import is_on_disk
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import tf


def gatherer(images: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """(indices int [k]) -> the images at these indices, for the functions of a `tf.data` pipeline.

    Arrays in memory become a tensor. Of all others only the images asked for are read, so a
    pipeline holds as many of them as it makes batches ahead. Errors of reading reach Python by
    `reading`.

    # Arguments
        images: an `larq_ensemble.data.splits.ImageArray`, or a memory-mapped array of any dtype.
    """
    if not is_on_disk(images):
        tensor = tf.constant(images)
        return lambda indices: tf.gather(tensor, indices)

    def read(indices: np.ndarray) -> np.ndarray:
        return np.asarray(images[indices])

    def gather(indices: tf.Tensor) -> tf.Tensor:
        # Without a state: the same indices give the same images, in any order, in parallel.
        batch = tf.numpy_function(read, [indices], images.dtype, stateful=False)
        return tf.ensure_shape(batch, [None, *images.shape[1:]])

    return gather


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Raises an `EnsembleError` of a pipeline's functions, which TensorFlow wraps, as it was.

    # Raises
        EnsembleError: that of a function, such as for an image that can't be read any more.
    """
    try:
        yield
    except tf.errors.OpError as error:
        said = re.search(rf"{EnsembleError.__name__}: (.+)", error.message)
        if said is None:
            raise
        raise EnsembleError(said[1]) from error
