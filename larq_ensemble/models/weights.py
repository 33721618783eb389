"""Weights that no network can compute with."""

from __future__ import annotations

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras


def check_weights(model: keras.Model) -> None:
    """Checks that all weights are finite, and that no batch norm divides by zero or less.

    # Raises
        EnsembleError: with the first layer for which that is not so.
    """
    for layer in model.layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        for weight in layer.weights:
            values = weight.numpy()
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise EnsembleError(
                    f"The layer {layer.name!r} has weights that are not finite (NaN or infinite), "
                    f"in {_short(weight.name)!r}: its training has diverged. Train again with a "
                    "lower learning rate, or go back to an earlier checkpoint."
                )
            if norm and weight is layer.moving_variance and (values <= -layer.epsilon).any():
                raise EnsembleError(
                    f"The layer {layer.name!r} has a moving variance of {values.min():g}, but a "
                    "variance is at least 0: its weights are damaged or were set wrongly."
                )


def _short(name: str) -> str:
    """The name of a weight without its layer's: `gamma` of `norm/gamma:0`."""
    return name.split("/")[-1].split(":")[0]
