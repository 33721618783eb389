"""Metrics of classifiers and of ensembles, in NumPy.

Probabilities are float arrays [n, classes] whose rows sum to 1. Labels are class indices [n], as
`class_indices` reads them; anything else is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.errors import EnsembleError

TINY = 1e-12
#: The quantile 0.975 of the normal distribution.
_NORMAL_975 = 1.959963984540054


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
    if k == 1:  # without sorting
        return 100.0 * float(np.mean(scores.argmax(axis=1) == labels))
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return 100.0 * float(np.mean(np.any(ranked == labels[:, np.newaxis], axis=1)))


def wilson_interval(top1: float, examples: int) -> tuple[float, float]:
    r"""The 95 % interval of an accuracy, from chance in the examples alone.

    \\[ \frac{n}{n + z^2} \left( p + \frac{z^2}{2n}
         \pm z \sqrt{\frac{p (1 - p)}{n} + \frac{z^2}{4 n^2}} \right), \qquad z = 1.96 \\]

    # Arguments
        top1: 100 p, in percent.
        examples: n, on which it was measured.

    # Returns
        The ends in percent, `top1` between them.

    # References
        - Wilson 1927, [Probable inference](https://doi.org/10.1080/01621459.1927.10502953).
    """
    share, squared = top1 / 100, _NORMAL_975**2 / examples
    half = (squared * (share * (1 - share) + squared / 4)) ** 0.5
    low, high = (100 * (share + squared / 2 + end) / (1 + squared) for end in (-half, half))
    return min(low, top1), max(high, top1)  # of 0 and 100 % but for the rounding


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
    confidence, correct = _confidence(probabilities, labels)
    gap = np.bincount(_bins_of(confidence, bins), weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def adaptive_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15
) -> float:
    r"""ECE with adaptive bins: \\( \sum_b \frac{n_b}{n} |\mathrm{acc}(b) - \mathrm{conf}(b)| \\).

    The bins have equally many examples, in the order of their highest probabilities, up to one
    more or less. So the confident examples, most of all, don't lie in a single bin. Of n < `bins`
    examples each is a bin.

    # References
        - Nguyen and O'Connor 2015, [Posterior calibration and exploratory
          analysis](https://arxiv.org/abs/1508.05154), Sec. 3.
        - Nixon et al. 2019, [Measuring calibration](https://arxiv.org/abs/1904.01685).
    """
    confidence, correct = _confidence(probabilities, labels)
    order = np.argsort(confidence, kind="stable")
    gaps = np.array_split((confidence - correct)[order], bins)
    return float(sum(abs(gap.sum()) for gap in gaps) / len(confidence))


def calibration_error_by_chance(probabilities: np.ndarray, *, bins: int = 15) -> float:
    r"""The ECE that these predictions would have if they were perfectly calibrated.

    On few images frequencies differ from probabilities by chance, and ECE takes the absolute value:
    \\( \frac{1}{n} \sum_b \sqrt{\frac{2}{\pi} \sum_{i \in b} p_i (1 - p_i)} \\), of the highest
    probabilities in the bins of `expected_calibration_error`, each bin's sum taken as normal. An
    ECE near this value shows no error of calibration.

    # References
        - Kumar et al. 2019, [Verified uncertainty calibration](https://arxiv.org/abs/1909.10155),
          on the bias of the estimate.
    """
    confidence = probabilities.max(axis=1)
    variance = np.bincount(
        _bins_of(confidence, bins), weights=confidence * (1 - confidence), minlength=bins
    )
    return float(np.sqrt(2 / np.pi * np.maximum(variance, 0)).sum() / len(confidence))


def _bins_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def _confidence(probabilities: np.ndarray, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The highest probability of each example, and whether its class is the label."""
    labels = _checked(probabilities, labels)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def disagreement(member_scores: np.ndarray) -> float:
    """The share of examples that two members classify differently, averaged over all pairs.

    # Arguments
        member_scores: floats `[members, n, classes]`, logits or probabilities.

    # Returns
        Between 0 and 1; 0 for a single member.
    """
    return float(pairwise_disagreement(member_scores).mean())


def pairwise_disagreement(member_scores: np.ndarray) -> np.ndarray:
    """For each example, the share of pairs of members that classify it differently.

    # Arguments
        member_scores: floats `[members, n, classes]`, logits or probabilities.

    # Returns
        float64 `[n]`, between 0 and 1; 0 for a single member.
    """
    classes = member_scores.argmax(axis=2)
    members, examples = classes.shape
    if members == 1:
        return np.zeros(examples)
    votes = np.zeros((examples, member_scores.shape[2]), int)
    for row in classes:
        votes[np.arange(examples), row] += 1
    pairs = members * (members - 1) // 2
    return 1 - (votes * (votes - 1) // 2).sum(axis=1) / pairs


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """The entropy of predictions, `-sum_k p_k ln p_k`, in nats.

    # Arguments
        probabilities: floats `[..., classes]`.

    # Returns
        floats `[...]`, from 0 to `ln(classes)`.
    """
    return -np.sum(probabilities * np.log(np.maximum(probabilities, TINY)), axis=-1)


def mutual_information(member_probabilities: np.ndarray) -> np.ndarray:
    """What members know that others don't, in nats: `H(mean_i p_i) - mean_i H(p_i)`.

    H is the entropy. It is large where members are sure, each of something else, and 0 where all
    say the same, be it that they don't know.

    # Arguments
        member_probabilities: floats `[members, n, classes]`.

    # Returns
        floats `[n]`, from 0 to `ln(members)`; 0 for a single member.

    # References
        - Depeweg et al. 2018, [Decomposition of
          uncertainty](https://arxiv.org/abs/1710.07283), Eq. 4.
    """
    together = entropy(member_probabilities.mean(axis=0))
    return np.maximum(together - entropy(member_probabilities).mean(axis=0), 0)


def false_positive_rate(inside: np.ndarray, outside: np.ndarray, *, recall: float = 0.95) -> float:
    """FPR95: the share of out-of-distribution examples that pass when 95 % of the others do.

    The limit of the uncertainty is the least that lets `recall` of those in distribution pass.
    (Some libraries take those out of distribution for the positive ones, which gives other values.)

    # Arguments
        inside: uncertainties of examples in distribution, floats `[n]`.
        outside: uncertainties of examples out of distribution, floats `[k]`.
        recall: the share of the former that is to pass.

    # References
        - Liang et al. 2018, [ODIN](https://arxiv.org/abs/1706.02690), Sec. 3.4.
    """
    limit = np.quantile(inside, recall, method="inverted_cdf")
    return float(np.mean(outside <= limit))


def risk_coverage(uncertainty: np.ndarray, correct: np.ndarray) -> np.ndarray:
    r"""The risk-coverage curve of a classifier that answers only where it is certain enough.

    The risk at the coverage k / n is the share of errors among the k examples with the least
    uncertainty: \\( r_k = \frac{1}{k} \sum_{i \le k} e_{(i)} \\). Examples of the same uncertainty
    come in random order, of which this is the expectation.

    # Arguments
        uncertainty: floats `[n]`.
        correct: bool `[n]`, whether the class is right.

    # Returns
        float64 `[n]`: the risks at 1 / n, 2 / n, ... 1, each between 0 and 1.

    # References
        - Geifman and El-Yaniv 2017, [Selective classification](https://arxiv.org/abs/1705.08500).
    """
    _, group, sizes = np.unique(uncertainty, return_inverse=True, return_counts=True)
    mean_error = np.bincount(group, weights=~np.asarray(correct, bool)) / sizes
    return np.cumsum(np.repeat(mean_error, sizes)) / np.arange(1, len(group) + 1)


def area_under_risk_coverage(risks: np.ndarray) -> float:
    """AURC: the mean of the risks of `risk_coverage` over all coverages; the less the better.

    # References
        - Geifman et al. 2019, [Bias-reduced uncertainty
          estimation](https://arxiv.org/abs/1805.08206).
    """
    return float(np.mean(risks))


def excess_area_under_risk_coverage(risks: np.ndarray) -> float:
    """E-AURC: the AURC above that of the best order, in which all errors come last.

    So it is 0 for the best uncertainty, whatever the accuracy.

    # References
        - Geifman et al. 2019, [Bias-reduced uncertainty
          estimation](https://arxiv.org/abs/1805.08206).
    """
    examples = len(risks)
    errors = round(risks[-1] * examples)
    answered = np.arange(1, examples + 1)
    best = np.maximum(answered - (examples - errors), 0) / answered
    return float(np.mean(risks - best))
