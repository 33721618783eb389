"""Fusion: one loss on the mean of the members' logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from larq_ensemble.ensembles.labels import CrossEntropy
from larq_ensemble.ensembles.names import ENSEMBLE_OUTPUT, first_output
from larq_ensemble.ensembles.schemes.base import SampleWeights, Scheme, weighted_mean
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import keras, tf

_ONE_LOSS = "it trains all members on one loss, of their combination"


class Fusion(Scheme):
    r"""One loss on the softmax of the mean logits.

    \\[ L = \mathrm{CE}\Big(y, \mathrm{softmax}\Big(\frac{1}{M} \sum_{i=1}^{M} z_i\Big)\Big) \\]

    # References
        - Kim et al. 2022, section "Ensemble-based systems".
    """

    name = "fusion"
    combined_loss = True
    independent = False
    unsupported: ClassVar[Mapping[str, str]] = {
        **Scheme.unsupported,
        "in_turn": _ONE_LOSS,
        "independent_data": _ONE_LOSS,
    }

    def combine(
        self, logits: Sequence[tf.Tensor], weights: Sequence[float] | None = None
    ) -> tf.Tensor:
        return keras.activations.softmax(weighted_mean(logits, weights))

    def losses(self, members: int) -> dict[str, keras.losses.Loss]:
        # Keras finds the logits behind a final softmax, so this is as stable as on logits.
        return {output: CrossEntropy() for output in self.combinations(members)}


class NestedFusion(Fusion):
    r"""Fusion of the first m members for every m at once, for devices that change m as they run.

    \\[ L = \sum_{m=1}^{M} w_m \, \mathrm{CE}\Big(y, \mathrm{softmax}\Big(
        \frac{1}{m} \sum_{i=1}^{m} z_i \Big)\Big), \qquad \sum_m w_m = 1 \\]

    The m-th loss contributes to the gradient of each of its members with the factor w_m / m. With
    equal weights the loss of the first member would dominate, at the expense of the whole ensemble.
    So by default \\( w_m \propto m^2 \\), and the losses contribute in proportion to m. The paper
    has no such scheme; it trains new members for each M.

    # Arguments
        prefix_weights: \\( w_1 ... w_M \\) up to a common factor; `None`: the default.
    """

    name = "nested_fusion"
    unsupported: ClassVar[Mapping[str, str]] = {
        name: reason for name, reason in Fusion.unsupported.items() if name != "prefix_weights"
    }

    def __init__(self, prefix_weights: Sequence[float] | None = None) -> None:
        self._prefix_weights = prefix_weights

    def combinations(self, members: int) -> dict[str, int]:
        return {
            **{first_output(count): count for count in range(1, members)},
            ENSEMBLE_OUTPUT: members,
        }

    def loss_weights(self, members: int) -> dict[str, float]:
        """# Raises
        EnsembleError: if the weights given are not M numbers from 0 on with a positive sum.
        """
        given = self._prefix_weights
        weights = np.arange(1, members + 1) ** 2.0 if given is None else np.asarray(given, float)
        if (
            weights.shape != (members,)
            or not (weights >= 0).all()
            or not 0 < weights.sum() < np.inf
        ):
            raise EnsembleError(
                f"`prefix_weights` must be {members} numbers, one for the first m members of each "
                f"m from 1 to {members}, none below 0 and not all 0. Received: {given}."
            )
        return dict(zip(self.combinations(members), (weights / weights.sum()).tolist()))

    def with_prefix_weights(self, weights: Sequence[float]) -> Scheme:
        return type(self)(weights)


class SampledNestedFusion(NestedFusion):
    r"""As `NestedFusion`, but each step trains one m alone, drawn with probability w_m.

    The loss of a step is that of the m drawn, so its expectation is the weighted sum. The draw
    reaches Keras as sample weights 1 / w_m for the output of that m and 0 for the others; without
    sample weights, as in validation, the loss is the sum itself.
    """

    name = "sampled_nested_fusion"
    draws = True

    def sample_weights(self, members: int, examples: int, seed: int) -> SampleWeights:
        probabilities = tf.constant([*self.loss_weights(members).values()], tf.float32)

        def draw(indices: tf.Tensor, step_seed: tf.Tensor) -> tf.Tensor:
            drawn = tf.random.stateless_categorical(
                tf.math.log(probabilities)[tf.newaxis], 1, step_seed
            )[0]
            one = tf.one_hot(drawn[0], members)
            weights = tf.math.divide_no_nan(one, probabilities)
            return tf.repeat(weights[:, tf.newaxis], tf.size(indices), axis=1)

        return draw
