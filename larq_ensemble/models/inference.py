"""The outputs of a Keras model on many images."""

from __future__ import annotations

import numpy as np

from larq_ensemble.data.streams import reading
from larq_ensemble.keras import keras, tf
from larq_ensemble.progress import tracked


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
    inputs, _ = batches.element_spec
    run = tf.function(lambda x: model(x, training=False)).get_concrete_function(inputs)
    with reading():
        outputs = [
            tf.nest.flatten(run(x))
            for x, _ in tracked(
                batches, what, unit="image", total=images, size=lambda batch: len(batch[1])
            )
        ]
    return [np.concatenate(parts) for parts in zip(*outputs)]
