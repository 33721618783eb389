"""Weights of Keras layers as `larq_ensemble.pretrained.weights` stores them, and back.

Layers go by their names in the backbone: to each belong the layer that all members share, or one of
each member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf
from larq_ensemble.pretrained.weights import Signs, StoredWeights

#: Of scales: TensorFlow sums a filter's magnitudes in float32, one after the other.
_ROUNDING = 1e-5
#: A layer that is there once, or a member's own ones.
Layers = Mapping[str, keras.layers.Layer | Sequence[keras.layers.Layer]]


def layers_of(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers of a network that have weights, by name."""
    return {layer.name: layer for layer in model.layers if layer.weights}


def stored_arrays(layers: Layers) -> dict[str, np.ndarray | Signs]:
    """The weights of layers by `LAYER/WEIGHT`, of a layer of each member stacked.

    A weight is stored as signs if its quantizer makes the same of these, up to rounding: so are the
    filters of `ste_sign`, `approx_sign`, `swish_sign` and `magnitude_aware_sign`, not those of
    `ste_tern` or `dorefa`.
    """
    arrays: dict[str, np.ndarray | Signs] = {}
    for name, owner in layers.items():
        own = not isinstance(owner, keras.layers.Layer)
        of_members = [_variables(layer) for layer in (owner if own else [owner])]
        for weight, first in of_members[0].items():
            values = np.stack([variables[weight].numpy() for variables in of_members])
            stored = values if own else values[0]
            quantizer = getattr(first, "quantizer", None)
            if quantizer is not None:
                signs = Signs.of(stored, leading=int(own))
                if _computes_the_same(quantizer, values, signs.latent.reshape(values.shape)):
                    arrays[f"{name}/{weight}"] = signs
                    continue
            arrays[f"{name}/{weight}"] = stored
    return arrays


def restore(layers: Layers, stored: StoredWeights) -> None:
    """Gives layers the weights that are stored.

    # Raises
        EnsembleError: if they are not those of these layers.
    """
    missing = {*stored.arrays}
    for name, owner in layers.items():
        own = not isinstance(owner, keras.layers.Layer)
        for member, layer in enumerate(owner if own else [owner]):
            for weight, variable in _variables(layer).items():
                key = f"{name}/{weight}"
                if key not in stored.arrays or own != (name in stored.own):
                    raise _other_layers(key)
                values = stored.values(key)
                if own:
                    values = values[member]
                if values.shape != tuple(variable.shape):
                    raise _other_layers(key)
                variable.assign(values.astype(variable.dtype.as_numpy_dtype))
                missing.discard(key)
    if missing:
        raise _other_layers(min(missing))


def _variables(layer: keras.layers.Layer) -> dict[str, tf.Variable]:
    """A layer's weights by their names in it: `gamma` of `norm/gamma:0`."""
    return {weight.name.split("/")[-1].split(":")[0]: weight for weight in layer.weights}


def _computes_the_same(
    quantizer: Callable[[Any], Any], latent: np.ndarray, restored: np.ndarray
) -> bool:
    """Whether a quantizer makes the same of the latent weights of each member, up to rounding."""
    for before, after in zip(latent, restored):
        expected, found = (np.asarray(quantizer(tf.constant(w))) for w in (before, after))
        same_signs = np.array_equal(np.signbit(expected), np.signbit(found))
        if not same_signs or not np.allclose(expected, found, rtol=_ROUNDING, atol=0):
            return False
    return True


def _other_layers(key: str) -> EnsembleError:
    return EnsembleError(
        f"The stored weights don't fit the network, at {key!r}: they are of another version of "
        "larq-ensemble. Install the version that they came with."
    )
