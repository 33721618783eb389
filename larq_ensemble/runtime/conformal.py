"""Sets of classes that hold the right one as often as promised: split-conformal prediction.

The promise needs no assumption on the network: if the images that set the threshold and those to
come are drawn alike, the set of an image holds its class with a probability of at least 1 - alpha.
It says nothing of a single class or of images of another kind, such as those of another camera. A
network that knows less gives larger sets.

```python
probabilities = ensemble.predict(held_out_images)  # not training images
conformal = fit_conformal(probabilities, labels, alpha=0.1)
conformal.sets(ensemble.predict(images))  # bool [n, classes]
```

A threshold is for one number of members: fit it again for another.

# References
    - Papadopoulos et al. 2002, [Inductive confidence
      machines](https://doi.org/10.1007/3-540-36755-1_29).
    - Angelopoulos and Bates 2021, [A gentle introduction to conformal
      prediction](https://arxiv.org/abs/2107.07511).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from larq_ensemble.errors import EnsembleError, is_real
from larq_ensemble.registry import Registry
from larq_ensemble.runtime.metrics import class_indices

#: Probabilities `[n, classes]` -> how little each class conforms, `[n, classes]`.
Score = Callable[[np.ndarray], np.ndarray]

SCORES: Registry[Score] = Registry("method")


def least_ambiguous(probabilities: np.ndarray) -> np.ndarray:
    """LAC: `1 - p_k`. It gives the smallest sets on average.

    # References
        - Sadinle et al. 2019, [Least ambiguous set-valued
          classifiers](https://arxiv.org/abs/1609.00451).
    """
    return 1 - probabilities


def adaptive_sets(probabilities: np.ndarray) -> np.ndarray:
    """APS: the sum of the probabilities that are higher than that of the class.

    So a set is the likeliest classes until their probabilities add up to more than the threshold.
    It gives easy images small and hard ones large sets. This is the form without random numbers:
    an image always has the same set.

    # References
        - Romano et al. 2020, [Classification with valid and adaptive
          coverage](https://arxiv.org/abs/2006.02544).
    """
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    sums = np.cumsum(np.take_along_axis(probabilities, order, axis=-1), axis=-1)
    above = np.concatenate([np.zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)
    scores = np.empty_like(above)
    np.put_along_axis(scores, order, above, axis=-1)
    return scores


SCORES.register("lac", least_ambiguous)
SCORES.register("aps", adaptive_sets)


@dataclass(frozen=True)
class Conformal:
    """The rule that makes sets of predictions.

    # Arguments
        method: a name in `SCORES`: `"lac"` or `"aps"`.
        threshold: a class is in the set if its score is not above it; infinite: all classes are.
    """

    method: str
    threshold: float

    def sets(self, probabilities: np.ndarray) -> np.ndarray:
        """The set of classes of each image; the likeliest class is always in it.

        # Arguments
            probabilities: floats `[n, classes]`.

        # Returns
            bool `[n, classes]`.
        """
        within = SCORES[self.method](probabilities) <= self.threshold
        within[np.arange(len(within)), probabilities.argmax(axis=1)] = True
        return within


def fit_conformal(
    probabilities: np.ndarray, labels: np.ndarray, *, alpha: float, method: str = "lac"
) -> Conformal:
    r"""The threshold for sets that miss the right class with a probability of at most `alpha`.

    It is the \\( \lceil (n + 1)(1 - \alpha) \rceil \\)-th smallest of the scores of the labels, and
    infinite if there are fewer.

    # Arguments
        probabilities: floats `[n, classes]`, of images that were not trained on.
        labels: class indices `[n]`.
        alpha: above 0 and below 1.
        method: a name in `SCORES`.

    # Raises
        UnknownNameError: for an unknown method.
        EnsembleError: if alpha is out of range, or the probabilities or labels don't fit.
    """
    if not (is_real(alpha) and 0 < alpha < 1):
        raise EnsembleError(f"`alpha` must be above 0 and below 1. Received: {alpha!r}.")
    if np.ndim(probabilities) != 2 or not np.isfinite(probabilities).all():
        raise EnsembleError(
            "`probabilities` must be finite floats [n, classes]. Received: the shape "
            f"{list(np.shape(probabilities))}."
        )
    examples, classes = probabilities.shape
    labels = class_indices(labels, examples=examples, classes=classes)
    scores = np.sort(SCORES[method](probabilities)[np.arange(examples), labels])
    rank = conformal_rank(examples, alpha)
    return Conformal(method, float(scores[rank - 1]) if rank <= examples else math.inf)


def conformal_rank(examples: int, alpha: float) -> int:
    """Which of the sorted scores is the threshold, from 1 on: `ceil((n + 1)(1 - alpha))`."""
    # Rounded before: in floats a product may be a little more than the whole number that it is.
    return math.ceil(round((examples + 1) * (1 - alpha), 9))
