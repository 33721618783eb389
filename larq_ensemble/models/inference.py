"""The outputs of a Keras model on many images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from larq_ensemble.data.streams import reading
from larq_ensemble.keras import keras, tf
from larq_ensemble.progress import tracked


class BatchPredictor:
    """Computes the outputs of a Keras model on batches; it is traced at the first one only.

    # Arguments
        model: any Keras model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._run: Callable[[Any], Any] | None = None

    def __call__(self, batches: tf.data.Dataset, *, images: int, what: str) -> list[np.ndarray]:
        """The outputs on all batches, as for `predict_batches`."""
        if self._run is None:
            inputs, _ = batches.element_spec
            run = tf.function(lambda x: self._model(x, training=False))
            self._run = run.get_concrete_function(inputs)
        with reading():
            outputs = [
                tf.nest.flatten(self._run(x))
                for x, _ in tracked(
                    batches, what, unit="image", total=images, size=lambda batch: len(batch[1])
                )
            ]
        return [np.concatenate(parts) for parts in zip(*outputs)]


def predict_batches(
    model: keras.Model, batches: tf.data.Dataset, *, images: int, what: str
) -> list[np.ndarray]:
    """The outputs of a model on all batches, as `model.predict`; tells how far it is.

    `predict` counts its traces over all models of a process and warns from the fifth on, as if one
    were traced repeatedly. Here each model is traced once, on purpose.

    # Arguments
        batches: elements (inputs, labels).
        images: how many there are.
        what: the work, for `larq_ensemble.progress`.

    # Returns
        An array `[images, ...]` for each output.

    # Raises
        EnsembleError: if images can't be read.
    """
    return BatchPredictor(model)(batches, images=images, what=what)
