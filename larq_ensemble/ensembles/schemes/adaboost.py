"""AdaBoost: each member puts more weight on the examples that those before it got wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from larq_ensemble.ensembles.schemes.base import Scheme


class AdaBoost(Scheme):
    r"""SAMME, the multi-class AdaBoost, as BENN applies it to binarized networks.

    Member i is trained with sample weights. Its weighted error \\( e_i \\) on the training images
    of K classes determines its weight in the combination,

    \\[ \alpha_i = \log \frac{1 - e_i}{e_i} + \log(K - 1) \\]

    and the next sample weights: those of misclassified examples are multiplied by
    \\( \exp(\alpha_i) \\), then all are scaled to a mean of 1.

    Two limits keep every member usable: the error counts as at least half an example
    (\\( 1 / 2n \\) of n), so that a perfect member weighs much but not infinitely; and
    \\( \alpha_i \\) is at least `MIN_WEIGHT`, so that a member no better than chance
    (\\( e_i \ge 1 - 1/K \\)) hardly counts and leaves the examples' weights as they are.

    # References
        - Zhu et al. 2009, Multi-class AdaBoost.
        - Zhu et al. 2019, [BENN](https://arxiv.org/abs/1806.07550).
    """

    name = "adaboost"
    sequential = True
    reweights = True
    unsupported: ClassVar[Mapping[str, str]] = {
        name: why for name, why in Scheme.unsupported.items() if name != "patience"
    }
    MIN_WEIGHT = 1e-3

    def reweighted(
        self, weights: np.ndarray, wrong: np.ndarray, classes: int
    ) -> tuple[float, np.ndarray]:
        least = 1 / (2 * len(wrong))
        error = float(np.clip(np.average(wrong, weights=weights), least, 1 - least))
        alpha = max(math.log((1 - error) / error * (classes - 1)), self.MIN_WEIGHT)
        following = weights * np.exp(alpha * wrong)
        return alpha, following / following.mean()
