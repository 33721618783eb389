"""The layer that combines the members' logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from larq_ensemble.data.normalization import Normalization
from larq_ensemble.ensembles.schemes import SCHEMES
from larq_ensemble.keras import keras, tf


@keras.utils.register_keras_serializable("larq_ensemble")
class Combine(keras.layers.Layer):
    """Combines the members' logits to the probabilities of the ensemble.

    # Arguments
        scheme: the scheme's name.
        weights: the weight of each member; `None`: all equal.
        normalization: `mean` and `std` of the ensemble's `Normalization`. The layer only keeps it,
            because every saved form of an ensemble has this layer. `None`: not known.

    # Input shape
        A list of M tensors [n, classes] of the layer's dtype, which is float32 if none is given,
        whatever the global policy.

    # Output shape
        [n, classes], of the same dtype.
    """

    def __init__(
        self,
        scheme: str,
        weights: Sequence[float] | None = None,
        normalization: Mapping[str, Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.scheme = SCHEMES[scheme]
        # Not `weights`, which is what Keras calls a layer's variables.
        self.member_weights = None if weights is None else tuple(weights)
        self.normalization = None if normalization is None else Normalization(**normalization)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        # Keras unwraps the list of a loaded ensemble of one member.
        logits = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        return self.scheme.combine(logits, self.member_weights)

    def get_config(self) -> dict[str, Any]:
        known = None if self.normalization is None else self.normalization.to_json()
        return {
            **super().get_config(),
            "scheme": self.scheme.name,
            "weights": None if self.member_weights is None else [*self.member_weights],
            # Left out where it is not known, so that earlier versions read the file.
            **({} if known is None else {"normalization": known}),
        }
