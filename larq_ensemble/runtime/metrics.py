"""Metrics of classifiers and of ensembles, in NumPy.

Probabilities are float arrays [n, classes] whose rows sum to 1. Labels are class indices [n], as
`class_indices` reads them; anything else is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError

TINY = 1e-12


def class_indices(labels: Any, *, examples: int, classes: int) -> np.ndarray:
    """Checks labels before they are used: of another shape, they would give wrong numbers.

    # Arguments
        labels: class indices, integers `[n]` or `[n, 1]`.
        examples: n, how many there must be.
        classes: indices are from 0 to `classes - 1`.

    # Returns
        The indices, intp `[n]`.

    # Raises
        EnsembleError: for one-hot labels, another number of them, another type, or an index out of
            range.
    """
    labels = np.asarray(labels)
    received = f"Received: {labels.dtype} of shape {list(labels.shape)}."
    if labels.ndim == 2 and labels.shape[1] == classes > 1:
        raise EnsembleError(
            "`labels` must be class indices [n], not one-hot: give `labels.argmax(axis=1)`. "
            f"{received}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (examples,):
        raise EnsembleError(
            f"`labels` must be one class index per image, for {examples:,} images. {received}"
        )
    if labels.dtype.kind not in "iu" and examples:
        raise EnsembleError(
            "`labels` must be integers: convert whole numbers with `labels.astype(int)`. "
            f"{received}"
        )
    if examples and not (labels.min() >= 0 and labels.max() < classes):
        raise EnsembleError(
            f"`labels` must be from 0 to {classes - 1}, the classes of the network. "
            f"Received: {labels.min()} to {labels.max()}."
        )
    return labels.astype(np.intp)


def _checked(scores: np.ndarray, labels: Any) -> np.ndarray:
    """Labels of scores `[n, classes]`."""
    if np.ndim(scores) != 2 or not len(scores):
        raise EnsembleError(
            "Scores must be [n, classes], for at least one example. "
            f"Received: the shape {list(np.shape(scores))}."
        )
    return class_indices(labels, examples=len(scores), classes=scores.shape[1])


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """The share of examples whose label is among the `k` highest scores, in percent.

    Ties go to the lower class index.

    # Arguments
        scores: floats `[n, classes]`, logits or probabilities.
        labels: class indices `[n]`.
        k: number of classes.
    """
    labels = _checked(scores, labels)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float(np.mean(np.any(ranked == labels[:, np.newaxis], axis=1)))


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -ln p(label), in nats; p below 1e-12 counts as 1e-12."""
    labels = _checked(probabilities, labels)
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(np.maximum(of_label, TINY))))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean over examples of the sum over classes of (p - onehot)^2, between 0 and 2.

    # References
        - Brier 1950, Verification of forecasts expressed in terms of probability.
    """
    labels = _checked(probabilities, labels)
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
    labels = _checked(probabilities, labels)
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
