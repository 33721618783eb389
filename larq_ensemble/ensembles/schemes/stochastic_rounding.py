"""Stochastic rounding: members whose binary filters are drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from larq_ensemble.ensembles.rounding import stochastically_rounded
from larq_ensemble.ensembles.schemes.base import Scheme
from larq_ensemble.keras import keras


class StochasticRounding(Scheme):
    """Members whose binary filters are random roundings of the same real-valued weights.

    See `larq_ensemble.ensembles.rounding`. The filters are each member's own and stay as they
    were drawn; what else the sharing policy leaves to the members is trained, each on its own
    loss.

    # References
        - Vogel et al. 2016, Efficient stochastic inference of bitwise deep neural networks.
    """

    name = "stochastic_rounding"
    sequential = True
    rounded = True

    def initialize(
        self,
        own: Sequence[keras.layers.Layer],
        head: keras.layers.Layer | None,
        generator: np.random.Generator,
    ) -> None:
        for layer in sorted(own, key=lambda layer: layer.name):
            binary = [w for w in layer.weights if getattr(w, "precision", None) == 1]
            for weight in binary:
                weight.assign(stochastically_rounded(weight.numpy(), generator))
            if binary:
                layer.trainable = False
