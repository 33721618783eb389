"""Metrics of classifiers and of ensembles, in NumPy.

Probabilities are float arrays [n, classes] whose rows sum to 1; labels are integers [n].
"""

from __future__ import annotations

import numpy as np

TINY = 1e-12


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """The share of examples whose label is among the `k` highest scores, in percent.

    Ties go to the lower class index.

    # Arguments
        scores: floats `[n, classes]`, logits or probabilities.
        labels: class indices `[n]`.
        k: number of classes.
    """
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float(np.mean(np.any(ranked == labels[:, np.newaxis], axis=1)))


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -ln p(label), in nats; p below 1e-12 counts as 1e-12."""
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(np.maximum(of_label, TINY))))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean over examples of the sum over classes of (p - onehot)^2, between 0 and 2.

    # References
        - Brier 1950, Verification of forecasts expressed in terms of probability.
    """
    difference = probabilities.astype(np.float64)
    difference[np.arange(len(labels)), labels] -= 1
    return float(np.mean(np.sum(difference**2, axis=1)))


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15
) -> float:
    r"""ECE: \\( \sum_b \frac{n_b}{n} |\mathrm{acc}(b) - \mathrm{conf}(b)| \\), between 0 and 1.

    The bins are `bins` equal intervals (low, high] of the highest probability.

    # References
        - Guo et al. 2017, [On Calibration](https://arxiv.org/abs/1706.04599), Eq. 3.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def disagreement(member_scores: np.ndarray) -> float:
    """The share of examples that two members classify differently, averaged over all pairs.

    # Arguments
        member_scores: floats `[members, n, classes]`, logits or probabilities.

    # Returns
        Between 0 and 1; 0 for a single member.
    """
    classes = member_scores.argmax(axis=2)
    members = len(classes)
    if members == 1:
        return 0.0
    pairs = [
        np.mean(classes[i] != classes[j]) for i in range(members) for j in range(i + 1, members)
    ]
    return float(np.mean(pairs))
